//! The wait mark: who has it set, and for how long.

use std::time::{Duration, Instant};

use kstate::{Wait, Waited};
use kstate_sys::ioctl::{self, call, place};
use kstate_tests::{Checked, PATIENCE, begin_wait, both_transports, checked};
use nix::sys::signal::Signal;

use crate::{AT_ONCE, await_waiters, waiters, writer};

const SHORT: u32 = 150;

#[test]
fn a_mark_goes_when_its_time_is_over_and_not_before() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let state = writer(&mount, "x");
        for wanted in [place::HEAD, place::CROWD] {
            let start = Instant::now();
            let begun = begin_wait(&state, wanted, SHORT);
            assert_eq!((begun.place, begun.milliseconds), (wanted, SHORT));
            assert_eq!(waiters(&mount, "x"), 1);
            await_waiters(&mount, "x", 0);
            assert!(start.elapsed() >= Duration::from_millis(SHORT.into()));
            assert!(start.elapsed() < Duration::from_millis(SHORT.into()) + AT_ONCE);
        }
    });
}

#[test]
fn a_mark_that_is_asked_for_again_stays_for_longer() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let state = writer(&mount, "x");
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(300) {
            begin_wait(&state, place::HEAD, 200);
            assert_eq!(waiters(&mount, "x"), 1);
        }
        assert_eq!(waiters(&mount, "x"), 1);
        await_waiters(&mount, "x", 0);
        assert!(start.elapsed() >= Duration::from_millis(500));
    });
}

#[test]
fn no_mark_is_granted_for_ever_but_with_an_open_file() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let _keep = writer(&mount, "x");
        let long = writer(&mount, "x");
        assert_eq!(
            begin_wait(&long, place::HEAD, u32::MAX).milliseconds,
            60_000
        );
        let lasting = writer(&mount, "x");
        assert_eq!(begin_wait(&lasting, place::HEAD, 0).milliseconds, 0);
        assert_eq!(waiters(&mount, "x"), 2);
        drop(long);
        await_waiters(&mount, "x", 1);
        drop(lasting);
        await_waiters(&mount, "x", 0);
    });
}

#[test]
fn a_place_that_is_none_and_an_end_without_a_beginning_are_refused() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let state = writer(&mount, "x");
        for no_place in [0, 3, u32::MAX] {
            let mut wait = ioctl::Wait {
                place: no_place,
                milliseconds: SHORT,
            };
            let error = call::wait_begin(&state, &mut wait).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        }
        let error = call::wait_end(&state).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        assert_eq!(waiters(&mount, "x"), 0);
        begin_wait(&state, place::HEAD, 0);
        begin_wait(&state, place::CROWD, 0);
        call::wait_end(&state).unwrap();
        assert_eq!(waiters(&mount, "x"), 0);
    });
}

#[test]
fn a_waiter_that_is_killed_in_its_sleep_leaves_no_mark() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let _keep = writer(&mount, "x");
        for place in ["head", "crowd"] {
            let taken = (place == "crowd").then(|| kstate_tests::take_seats(&mount, "x"));
            let before = waiters(&mount, "x");
            let mut waiter = daemon.waiter("x", &["follow", "change"]);
            assert_eq!(waiter.line(), "ready");
            assert_eq!(waiters(&mount, "x"), before + 1);
            let killed = Instant::now();
            waiter.signal(Signal::SIGKILL);
            await_waiters(&mount, "x", before);
            assert!(killed.elapsed() < AT_ONCE, "{place}");
            drop(taken);
            await_waiters(&mount, "x", 0);
        }
    });
}

#[test]
fn a_stopped_waiters_mark_goes_in_its_time() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let _keep = writer(&mount, "x");
        let mut waiter = daemon.waiter("x", &["mark", "400"]);
        assert_eq!(waiter.line(), "ready");
        waiter.stop();
        await_waiters(&mount, "x", 0);
        waiter.signal(Signal::SIGCONT);
    });
}

#[test]
fn a_waiter_that_was_stopped_sees_the_last_version_when_it_goes_on() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let state = mount.subscribe("x").write().typed::<Checked>().unwrap();
        let mut waiter = daemon.worker("x", &["wait"]);
        assert_eq!(waiter.line(), "ready");
        for round in 1..=5 {
            waiter.stop();
            for number in 0..100 {
                state.publish(&checked(round * 1000 + number)).unwrap();
            }
            waiter.signal(Signal::SIGCONT);
            waiter.lines_until(&(round * 1000 + 99).to_string());
        }
    });
}

#[test]
fn a_forked_childs_mark_is_its_own() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let state = writer(&mount, "x");
        state.publish(&1).unwrap();
        let mut parent = daemon.waiter("x", &["fork-wait"]);
        // Both sleep through the same open file.
        let mut lines = [parent.line(), parent.line()];
        lines.sort();
        assert_eq!(lines, ["child ready", "parent ready"]);
        await_waiters(&mount, "x", 2);
        state.publish(&2).unwrap();
        let mut lines = [parent.line(), parent.line()];
        lines.sort();
        assert_eq!(lines, ["child 2", "parent 2"]);
        await_waiters(&mount, "x", 2);
        // The child ends at its third version, the parent at its fourth.
        state.publish(&3).unwrap();
        let mut lines = [parent.line(), parent.line()];
        lines.sort();
        assert_eq!(lines, ["child 3", "parent 3"]);
        await_waiters(&mount, "x", 1);
        state.publish(&4).unwrap();
        assert_eq!(parent.line(), "parent 4");
        assert!(parent.finish().success());
        await_waiters(&mount, "x", 0);
    });
}

#[test]
fn a_wait_begins_again_through_another_file_when_the_first_is_closed() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let state = writer(&mount, "x");
        let seen = state.publish(&1).unwrap();
        for _ in 0..3 {
            let reader = mount.subscribe("x").typed::<u64>().unwrap();
            let short = Wait::new().timeout(Duration::from_millis(5));
            assert_eq!(short.for_change(&reader, seen).unwrap(), Waited::TimedOut);
            assert_eq!(waiters(&mount, "x"), 1);
            let closed = Instant::now();
            drop(reader);
            await_waiters(&mount, "x", 0);
            assert!(closed.elapsed() < PATIENCE);
        }
    });
}
