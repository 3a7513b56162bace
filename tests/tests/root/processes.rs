//! What `/proc` and tracing tell of the daemon, and of those who use a state.

use std::os::unix::fs::FileExt;

use kstate_tests::{Running, Setup};

use crate::{ALICE, BOB, create_for, open_home, prepared, printed, set_mode};

pub(crate) fn another_user_finds_no_way_through_proc() {
    for transport in ["auto", "off"] {
        let setup = Setup::default().with(format!("--passthrough={transport}"));
        let mut daemon = setup.start();
        open_home(&daemon);
        let file = create_for(&daemon, "x", ALICE);
        file.write_all_at(b"hers", 0).unwrap();
        set_mode(&daemon, "x", 0o600);
        let subscribed = "
descriptor = region(os.open(x, os.O_RDWR))
at = mapped(descriptor, READ | WRITE)
print(descriptor, '%x' % at, flush=True)
input()
";
        let mut hers = Running::start(&mut prepared(ALICE, &daemon, subscribed));
        let where_it_is = hers.line();
        let (descriptor, at) = where_it_is.split_once(' ').unwrap();
        let pids = [daemon.process().pid(), hers.pid()];
        let program = format!(
            "
def read(pid, name): return lambda: os.read(os.open('/proc/%d/%s' % (pid, name), os.O_RDONLY), 1)
def memory(pid, call):
    own = ctypes.create_string_buffer(8)
    part = lambda at: struct.pack('PN', at, 4)
    here, there = part(ctypes.addressof(own)), part(0x{at})
    return lambda: checked(libc.syscall(ctypes.c_long(call), pid, here, 1, there, 1, 0))
def traced(request, pid): return lambda: checked(libc.ptrace(request, pid, 0, 0))
def link(pid, name): return lambda: os.readlink('/proc/%d/%s' % (pid, name))
for pid in {daemon}, {hers}:
    for name in 'maps', 'smaps', 'mem', 'environ', 'auxv', 'pagemap', 'io', 'stack', 'syscall':
        attempt(name, read(pid, name))
    for name in 'fd', 'fdinfo', 'map_files':
        attempt(name, lambda: os.listdir('/proc/%d/%s' % (pid, name)))
    for name in 'exe', 'cwd', 'root', 'fd/{descriptor}', 'ns/mnt':
        attempt(name, link(pid, name))
    attempt('fd', read(pid, 'fd/{descriptor}'))
    attempt('thread', read(pid, 'task/%d/fd/{descriptor}' % pid))
    attempt('process_vm_readv', memory(pid, {readv}))
    attempt('process_vm_writev', memory(pid, {writev}))
    attempt('attach', traced({attach}, pid))
    attempt('seize', traced({seize}, pid))
    pidfd = os.pidfd_open(pid)
    attempt('pidfd_getfd', lambda: checked(libc.syscall(ctypes.c_long({getfd}), pidfd, {descriptor}, 0)))
    attempt('signal', lambda: os.kill(pid, 0))
for place in '/dev/shm', '/run', '/run/shm':
    for name in os.listdir(place) if os.path.isdir(place) else ():
        if name.startswith('kstatefs-{daemon}-'): attempt('regions', lambda: os.listdir(place + '/' + name))
",
            daemon = pids[0],
            hers = pids[1],
            readv = libc::SYS_process_vm_readv,
            writev = libc::SYS_process_vm_writev,
            attach = libc::PTRACE_ATTACH,
            seize = libc::PTRACE_SEIZE,
            getfd = libc::SYS_pidfd_getfd,
        );
        let said = printed(&prepared(BOB, &daemon, &program).output().unwrap());
        let refused = |line: &&str| line.ends_with(" EACCES") || line.ends_with(" EPERM");
        let found: Vec<_> = said.lines().filter(|line| !refused(line)).collect();
        assert!(found.is_empty(), "--passthrough={transport}: {found:?}");
        assert!(said.lines().count() > 40, "{said}");
        // The same shows it to who may see.
        let said = printed(&prepared(ALICE, &daemon, &program).output().unwrap());
        assert!(said.contains("process_vm_readv ok"), "{said}");
    }
}
