//! Handles that go on when the daemon is killed and another takes its states over.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod gone;
mod handles;
mod waits;

use std::time::Duration;

use kstate::{Mount, State};
use kstate_tests::{Daemon, Setup};

/// What comes at once comes in less, on a machine busy with other tests.
const AT_ONCE: Duration = Duration::from_millis(700);

fn writer(mount: &Mount, name: &str) -> State<u64> {
    mount.subscribe(name).write().typed().unwrap()
}

/// Both ways to get at a region.
fn both(test: impl Fn(Daemon)) {
    test(Daemon::start());
    test(Setup::default().with("--passthrough=off").start());
}
