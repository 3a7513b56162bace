//! Waiting for one of several states.

use std::time::Duration;

use kstate::{Generation, State, Wait, WaitError, Waitable, Waited};
use kstate_tests::{Daemon, PATIENCE, Sleeper, both_transports, take_seats};

use crate::{await_waiters, writer};

fn patient() -> Wait {
    Wait::new().timeout(PATIENCE)
}

fn short() -> Wait {
    Wait::new().timeout(Duration::from_millis(20))
}

fn states(daemon: &Daemon, count: usize) -> Vec<State<u64>> {
    let mount = daemon.library();
    (0..count)
        .map(|number| writer(&mount, &format!("s{number}")))
        .collect()
}

/// All of them, each behind its newest version.
fn behind(states: &[State<u64>]) -> Vec<(&dyn Waitable, Generation)> {
    let behind = |state| -> (&dyn Waitable, Generation) {
        let state: &State<u64> = state;
        (state, state.generation())
    };
    states.iter().map(behind).collect()
}

#[test]
fn it_says_which_and_the_first_of_several() {
    both_transports(|daemon| {
        let states = states(daemon, 3);
        for (at, state) in states.iter().enumerate() {
            let before = behind(&states);
            let newest = state.publish(&1).unwrap();
            assert_eq!(
                patient().for_any(&before).unwrap(),
                (at, Waited::Changed(newest))
            );
        }
        let before = behind(&states);
        states[2].publish(&2).unwrap();
        let newest = states[1].publish(&2).unwrap();
        assert_eq!(
            patient().for_any(&before).unwrap(),
            (1, Waited::Changed(newest))
        );
        let (_, ended) = short().for_any(&behind(&states)).unwrap();
        assert_eq!(ended, Waited::TimedOut);
    });
}

#[test]
fn a_change_of_any_of_the_most_ends_the_sleep() {
    both_transports(|daemon| {
        let states = states(daemon, Wait::MOST);
        for changed in [0, 1, Wait::MOST / 2, Wait::MOST - 1] {
            let readers: Vec<_> = states
                .iter()
                .map(|state| (state.reader(), state.generation()))
                .collect();
            let waiting = Sleeper::start(move || {
                let all: Vec<(&dyn Waitable, Generation)> = readers
                    .iter()
                    .map(|(reader, seen)| (reader as &dyn Waitable, *seen))
                    .collect();
                patient().for_any(&all).unwrap()
            });
            waiting.await_asleep();
            let newest = states[changed].publish(&1).unwrap();
            assert_eq!(waiting.join(), (changed, Waited::Changed(newest)));
        }
    });
}

#[test]
fn one_more_than_the_most_is_refused_whatever_has_changed() {
    let daemon = Daemon::start();
    let states = states(&daemon, 2);
    states[0].publish(&1).unwrap();
    let mut all = vec![(&states[1] as &dyn Waitable, Generation::NEVER); Wait::MOST];
    let (_, ended) = short().for_any(&all).unwrap();
    assert_eq!(ended, Waited::TimedOut);
    all.push((&states[0], Generation::NEVER));
    let refused = short().for_any(&all).unwrap_err();
    assert!(
        matches!(refused, WaitError::TooMany { wanted } if wanted == Wait::MOST + 1),
        "{refused:?}"
    );
    assert!(refused.to_string().contains("Notifier"), "{refused}");
}

#[test]
fn the_same_state_may_be_given_twice_and_through_several_handles() {
    both_transports(|daemon| {
        let state = writer(&daemon.library(), "x");
        let first = state.publish(&1).unwrap();
        let other = daemon.library().subscribe("x").typed::<u64>().unwrap();
        let reader = state.reader();
        let waiting = Sleeper::start(move || {
            let all: [(&dyn Waitable, _); 3] =
                [(&reader, first), (&reader, first), (&other, first)];
            patient().for_any(&all).unwrap()
        });
        waiting.await_asleep();
        let newest = state.publish(&2).unwrap();
        assert_eq!(waiting.join(), (0, Waited::Changed(newest)));
        // Behind two versions: the one that is not the newest has something new.
        let all: [(&dyn Waitable, _); 2] = [(&state, newest), (&state, first)];
        assert_eq!(
            patient().for_any(&all).unwrap(),
            (1, Waited::Changed(newest))
        );
    });
}

#[test]
fn a_sleep_ends_where_some_have_a_seat_and_others_none() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let states = states(daemon, 4);
        let _taken = [take_seats(&mount, "s1"), take_seats(&mount, "s3")];
        for changed in 0..4 {
            let readers: Vec<_> = states
                .iter()
                .map(|state| (state.reader(), state.generation()))
                .collect();
            let waiting = Sleeper::start(move || {
                let all: Vec<(&dyn Waitable, Generation)> = readers
                    .iter()
                    .map(|(reader, seen)| (reader as &dyn Waitable, *seen))
                    .collect();
                patient().for_any(&all).unwrap()
            });
            await_waiters(&mount, "s0", 1);
            waiting.await_asleep();
            let start = std::time::Instant::now();
            let newest = states[changed].publish(&1).unwrap();
            assert_eq!(waiting.join(), (changed, Waited::Changed(newest)));
            assert!(start.elapsed() < crate::AT_ONCE, "{changed}");
        }
    });
}

#[test]
fn the_deletion_of_one_of_them_is_an_error_that_names_it() {
    both_transports(|daemon| {
        let mount = daemon.library();
        for crowded in [false, true] {
            let states = states(daemon, 3);
            let taken = crowded.then(|| take_seats(&mount, "s1"));
            let readers: Vec<_> = states.iter().map(State::reader).collect();
            let waiting = Sleeper::start(move || {
                let all: Vec<(&dyn Waitable, Generation)> = readers
                    .iter()
                    .map(|reader| (reader as &dyn Waitable, Generation::NEVER))
                    .collect();
                patient().for_any(&all).unwrap_err()
            });
            waiting.await_asleep();
            let start = std::time::Instant::now();
            std::fs::remove_file(daemon.file("s1")).unwrap();
            let error = waiting.join();
            assert!(
                matches!(&error, WaitError::Deleted { name } if name.as_str() == "s1"),
                "{error:?}"
            );
            assert!(start.elapsed() < crate::AT_ONCE, "{crowded}");
            drop((taken, states));
        }
    });
}
