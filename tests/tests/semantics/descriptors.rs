//! One open file behind several descriptors: duplicated, inherited, passed on.

use std::fs;
use std::os::unix::fs::FileExt;

use kstate_tests::Setup;

use crate::{create, errno, python, replace, value};

both_ways!(
    a_duplicate_shares_offset_and_base,
    a_child_shares_its_parents_base,
    a_descriptor_passed_on_shares_its_base,
    an_open_of_its_own_through_proc_has_a_base_of_its_own,
    a_state_stays_until_the_last_duplicate_is_closed,
);

fn a_duplicate_shares_offset_and_base(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    let duplicate = file.try_clone().unwrap();
    file.write_all_at(b"1", 0).unwrap();
    let mut byte = [0; 1];
    file.read_exact_at(&mut byte, 0).unwrap();
    replace(&daemon, "x", b"2");
    assert_eq!(errno(duplicate.write_at(b"3", 0)), libc::ESTALE);
    duplicate.read_exact_at(&mut byte, 0).unwrap();
    file.write_all_at(b"3", 0).unwrap();
    duplicate.write_all_at(b"4", 0).unwrap();
    assert_eq!(value(&daemon, "x"), b"4");
}

fn a_child_shares_its_parents_base(setup: Setup) {
    let daemon = setup.start();
    let _keep = create(&daemon, "x");
    replace(&daemon, "x", b"1");
    let program = "
file = os.open(path, os.O_RDWR)
os.read(file, 1)
replace(b'2')
forked(lambda: os.pwrite(file, b'3', 0))
forked(lambda: os.pread(file, 1, 0))
print(said(lambda: os.pwrite(file, b'4', 0)))
";
    let expected = "ESTALE\nb'2'\n1\n";
    assert_eq!(python(program, &daemon.file("x")), expected);
    assert_eq!(value(&daemon, "x"), b"4");
}

fn a_descriptor_passed_on_shares_its_base(setup: Setup) {
    let daemon = setup.start();
    let _keep = create(&daemon, "x");
    replace(&daemon, "x", b"1");
    // Opened by the parent after the fork, so that the child has it from the socket alone.
    let program = "
here, there = socket.socketpair()
def child():
    file = socket.recv_fds(there, 1, 1)[1][0]
    return (said(lambda: os.pwrite(file, b'3', 0)), os.pread(file, 1, 0))
pid = os.fork()
if pid == 0:
    print(child(), flush=True)
    os._exit(0)
file = os.open(path, os.O_RDWR)
os.read(file, 1)
replace(b'2')
socket.send_fds(here, [b'-'], [file])
assert os.waitpid(pid, 0)[1] == 0
print(said(lambda: os.pwrite(file, b'4', 0)))
";
    assert_eq!(python(program, &daemon.file("x")), "('ESTALE', b'2')\n1\n");
    assert_eq!(value(&daemon, "x"), b"4");
}

fn an_open_of_its_own_through_proc_has_a_base_of_its_own(setup: Setup) {
    let daemon = setup.start();
    let _keep = create(&daemon, "x");
    replace(&daemon, "x", b"1");
    let program = "
file = os.open(path, os.O_RDWR)
os.read(file, 1)
own = os.open('/proc/self/fd/%d' % file, os.O_RDWR)
replace(b'2')
print(said(lambda: os.pwrite(own, b'3', 0)), said(lambda: os.pwrite(file, b'4', 0)))
";
    assert_eq!(python(program, &daemon.file("x")), "1 ESTALE\n");
    assert_eq!(value(&daemon, "x"), b"3");
}

fn a_state_stays_until_the_last_duplicate_is_closed(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    file.write_all_at(b"kept", 0).unwrap();
    let duplicate = file.try_clone().unwrap();
    drop(file);
    // Another state that has gone shows that this one had its chance to.
    drop(create(&daemon, "y"));
    let gone = || (!daemon.file("y").exists()).then_some(());
    kstate_tests::eventually("y evaporates", gone);
    assert_eq!(fs::read(daemon.file("x")).unwrap(), b"kept");
    drop(duplicate);
    let gone = || (!daemon.file("x").exists()).then_some(());
    kstate_tests::eventually("x evaporates", gone);
}
