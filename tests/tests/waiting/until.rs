//! What a wait waits for, and for how long.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kstate::{Generation, Interrupt, Wait, Waited, WatchError};
use kstate_tests::{Daemon, Ended, Kind, PATIENCE, Sleeper, both_transports, eventually};

use crate::{AT_ONCE, await_waiters, waiters, writer};

const SHORT: Duration = Duration::from_millis(20);

#[test]
fn each_wait_ends_at_its_timeout() {
    both_transports(|daemon| {
        let mount = daemon.library();
        writer(&mount, "x").publish(&1).unwrap();
        let _keep = (writer(&mount, "x"), writer(&mount, "x.other"));
        for kind in Kind::ALL {
            let start = Instant::now();
            let ended = kind.wait(&mount, "x", &Interrupt::new(), SHORT).unwrap();
            assert_eq!(ended, Ended::TimedOut, "{kind:?}");
            assert!(start.elapsed() >= SHORT, "{kind:?}");
            assert!(start.elapsed() < SHORT + AT_ONCE, "{kind:?}");
        }
    });
}

#[test]
fn a_timeout_counts_from_each_call_and_a_deadline_stays() {
    let daemon = Daemon::start();
    let state = writer(&daemon.library(), "x");
    let seen = state.publish(&1).unwrap();
    let both = Wait::new()
        .timeout(Duration::from_secs(3600))
        .deadline(Instant::now() + SHORT * 5);
    let start = Instant::now();
    assert_eq!(both.for_change(&state, seen).unwrap(), Waited::TimedOut);
    assert!(start.elapsed() >= SHORT * 4);
    let start = Instant::now();
    assert_eq!(both.for_change(&state, seen).unwrap(), Waited::TimedOut);
    assert!(start.elapsed() < AT_ONCE);
    let timeout = Wait::new()
        .timeout(SHORT)
        .deadline(Instant::now() + PATIENCE * 100);
    for _ in 0..3 {
        let start = Instant::now();
        assert_eq!(timeout.for_change(&state, seen).unwrap(), Waited::TimedOut);
        assert!(start.elapsed() >= SHORT);
    }
}

#[test]
fn what_is_over_before_it_begins_sets_no_mark() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let state = writer(&mount, "x");
        let seen = state.publish(&1).unwrap();
        let past = Wait::new().deadline(Instant::now() - SHORT);
        assert_eq!(past.for_change(&state, seen).unwrap(), Waited::TimedOut);
        let zero = Wait::new().timeout(Duration::ZERO);
        let (_, ended) = zero.for_any(&[(&state, seen)]).unwrap();
        assert_eq!(ended, Waited::TimedOut);
        // What has come already is told all the same.
        let come = past.for_change(&state, Generation::NEVER).unwrap();
        assert_eq!(come, Waited::Changed(seen));
        let reached = Wait::new().for_generation(&state, seen).unwrap();
        assert_eq!(reached, Waited::Changed(seen));
        let passed = Wait::new().for_generation(&state, Generation::NEVER);
        assert_eq!(passed.unwrap(), Waited::Changed(seen));
        assert_eq!(waiters(&mount, "x"), 0);
    });
}

#[test]
fn a_wait_for_a_generation_sleeps_through_those_before() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let state = writer(&mount, "x");
        let reader = mount.subscribe("x").typed::<u64>().unwrap().reader();
        let wait = Wait::new().timeout(PATIENCE);
        let waiting = Sleeper::start(move || wait.for_generation(&reader, Generation(5)).unwrap());
        for generation in 1..5 {
            waiting.await_asleep();
            state.publish(&generation).unwrap();
        }
        waiting.await_asleep();
        assert_eq!(state.publish(&5).unwrap(), Generation(5));
        assert_eq!(waiting.join(), Waited::Changed(Generation(5)));
        let later = Wait::new()
            .timeout(SHORT)
            .for_generation(&state, Generation(6));
        assert_eq!(later.unwrap(), Waited::TimedOut);
    });
}

#[test]
fn a_wait_for_a_value_ends_beside_a_writer_that_is_faster_than_who_looks() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let state = writer(&mount, "x");
        state.publish(&0).unwrap();
        // There is always another version already.
        let never = |_: &u64| {
            state.publish(&0).unwrap();
            false
        };
        let start = Instant::now();
        let found = Wait::new().timeout(SHORT).for_value(&state, never).unwrap();
        assert!(found.is_none() && start.elapsed() < PATIENCE);
        let interrupt = Interrupt::new();
        interrupt.raise();
        let ended = Wait::new()
            .interrupted_by(&interrupt)
            .for_value(&state, |_| false)
            .map(drop);
        assert!(matches!(ended, Err(WatchError::Interrupted)), "{ended:?}");
    });
}

#[test]
fn a_value_that_was_not_written_is_not_asked_about() {
    both_transports(|daemon| {
        static ASKED: AtomicU64 = AtomicU64::new(0);
        ASKED.store(0, Ordering::SeqCst);
        let mount = daemon.library();
        let state = writer(&mount, "x");
        // Zero, of which a state is full that nobody has written.
        let asked = |value: &u64| {
            ASKED.fetch_add(1, Ordering::SeqCst);
            *value == 0
        };
        let short = Wait::new().timeout(SHORT);
        assert!(short.for_value(&state, asked).unwrap().is_none());
        assert_eq!(ASKED.load(Ordering::SeqCst), 0);
        state.publish(&0).unwrap();
        let there = short.for_value(&state, asked).unwrap().unwrap();
        assert_eq!((there.generation(), there.value), (Generation(1), 0));
    });
}

