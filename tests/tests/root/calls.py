"""Tries every call on the state x of the mount in argv[1], in each mode, as each user.

The rest of argv: modes in octal, joined by commas; then users as name:uid:gid:groups, with groups
joined by commas. Prints a line for each: mode, user, call, "ok" or what it failed with.
"""
import ctypes, errno, fcntl, mmap, os, select, struct, sys

mount, modes, users = sys.argv[1], sys.argv[2].split(','), sys.argv[3:]
libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, AT_EMPTY_PATH, PR_SET_DUMPABLE = -100, 0x1000, 4
page = mmap.PAGESIZE


def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), 'failed')
    return result


class opened:
    """An open file that is closed again."""

    def __init__(self, path, flags):
        self.file = os.open(path, flags)

    def __enter__(self):
        return self.file

    def __exit__(self, *_):
        os.close(self.file)


def within(path, flags, call):
    def attempt():
        with opened(path, flags) as file:
            return call(file)
    return attempt


def mapped(share, protection):
    def attempt(file):
        mmap.mmap(file, 1, share, protection).close()
    return attempt


def polled(file):
    poll = select.poll()
    poll.register(file, select.POLLIN)
    assert poll.poll(0)[0][1] & (select.POLLIN | select.POLLNVAL) == select.POLLIN, 'not readable'


def epolled(file):
    with select.epoll() as epoll:
        epoll.register(file, select.EPOLLIN)
        assert epoll.poll(0), 'not readable'


def selected(file):
    assert select.select([file], [], [], 0)[0], 'not readable'


def reopened(flags):
    return lambda file: os.close(os.open('/proc/self/fd/%d' % file, flags))


def listed(path):
    if not os.listxattr(path):
        raise OSError(errno.ENODATA, 'nothing is listed')


def watched(path):
    inotify = checked(libc.inotify_init())
    try:
        checked(libc.inotify_add_watch(inotify, path.encode(), 2))
    finally:
        os.close(inotify)


def handle_of(path):
    handle, mount_id = ctypes.create_string_buffer(struct.pack('=Ii', 128, 0) + bytes(128)), ctypes.c_int()
    checked(libc.name_to_handle_at(AT_FDCWD, path.encode(), handle, ctypes.byref(mount_id), 0))
    return handle


def opened_by_handle(path):
    handle = handle_of(path)
    with opened(mount, os.O_RDONLY) as directory:
        os.close(checked(libc.open_by_handle_at(directory, handle, os.O_RDONLY)))


def told_by_statx(path):
    told = ctypes.create_string_buffer(256)
    checked(libc.statx(AT_FDCWD, path.encode(), 0, 0xfff, told))


def set_then(name, after):
    def attempt(path):
        os.setxattr(path, name, b'9s')
        after(path, name)
    return attempt


def access(path, how):
    if not os.access(path, how):
        raise OSError(errno.EACCES, 'no access')


