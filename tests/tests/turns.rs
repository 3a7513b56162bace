//! Turns: a long transaction beside writers that leave it no time.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use kstate::{Retry, State, TransactError, TransactManyError};
use kstate_sys::ioctl::{Turn, call};
use kstate_tests::{Checked, PATIENCE, both_transports, checked, eventually, number_of};
use nix::sys::signal::Signal;

/// Has the state's daemon give a turn of some length to the one group of this process; how long it
/// is given, which is 0 if it is not.
fn take_turn(state: &impl AsFd, length: Duration) -> (u32, Duration) {
    let asked = u32::try_from(length.as_micros()).unwrap();
    // Which group a handle has is nobody's business but the library's.
    let given = (1..=255).find_map(|group| {
        let mut turn = Turn {
            group,
            microseconds: asked,
        };
        call::turn(state, &mut turn).ok()?;
        Some((group, Duration::from_micros(turn.microseconds.into())))
    });
    given.expect("a group of this process")
}

#[test]
fn a_long_transaction_beside_a_flat_out_publisher_commits_by_its_turn() {
    both_transports(|daemon| {
        let state = daemon.library().subscribe("x").write();
        let state = state.typed::<Checked>().unwrap();
        let mut publisher = daemon.worker("x", &["publish"]);
        assert_eq!(publisher.line(), "ready");
        for round in 0..10 {
            let done = state.transact_with(&Retry::new(), |tx| -> Result<(), TransactError> {
                let value = tx.get_mut()?;
                let next = number_of(value).expect("whole") + 1;
                *value = checked(next);
                let start = Instant::now();
                while start.elapsed() < Duration::from_millis(1) {
                    std::hint::spin_loop();
                }
                Ok(())
            });
            let done = done.unwrap_or_else(|error| panic!("in round {round}: {error}"));
            assert!(done.outcome.is_committed());
        }
        // It stood back, and goes on.
        let before = state.generation();
        eventually("it goes on", || {
            (state.generation().0 > before.0 + 1000).then_some(())
        });
        publisher.close_input();
        assert!(publisher.line().parse::<u64>().unwrap() > 0);
    });
}

#[test]
fn a_polite_writer_stands_back_for_as_long_as_a_turn_lasts_and_no_longer() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let writer = || mount.subscribe("x").write().typed::<u64>().unwrap();
        let polite: State<u64> = writer();
        assert!(!polite.is_to_stand_back(), "nobody has a turn");
        // A machine that is busy may let the turn pass before anything is published: then another.
        eventually("a publish that stands back", || {
            let mut holder = daemon.worker("x", &["hold-turn", "10000"]);
            assert_eq!(holder.line(), "10000");
            let told = polite.is_to_stand_back();
            let start = Instant::now();
            polite.publish(&1).unwrap();
            let took = start.elapsed();
            assert!(took < PATIENCE);
            assert!(told || took < Duration::from_millis(5), "it is told before");
            (took > Duration::from_millis(5)).then_some(())
        });
        // Another turn is to be had when half of the time was the others'.
        eventually("a turn", || {
            let (_, given) = take_turn(&polite, Duration::from_millis(5));
            (!given.is_zero()).then_some(())
        });
        let start = Instant::now();
        // One's own turn is nothing to stand back for.
        polite.publish(&2).unwrap();
        let (_, again) = take_turn(&polite, Duration::from_millis(5));
        assert!(again.is_zero() || start.elapsed() > Duration::from_millis(5));
    });
}

