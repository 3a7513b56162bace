//! Waits of every kind that last from one daemon to the next.

use std::pin::Pin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use futures_core::Stream;
use kstate::{Change, Generation, Mount, Notifier, NotifyBy, Reader, Wait, Waitable, Waited};
use kstate_tests::{PATIENCE, Sleeper, eventually, take_seats};

use crate::{AT_ONCE, both, writer};

/// Who sleeps until each next version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Change,
    Any,
    Watch,
    View,
    Notifier(NotifyBy),
    Stream,
}

const ALL: [Who; 8] = [
    Who::Change,
    Who::Any,
    Who::Watch,
    Who::View,
    Who::Notifier(NotifyBy::Uring),
    Who::Notifier(NotifyBy::Thread),
    Who::Notifier(NotifyBy::Files),
    Who::Stream,
];

const LAST: Generation = Generation(9);

/// Follows the state and says when it was told of which generation.
fn follow(who: Who, state: &Reader<u64>, tell: &Sender<(Generation, Instant)>) {
    let told = |generation| tell.send((generation, Instant::now())).unwrap();
    match who {
        Who::Notifier(by) => follow_by(by, state, &told),
        Who::Stream => {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().build().unwrap();
            runtime.block_on(async {
                let mut changes = state.changes().unwrap();
                let mut seen = Generation::NEVER;
                while seen < LAST {
                    let next =
                        std::future::poll_fn(|context| Pin::new(&mut changes).poll_next(context));
                    seen = next.await.unwrap().unwrap().generation();
                    told(seen);
                }
            });
        }
        _ => follow_by_waiting(who, state, &told),
    }
}

fn follow_by_waiting(who: Who, state: &Reader<u64>, told: &dyn Fn(Generation)) {
    let wait = Wait::new().timeout(PATIENCE);
    let view = state.view(Duration::from_millis(1));
    let mut watch = state.watch();
    let mut seen = Generation::NEVER;
    while seen < LAST {
        let ended = match who {
            Who::Watch => {
                let next = watch.next(Some(PATIENCE)).unwrap().unwrap();
                Waited::Changed(next.generation())
            }
            Who::View => wait.for_change(&view, seen).unwrap(),
            Who::Any => {
                let states: [(&dyn Waitable, _); 1] = [(state, seen)];
                wait.for_any(&states).unwrap().1
            }
            _ => wait.for_change(state, seen).unwrap(),
        };
        match ended {
            Waited::Changed(newest) => seen = newest,
            ended => panic!("{who:?}: {ended:?}"),
        }
        told(seen);
    }
}

fn follow_by(by: NotifyBy, state: &Reader<u64>, told: &dyn Fn(Generation)) {
    let mut notifier = Notifier::by(by).unwrap();
    let key = notifier.add(state).unwrap();
    loop {
        // Told of nothing when another daemon is asked for where it sleeps.
        let events = notifier.wait(Some(PATIENCE)).unwrap().to_vec();
        for event in events {
            match event.change {
                Change::To(newest) => {
                    told(newest);
                    if newest == LAST {
                        return;
                    }
                }
                other => panic!("{by:?}: {other:?}, {:?}", notifier.failure(key)),
            }
        }
    }
}

fn await_waiters(mount: &Mount, count: u32) {
    eventually("it waits", || {
        (mount.info("x").unwrap().waiters >= count).then_some(())
    });
}

fn lasts_over_restarts(who: Who, crowded: bool) {
    both(|mut daemon| {
        let mount = daemon.library();
        let state = writer(&mount, "x");
        state.publish(&0).unwrap();
        let taken = match crowded {
            true => take_seats(&mount, "x"),
            false => Vec::new(),
        };
        let marks = u32::try_from(taken.len()).unwrap() + 1;
        let theirs = mount.subscribe("x").typed::<u64>().unwrap().reader();
        let (tell, told): (_, Receiver<(Generation, Instant)>) = channel();
        let sleeping = Sleeper::start(move || follow(who, &theirs, &tell));
        let next = || {
            told.recv_timeout(PATIENCE)
                .expect("it is told of something")
        };
        assert_eq!(next().0, Generation(1));
        await_waiters(&mount, marks);
        let mut number = 1;
        while number < LAST.0 {
            daemon = daemon.kill_and_restart();
            // Of another process, as it were, that has not been there before.
            let other = writer(&daemon.library(), "x");
            // It has begun again with the new daemon.
            await_waiters(&daemon.library(), 1);
            for _ in 0..2 {
                let published = Instant::now();
                number += 1;
                other.publish(&number).unwrap();
                let (newest, when) = next();
                assert_eq!(newest, Generation(number), "{who:?}, {crowded}");
                let late = when.saturating_duration_since(published);
                assert!(late < AT_ONCE * 4, "{who:?}, {crowded}: {late:?}");
            }
        }
        sleeping.join();
    });
}

