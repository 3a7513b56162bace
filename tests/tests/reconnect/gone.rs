//! Where nobody has taken the state over.

use std::time::{Duration, Instant};

use kstate::{ClaimError, Generation, ReconnectError, Wait, WaitError};
use kstate_tests::{Daemon, PATIENCE, Setup, Sleeper};

use crate::{AT_ONCE, writer};

#[test]
fn without_a_daemon_requests_fail_at_once_and_maps_go_on() {
    let mut daemon = Daemon::start();
    let state = writer(&daemon.library(), "x");
    daemon.kill();
    let start = Instant::now();
    let refused = state.reconnect().unwrap_err();
    assert!(
        matches!(refused, ReconnectError::DaemonDied { .. }),
        "{refused:?}"
    );
    let refused = state.try_clone().unwrap_err();
    assert!(
        matches!(refused, ClaimError::DaemonDied { .. }),
        "{refused:?}"
    );
    assert!(state.info().is_err());
    assert!(start.elapsed() < AT_ONCE);
    state.publish(&1).unwrap();
    assert_eq!(state.snapshot().unwrap().value, 1);
}

#[test]
fn a_daemon_that_has_begun_afresh_is_told_from_one_that_takes_over() {
    let backing = tempfile::tempdir_in("/dev/shm").unwrap();
    let setup = Setup::default().with(format!("--backing={}", backing.path().display()));
    let mut daemon = setup.start();
    let state = writer(&daemon.library(), "x");
    let seen = state.publish(&1).unwrap();
    let reader = state.reader();
    daemon.kill();
    let asleep = Sleeper::start(move || Wait::new().timeout(PATIENCE).for_change(&reader, seen));
    asleep.await_asleep();
    // What it has left to be taken over.
    for left in std::fs::read_dir(backing.path()).unwrap() {
        std::fs::remove_dir_all(left.unwrap().path()).unwrap();
    }
    let daemon = daemon.kill_and_restart();
    // Whoever asks, as those do who began to wait without a daemon.
    let ended = asleep.join();
    assert!(
        matches!(ended, Err(WaitError::DaemonDied { .. })),
        "{ended:?}"
    );
    let refused = state.reconnect().unwrap_err();
    assert!(
        matches!(refused, ReconnectError::Replaced { .. }),
        "{refused:?}"
    );
    // Its own state of that name is another one.
    let other = writer(&daemon.library(), "x");
    assert!(other.generation().is_never());
    assert!(state.reconnect().is_err());
    assert_eq!(state.snapshot().unwrap().value, 1);
}

#[test]
fn a_state_that_the_next_daemon_has_deleted_is_said_to_be() {
    let daemon = Daemon::start();
    let state = writer(&daemon.library(), "x");
    let seen = state.publish(&1).unwrap();
    let daemon = daemon.kill_and_restart();
    daemon.library().remove("x").unwrap();
    let refused = state.reconnect().unwrap_err();
    assert!(
        matches!(refused, ReconnectError::Deleted { .. }),
        "{refused:?}"
    );
    let refused = state.wait(seen, Some(Duration::from_secs(5))).unwrap_err();
    assert!(matches!(refused, WaitError::Deleted { .. }), "{refused:?}");
    assert_eq!(seen, Generation(1));
}
