//! The library on a real mount: several processes, every kind of handle.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::os::fd::AsFd;
use std::process::Command;
use std::time::Duration;

use kstate::{
    Access, ClaimError, Generation, Mount, Outcome, PublishError, SubscribeError, Waited,
};
use kstate_tests::{Daemon, PATIENCE, Running, Setup, checked, eventually, number_of};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

kstate::layout! {
    /// A position, for tests.
    struct Position { x: f64, y: f64, fix: u32, count: u32 }
}

kstate::layout! {
    /// Something else of the same size.
    struct Velocity { vx: f64, vy: f64, ok: u64 }
}

fn worker(daemon: &Daemon, name: &str, role: &[&str]) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kstate-worker"));
    command.arg(daemon.mount()).arg(name).args(role);
    Running::start(&mut command)
}

fn mount(daemon: &Daemon) -> Mount {
    Mount::at(daemon.mount()).unwrap()
}

/// Both ways to get at a region.
fn both_transports(test: impl Fn(&Daemon)) {
    test(&Daemon::start());
    test(&Setup::default().with("--passthrough=off").start());
}

#[test]
fn what_is_published_is_what_is_read_and_the_file_agrees() {
    both_transports(|daemon| {
        let mount = mount(daemon);
        let state = mount.subscribe("pos").write().typed::<Position>().unwrap();
        let empty = state.snapshot().unwrap();
        assert!(empty.generation().is_never());
        assert_eq!(
            empty.value,
            Position {
                x: 0.0,
                y: 0.0,
                fix: 0,
                count: 0
            }
        );
        let value = Position {
            x: 1.5,
            y: -2.0,
            fix: 3,
            count: 4,
        };
        let generation = state.publish(&value).unwrap();
        assert_eq!(generation, Generation(1));
        let snapshot = state.snapshot().unwrap();
        assert_eq!((snapshot.value, snapshot.generation()), (value, generation));
        assert!(snapshot.age().unwrap() < PATIENCE);
        let bytes = fs::read(daemon.file("pos")).unwrap();
        assert_eq!(bytes, kstate::zerocopy::IntoBytes::as_bytes(&value));
    });
}

#[test]
fn a_value_of_every_size_comes_back_and_the_state_grows() {
    both_transports(|daemon| {
        let page = usize::try_from(kstate_sys::abi::page_size()).unwrap();
        let mount = mount(daemon);
        let state = mount.subscribe("x").write().capacity(1).bytes().unwrap();
        let reader = mount.subscribe("x").bytes().unwrap();
        for length in [1, 64, 65, 256, 257, 1024, 1025, page] {
            let capacity = u32::try_from(length).unwrap();
            state.set_capacity(capacity).unwrap();
            let value: Vec<u8> = (0..length).map(|i| (i % 251).to_le_bytes()[0]).collect();
            state.publish(&value).unwrap();
            assert_eq!(reader.snapshot().unwrap().value, value, "{length} bytes");
            assert_eq!(fs::read(daemon.file("x")).unwrap(), value, "{length} bytes");
            assert_eq!(reader.capacity(), capacity);
        }
        state.publish(b"short again").unwrap();
        assert_eq!(reader.snapshot().unwrap().value, b"short again");
    });
}

#[test]
fn a_value_beyond_the_capacity_is_an_error_with_both_lengths() {
    let daemon = Daemon::start();
    let state = mount(&daemon)
        .subscribe("x")
        .write()
        .capacity(8)
        .bytes()
        .unwrap();
    state.publish(b"12345678").unwrap();
    let error = state.publish(b"123456789").unwrap_err();
    let text = error.to_string();
    assert!(text.contains('9') && text.contains('8'), "{text}");
    assert_eq!(state.snapshot().unwrap().value, b"12345678");
}

#[test]
fn another_layout_is_refused_naming_both() {
    let daemon = Daemon::start();
    let mount = mount(&daemon);
    let _first = mount.subscribe("pos").write().typed::<Position>().unwrap();
    let error = mount.subscribe("pos").typed::<Velocity>().unwrap_err();
    assert!(matches!(error, SubscribeError::Layout { .. }), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("Position") && text.contains("Velocity"),
        "{text}"
    );
    mount.subscribe("pos").typed::<Position>().unwrap();
}