#[test]
fn waits_of_every_kind_last_from_one_daemon_to_the_next() {
    for who in ALL {
        lasts_over_restarts(who, false);
    }
}

#[test]
fn so_do_those_in_a_crowd() {
    for who in ALL {
        lasts_over_restarts(who, true);
    }
}

#[test]
fn a_wait_begun_without_a_daemon_sees_what_is_committed_then_and_later() {
    both(|mut daemon| {
        let mount = daemon.library();
        let state = writer(&mount, "x");
        let theirs = mount.subscribe("x").typed::<u64>().unwrap().reader();
        daemon.kill();
        let asleep = Sleeper::start(move || {
            let wait = Wait::new().timeout(PATIENCE);
            let first = wait.for_change(&theirs, Generation::NEVER).unwrap();
            let second = wait.for_change(&theirs, Generation(1)).unwrap();
            (first, second)
        });
        asleep.await_asleep();
        // Nobody would wake: it looks by itself.
        state.publish(&1).unwrap();
        let daemon = daemon.kill_and_restart();
        let mount = daemon.library();
        await_waiters(&mount, 1);
        writer(&mount, "x").publish(&2).unwrap();
        let both = (
            Waited::Changed(Generation(1)),
            Waited::Changed(Generation(2)),
        );
        assert_eq!(asleep.join(), both);
    });
}

#[test]
fn a_wait_without_a_daemon_ends_in_its_time() {
    both(|mut daemon| {
        let state = writer(&daemon.library(), "x");
        daemon.kill();
        let start = Instant::now();
        let wait = Wait::new().timeout(Duration::from_millis(100));
        let ended = wait.for_change(&state, Generation::NEVER).unwrap();
        assert_eq!(ended, Waited::TimedOut);
        let took = start.elapsed();
        assert!(
            (Duration::from_millis(100)..AT_ONCE).contains(&took),
            "{took:?}"
        );
    });
}

#[test]
fn a_state_added_to_a_notifier_without_a_daemon_is_watched() {
    both(|mut daemon| {
        for by in [NotifyBy::Uring, NotifyBy::Thread, NotifyBy::Files] {
            let mount = daemon.library();
            let state = writer(&mount, "x");
            let theirs = mount.subscribe("x").typed::<u64>().unwrap();
            let seen = state.generation();
            daemon.kill();
            let mut notifier = Notifier::by(by).unwrap();
            notifier.add_since(&theirs, seen).unwrap();
            let mut told = || loop {
                let events = notifier.wait(Some(PATIENCE)).unwrap().to_vec();
                if let Some(event) = events.first() {
                    return event.change;
                }
            };
            let first = state.publish(&1).unwrap();
            assert_eq!(told(), Change::To(first), "{by:?}");
            daemon = daemon.kill_and_restart();
            let second = writer(&daemon.library(), "x").publish(&2).unwrap();
            assert_eq!(told(), Change::To(second), "{by:?}");
        }
    });
}

#[test]
fn a_state_that_is_not_there_yet_is_waited_for_from_one_daemon_to_the_next() {
    both(|daemon| {
        let mount = daemon.library();
        let asleep = Sleeper::start(move || {
            let waited = mount.subscribe("late").wait_for(PATIENCE).typed::<u64>();
            waited.unwrap().snapshot().unwrap().value
        });
        asleep.await_asleep();
        let daemon = daemon.kill_and_restart();
        let start = Instant::now();
        let late = writer(&daemon.library(), "late");
        late.publish(&7).unwrap();
        assert_eq!(asleep.join(), 7);
        assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    });
}
