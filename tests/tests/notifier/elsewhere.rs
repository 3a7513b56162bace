//! Notifiers in forked children, in other threads, where the kernel refuses what is faster.

use std::time::Duration;

use kstate::{Change, Generation, NotifyBy};
use kstate_tests::{PATIENCE, Sleeper, both_transports, take_seats};

use crate::{WAYS, every_way, news, writer};

#[test]
fn parent_and_child_are_each_told_of_everything_after_a_fork() {
    both_transports(|daemon| {
        let mount = daemon.library();
        for crowded in [false, true] {
            for way in ["uring", "thread", "files"] {
                let state = writer(&mount, "x");
                let taken = crowded.then(|| take_seats(&mount, "x"));
                let mut parent = daemon.waiter("x", &["fork-notifier", way]);
                let both = |parent: &mut kstate_tests::Running| {
                    let mut lines = [parent.line(), parent.line()];
                    lines.sort();
                    lines
                };
                let [child, theirs] = both(&mut parent);
                assert!(child.starts_with("child ready"), "{child}");
                assert!(theirs.starts_with("parent ready"), "{theirs}");
                assert_eq!(
                    child.split(' ').next_back().unwrap().to_lowercase(),
                    way,
                    "the child has its own of the same kind"
                );
                for number in 1..=3 {
                    state.publish(&number).unwrap();
                    let expected = [format!("child {number}"), format!("parent {number}")];
                    assert_eq!(both(&mut parent), expected, "{way}");
                }
                // The child ends here, and its copy of what is its parent's with it.
                state.publish(&4).unwrap();
                assert_eq!(parent.line(), "parent 4", "{way}");
                assert!(parent.finish().success());
                drop((state, taken));
                kstate_tests::eventually("it is gone", || mount.info("x").is_err().then_some(()));
            }
        }
    });
}

#[test]
fn the_best_way_that_is_not_refused_is_taken_and_works() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let ring = [libc::SYS_io_uring_setup].as_slice();
        let both = [libc::SYS_io_uring_setup, libc::SYS_futex_waitv].as_slice();
        for (refused, way) in [(ring, "Thread"), (both, "Files")] {
            for errno in [libc::EPERM, libc::ENOSYS] {
                let name = format!("{way}.{errno}");
                let state = writer(&mount, &name);
                let role = ["follow", "notifier"];
                let mut waiter = daemon.waiter_refused(&name, &role, refused, errno);
                assert_eq!(waiter.line(), format!("ready {way}"));
                for number in 1..=20_u64 {
                    state.publish(&number).unwrap();
                    waiter.lines_until(&number.to_string());
                }
            }
        }
    });
}

#[test]
fn it_goes_on_when_the_thread_that_armed_it_has_ended() {
    every_way(|daemon, mut notifier| {
        let mount = daemon.library();
        let (seated, crowded) = (writer(&mount, "x"), writer(&mount, "y"));
        let _taken = take_seats(&mount, "y");
        let readers = ["x", "y"].map(|name| mount.subscribe(name).typed::<u64>().unwrap().reader());
        for round in 1..=5 {
            let theirs = readers.clone();
            let armed = Sleeper::start(move || {
                if round == 1 {
                    for reader in &theirs {
                        notifier.add(reader).unwrap();
                    }
                }
                notifier.changed().unwrap();
                notifier
            });
            notifier = armed.join();
            for state in [&seated, &crowded] {
                let newest = state.publish(&round).unwrap();
                let events = news(&mut notifier);
                let changes: Vec<_> = events.iter().map(|event| event.change).collect();
                assert_eq!(changes, [Change::To(newest)], "{:?}", notifier.way());
            }
        }
    });
}

#[test]
fn threads_may_take_turns_with_it() {
    every_way(|daemon, mut notifier| {
        let mount = daemon.library();
        let state = writer(&mount, "x");
        notifier.add(&state).unwrap();
        let notifier = std::sync::Mutex::new(notifier);
        let turn = std::sync::atomic::AtomicU64::new(0);
        std::thread::scope(|scope| {
            for mine in 0..3 {
                let (notifier, turn) = (&notifier, &turn);
                let state = state.try_clone().unwrap();
                scope.spawn(move || {
                    use std::sync::atomic::Ordering;
                    let start = std::time::Instant::now();
                    while turn.load(Ordering::SeqCst) < 300 {
                        assert!(start.elapsed() < PATIENCE);
                        let number = turn.load(Ordering::SeqCst);
                        if number % 3 != mine {
                            std::thread::yield_now();
                            continue;
                        }
                        let mut notifier = notifier.lock().unwrap();
                        let newest = state.publish(&number).unwrap();
                        let events = news(&mut notifier);
                        assert_eq!(events[0].change, Change::To(newest));
                        drop(notifier);
                        turn.store(number + 1, Ordering::SeqCst);
                    }
                });
            }
        });
    });
}

#[test]
fn one_of_each_way_on_one_state_are_each_told_of_everything() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let state = writer(&mount, "x");
        let mut notifiers: Vec<_> = WAYS
            .iter()
            .chain(&WAYS)
            .map(|way| {
                // Of the last ones each sleeps in the crowd.
                let reader = mount.subscribe("x").typed::<u64>().unwrap();
                let mut notifier = kstate::Notifier::by(*way).unwrap();
                notifier.add(&reader).unwrap();
                notifier
            })
            .collect();
        let _more: Vec<_> = take_seats(&mount, "x");
        for number in 1..=50_u64 {
            state.publish(&number).unwrap();
            for notifier in &mut notifiers {
                let events = news(notifier);
                assert_eq!(events.len(), 1);
                assert_eq!(events[0].change, Change::To(Generation(number)));
            }
        }
        for notifier in &mut notifiers {
            let quiet = notifier
                .wait(Some(Duration::from_millis(5)))
                .unwrap()
                .to_vec();
            assert_eq!(quiet, []);
        }
    });
}

#[test]
fn notifiers_over_files_leave_each_other_and_who_acknowledges_alone() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let state = writer(&mount, "x");
        let reader = mount.subscribe("x").typed::<u64>().unwrap();
        let mut notifiers = [(); 3].map(|()| kstate::Notifier::by(NotifyBy::Files).unwrap());
        for notifier in &mut notifiers {
            notifier.add(&reader).unwrap();
        }
        let mut watch = reader.watch();
        for number in 1..20 {
            let newest = state.publish(&number).unwrap();
            reader.acknowledge(newest).unwrap();
            assert_eq!(watch.next(Some(PATIENCE)).unwrap().unwrap().value, number);
            for notifier in &mut notifiers {
                assert_eq!(news(notifier).len(), 1);
            }
        }
    });
}
