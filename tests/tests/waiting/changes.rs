//! Waiting for changes: wait, watch, the descriptor, the live pointer.

use std::os::fd::AsFd;
use std::time::Duration;

use kstate::{Generation, SubscribeError, Waited};
use kstate_tests::{Daemon, PATIENCE, both_transports, checked, eventually, number_of};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

#[test]
fn waiting_for_a_publisher_ends_with_its_first_version() {
    both_transports(|daemon| {
        let patient = daemon.library();
        let waiting = std::thread::spawn(move || {
            let state = patient
                .subscribe("late")
                .wait_for(PATIENCE)
                .bytes()
                .unwrap();
            state.snapshot().unwrap().value
        });
        let mount = daemon.library();
        let publisher = mount.subscribe("late").write().bytes().unwrap();
        publisher.publish(b"here").unwrap();
        assert_eq!(waiting.join().unwrap(), b"here");
        let short = mount
            .subscribe("never")
            .wait_for(Duration::from_millis(20))
            .bytes();
        assert!(matches!(
            short.unwrap_err(),
            SubscribeError::TimedOut { .. }
        ));
    });
}

#[test]
fn a_waiter_wakes_for_each_change_and_ends_with_the_last_value() {
    both_transports(|daemon| {
        let mut waiter = daemon.worker("x", &["wait"]);
        assert_eq!(waiter.line(), "ready");
        let state = daemon
            .library()
            .subscribe("x")
            .write()
            .typed::<kstate_tests::Checked>()
            .unwrap();
        for number in 1..=100 {
            state.publish(&checked(number)).unwrap();
            assert_eq!(waiter.line(), number.to_string());
        }
        for number in 101..=10_000 {
            state.publish(&checked(number)).unwrap();
        }
        waiter.lines_until("10000");
    });
}

#[test]
fn a_wait_times_out_and_the_mark_goes_with_the_waiter() {
    let daemon = Daemon::start();
    let mount = daemon.library();
    let state = mount.subscribe("x").write().bytes().unwrap();
    let start = state.generation();
    assert_eq!(
        state.wait(start, Some(Duration::from_millis(5))).unwrap(),
        Waited::TimedOut
    );
    let mut waiter = daemon.worker("x", &["hold"]);
    assert_eq!(waiter.line(), "ready");
    assert_eq!(state.info().unwrap().waiters, 1, "this process waits");
    drop(waiter);
    let mut killed = daemon.worker("y", &["wait"]);
    assert_eq!(killed.line(), "ready");
    let watched = mount.subscribe("y").bytes().unwrap();
    assert_eq!(watched.info().unwrap().waiters, 1);
    killed.signal(Signal::SIGKILL);
    eventually("the dead waiter's mark is gone", || {
        (watched.info().unwrap().waiters == 0).then_some(())
    });
}

#[test]
fn a_watch_sees_the_first_change_at_once_and_the_last_always() {
    let daemon = Daemon::start();
    let state = daemon
        .library()
        .subscribe("n")
        .write()
        .typed::<u64>()
        .unwrap();
    let mut watch = state.watch().at_most_every(Duration::from_millis(100));
    for number in 1..=50 {
        state.publish(&number).unwrap();
    }
    let start = std::time::Instant::now();
    let first = watch.next(Some(PATIENCE)).unwrap().unwrap();
    assert_eq!(first.value, 50);
    state.publish(&51).unwrap();
    state.publish(&52).unwrap();
    let second = watch.next(Some(PATIENCE)).unwrap().unwrap();
    assert_eq!(second.value, 52);
    assert!(
        start.elapsed() >= Duration::from_millis(80),
        "{:?}",
        start.elapsed()
    );
    assert!(
        watch
            .next(Some(Duration::from_millis(5)))
            .unwrap()
            .is_none()
    );
}

#[test]
fn the_descriptor_is_readable_for_what_was_not_acknowledged() {
    let daemon = Daemon::start();
    let state = daemon
        .library()
        .subscribe("n")
        .write()
        .typed::<u64>()
        .unwrap();
    let readable = |timeout: u16| {
        let mut fds = [PollFd::new(state.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(timeout)).unwrap();
        fds[0].revents().unwrap().contains(PollFlags::POLLIN)
    };
    assert!(!readable(0));
    let generation = state.publish(&1).unwrap();
    assert!(readable(10_000));
    state.acknowledge(generation).unwrap();
    assert!(!readable(0));
    state.publish(&2).unwrap();
    assert!(readable(10_000));
}

#[test]
fn the_live_pointer_follows_commits_of_other_processes() {
    both_transports(|daemon| {
        let mut publisher = daemon.worker("x", &["publish-lines"]);
        assert_eq!(publisher.line(), "ready");
        let state = daemon
            .library()
            .subscribe("x")
            .typed::<kstate_tests::Checked>()
            .unwrap();
        let live = state.live().unwrap();
        for number in 1..=20 {
            publisher.say("next");
            assert_eq!(publisher.line(), "next");
            let (generation, value) = live.load().unwrap();
            assert_eq!(
                (generation, number_of(&value)),
                (Generation(number), Some(number))
            );
        }
    });
}