#[test]
fn a_wait_for_a_value_looks_at_each_version_it_can_see() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let state = writer(&mount, "x");
        state.publish(&1).unwrap();
        let reader = mount.subscribe("x").typed::<u64>().unwrap().reader();
        let asked = std::sync::Arc::new(AtomicU64::new(0));
        let told = asked.clone();
        let waiting = Sleeper::start(move || {
            let wait = Wait::new().timeout(PATIENCE);
            let found = wait.for_value(&reader, |value| {
                told.store(*value, Ordering::SeqCst);
                *value >= 4
            });
            found.unwrap().unwrap().value
        });
        for value in 1..4 {
            eventually("it is asked about", || {
                (asked.load(Ordering::SeqCst) == value).then_some(())
            });
            state.publish(&(value + 1)).unwrap();
        }
        assert_eq!(waiting.join(), 4);
        // None that holds comes, whatever else does.
        let short = Wait::new().timeout(SHORT);
        assert!(
            short
                .for_value(&state, |value| *value > 4)
                .unwrap()
                .is_none()
        );
    });
}

#[test]
fn only_who_asks_for_it_is_told_that_a_version_is_overdue() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let subscribe = mount.subscribe("x").write().deadline(SHORT);
        let state = subscribe.typed::<u64>().unwrap();
        let seen = state.publish(&1).unwrap();
        let wait = Wait::new().timeout(PATIENCE).or_overdue();
        assert_eq!(
            wait.for_change(&state, seen).unwrap(),
            Waited::Overdue(seen)
        );
        assert_eq!(
            wait.for_change(&state, seen).unwrap(),
            Waited::Overdue(seen)
        );
        let any = wait.for_any(&[(&state, seen)]).unwrap();
        assert_eq!(any, (0, Waited::Overdue(seen)));
        let short = Wait::new().timeout(SHORT);
        assert_eq!(short.for_change(&state, seen).unwrap(), Waited::TimedOut);
        let value = short.clone().or_overdue();
        assert!(value.for_value(&state, |_| false).unwrap().is_none());
    });
}

#[test]
fn what_comes_while_it_spins_is_seen_without_a_mark() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let (x, y) = (writer(&mount, "x"), writer(&mount, "y"));
        let wait = Wait::new().timeout(PATIENCE).spin(PATIENCE);
        for round in 1..=5 {
            let readers = ["x", "y"].map(|name| {
                let state = mount.subscribe(name).typed::<u64>().unwrap();
                (state.reader(), state.generation())
            });
            let wait = wait.clone();
            let spinning = Sleeper::start(move || match &readers {
                [(x, seen), _] if round % 2 == 0 => (0, wait.for_change(x, *seen).unwrap()),
                [(x, x_seen), (y, y_seen)] => wait.for_any(&[(y, *y_seen), (x, *x_seen)]).unwrap(),
            });
            eventually("it spins", || is_running(&spinning).then_some(()));
            let newest = x.publish(&round).unwrap();
            let which = usize::from(round % 2 != 0);
            assert_eq!(spinning.join(), (which, Waited::Changed(newest)));
            assert_eq!((waiters(&mount, "x"), waiters(&mount, "y")), (0, 0));
        }
        drop((x, y));
    });
}

/// Whether it uses up time of a processor.
fn is_running<T: Send + 'static>(thread: &Sleeper<T>) -> bool {
    let path = format!("/proc/self/task/{}/schedstat", thread.thread());
    let ran = || -> u64 {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        text.split(' ')
            .next()
            .and_then(|ns| ns.parse().ok())
            .unwrap_or(0)
    };
    ran() > 2_000_000
}

#[test]
fn who_has_spun_in_vain_sleeps() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let state = writer(&mount, "x");
        let reader = mount.subscribe("x").typed::<u64>().unwrap().reader();
        let wait = Wait::new().timeout(PATIENCE).spin(SHORT);
        let waiting = Sleeper::start(move || wait.for_change(&reader, Generation::NEVER).unwrap());
        await_waiters(&mount, "x", 1);
        waiting.await_asleep();
        let newest = state.publish(&1).unwrap();
        assert_eq!(waiting.join(), Waited::Changed(newest));
    });
}

#[test]
fn spinning_ends_at_the_timeout_and_when_interrupted() {
    let daemon = Daemon::start();
    let mount = daemon.library();
    let state = writer(&mount, "x");
    let interrupt = Interrupt::new();
    let wait = Wait::new().timeout(SHORT).spin(PATIENCE);
    let start = Instant::now();
    let ended = wait.for_change(&state, Generation::NEVER).unwrap();
    assert_eq!(ended, Waited::TimedOut);
    assert!(start.elapsed() < AT_ONCE);
    let wait = Wait::new().spin(PATIENCE).interrupted_by(&interrupt);
    let reader = state.reader();
    let spinning = Sleeper::start(move || wait.for_change(&reader, Generation::NEVER).unwrap());
    eventually("it spins", || is_running(&spinning).then_some(()));
    interrupt.raise();
    assert_eq!(spinning.join(), Waited::Interrupted);
    assert_eq!(waiters(&mount, "x"), 0);
}
