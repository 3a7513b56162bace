//! How long a state stays: evaporation, the sticky bit, linger, deletion.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kstate_tests::{Daemon, Setup, eventually};

use crate::{create, errno, generation, start_python, value};

both_ways!(
    the_sticky_bit_keeps_a_state_and_clearing_it_lets_go,
    a_state_lingers_as_long_as_the_mount_says,
    a_time_to_linger_can_be_changed_after_the_last_close,
    unlink_is_busy_while_another_process_is_subscribed,
    files_still_open_of_a_deleted_state_read_its_last_value,
    an_open_finds_the_state_or_none_while_it_comes_and_goes,
);

#[track_caller]
pub(crate) fn evaporates(daemon: &Daemon, name: &str) {
    let file = daemon.file(name);
    eventually("the state evaporates", || (!file.exists()).then_some(()));
}

fn the_sticky_bit_keeps_a_state_and_clearing_it_lets_go(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    file.write_all_at(b"kept", 0).unwrap();
    fs::set_permissions(daemon.file("x"), Permissions::from_mode(0o1644)).unwrap();
    drop(file);
    // A second state that has gone shows that the first had its chance to.
    drop(create(&daemon, "y"));
    evaporates(&daemon, "y");
    assert_eq!(value(&daemon, "x"), b"kept");
    fs::set_permissions(daemon.file("x"), Permissions::from_mode(0o644)).unwrap();
    evaporates(&daemon, "x");
}

fn a_state_lingers_as_long_as_the_mount_says(setup: Setup) {
    let daemon = setup.with("--linger=300ms").start();
    let start = Instant::now();
    drop(create(&daemon, "x"));
    evaporates(&daemon, "x");
    assert!(start.elapsed() >= Duration::from_millis(300));
}

fn a_time_to_linger_can_be_changed_after_the_last_close(setup: Setup) {
    let daemon = setup.start();
    // Closed with one time, then given another before that has passed; how long the state was
    // there afterwards is printed in milliseconds.
    let program = |first: &str, then: &str| {
        format!(
            "
import time
linger = lambda time: os.setxattr(path, 'user.kstate.linger', time)
file = os.open(path, os.O_CREAT | os.O_RDWR)
linger(b'{first}')
closed = time.monotonic()
os.close(file)
linger(b'{then}')
while os.path.exists(path): time.sleep(0.005)
print(int((time.monotonic() - closed) * 1000))
"
        )
    };
    // The longer time must hold although the shorter was in force when the file was closed. Were
    // the shorter one forgotten, this would take an hour.
    for (name, first, then, least) in [
        ("longer", "3s", "4s", 4000),
        ("shorter", "3600s", "500ms", 500),
    ] {
        let mut python = start_python(&program(first, then), &daemon.file(name));
        let lived: u64 = python.line().parse().unwrap();
        assert!(lived >= least, "{name}: {lived} ms");
        assert!(python.finish().success());
    }
}

fn unlink_is_busy_while_another_process_is_subscribed(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    let other = Command::new("rm").arg(daemon.file("x")).output().unwrap();
    assert!(!other.status.success());
    assert!(String::from_utf8_lossy(&other.stderr).contains("busy"));
    fs::remove_file(daemon.file("x")).unwrap();
    assert!(!daemon.file("x").exists());
    drop(file);
}

fn files_still_open_of_a_deleted_state_read_its_last_value(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    file.write_all_at(b"last", 0).unwrap();
    fs::remove_file(daemon.file("x")).unwrap();
    let mut bytes = [0; 4];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"last");
    assert_eq!(errno(file.write_at(b"more", 0)), libc::ENOENT);
    // The name is free for another state, which has nothing to do with this one.
    let next = create(&daemon, "x");
    next.write_all_at(b"next", 0).unwrap();
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"last");
    assert_eq!(generation(&daemon, "x"), 1);
}

fn an_open_finds_the_state_or_none_while_it_comes_and_goes(setup: Setup) {
    const ROUNDS: u32 = 1500;
    let daemon = setup.start();
    let path = daemon.file("x");
    let is_over = AtomicBool::new(false);
    let opener = || {
        let mut found = 0_u32;
        while !is_over.load(Ordering::Relaxed) {
            match File::open(&path) {
                Ok(_) => found += 1,
                // The name stood for one that went, and then for the next, which went as well.
                Err(error) => {
                    let code = error.raw_os_error().unwrap();
                    assert!(matches!(code, libc::ENOENT | libc::ESTALE), "{error}");
                }
            }
        }
        found
    };
    std::thread::scope(|scope| {
        let openers = [(); 3].map(|()| scope.spawn(opener));
        for _ in 0..ROUNDS {
            drop(create(&daemon, "x"));
            fs::remove_file(&path).unwrap_or_default();
        }
        is_over.store(true, Ordering::Relaxed);
        for opener in openers {
            assert!(opener.join().unwrap() > 0);
        }
    });
}