def calls(path):
    r, w, rw, none = os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_PATH
    shared, private = mmap.MAP_SHARED, mmap.MAP_PRIVATE
    here = os.stat(path)
    opening = lambda name, flags: lambda: os.close(os.open(name, flags))
    waiting = path + '@wait'
    yield 'stat', lambda: os.stat(path)
    yield 'statx', lambda: told_by_statx(path)
    yield 'access F_OK', lambda: access(path, os.F_OK)
    yield 'O_PATH', opening(path, none)
    yield 'name_to_handle_at', lambda: handle_of(path)
    yield 'listed in the directory', lambda: os.listdir(mount).index('x')

    yield 'access R_OK', lambda: access(path, os.R_OK)
    yield 'open to read', opening(path, r)
    yield 'open to read with O_CREAT', opening(path, r | os.O_CREAT)
    yield 'read', within(path, r, lambda f: os.read(f, 9))
    yield 'pread', within(path, r, lambda f: os.pread(f, 9, 1))
    yield 'readv', within(path, r, lambda f: os.readv(f, [bytearray(9)]))
    yield 'map shared', within(path, r, mapped(shared, mmap.PROT_READ))
    yield 'map private', within(path, r, mapped(private, mmap.PROT_READ))
    yield 'map private to write', within(path, r, mapped(private, mmap.PROT_READ | mmap.PROT_WRITE))
    yield 'poll', within(path, r, polled)
    yield 'select', within(path, r, selected)
    yield 'epoll', within(path, r, epolled)
    yield 'view', within(path + '@4hz', r, lambda f: os.read(f, 9))
    yield 'view that waits', within(waiting, r | os.O_NONBLOCK, lambda f: os.read(f, 9))
    yield 'view by O_PATH', within(path + '@4hz', none, reopened(r))
    yield 'O_PATH reopened to read', within(path, none, reopened(r))
    yield 'getxattr', lambda: os.getxattr(path, 'user.kstate.generation')
    yield 'getxattr of a view', lambda: os.getxattr(path + '@4hz', 'user.kstate.generation')
    yield 'listxattr', lambda: listed(path)
    yield 'listxattr of a view', lambda: listed(path + '@4hz')
    yield 'inotify', lambda: watched(path)
    yield 'flock', within(path, r, lambda f: fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB))

    yield 'access W_OK', lambda: access(path, os.W_OK)
    yield 'open to write', opening(path, w)
    yield 'open to write with O_CREAT', opening(path, w | os.O_CREAT)
    yield 'open with O_TRUNC', opening(path, w | os.O_TRUNC)
    yield 'write', within(path, w, lambda f: os.write(f, b'w'))
    yield 'pwrite', within(path, w, lambda f: os.pwrite(f, b'w', 2))
    yield 'writev', within(path, w, lambda f: os.writev(f, [b'w', b'w']))
    yield 'append', within(path, w | os.O_APPEND, lambda f: os.write(f, b'a'))
    yield 'truncate', lambda: os.truncate(path, page)
    yield 'truncate to nothing', lambda: os.truncate(path, 0)
    yield 'ftruncate', within(path, w, lambda f: os.ftruncate(f, page))
    yield 'O_PATH reopened to write', within(path, none, reopened(w))

    yield 'open for both', opening(path, rw)
    yield 'open to read with O_TRUNC', opening(path, r | os.O_TRUNC)
    yield 'map shared to write', within(path, rw, mapped(shared, mmap.PROT_READ | mmap.PROT_WRITE))
    yield 'read descriptor reopened to write', within(path, r, reopened(rw))
    yield 'write descriptor reopened to read', within(path, w, reopened(rw))

    yield 'chmod', lambda: os.chmod(path, here.st_mode & 0o7777)
    yield 'fchmod', within(path, none, lambda f: os.chmod('/proc/self/fd/%d' % f, here.st_mode & 0o7777))
    yield 'chown', lambda: os.chown(path, here.st_uid, -1)
    yield 'chgrp', lambda: os.chown(path, -1, here.st_gid)
    yield 'utime', lambda: os.utime(path, (1, 1))
    yield 'utime now', lambda: checked(libc.utimes(path.encode(), None))
    yield 'unlink', lambda: os.unlink(path)
    yield 'linger', lambda: os.setxattr(path, 'user.kstate.linger', b'0')
    yield 'deadline', lambda: set_then('user.kstate.deadline', os.removexattr)(path)
    yield 'removexattr', lambda: os.removexattr(path, 'user.kstate.linger')

    yield 'give away', lambda: os.chown(path, here.st_uid + 7, -1)
    yield 'open by handle', lambda: opened_by_handle(path)

    yield 'rename', lambda: os.rename(path, path + 'y')
    yield 'rename over', lambda: os.rename(mount + '/theirs', path)
    yield 'link', lambda: os.link(path, path + 'y')
    yield 'access X_OK', lambda: access(path, os.X_OK)
    yield 'run', lambda: os.execv(path, ['x'])
    yield 'map to run', within(path, r, mapped(private, mmap.PROT_READ | mmap.PROT_EXEC))
    yield 'map what is open to write', within(path, w, mapped(shared, mmap.PROT_READ))
    yield 'poll of O_PATH', within(path, none, polled)
    yield 'epoll of O_PATH', within(path, none, epolled)
    yield 'write to a view', opening(path + '@4hz', w)
    yield 'write to a view that waits', opening(waiting, rw)
    yield 'chmod of a view', lambda: os.chmod(path + '@4hz', 0o666)
    yield 'unlink of a view', lambda: os.unlink(path + '@4hz')
    yield 'setxattr of a view', lambda: os.setxattr(path + '@4hz', 'user.kstate.linger', b'9s')


def try_all(mode, name):
    for call, attempt in calls(mount + '/x'):
        try:
            attempt()
            said = 'ok'
        except AssertionError as failed:
            said = str(failed)
        except OSError as failed:
            said = errno.errorcode[failed.errno]
        print('%s|%s|%s|%s' % (mode, name, call, said), flush=True)


for mode in modes:
    os.chmod(mount + '/x', int(mode, 8))
    for user in users:
        name, uid, gid, groups = user.split(':')
        child = os.fork()
        if child == 0:
            if int(uid):
                os.setgroups([int(group) for group in groups.split(',') if group])
                os.setresgid(int(gid), int(gid), int(gid))
                os.setresuid(int(uid), int(uid), int(uid))
                # Its own files in /proc are root's otherwise.
                libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
            try_all(mode, name)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        # What it was allowed has changed the owner.
        if os.stat(mount + '/x').st_uid != int(os.environ['OWNER']):
            os.chown(mount + '/x', int(os.environ['OWNER']), -1)
