//! Waiting: for changes, generations, values, any of many, and what is not there yet; what ends it; who is
//! woken by whom.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod any;
mod changes;
mod crowd;
mod interrupted;
mod marks;
mod orphaned;
mod there;
mod until;

use std::time::Duration;

use kstate::{Mount, State};
use kstate_tests::eventually;

/// What comes at once comes in less, on a machine busy with other tests.
const AT_ONCE: Duration = Duration::from_millis(700);

fn writer(mount: &Mount, name: &str) -> State<u64> {
    mount.subscribe(name).write().typed().unwrap()
}

fn waiters(mount: &Mount, name: &str) -> u32 {
    mount.info(name).unwrap().waiters
}

/// Waits until so many wait for it.
#[track_caller]
fn await_waiters(mount: &Mount, name: &str, count: u32) {
    eventually("so many wait", || {
        (waiters(mount, name) == count).then_some(())
    });
}
