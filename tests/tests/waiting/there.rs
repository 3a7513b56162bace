//! Waiting for a state that does not exist yet.

use std::time::{Duration, Instant};

use kstate::{Interrupt, SubscribeError, Wait};
use kstate_tests::{PATIENCE, Sleeper, both_transports};

use crate::{AT_ONCE, writer};

#[test]
fn a_state_is_subscribed_to_as_soon_as_it_is_there_written_or_not() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let theirs = daemon.library();
        let waiting = Sleeper::start(move || {
            let subscribe = theirs.subscribe("late");
            let there = subscribe.when_there(Wait::new().timeout(PATIENCE));
            there.typed::<u64>().unwrap()
        });
        waiting.await_asleep();
        // Others come and go.
        for _ in 0..10 {
            drop(writer(&mount, "other"));
        }
        waiting.await_asleep();
        assert!(
            mount
                .names()
                .unwrap()
                .iter()
                .all(|name| name.as_str() != "late")
        );
        let start = Instant::now();
        let state = writer(&mount, "late");
        let there = waiting.join();
        assert!(start.elapsed() < AT_ONCE);
        assert!(there.generation().is_never());
        state.publish(&7).unwrap();
        assert_eq!(there.snapshot().unwrap().value, 7);
        // What is there is not waited for.
        let now = mount.subscribe("late").when_there(Wait::new());
        assert_eq!(now.typed::<u64>().unwrap().snapshot().unwrap().value, 7);
    });
}

#[test]
fn a_wait_for_what_does_not_come_creates_nothing() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let short = Wait::new().timeout(Duration::from_millis(20));
        let start = Instant::now();
        let missing = mount.subscribe("x").write().when_there(short);
        let error = missing.typed::<u64>().unwrap_err();
        assert!(
            matches!(&error, SubscribeError::TimedOut { waited, .. } if *waited >= Duration::from_millis(20)),
            "{error:?}"
        );
        assert!(start.elapsed() < AT_ONCE);
        let past = Wait::new().deadline(Instant::now());
        let missing = mount.subscribe("x").write().when_there(past);
        assert!(matches!(
            missing.bytes(),
            Err(SubscribeError::TimedOut { .. })
        ));
        let interrupt = Interrupt::new();
        let theirs = (mount.subscribe("x"), interrupt.clone());
        let waiting = Sleeper::start(move || {
            let (subscribe, interrupt) = theirs;
            let wait = Wait::new().interrupted_by(&interrupt);
            subscribe.write().when_there(wait).bytes().unwrap_err()
        });
        waiting.await_asleep();
        interrupt.raise();
        let error = waiting.join();
        assert!(
            matches!(error, SubscribeError::Interrupted { .. }),
            "{error:?}"
        );
        assert_eq!(mount.names().unwrap(), []);
    });
}

#[test]
fn one_who_waits_for_each_of_many_is_told_however_soon_they_go() {
    both_transports(|daemon| {
        let mount = daemon.library();
        for round in 0..50 {
            let theirs = daemon.library();
            let waiting = Sleeper::start(move || {
                let subscribe = theirs.subscribe("x").when_there(Wait::new());
                subscribe.typed::<u64>().unwrap()
            });
            if round % 2 == 0 {
                waiting.await_asleep();
            }
            let state = writer(&mount, "x");
            let there = waiting.join();
            drop((state, there));
            kstate_tests::eventually("it is gone", || mount.info("x").is_err().then_some(()));
        }
    });
}
