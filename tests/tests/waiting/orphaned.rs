//! The daemon is killed while all kinds of waiters are asleep: those who commit through a map reach
//! them.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use kstate::{Change, Event, Generation, Notifier, NotifyBy, Reader, Wait, Waitable, Waited};
use kstate_tests::{Daemon, PATIENCE, Setup, Sleeper, eventually, take_seats};
use nix::sys::signal::Signal;

use crate::{AT_ONCE, await_waiters, writer};

/// How late who slept in the crowd may be once, on a busy machine: it looks each second.
const LATE_ONCE: Duration = Duration::from_millis(2500);

/// Who sleeps until each next version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Change,
    Any,
    Watch,
    Notifier(NotifyBy),
}

const ALL: [Who; 5] = [
    Who::Change,
    Who::Any,
    Who::Watch,
    Who::Notifier(NotifyBy::Uring),
    Who::Notifier(NotifyBy::Thread),
];

/// Follows the state and says when it was told of which generation.
fn follow(
    who: Who,
    state: &Reader<u64>,
    other: &Reader<u64>,
    tell: &Sender<(Generation, Instant)>,
) {
    let mut watch = state.watch();
    let mut notifier = match who {
        Who::Notifier(by) => {
            let mut notifier = Notifier::by(by).unwrap();
            notifier.add(state).unwrap();
            Some(notifier)
        }
        _ => None,
    };
    let mut seen = Generation::NEVER;
    while seen < LAST {
        let wait = Wait::new().timeout(PATIENCE);
        seen = match who {
            Who::Change => match wait.for_change(state, seen).unwrap() {
                Waited::Changed(newest) => newest,
                ended => panic!("{ended:?}"),
            },
            Who::Any => {
                let both: [(&dyn Waitable, _); 2] = [(other, Generation::NEVER), (state, seen)];
                match wait.for_any(&both).unwrap() {
                    (1, Waited::Changed(newest)) => newest,
                    ended => panic!("{ended:?}"),
                }
            }
            Who::Watch => watch.next(Some(PATIENCE)).unwrap().unwrap().generation(),
            Who::Notifier(_) => {
                let events = notifier.as_mut().unwrap().wait(Some(PATIENCE)).unwrap();
                match events.first().map(|event| event.change) {
                    Some(Change::To(newest)) => newest,
                    other => panic!("{other:?}"),
                }
            }
        };
        tell.send((seen, Instant::now())).unwrap();
    }
}

const LAST: Generation = Generation(12);

fn killed_beneath(setup: Setup, who: Who, crowded: bool) {
    let mut daemon = setup.start();
    let mount = daemon.library();
    let (state, other) = (writer(&mount, "x"), writer(&mount, "other"));
    state.publish(&0).unwrap();
    let taken = match crowded {
        true => take_seats(&mount, "x"),
        false => Vec::new(),
    };
    let (tell, told): (_, Receiver<(Generation, Instant)>) = channel();
    let theirs = mount.subscribe("x").typed::<u64>().unwrap().reader();
    let other = other.reader();
    let sleeping = Sleeper::start(move || follow(who, &theirs, &other, &tell));
    let next = || {
        told.recv_timeout(PATIENCE)
            .expect("it is told of something")
    };
    assert_eq!(next().0, Generation(1));
    let marks = u32::try_from(taken.len()).unwrap() + 1;
    eventually("it waits", || {
        (mount.info("x").unwrap().waiters >= marks).then_some(())
    });
    daemon.process().signal(Signal::SIGKILL);
    daemon.process().finish();
    let mut may_be_late = crowded;
    // Not all of these notice its end by themselves.
    for number in 2..=LAST.0 {
        sleeping.await_asleep();
        let published = Instant::now();
        state.publish(&number).unwrap();
        let (newest, when) = next();
        assert_eq!(newest, Generation(number), "{who:?}, {crowded}");
        let late = when.saturating_duration_since(published);
        // Not always of the first: one that comes before it sleeps is found at once.
        let allowed = match may_be_late {
            true => LATE_ONCE,
            false => AT_ONCE,
        };
        may_be_late &= late < AT_ONCE;
        assert!(
            late < allowed,
            "{who:?}, {crowded}: {late:?} late for {newest}"
        );
    }
    sleeping.join();
}

fn both_setups(test: impl Fn(Setup)) {
    test(Setup::default());
    test(Setup::default().with("--passthrough=off"));
}

#[test]
fn commits_reach_those_who_sleep_on_head_at_once() {
    both_setups(|setup| {
        for who in ALL {
            killed_beneath(setup.clone(), who, false);
        }
    });
}

#[test]
fn commits_reach_the_crowd_within_a_second_and_then_at_once() {
    both_setups(|setup| {
        for who in ALL {
            killed_beneath(setup.clone(), who, true);
        }
    });
}