#[test]
fn a_turn_is_one_handles_and_bounded_and_ends_with_its_process() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let state = mount.subscribe("x").write().typed::<u64>().unwrap();
        let (group, given) = take_turn(&state, Duration::from_secs(60));
        assert_eq!(given, Duration::from_millis(10), "no longer than that");
        assert!(call::turn_end(&state, group + 1).is_err());
        call::turn_end(&state, group).unwrap();
        assert!(call::turn_end(&state, group).is_err(), "it is over");
        let mut stranger = Turn {
            group: 200,
            microseconds: 1,
        };
        let refused = call::turn(&state, &mut stranger).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EINVAL));

        // One that was given to a process that is killed does not hold up anybody.
        let mut holder = daemon.worker("x", &["hold-turn", "10000"]);
        assert_eq!(holder.line(), "10000");
        holder.signal(Signal::SIGKILL);
        holder.finish();
        eventually("its claim is free", || {
            (state.info().unwrap().writers == 1).then_some(())
        });
        eventually("a turn of one's own", || {
            let (_, given) = take_turn(&state, Duration::from_millis(1));
            (!given.is_zero()).then_some(())
        });
        state.publish(&7).unwrap();
        assert_eq!(state.snapshot().unwrap().value, 7);
    });
}

#[test]
fn who_is_not_polite_does_not_wait() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let hasty = mount.subscribe("x").write().typed::<u64>().unwrap();
        hasty.set_polite(false);
        assert!(!hasty.is_polite() && !hasty.try_clone().unwrap().is_polite());
        // A machine that is busy may put it aside: then another time.
        eventually("a publish within a turn", || {
            let mut holder = daemon.worker("x", &["hold-turn", "10000"]);
            let given = holder.line();
            let start = Instant::now();
            hasty.publish(&1).unwrap();
            let took = start.elapsed();
            holder.close_input();
            holder.finish();
            (given == "10000" && took < Duration::from_millis(2)).then_some(())
        });
    });
}

#[test]
fn a_turn_of_one_state_does_not_delay_who_waits_for_another() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let writer = |name| mount.subscribe(name).write().typed::<u64>().unwrap();
        let (x, y) = (writer("x"), writer("y"));
        // A machine that is busy may wake late: then another time.
        eventually("a wake at once", || {
            let mut holder = daemon.worker("x", &["hold-turn", "10000"]);
            assert_eq!(holder.line(), "10000");
            let (seen, reader) = (y.generation(), y.reader());
            let waiter = std::thread::spawn(move || {
                let _ = reader.wait(seen, Some(PATIENCE)).unwrap();
                Instant::now()
            });
            let start = Instant::now();
            let done = kstate::transact_many(|tx| {
                tx.add(&x)?;
                tx.add(&y)?;
                *tx.get_mut(&x)? += 1;
                *tx.get_mut(&y)? += 1;
                Ok::<_, TransactManyError>(())
            });
            let took = start.elapsed();
            assert!(done.unwrap().outcome.is_committed());
            let woken = waiter.join().unwrap().duration_since(start);
            holder.close_input();
            holder.finish();
            (took > Duration::from_millis(5) && woken < Duration::from_millis(3)).then_some(())
        });
    });
}

#[test]
fn an_aborted_closure_that_saw_changed_values_runs_again() {
    let daemon = kstate_tests::Daemon::start();
    let mount = daemon.library();
    let writer = |name| mount.subscribe(name).write().typed::<u64>().unwrap();
    let (x, y, other) = (writer("x"), writer("y"), writer("x"));
    let mut runs = 0;
    let done = kstate::transact_many(|tx| {
        runs += 1;
        tx.add(&x)?;
        tx.add(&y)?;
        let seen = *tx.get(&x)?;
        if runs == 1 {
            other.publish(&5).unwrap();
        }
        match seen {
            5 => Ok(seen),
            _ => Err(TransactManyError::Aborted("it does not add up")),
        }
    });
    assert_eq!((done.unwrap().value, runs), (5, 2));
    let aborted = kstate::transact_many(|tx| {
        tx.add(&x)?;
        let _ = tx.get(&x)?;
        Err::<(), _>(TransactManyError::Aborted("for good"))
    });
    assert!(matches!(
        aborted,
        Err(TransactManyError::Aborted("for good"))
    ));
}
