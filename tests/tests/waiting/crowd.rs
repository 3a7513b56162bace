//! Who has no seat: woken by the daemon, as promptly.

use std::time::{Duration, Instant};

use kstate::{Generation, Wait, WaitError, Waited};
use kstate_sys::ioctl::place;
use kstate_tests::{
    Checked, PATIENCE, Setup, Sleeper, begin_wait, both_transports, checked, eventually,
    processor_ticks, take_seats,
};

use crate::{AT_ONCE, await_waiters, writer};

#[test]
fn all_of_more_processes_than_seats_wake_for_each_version() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let state = mount.subscribe("x").write().typed::<Checked>().unwrap();
        let mut waiters: Vec<_> = (0..10).map(|_| daemon.worker("x", &["wait"])).collect();
        for waiter in &mut waiters {
            assert_eq!(waiter.line(), "ready");
        }
        let mut longest = Duration::ZERO;
        for number in 1..=30 {
            state.publish(&checked(number)).unwrap();
            let published = Instant::now();
            for waiter in &mut waiters {
                assert_eq!(waiter.line(), number.to_string());
            }
            longest = longest.max(published.elapsed());
        }
        assert!(longest < AT_ONCE, "{longest:?}");
        for number in 31..=5000 {
            state.publish(&checked(number)).unwrap();
        }
        for waiter in &mut waiters {
            waiter.lines_until("5000");
        }
        assert_eq!(mount.info("x").unwrap().waiters, 10);
    });
}

/// Of such a crowd the daemon wakes some at once and leaves the rest to another thread.
#[test]
fn a_crowd_of_a_hundred_is_woken_once_a_commit_and_then_left_alone() {
    const MANY: u64 = 100;
    for setup in [Setup::default(), Setup::default().with("--notify-by=futex")] {
        let mut daemon = setup.apart().start();
        let mount = daemon.library();
        let state = writer(&mount, "x");
        for generation in [1, 3, 5] {
            let sleeping: Vec<_> = (0..MANY)
                .map(|_| {
                    let reader = mount.subscribe("x").typed::<u64>().unwrap().reader();
                    Sleeper::start(move || {
                        let wait = Wait::new().timeout(PATIENCE);
                        let mut seen = Generation(generation - 1);
                        while seen < Generation(generation + 1) {
                            match wait.for_change(&reader, seen).unwrap() {
                                Waited::Changed(newest) => seen = newest,
                                ended => panic!("{ended:?}"),
                            }
                        }
                    })
                })
                .collect();
            sleeping.iter().for_each(Sleeper::await_asleep);
            state.publish(&generation).unwrap();
            // Woken, and asleep again for the next one: from then on nobody has anything to do.
            let watching = daemon.process().pid();
            eventually("the daemon is at rest", || {
                let before = processor_ticks(watching);
                std::thread::sleep(Duration::from_millis(100));
                (processor_ticks(watching) - before <= 1).then_some(())
            });
            state.publish(&generation).unwrap();
            sleeping.into_iter().for_each(Sleeper::join);
        }
    }
}

#[test]
fn threads_of_one_handle_all_wake_for_each_version() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let state = writer(&mount, "x");
        let reader = mount.subscribe("x").typed::<u64>().unwrap().reader();
        for generation in 1..=20 {
            let sleeping: Vec<_> = (0..6)
                .map(|_| {
                    let reader = reader.clone();
                    Sleeper::start(move || {
                        let wait = Wait::new().timeout(PATIENCE);
                        wait.for_change(&reader, Generation(generation - 1))
                            .unwrap()
                    })
                })
                .collect();
            sleeping.iter().for_each(Sleeper::await_asleep);
            let published = Instant::now();
            let newest = state.publish(&generation).unwrap();
            for sleeping in sleeping {
                assert_eq!(sleeping.join(), Waited::Changed(newest));
            }
            let late = published.elapsed();
            assert!(late < AT_ONCE, "{late:?}");
        }
        assert_eq!(mount.info("x").unwrap().waiters, 1);
    });
}