#[test]
fn subscribing_creates_unless_existing_is_asked_for() {
    let daemon = Daemon::start();
    let mount = mount(&daemon);
    let missing = mount.subscribe("x").existing().bytes().unwrap_err();
    assert!(
        matches!(missing, SubscribeError::NotFound { .. }),
        "{missing:?}"
    );
    let _state = mount.subscribe("x").bytes().unwrap();
    mount.subscribe("x").existing().bytes().unwrap();
    assert_eq!(
        mount
            .names()
            .unwrap()
            .iter()
            .map(|n| n.as_str())
            .collect::<Vec<_>>(),
        ["x"]
    );
}

#[test]
fn waiting_for_a_publisher_ends_with_its_first_version() {
    both_transports(|daemon| {
        let patient = mount(daemon);
        let waiting = std::thread::spawn(move || {
            let state = patient
                .subscribe("late")
                .wait_for(PATIENCE)
                .bytes()
                .unwrap();
            state.snapshot().unwrap().value
        });
        let mount = mount(daemon);
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
fn a_read_only_subscription_cannot_publish() {
    let daemon = Daemon::start();
    let state = mount(&daemon).subscribe("x").bytes().unwrap();
    assert_eq!(state.access(), Access::Read);
    assert!(matches!(
        state.publish(b"x").unwrap_err(),
        PublishError::Claim(ClaimError::ReadOnly { .. })
    ));
    assert!(state.snapshot().unwrap().generation().is_never());
}

#[test]
fn names_outside_the_rules_are_refused_with_a_sentence() {
    let daemon = Daemon::start();
    let mount = mount(&daemon);
    for name in ["", "a b", "a..b", "../etc/passwd", "x@4hz"] {
        let error = mount.subscribe(name).bytes().unwrap_err();
        assert!(
            matches!(error, SubscribeError::Name(_)),
            "{name}: {error:?}"
        );
    }
    let long = mount.subscribe("x".repeat(248)).bytes().unwrap_err();
    assert!(long.to_string().contains("248"), "{long}");
}

#[test]
fn a_directory_that_is_no_kstate_mount_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let error = Mount::at(directory.path()).unwrap_err().to_string();
    assert!(error.contains("kstate mount"), "{error}");
}

#[test]
fn a_commit_conflicts_after_a_foreign_publish() {
    both_transports(|daemon| {
        let mount = mount(daemon);
        let ours = mount.subscribe("n").write().typed::<u64>().unwrap();
        let theirs = mount.subscribe("n").write().typed::<u64>().unwrap();
        ours.publish(&1).unwrap();
        let mut transaction = ours.begin().unwrap();
        *transaction.get_mut().unwrap() += 10;
        theirs.publish(&5).unwrap();
        let outcome = transaction.commit().unwrap();
        let expected = Outcome::Conflict {
            base: Generation(1),
            found: Generation(2),
        };
        assert_eq!(outcome, expected);
        assert_eq!(ours.snapshot().unwrap().value, 5);
    });
}

#[test]
fn a_transaction_without_writes_is_unchanged_even_after_a_foreign_publish() {
    let daemon = Daemon::start();
    let mount = mount(&daemon);
    let ours = mount.subscribe("n").write().typed::<u64>().unwrap();
    ours.publish(&1).unwrap();
    let mut transaction = ours.begin().unwrap();
    assert_eq!(*transaction.get().unwrap(), 1);
    ours.publish(&2).unwrap();
    assert!(!transaction.validate());
    assert_eq!(
        transaction.commit().unwrap(),
        Outcome::Unchanged {
            base: Generation(1)
        }
    );
}

#[test]
fn transactions_are_independent_whether_nested_or_not() {
    let daemon = Daemon::start();
    let state = mount(&daemon)
        .subscribe("n")
        .write()
        .typed::<u64>()
        .unwrap();
    state.publish(&1).unwrap();
    let mut outer = state.begin().unwrap();
    *outer.get_mut().unwrap() = 100;
    let mut inner = state.begin().unwrap();
    assert_eq!(*inner.get().unwrap(), 1, "the inner one sees its own base");
    *inner.get_mut().unwrap() = 2;
    assert!(matches!(inner.commit().unwrap(), Outcome::Committed { .. }));
    assert!(matches!(outer.commit().unwrap(), Outcome::Conflict { .. }));
    assert_eq!(state.snapshot().unwrap().value, 2);
}

#[test]
fn dropping_or_aborting_a_transaction_changes_nothing() {
    let daemon = Daemon::start();
    let state = mount(&daemon).subscribe("n").write().bytes().unwrap();
    state.publish(b"kept").unwrap();
    {
        let mut dropped = state.begin().unwrap();
        dropped.get_mut().unwrap()[0] = b'x';
    }
    let mut aborted = state.begin().unwrap();
    aborted.get_mut().unwrap()[0] = b'y';
    aborted.abort();
    let snapshot = state.snapshot().unwrap();
    assert_eq!(
        (snapshot.value.as_slice(), snapshot.generation()),
        (&b"kept"[..], Generation(1))
    );
}

#[test]
fn four_processes_incrementing_lose_no_update() {
    both_transports(|daemon| {
        let times = 25_000;
        let keep = mount(daemon).subscribe("counter").typed::<u64>().unwrap();
        let mut workers: Vec<_> = (0..4)
            .map(|_| worker(daemon, "counter", &["increment", &times.to_string()]))
            .collect();
        for worker in &mut workers {
            assert_eq!(worker.line(), "ready");
        }
        for worker in &mut workers {
            worker.say("go");
        }
        for worker in &mut workers {
            let attempts: u64 = worker.line().parse().unwrap();
            assert!(attempts >= times);
            assert!(worker.finish().success());
        }
        assert_eq!(keep.snapshot().unwrap().value, 4 * times);
    });
}

#[test]
fn readers_beside_a_flat_out_writer_see_no_torn_value() {
    let daemon = Daemon::start();
    let mut writer = worker(&daemon, "x", &["publish"]);
    assert_eq!(writer.line(), "ready");
    let mut readers: Vec<_> = (0..2)
        .map(|_| worker(&daemon, "x", &["check", "200000"]))
        .collect();
    for reader in &mut readers {
        assert_eq!(reader.line(), "ready");
        assert_eq!(reader.line(), "torn 0 backwards 0");
    }
    writer.close_input();
    let count: u64 = writer.line().parse().unwrap();
    assert!(count > 1000, "the writer wrote meanwhile");
}

#[test]
fn publishing_and_reading_make_no_system_call_and_no_page_fault() {
    both_transports(|daemon| {
        let mut silent = worker(daemon, "x", &["silent"]);
        let status = silent.finish();
        assert!(
            status.success(),
            "{status}: 101 publish, 102 read, 103 torn, 104 page faults"
        );
    });
}

#[test]
fn a_waiter_wakes_for_each_change_and_ends_with_the_last_value() {
    both_transports(|daemon| {
        let mut waiter = worker(daemon, "x", &["wait"]);
        assert_eq!(waiter.line(), "ready");
        let state = mount(daemon)
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
    let mount = mount(&daemon);
    let state = mount.subscribe("x").write().bytes().unwrap();
    let start = state.generation();
    assert_eq!(
        state.wait(start, Some(Duration::from_millis(5))).unwrap(),
        Waited::TimedOut
    );
    let mut waiter = worker(&daemon, "x", &["hold"]);
    assert_eq!(waiter.line(), "ready");
    assert_eq!(state.info().unwrap().waiters, 1, "this process waits");
    drop(waiter);
    let mut killed = worker(&daemon, "y", &["wait"]);
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
    let state = mount(&daemon)
        .subscribe("n")
        .write()
        .typed::<u64>()
        .unwrap();
    let mut watch = state.watch().at_most_every(Duration::from_millis(100));
    for number in 1..=50 {
        state.publish(&number).unwrap();
    }
    let first = watch.next(Some(PATIENCE)).unwrap().unwrap();
    assert_eq!(first.value, 50);
    let start = std::time::Instant::now();
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
    let state = mount(&daemon)
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
        let mut publisher = worker(daemon, "x", &["publish-lines"]);
        assert_eq!(publisher.line(), "ready");
        let state = mount(daemon)
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

#[test]
fn killing_a_publisher_frees_its_claim_within_a_second_and_stops_nobody() {
    both_transports(|daemon| {
        let mount = mount(daemon);
        let reader = mount
            .subscribe("x")
            .typed::<kstate_tests::Checked>()
            .unwrap();
        let mut waiter = worker(daemon, "x", &["wait"]);
        assert_eq!(waiter.line(), "ready");
        let mut publisher = worker(daemon, "x", &["publish"]);
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
        let mut heir = worker(daemon, "x", &["publish-lines"]);
        assert_eq!(heir.line(), "ready");
        heir.say("next");
        assert_eq!(heir.line(), "next");
        assert_eq!(number_of(&reader.snapshot().unwrap().value), Some(1));
    });
}

#[test]
fn a_forked_child_claims_for_itself_and_survives_its_parent() {
    let daemon = Daemon::start();
    let state = mount(&daemon)
        .subscribe("x")
        .typed::<kstate_tests::Checked>()
        .unwrap();
    let mut parent = worker(&daemon, "x", &["fork-and-hold"]);
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
fn twenty_processes_write_one_state() {
    let daemon = Daemon::start();
    let keep = mount(&daemon).subscribe("counter").typed::<u64>().unwrap();
    let mut workers: Vec<_> = (0..20)
        .map(|_| worker(&daemon, "counter", &["increment", "500"]))
        .collect();
    for worker in &mut workers {
        assert_eq!(worker.line(), "ready");
        worker.say("go");
    }
    for worker in &mut workers {
        assert!(worker.finish().success());
    }
    assert_eq!(keep.snapshot().unwrap().value, 20 * 500);
}

#[test]
fn the_last_slot_group_taken_is_an_error_that_names_the_bound() {
    let daemon = Daemon::start();
    let state = mount(&daemon)
        .subscribe("x")
        .write()
        .typed::<u64>()
        .unwrap();
    let mut writers = Vec::new();
    let error = loop {
        match state.try_clone() {
            Ok(writer) => writers.push(writer),
            Err(error) => break error,
        }
    };
    assert_eq!(writers.len(), 254);
    assert!(matches!(error, ClaimError::TooManyWriters { .. }));
    assert!(error.to_string().contains("255"), "{error}");
    let subscribe = || mount(&daemon).subscribe("x").write().typed::<u64>();
    assert!(matches!(
        subscribe(),
        Err(SubscribeError::Claim(ClaimError::TooManyWriters { .. }))
    ));
    for writer in &writers {
        writer.publish(&1).unwrap();
    }
    assert_eq!(state.snapshot().unwrap().generation(), Generation(254));
    drop(writers.pop());
    subscribe().unwrap().publish(&2).unwrap();
}

#[test]
fn a_map_goes_on_when_the_daemon_is_killed_and_a_new_daemon_replaces_the_mount() {
    let mut daemon = Daemon::start();
    let state = mount(&daemon)
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
    let fresh = mount(&daemon)
        .subscribe("x")
        .write()
        .typed::<u64>()
        .unwrap();
    assert!(fresh.snapshot().unwrap().generation().is_never());
}

#[test]
fn deleting_wakes_waiters_and_later_use_is_an_error() {
    let daemon = Daemon::start();
    let mount = mount(&daemon);
    let state = mount.subscribe("x").write().typed::<u64>().unwrap();
    state.publish(&1).unwrap();
    mount.remove("x").unwrap();
    assert!(matches!(
        state.publish(&2),
        Err(PublishError::Deleted { .. })
    ));
    assert!(state.wait(state.generation(), Some(PATIENCE)).is_err());
    let mut holder = worker(&daemon, "y", &["hold"]);
    assert_eq!(holder.line(), "ready");
    let busy = mount.remove("y").unwrap_err();
    assert!(
        matches!(busy, kstate::RemoveError::Subscribed { .. }),
        "{busy:?}"
    );
}

#[test]
fn a_writer_with_bigger_slots_than_the_capacity_needs_is_read_by_all() {
    both_transports(|daemon| {
        let mount = mount(daemon);
        let mut create = fs::File::options();
        let create = create.read(true).write(true).create_new(true);
        let plain = create.open(daemon.file("x")).unwrap();
        let writer = mount.subscribe("x").write().bytes().unwrap();
        // A value that fits no page claims slots of a page's size before it is refused; then the
        // room is made smaller, which nothing forbids before the first write.
        let page = usize::try_from(kstate_sys::abi::page_size()).unwrap();
        writer.publish(&vec![0; page + 1]).unwrap_err();
        plain.set_len(8).unwrap();
        writer.publish(b"12345678").unwrap();
        let mut bytes = [0; 64];
        let length = std::os::unix::fs::FileExt::read_at(&plain, &mut bytes, 0).unwrap();
        assert_eq!(&bytes[..length], b"12345678");
    });
}
