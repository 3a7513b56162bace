//! What the others see when a process, the daemon or a state goes.

use std::time::Duration;

use kstate::{Generation, Mount, PublishError};
use kstate_tests::{Daemon, PATIENCE, both_transports, eventually, number_of};
use nix::sys::signal::Signal;

#[test]
fn killing_a_publisher_frees_its_claim_within_a_second_and_stops_nobody() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let reader = mount
            .subscribe("x")
            .typed::<kstate_tests::Checked>()
            .unwrap();
        let mut waiter = daemon.worker("x", &["wait"]);
        assert_eq!(waiter.line(), "ready");
        let mut publisher = daemon.worker("x", &["publish"]);
        assert_eq!(publisher.line(), "ready");
        assert_eq!(reader.info().unwrap().writers, 1);
        publisher.signal(Signal::SIGKILL);
        let killed = std::time::Instant::now();
        eventually("the claim is free", || {
            (reader.info().unwrap().writers == 0).then_some(())
        });
        assert!(
            killed.elapsed() < Duration::from_secs(1),
            "{:?}",
            killed.elapsed()
        );
        let last = number_of(&reader.snapshot().unwrap().value).expect("whole");
        waiter.lines_until(&last.to_string());
        let mut heir = daemon.worker("x", &["publish-lines"]);
        assert_eq!(heir.line(), "ready");
        heir.say("next");
        assert_eq!(heir.line(), "next");
        assert_eq!(number_of(&reader.snapshot().unwrap().value), Some(1));
    });
}

#[test]
fn a_program_that_replaces_itself_again_and_again_keeps_one_claim() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let reader = mount
            .subscribe("x")
            .typed::<kstate_tests::Checked>()
            .unwrap();
        // More often than there are groups left.
        let writer = mount
            .subscribe("x")
            .write()
            .typed::<kstate_tests::Checked>()
            .unwrap();
        let others: Vec<_> = (0..249).map(|_| writer.try_clone().unwrap()).collect();
        let mut program = daemon.worker("x", &["exec", "20"]);
        assert_eq!(program.line(), "ready");
        let now = reader.snapshot().unwrap();
        assert_eq!(
            (now.generation(), number_of(&now.value)),
            (Generation(21), Some(0))
        );
        eventually("only the last one counts", || {
            let info = mount.info("x").unwrap();
            ((info.writers, info.waiters) == (251, 1)).then_some(())
        });
        drop((program, writer, others));
        eventually("nobody counts", || {
            let info = mount.info("x").unwrap();
            ((info.writers, info.waiters) == (0, 0)).then_some(())
        });
    });
}

#[test]
fn a_forked_child_claims_for_itself_and_survives_its_parent() {
    let daemon = Daemon::start();
    let state = daemon
        .library()
        .subscribe("x")
        .typed::<kstate_tests::Checked>()
        .unwrap();
    let mut parent = daemon.worker("x", &["fork-and-hold"]);
    let line = parent.line();
    assert!(line.starts_with("child "), "{line}");
    assert_eq!(number_of(&state.snapshot().unwrap().value), Some(2));
    assert_eq!(
        state.info().unwrap().writers,
        2,
        "parent and child have a group each"
    );
    parent.signal(Signal::SIGKILL);
    eventually("only the parent's claim is free", || {
        (state.info().unwrap().writers == 1).then_some(())
    });
    // Its input was the child's too.
    parent.close_input();
    eventually("the child's claim is free", || {
        (state.info().unwrap().writers == 0).then_some(())
    });
}

#[test]
fn a_map_goes_on_when_the_daemon_is_killed_and_a_new_daemon_takes_over() {
    let mut daemon = Daemon::start();
    let state = daemon
        .library()
        .subscribe("x")
        .write()
        .typed::<u64>()
        .unwrap();
    state.publish(&1).unwrap();
    daemon.process().signal(Signal::SIGKILL);
    daemon.process().finish();
    state.publish(&2).unwrap();
    assert_eq!(state.snapshot().unwrap().value, 2);
    let error = Mount::at(daemon.mount()).unwrap_err().to_string();
    assert!(error.contains("kstate mount"), "{error}");
    let daemon = daemon.kill_and_restart();
    let fresh = daemon
        .library()
        .subscribe("x")
        .write()
        .typed::<u64>()
        .unwrap();
    assert_eq!(fresh.snapshot().unwrap().value, 2);
    fresh.publish(&3).unwrap();
    assert_eq!(state.snapshot().unwrap().value, 3);
}

#[test]
fn deleting_wakes_waiters_and_later_use_is_an_error() {
    let daemon = Daemon::start();
    let mount = daemon.library();
    let state = mount.subscribe("x").write().typed::<u64>().unwrap();
    state.publish(&1).unwrap();
    mount.remove("x").unwrap();
    assert!(matches!(
        state.publish(&2),
        Err(PublishError::Deleted { .. })
    ));
    assert!(state.wait(state.generation(), Some(PATIENCE)).is_err());
    let mut holder = daemon.worker("y", &["hold"]);
    assert_eq!(holder.line(), "ready");
    let busy = mount.remove("y").unwrap_err();
    assert!(
        matches!(busy, kstate::RemoveError::Subscribed { .. }),
        "{busy:?}"
    );
}
