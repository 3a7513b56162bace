//! The daemon is killed while all kinds of waiters are asleep: those who commit through a map reach
//! them.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use kstate::{
    Change, Generation, Notifier, NotifyBy, NotifyError, Reader, Wait, WaitError, Waitable, Waited,
};
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
    // Not all of these notice its end by themselves.
    for number in 2..=LAST.0 {
        sleeping.await_asleep();
        let published = Instant::now();
        state.publish(&number).unwrap();
        let (newest, when) = next();
        assert_eq!(newest, Generation(number), "{who:?}, {crowded}");
        let late = when.saturating_duration_since(published);
        let allowed = match (crowded, number) {
            (true, 2) => LATE_ONCE,
            _ => AT_ONCE,
        };
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
fn a_notifier_over_files_says_that_the_daemon_has_died() {
    both_setups(|setup| {
        let mut daemon = setup.start();
        let mount = daemon.library();
        let state = writer(&mount, "x");
        let theirs = mount.subscribe("x").typed::<u64>().unwrap();
        let mut notifier = Notifier::by(NotifyBy::Files).unwrap();
        notifier.add(&theirs).unwrap();
        let sleeping = std::thread::spawn(move || {
            let start = Instant::now();
            let waited = notifier.wait(Some(PATIENCE)).map(|events| events.to_vec());
            (waited, start.elapsed())
        });
        await_waiters(&mount, "x", 1);
        daemon.process().signal(Signal::SIGKILL);
        daemon.process().finish();
        let (waited, time) = sleeping.join().unwrap();
        assert!(
            matches!(waited, Err(NotifyError::Wait(WaitError::DaemonDied { .. }))),
            "{waited:?}"
        );
        assert!(time < PATIENCE);
        state.publish(&1).unwrap();
    });
}

#[test]
fn who_begins_to_wait_then_is_woken_or_told_that_there_is_no_daemon() {
    both_setups(|setup| {
        let mut daemon: Daemon = setup.start();
        let mount = daemon.library();
        let state = writer(&mount, "x");
        let theirs = mount.subscribe("x").typed::<u64>().unwrap().reader();
        // Where nobody waited, nobody would wake.
        daemon.process().signal(Signal::SIGKILL);
        daemon.process().finish();
        let refused = Wait::new().for_change(&theirs, Generation::NEVER);
        assert!(
            matches!(refused, Err(WaitError::DaemonDied { .. })),
            "{refused:?}"
        );
        state.publish(&1).unwrap();
        let come = Wait::new().for_change(&theirs, Generation::NEVER).unwrap();
        assert_eq!(come, Waited::Changed(Generation(1)));
    });
}