#[test]
fn a_seat_that_is_given_back_is_anothers() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let _keep = writer(&mount, "x");
        let mut taken = take_seats(&mount, "x");
        assert_eq!(taken.len(), 4);
        let waiting = writer(&mount, "x");
        let ask = || begin_wait(&waiting, place::HEAD, 60_000).place;
        assert_eq!(ask(), place::CROWD);
        // By the end of the wait, of the file, and of the time.
        kstate_sys::ioctl::call::wait_end(&taken[0]).unwrap();
        assert_eq!(ask(), place::HEAD);
        kstate_sys::ioctl::call::wait_end(&waiting).unwrap();
        begin_wait(&taken[0], place::HEAD, 0);
        assert_eq!(ask(), place::CROWD);
        taken.pop();
        eventually("the seat is free", || (ask() == place::HEAD).then_some(()));
        kstate_sys::ioctl::call::wait_end(&waiting).unwrap();
        let brief = writer(&mount, "x");
        assert_eq!(begin_wait(&brief, place::HEAD, 50).place, place::HEAD);
        assert_eq!(ask(), place::CROWD);
        eventually("the seat is free", || (ask() == place::HEAD).then_some(()));
    });
}

#[test]
fn one_of_the_crowd_takes_a_seat_when_there_is_one() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let state = writer(&mount, "x");
        let mut taken = take_seats(&mount, "x");
        let mut waiter = daemon.waiter("x", &["follow", "change"]);
        assert_eq!(waiter.line(), "ready");
        let probe = writer(&mount, "x");
        let ask = || begin_wait(&probe, place::HEAD, 60_000).place;
        taken.pop();
        // It asks when it begins to wait, once a second.
        let mut number = 0;
        eventually("it has the seat", || {
            number += 1;
            state.publish(&number).unwrap();
            waiter.lines_until(&number.to_string());
            kstate_sys::ioctl::call::wait_end(&probe).ok();
            let seat_is_gone = ask() == place::CROWD;
            if !seat_is_gone {
                kstate_sys::ioctl::call::wait_end(&probe).unwrap();
            }
            seat_is_gone.then_some(())
        });
    });
}

#[test]
fn a_deleted_state_is_forgotten_though_a_crowd_slept_there() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let regions = || {
            let maps = format!("/proc/{}/maps", daemon.pid());
            let maps = std::fs::read_to_string(maps).unwrap();
            maps.lines().filter(|line| line.contains("/")).count()
        };
        let before = regions();
        for _ in 0..30 {
            let state = writer(&mount, "x");
            begin_wait(&state, place::CROWD, 0);
            mount.remove("x").unwrap();
            drop(state);
        }
        eventually("the daemon has unmapped them", || {
            (regions() < before + 10).then_some(())
        });
    });
}

#[test]
fn deletion_wakes_the_crowd() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let state = writer(&mount, "x");
        let taken = take_seats(&mount, "x");
        let readers: Vec<_> = (0..3)
            .map(|_| mount.subscribe("x").typed::<u64>().unwrap().reader())
            .collect();
        let sleeping: Vec<_> = readers
            .into_iter()
            .map(|reader| {
                Sleeper::start(move || {
                    let wait = Wait::new().timeout(PATIENCE);
                    wait.for_change(&reader, Generation::NEVER).unwrap_err()
                })
            })
            .collect();
        await_waiters(&mount, "x", 7);
        sleeping.iter().for_each(Sleeper::await_asleep);
        let start = Instant::now();
        std::fs::remove_file(daemon.file("x")).unwrap();
        for sleeping in sleeping {
            let error = sleeping.join();
            assert!(matches!(error, WaitError::Deleted { .. }), "{error:?}");
        }
        assert!(start.elapsed() < AT_ONCE);
        drop((taken, state));
    });
}

#[test]
fn being_overdue_wakes_the_crowd() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let state = writer(&mount, "x");
        let seen = state.publish(&1).unwrap();
        let _taken = take_seats(&mount, "x");
        let reader = mount.subscribe("x").typed::<u64>().unwrap().reader();
        let sleeping = Sleeper::start(move || {
            let wait = Wait::new().timeout(PATIENCE).or_overdue();
            wait.for_change(&reader, seen).unwrap()
        });
        await_waiters(&mount, "x", 5);
        sleeping.await_asleep();
        let start = Instant::now();
        let deadline = Duration::from_millis(20);
        let _again = mount
            .subscribe("x")
            .write()
            .deadline(deadline)
            .typed::<u64>();
        assert_eq!(sleeping.join(), Waited::Overdue(seen));
        assert!(start.elapsed() < AT_ONCE + deadline);
    });
}
