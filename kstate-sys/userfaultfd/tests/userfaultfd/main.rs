//! What this crate promises, tried against the running kernel.
//!
//! A kernel or container may refuse a feature. Then a test says `UNTESTED` on standard error, past
//! the test harness's capture, and only then passes.

#![expect(
    unsafe_code,
    reason = "maps memory, touches registered pages, makes system calls"
)]
#![expect(
    clippy::unwrap_used,
    reason = "a test's helpers fail by panicking, too"
)]

mod creation;
mod filling;
mod mapping;
mod ordinary_user;
mod write_protection;

use std::io::Write;
use std::os::fd::AsRawFd;
use userfaultfd::{Error, Event, FeatureFlags, Uffd, UffdBuilder};

const DEADLINE_MS: i32 = 10_000;

pub(crate) fn untested(what: &str, why: &Error) {
    // Not eprintln!, which the harness swallows when the test passes.
    let _ = writeln!(std::io::stderr(), "UNTESTED: {what}: {why}");
}

/// A non-blocking userfaultfd, or `None` after saying loudly that `what` was left out.
pub(crate) fn create(what: &str, features: FeatureFlags) -> Option<Uffd> {
    match UffdBuilder::new()
        .non_blocking(true)
        .require_features(features)
        .create()
    {
        Ok(uffd) => Some(uffd),
        Err(error @ (Error::Refused { .. } | Error::UnsupportedFeatures { .. })) => {
            untested(what, &error);
            None
        }
        Err(error) => panic!("{what}: {error}"),
    }
}

/// The next event, waited for with a deadline.
pub(crate) fn event(uffd: &Uffd) -> Event {
    let mut poll = libc::pollfd {
        fd: uffd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: `poll` is one pollfd, alive throughout.
    let ready = unsafe { libc::poll(&raw mut poll, 1, DEADLINE_MS) };
    assert_eq!(
        (ready, poll.revents),
        (1, libc::POLLIN),
        "no event within the deadline"
    );
    uffd.read_event().unwrap().expect("poll promised an event")
}
