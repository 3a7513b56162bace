//! Advisory locks: the kernel's own, by the state's file.

use std::os::unix::fs::FileExt;

use kstate_tests::Setup;

use crate::{create, errno, python, replace, value};

both_ways!(
    flock_keeps_other_descriptors_out,
    record_locks_keep_other_processes_out,
    a_lock_keeps_nobody_from_writing,
    a_state_of_the_same_name_later_has_locks_of_its_own,
);

fn flock_keeps_other_descriptors_out(setup: Setup) {
    let daemon = setup.start();
    let _keep = create(&daemon, "x");
    let program = "
mine = os.open(path, os.O_RDWR)
def other(how):
    return fcntl.flock(os.open(path, os.O_RDONLY), how | fcntl.LOCK_NB)
fcntl.flock(mine, fcntl.LOCK_EX)
forked(lambda: other(fcntl.LOCK_SH))
fcntl.flock(mine, fcntl.LOCK_SH)
forked(lambda: other(fcntl.LOCK_SH))
forked(lambda: other(fcntl.LOCK_EX))
os.close(mine)
forked(lambda: other(fcntl.LOCK_EX))
";
    let expected = "EAGAIN\nNone\nEAGAIN\nNone\n";
    assert_eq!(python(program, &daemon.file("x")), expected);
}

fn record_locks_keep_other_processes_out(setup: Setup) {
    let daemon = setup.start();
    let _keep = create(&daemon, "x");
    // Also beyond what a state can hold; and closing any descriptor lets go, as of any file.
    let program = "
mine = os.open(path, os.O_RDWR)
def other(start, length=1):
    file = os.open(path, os.O_RDWR)
    how = fcntl.LOCK_EX | fcntl.LOCK_NB
    return fcntl.lockf(file, how, length, start)
fcntl.lockf(mine, fcntl.LOCK_EX, 10, 0)
forked(lambda: other(9))
forked(lambda: other(10))
fcntl.lockf(mine, fcntl.LOCK_EX, 10, 1 << 40)
forked(lambda: other(1 << 40))
os.close(os.open(path, os.O_RDONLY))
forked(lambda: other(9))
F_OFD_SETLK = 37
lock = lambda: struct.pack('hhqqi4x', fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
fcntl.fcntl(mine, F_OFD_SETLK, lock())
again = os.open(path, os.O_RDWR)
print(said(lambda: fcntl.fcntl(again, F_OFD_SETLK, lock())))
";
    let expected = "EAGAIN\nNone\nEAGAIN\nNone\nEAGAIN\n";
    assert_eq!(python(program, &daemon.file("x")), expected);
}

fn a_lock_keeps_nobody_from_writing(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    file.write_all_at(b"1", 0).unwrap();
    file.lock().unwrap();
    file.read_exact_at(&mut [0; 1], 0).unwrap();
    replace(&daemon, "x", b"2");
    assert_eq!(value(&daemon, "x"), b"2");
    assert_eq!(errno(file.write_at(b"3", 0)), libc::ESTALE);
}

fn a_state_of_the_same_name_later_has_locks_of_its_own(setup: Setup) {
    let daemon = setup.start();
    let old = create(&daemon, "x");
    old.lock().unwrap();
    std::fs::remove_file(daemon.file("x")).unwrap();
    let new = create(&daemon, "x");
    new.try_lock().unwrap();
}
