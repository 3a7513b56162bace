//! The descriptor that is readable when one of many states has changed: what it tells, in which loops it
//! goes, what it survives.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod descriptor;
mod elsewhere;
mod telling;

use kstate::{Event, Mount, Notifier, NotifyBy, State};
use kstate_tests::{Daemon, PATIENCE, both_transports};

const WAYS: [NotifyBy; 3] = [NotifyBy::Uring, NotifyBy::Thread, NotifyBy::Files];

/// Runs `test` with a notifier of each way, with each transport.
fn every_way(test: impl Fn(&Daemon, Notifier)) {
    both_transports(|daemon| {
        for way in WAYS {
            test(daemon, Notifier::by(way).unwrap());
        }
    });
}

fn writer(mount: &Mount, name: &str) -> State<u64> {
    mount.subscribe(name).write().typed().unwrap()
}

/// What comes next, and that soon.
#[track_caller]
fn news(notifier: &mut Notifier) -> Vec<Event> {
    let events = notifier.wait(Some(PATIENCE)).unwrap().to_vec();
    assert!(!events.is_empty(), "nothing was told for {PATIENCE:?}");
    events
}
