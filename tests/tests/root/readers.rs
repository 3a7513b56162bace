//! What somebody who may only read a state can do to it, and to others who use it.

use std::fs;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use kstate_sys::ioctl;
use kstate_tests::{Checked, Daemon, Running, both_transports, checked};

use crate::{ALICE, BOB, CAROL, create_for, open_home, prepared, printed, set_mode};

pub(crate) fn a_reader_changes_nothing_through_his_map() {
    both_transports(|daemon| {
        open_home(daemon);
        let file = create_for(daemon, "x", ALICE);
        file.write_all_at(b"good", 0).unwrap();
        set_mode(daemon, "x", 0o644);
        let program = "
file = os.open(x, os.O_RDONLY)
descriptor = region(file)
at = mapped(descriptor, READ)
address = ctypes.c_void_p(at)
attempt('map to write', lambda: mapped(descriptor, READ | WRITE))
attempt('mprotect', lambda: checked(libc.mprotect(address, page, READ | WRITE)))
attempt('punch a hole in the map', lambda: checked(libc.madvise(address, page, 9)))
attempt('read into it', lambda: checked(libc.read(os.open('/dev/zero', 0), address, 4)))
memory = os.open('/proc/self/mem', os.O_RDWR)
attempt('proc mem', lambda: os.pwrite(memory, b'evil', at))
maps = [line for line in open('/proc/self/maps') if line.startswith('%x-' % at)]
of_the_map = '/proc/self/map_files/' + maps[0].split()[0]
attempt('map_files', lambda: os.open(of_the_map, os.O_RDWR))
attempt('write', lambda: os.write(descriptor, b'evil'))
attempt('punch a hole', lambda: checked(libc.fallocate(descriptor, 3, 0, ctypes.c_long(page))))
attempt('ftruncate', lambda: os.ftruncate(descriptor, 8))
attempt('fchmod', lambda: os.fchmod(descriptor, 0o666))
attempt('reopen', lambda: reopened(descriptor))
attempt('make writable', lambda: os.write(descriptor, b'evil') if not
    fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_RDWR) else None)
own = mapped(descriptor, READ | WRITE, PRIVATE)
ctypes.memmove(own, b'evil', 4)
print(ctypes.string_at(own, 4), ctypes.string_at(at, 4), os.read(file, 9))
";
        let expected = "map to write EACCES\nmprotect EACCES\npunch a hole in the map EACCES\n\
                        read into it EFAULT\nproc mem EIO\nmap_files EPERM\nwrite EBADF\n\
                        punch a hole EBADF\nftruncate EINVAL\nfchmod EPERM\nreopen EACCES\n\
                        make writable EBADF\nb'evil' b'good' b'good'\n";
        let output = prepared(BOB, daemon, program).output().unwrap();
        assert_eq!(printed(&output), expected);
        assert_eq!(fs::read(daemon.file("x")).unwrap(), b"good");
    });
}

/// What each ioctl says to somebody who has opened `open`, a path and flags in Python.
fn asked(daemon: &Daemon, user: kstate_tests::User, open: &str) -> String {
    let numbers = [
        ("CLAIM", ioctl::CLAIM),
        ("RELEASE", ioctl::RELEASE),
        ("SET_CAPACITY", ioctl::SET_CAPACITY),
        ("SET_LINGER", ioctl::SET_LINGER),
        ("SET_DEADLINE", ioctl::SET_DEADLINE),
        ("TURN", ioctl::TURN),
        ("TURN_END", ioctl::TURN_END),
        ("ARM", ioctl::ARM),
        ("WAIT_BEGIN", ioctl::WAIT_BEGIN),
        ("WAIT_END", ioctl::WAIT_END),
        ("SEEN", ioctl::SEEN),
        ("INFO", ioctl::INFO),
    ];
    let mut program = format!("file = os.open({open})\n");
    for (name, number) in numbers {
        let size = number >> 16 & 0x3fff;
        // As a word the group that somebody else has, or a byte; as two words a time of some seconds.
        program += &format!(
            "attempt('{name}', lambda: fcntl.ioctl(file, {number}, \
             bytearray([1, 0, 0, 0, 1] + [0] * {size})[:{size}]))\n"
        );
    }
    let output = prepared(user, daemon, &program).output().unwrap();
    printed(&output).replace('\n', ", ")
}

