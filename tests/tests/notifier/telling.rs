//! What a notifier tells.

use std::time::{Duration, Instant};

use kstate::{Change, Event, Generation, NotifyError};
use kstate_tests::{PATIENCE, eventually, take_seats};

use crate::{every_way, news, writer};

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
        assert_eq!(news(&mut notifier), [to(1)]);
        assert_eq!(notifier.changed().unwrap(), []);
        for generation in 2..100 {
            state.publish(&generation).unwrap();
            assert_eq!(
                news(&mut notifier),
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
                    let events = news(&mut notifier);
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

#[test]
fn a_deletion_is_told_once_and_the_state_not_watched_any_more() {
    every_way(|daemon, mut notifier| {
        let mount = daemon.library();
        for crowded in [false, true] {
            let (state, other) = (writer(&mount, "x"), writer(&mount, "other"));
            let taken = crowded.then(|| take_seats(&mount, "x"));
            let key = notifier.add(&state).unwrap();
            let kept = notifier.add(&other).unwrap();
            let newest = state.publish(&1).unwrap();
            assert_eq!(news(&mut notifier)[0].change, Change::To(newest));
            std::fs::remove_file(daemon.file("x")).unwrap();
            let change = Change::Deleted;
            assert_eq!(news(&mut notifier), [Event { key, change }]);
            let quiet = notifier
                .wait(Some(Duration::from_millis(20)))
                .unwrap()
                .to_vec();
            assert_eq!(quiet, []);
            assert_eq!(notifier.len(), 1);
            assert!(!notifier.remove(key));
            let change = Change::To(other.publish(&1).unwrap());
            assert_eq!(news(&mut notifier), [Event { key: kept, change }]);
            assert!(notifier.remove(kept));
            drop((state, other, taken));
            // Another one of that name is another one.
            eventually("they are gone", || {
                mount.names().unwrap().is_empty().then_some(())
            });
        }
    });
}

#[test]
fn the_last_version_before_a_deletion_is_told_first() {
    every_way(|daemon, mut notifier| {
        let mount = daemon.library();
        let state = writer(&mount, "x");
        let key = notifier.add(&state).unwrap();
        let newest = state.publish(&1).unwrap();
        std::fs::remove_file(daemon.file("x")).unwrap();
        let expected = [Change::To(newest), Change::Deleted];
        let told = expected.map(|_| news(&mut notifier)).concat();
        assert_eq!(told, expected.map(|change| Event { key, change }));
    });
}

#[test]
fn that_a_version_is_overdue_is_told_once() {
    every_way(|daemon, mut notifier| {
        let mount = daemon.library();
        let deadline = Duration::from_millis(30);
        let subscribe = mount.subscribe("x").write().deadline(deadline);
        let state = subscribe.typed::<u64>().unwrap();
        let reader = mount.subscribe("x").typed::<u64>().unwrap();
        for crowded in [false, true] {
            let _taken = crowded.then(|| take_seats(&mount, "x"));
            let newest = state.publish(&0).unwrap();
            let key = notifier.add_since(&reader, newest).unwrap();
            let mut last = newest;
            for round in 0..3 {
                let overdue = Change::Overdue(last);
                let told = news(&mut notifier);
                assert_eq!(
                    told,
                    [Event {
                        key,
                        change: overdue
                    }],
                    "{:?}, {round}",
                    notifier.way()
                );
                let quiet = notifier.wait(Some(deadline * 3)).unwrap().to_vec();
                assert_eq!(quiet, [], "told once");
                last = state.publish(&round).unwrap();
                let told = news(&mut notifier);
                assert_eq!(
                    told,
                    [Event {
                        key,
                        change: Change::To(last)
                    }]
                );
            }
            notifier.remove(key);
        }
    });
}

#[test]
fn states_come_and_go_while_others_are_waited_for() {
    every_way(|daemon, mut notifier| {
        let mount = daemon.library();
        let states: Vec<_> = (0..10).map(|n| writer(&mount, &format!("s{n}"))).collect();
        // They may be there still from the way before: a program that another test starts has their
        // files for a moment.
        let mut add = |state: &kstate::State<u64>| notifier.add_since(state, state.generation());
        let mut keys: Vec<_> = states.iter().map(|state| add(state).unwrap()).collect();
        for round in 0..100_usize {
            let (gone, changed) = (round % 10, (round * 7 + 3) % 10);
            assert!(notifier.remove(keys[gone]));
            // Told of no more, though what it waited for comes.
            let missed = states[gone].publish(&1).unwrap();
            let newest = states[changed].publish(&1).unwrap();
            let told = match gone == changed {
                true => Vec::new(),
                false => news(&mut notifier),
            };
            let change = Change::To(newest);
            let expected = Event {
                key: keys[changed],
                change,
            };
            assert!(told.iter().all(|event| *event == expected), "{told:?}");
            assert_eq!(told.is_empty(), gone == changed);
            let newest = states[gone].generation();
            assert!(newest >= missed);
            keys[gone] = notifier.add_since(&states[gone], newest).unwrap();
        }
        assert_eq!(notifier.len(), 10);
        assert_eq!(notifier.wait(Some(Duration::from_millis(5))).unwrap(), []);
    });
}

#[test]
fn the_same_state_twice_is_told_of_twice() {
    every_way(|daemon, mut notifier| {
        let mount = daemon.library();
        let state = writer(&mount, "x");
        let reader = mount.subscribe("x").typed::<u64>().unwrap();
        let keys = [
            notifier.add(&state).unwrap(),
            // Through another file and through the same one.
            notifier.add(&reader).unwrap(),
            notifier.add(&reader).unwrap(),
        ];
        assert!(keys[0] != keys[1] && keys[1] != keys[2]);
        for number in 1..=20 {
            let change = Change::To(state.publish(&number).unwrap());
            let mut told = Vec::new();
            while told.len() < 3 {
                told.extend(news(&mut notifier));
            }
            told.sort_by_key(|event| event.key);
            assert_eq!(told, keys.map(|key| Event { key, change }));
        }
        assert!(notifier.remove(keys[2]));
        let change = Change::To(state.publish(&0).unwrap());
        let mut told = Vec::new();
        while told.len() < 2 {
            told.extend(news(&mut notifier));
        }
        told.sort_by_key(|event| event.key);
        assert_eq!(told, [keys[0], keys[1]].map(|key| Event { key, change }));
    });
}

#[test]
fn thousands_of_changes_between_looks_are_one_event_of_the_newest() {
    every_way(|daemon, mut notifier| {
        let mount = daemon.library();
        for crowded in [false, true] {
            let state = writer(&mount, "x");
            let taken = crowded.then(|| take_seats(&mount, "x"));
            let key = notifier.add(&state).unwrap();
            for round in 0..3 {
                for number in 0..5000 {
                    state.publish(&(round * 5000 + number)).unwrap();
                }
                let change = Change::To(state.generation());
                assert_eq!(news(&mut notifier), [Event { key, change }]);
                assert_eq!(notifier.changed().unwrap(), []);
            }
            notifier.remove(key);
            drop((state, taken));
        }
    });
}

#[test]
fn the_last_of_what_a_busy_writer_commits_is_told() {
    every_way(|daemon, mut notifier| {
        let mount = daemon.library();
        for crowded in [false, true] {
            let state = writer(&mount, "x");
            let taken = crowded.then(|| take_seats(&mount, "x"));
            let reader = mount.subscribe("x").typed::<u64>().unwrap();
            let key = notifier.add(&reader).unwrap();
            std::thread::scope(|scope| {
                let writing = scope.spawn(move || {
                    for number in 0..20_000 {
                        state.publish(&number).unwrap();
                    }
                    state.generation()
                });
                let mut seen = Generation::NEVER;
                let start = Instant::now();
                while seen < Generation(20_000) {
                    assert!(start.elapsed() < PATIENCE, "{:?}, {seen}", notifier.way());
                    for event in news(&mut notifier) {
                        let Change::To(newest) = event.change else {
                            panic!("{event:?}");
                        };
                        assert!(newest > seen, "in their order, and each once");
                        seen = newest;
                    }
                }
                assert_eq!(writing.join().unwrap(), seen);
            });
            notifier.remove(key);
            drop((taken, reader));
            eventually("it is gone", || mount.info("x").is_err().then_some(()));
        }
    });
}