#[test]
fn a_notifier_over_files_looks_by_itself_when_the_daemon_has_died() {
    both_setups(|setup| {
        let mut daemon = setup.start();
        let mount = daemon.library();
        let state = writer(&mount, "x");
        let theirs = mount.subscribe("x").typed::<u64>().unwrap();
        let mut notifier = Notifier::by(NotifyBy::Files).unwrap();
        let key = notifier.add(&theirs).unwrap();
        await_waiters(&mount, "x", 1);
        daemon.process().signal(Signal::SIGKILL);
        daemon.process().finish();
        let nothing = notifier.wait(Some(Duration::from_millis(20)));
        assert_eq!(nothing.unwrap().to_vec(), []);
        for number in 1..5 {
            let published = Instant::now();
            let change = Change::To(state.publish(&number).unwrap());
            // It wakes to look, and may find nothing.
            let told = loop {
                let events = notifier.wait(Some(PATIENCE)).unwrap().to_vec();
                if !events.is_empty() {
                    break events;
                }
            };
            assert_eq!(told, [Event { key, change }]);
            assert!(published.elapsed() < AT_ONCE);
        }
    });
}

#[test]
fn of_two_daemons_one_that_dies_keeps_nothing_of_the_others_back() {
    for way in [NotifyBy::Uring, NotifyBy::Thread, NotifyBy::Files] {
        let (mut dying, living) = (Daemon::start(), Daemon::start());
        let (mount, other) = (dying.library(), living.library());
        let (lost, kept) = (writer(&mount, "x"), writer(&other, "x"));
        let mut notifier = Notifier::by(way).unwrap();
        let of_lost = notifier.add(&lost).unwrap();
        let of_kept = notifier.add(&kept).unwrap();
        dying.process().signal(Signal::SIGKILL);
        dying.process().finish();
        for number in 1..=100 {
            let change = Change::To(kept.publish(&number).unwrap());
            let expected = Event {
                key: of_kept,
                change,
            };
            let start = Instant::now();
            let mut told = Vec::new();
            while !told.contains(&expected) && start.elapsed() < PATIENCE {
                told.extend(notifier.wait(Some(PATIENCE)).unwrap());
            }
            let only_failed =
                |event: &Event| event.key == of_lost && event.change == Change::Failed;
            told.retain(|event| *event != expected && !only_failed(event));
            assert_eq!(told, [], "{way:?}");
        }
    }
}

#[test]
fn a_hanging_daemon_holds_no_timeout_up_whose_mark_is_set() {
    both_setups(|setup| {
        let mut daemon = setup.start();
        let mount = daemon.library();
        let state = writer(&mount, "x");
        let wait = Wait::new().timeout(Duration::from_millis(20));
        let seen = state.generation();
        assert_eq!(wait.for_change(&state, seen).unwrap(), Waited::TimedOut);
        daemon.process().stop();
        let start = Instant::now();
        for _ in 0..10 {
            assert_eq!(wait.for_change(&state, seen).unwrap(), Waited::TimedOut);
        }
        assert!(start.elapsed() < AT_ONCE);
        daemon.process().signal(Signal::SIGCONT);
    });
}

#[test]
fn commits_reach_notifiers_in_the_crowd_of_a_daemon_that_hangs() {
    both_setups(|setup| {
        let mut daemon = setup.start();
        let mount = daemon.library();
        let state = writer(&mount, "x");
        let _seats = take_seats(&mount, "x");
        for way in [NotifyBy::Uring, NotifyBy::Thread] {
            let theirs = mount.subscribe("x").typed::<u64>().unwrap();
            let mut notifier = Notifier::by(way).unwrap();
            let key = notifier.add_since(&theirs, state.generation()).unwrap();
            daemon.process().stop();
            let start = Instant::now();
            let change = Change::To(state.publish(&1).unwrap());
            let expected = Event { key, change };
            while notifier.wait(Some(PATIENCE)).unwrap() != [expected] {
                assert!(start.elapsed() < PATIENCE, "{way:?}");
            }
            assert!(start.elapsed() < LATE_ONCE, "{way:?}");
            daemon.process().signal(Signal::SIGCONT);
        }
    });
}

#[test]
fn who_begins_to_wait_then_looks_by_itself() {
    both_setups(|setup| {
        let mut daemon: Daemon = setup.start();
        let mount = daemon.library();
        let state = writer(&mount, "x");
        let theirs = mount.subscribe("x").typed::<u64>().unwrap().reader();
        // Where nobody waited, nobody would wake.
        daemon.process().signal(Signal::SIGKILL);
        daemon.process().finish();
        let short = Wait::new().timeout(Duration::from_millis(50));
        let ended = short.for_change(&theirs, Generation::NEVER).unwrap();
        assert_eq!(ended, Waited::TimedOut);
        let sleeping = Sleeper::start(move || {
            let come = Wait::new().for_change(&theirs, Generation::NEVER);
            (come.unwrap(), Instant::now())
        });
        sleeping.await_asleep();
        let published = Instant::now();
        state.publish(&1).unwrap();
        let (come, when) = sleeping.join();
        assert_eq!(come, Waited::Changed(Generation(1)));
        assert!(when.saturating_duration_since(published) < AT_ONCE);
    });
}