pub(crate) fn ioctls_do_what_the_descriptor_and_the_owner_may() {
    both_transports(|daemon| {
        open_home(daemon);
        let file = create_for(daemon, "x", ALICE);
        let mount = daemon.library();
        // Has the first group.
        let publisher = mount.subscribe("x").write().bytes().unwrap();
        publisher.publish(b"good").unwrap();
        let anybody = "ARM ok, WAIT_BEGIN ok, WAIT_END ok, SEEN ok, INFO ok, ";
        let not_theirs = "TURN EINVAL, TURN_END EINVAL, ";
        let not_owner = "SET_LINGER EPERM, SET_DEADLINE EPERM, ";
        let read_only = "CLAIM EBADF, RELEASE EINVAL, SET_CAPACITY EBADF, ";
        // Of a byte, which it does not shrink to.
        let write = "CLAIM ok, RELEASE EINVAL, SET_CAPACITY EINVAL, ";

        set_mode(daemon, "x", 0o644);
        let reader = asked(daemon, BOB, "x, os.O_RDONLY");
        assert_eq!(
            reader,
            format!("{read_only}{not_owner}{not_theirs}{anybody}")
        );
        set_mode(daemon, "x", 0o666);
        let writer = asked(daemon, BOB, "x, os.O_RDWR");
        assert_eq!(writer, format!("{write}{not_owner}{not_theirs}{anybody}"));
        set_mode(daemon, "x", 0o620);
        let member = asked(daemon, CAROL, "x, os.O_WRONLY");
        assert_eq!(member, format!("{write}{not_owner}{not_theirs}{anybody}"));
        let owner = asked(daemon, ALICE, "x, os.O_RDONLY");
        let as_owner = "SET_LINGER ok, SET_DEADLINE ok, ";
        assert_eq!(owner, format!("{read_only}{as_owner}{not_theirs}{anybody}"));
        let view = asked(daemon, ALICE, "x + '@4hz', os.O_RDONLY");
        assert_eq!(view.matches("ENOTTY").count(), 10, "{view}");
        assert!(view.ends_with("SEEN ok, INFO ok, "), "{view}");
        drop(file);
        assert_eq!(&*publisher.snapshot().unwrap().value, b"good");
        publisher.publish(b"better").unwrap();
    });
}

pub(crate) fn a_waiter_moved_away_by_a_reader_looks_by_itself() {
    both_transports(|daemon| {
        open_home(daemon);
        let mount = daemon.library();
        let state = mount.subscribe("x").write().typed::<Checked>().unwrap();
        state.publish(&checked(1)).unwrap();
        let mut waiter = daemon.worker("x", &["wait"]);
        // Whoever sleeps on the word `head` is to sleep on one of the mover's own.
        let program = format!(
            "
word = mapped(region(os.open(x, os.O_RDONLY)), READ) + page + {head}
own = ctypes.c_uint32()
requeue = lambda: libc.syscall(ctypes.c_long({futex}), ctypes.c_void_p(word), {requeue}, 0,
    ctypes.c_long(2**31 - 1), ctypes.byref(own), 0)
while not checked(requeue()): os.sched_yield()
print('moved', flush=True)
input()
",
            head = std::mem::offset_of!(kstate_sys::region::Header, head),
            futex = libc::SYS_futex,
            requeue = libc::FUTEX_REQUEUE,
        );
        let mut mover = Running::start(&mut prepared(BOB, daemon, &program));
        assert_eq!(mover.line(), "moved");
        state.publish(&checked(2)).unwrap();
        // Not woken, but after 4 s at the latest.
        waiter.lines_until("2");
    });
}

pub(crate) fn the_same_user_without_passthrough_may_write_what_it_may_read() {
    both_transports(|daemon| {
        open_home(daemon);
        let file = create_for(daemon, "x", ALICE);
        file.write_all_at(b"good", 0).unwrap();
        set_mode(daemon, "x", 0o644);
        let program = "
file = os.open(x, os.O_RDONLY)
attempt('open to write', lambda: os.open(x, os.O_RDWR))
attempt('chmod', lambda: os.chmod(x, 0o666))
attempt('unlink', lambda: os.unlink(x))
descriptor = region(file)
print('passthrough' if descriptor == file else 'socket')
attempt('reopen', lambda: ctypes.memmove(mapped(reopened(descriptor), READ | WRITE), b'evil', 4))
print(ctypes.string_at(mapped(descriptor, READ), 4), os.read(file, 9))
";
        // The daemon's user, without what root may besides.
        let python = prepared(BOB, daemon, program);
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-all", "--inh-caps=-all"]);
        command.arg(python.get_program()).args(python.get_args());
        let said = printed(&command.uid(0).output().unwrap());
        // The mount is its own, so that it could delete it if nobody had it open.
        let plainly = "open to write EACCES\nchmod EPERM\nunlink EBUSY\n";
        let refused = "passthrough\nreopen EACCES\nb'good' b'good'\n";
        let reopened = "socket\nreopen ok\nb'evil' b'good'\n";
        let rest = said.strip_prefix(plainly).expect(&said);
        let passthrough = rest.starts_with("passthrough");
        assert_eq!(rest, if passthrough { refused } else { reopened });
    });
}
