//! What a notifier tells.

use std::time::{Duration, Instant};

use kstate::{Change, Event, Generation, Notifier, NotifyBy, NotifyError};
use kstate_tests::{Daemon, both_transports};

const WAYS: [NotifyBy; 3] = [NotifyBy::Uring, NotifyBy::Thread, NotifyBy::Files];
const LONG: Option<Duration> = Some(Duration::from_secs(20));

/// Runs `test` with a notifier of each way, with each transport.
fn every_way(test: impl Fn(&Daemon, Notifier)) {
    both_transports(|daemon| {
        for way in WAYS {
            test(daemon, Notifier::by(way).unwrap());
        }
    });
}

/// Everything that comes within a moment, of which there is something soon.
fn next(notifier: &mut Notifier) -> Vec<Event> {
    notifier.wait(LONG).unwrap().to_vec()
}

#[test]
fn what_is_there_is_told_first_and_then_each_change() {
    every_way(|daemon, mut notifier| {
        let mount = daemon.library();
        let state = mount.subscribe("x").write().typed::<u64>().unwrap();
        state.publish(&1).unwrap();
        let key = notifier
            .add(&mount.subscribe("x").typed::<u64>().unwrap())
            .unwrap();
        let to = |generation| Event {
            key,
            change: Change::To(Generation(generation)),
        };
        assert_eq!(next(&mut notifier), [to(1)]);
        assert_eq!(notifier.changed().unwrap(), []);
        for generation in 2..100 {
            state.publish(&generation).unwrap();
            assert_eq!(
                next(&mut notifier),
                [to(generation)],
                "{:?}",
                notifier.way()
            );
        }
        let start = Instant::now();
        assert_eq!(notifier.wait(Some(Duration::from_millis(20))).unwrap(), []);
        assert!(start.elapsed() >= Duration::from_millis(20));
        assert!(notifier.remove(key));
        assert!(!notifier.remove(key));
        state.publish(&0).unwrap();
        assert_eq!(notifier.wait(Some(Duration::from_millis(20))).unwrap(), []);
        assert!(notifier.is_empty());
    });
}

#[test]
fn of_hundreds_it_says_which() -> Result<(), NotifyError> {
    every_way(|daemon, mut notifier| {
        let mount = daemon.library();
        let states: Vec<_> = (0..300)
            .map(|n| {
                mount
                    .subscribe(format!("s{n}"))
                    .write()
                    .typed::<u64>()
                    .unwrap()
            })
            .collect();
        let keys: Vec<_> = states
            .iter()
            .map(|state| notifier.add(state).unwrap())
            .collect();
        assert_eq!(notifier.changed().unwrap(), []);
        for round in 1..4 {
            for wanted in [vec![7], vec![0, 299, 150], (0..300).collect::<Vec<_>>()] {
                for at in &wanted {
                    states[*at].publish(&round).unwrap();
                }
                let mut told = Vec::new();
                while told.len() < wanted.len() {
                    let events = next(&mut notifier);
                    assert!(!events.is_empty());
                    told.extend(events.iter().map(|event| event.key));
                }
                let mut expected: Vec<_> = wanted.iter().map(|at| keys[*at]).collect();
                told.sort();
                expected.sort();
                assert_eq!(told, expected, "{:?}", notifier.way());
            }
        }
    });
    Ok(())
}
