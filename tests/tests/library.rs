//! The library on a real mount: subscribing, publishing, reading.

use std::fs;

use kstate::{Access, ClaimError, CommitError, Generation, Mount, PublishError, SubscribeError};
use kstate_tests::{Daemon, PATIENCE, both_transports};

kstate::layout! {
    /// A position, for tests.
    struct Position { x: f64, y: f64, fix: u32, count: u32 }
}

kstate::layout! {
    /// Something else of the same size.
    struct Velocity { vx: f64, vy: f64, ok: u64 }
}

#[test]
fn what_is_published_is_what_is_read_and_the_file_agrees() {
    both_transports(|daemon| {
        let mount = daemon.library();
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
        let mount = daemon.library();
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
    let state = daemon
        .library()
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
    let mount = daemon.library();
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
    let mount = daemon.library();
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
fn a_read_only_subscription_cannot_publish() {
    let daemon = Daemon::start();
    let state = daemon.library().subscribe("x").bytes().unwrap();
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
    let mount = daemon.library();
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
fn readers_beside_a_flat_out_writer_see_no_torn_value() {
    let daemon = Daemon::start();
    let mut writer = daemon.worker("x", &["publish"]);
    assert_eq!(writer.line(), "ready");
    let mut readers: Vec<_> = (0..2)
        .map(|_| daemon.worker("x", &["check", "200000"]))
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
        let mut silent = daemon.worker("x", &["silent"]);
        let status = silent.finish();
        assert!(
            status.success(),
            "{status}: 101 publish, 102 read, 103 torn, 104 page faults"
        );
    });
}

#[test]
fn twenty_processes_write_one_state() {
    let daemon = Daemon::start();
    let keep = daemon
        .library()
        .subscribe("counter")
        .typed::<u64>()
        .unwrap();
    let mut workers: Vec<_> = (0..20)
        .map(|_| daemon.worker("counter", &["increment", "500"]))
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
    let state = daemon
        .library()
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
    let subscribe = || daemon.library().subscribe("x").write().typed::<u64>();
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
fn a_capacity_that_was_cut_holds_for_every_writer() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let early = mount.subscribe("x").write().bytes().unwrap();
        let mut begun = early.begin().unwrap();
        begun.set(&[1; 1000]);
        let other = mount.subscribe("x").write().bytes().unwrap();
        assert_eq!(other.set_capacity(8).unwrap(), 8);
        assert!(matches!(
            early.publish(&[1; 9]),
            Err(PublishError::TooLong {
                length: 9,
                capacity: 8,
                ..
            })
        ));
        assert!(matches!(
            begun.commit(),
            Err(CommitError::TooLong { capacity: 8, .. })
        ));
        assert!(early.snapshot().unwrap().generation().is_never());
        early.publish(&[1; 8]).unwrap();
        // A capacity in the header is only what a writer may have scribbled there.
        other.set_capacity(100).unwrap();
        early.publish(&[2; 100]).unwrap();
        other.publish(&[3; 100]).unwrap();
    });
}

#[test]
fn a_writer_with_bigger_slots_than_the_capacity_needs_is_read_by_all() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let mut create = fs::File::options();
        let create = create.read(true).write(true).create_new(true);
        let plain = create.open(daemon.file("x")).unwrap();
        let writer = mount.subscribe("x").write().bytes().unwrap();
        // It has slots of a page's size, and then the capacity is made smaller, which nothing
        // forbids before the first write.
        plain.set_len(8).unwrap();
        writer.publish(b"12345678").unwrap();
        let mut bytes = [0; 64];
        let length = std::os::unix::fs::FileExt::read_at(&plain, &mut bytes, 0).unwrap();
        assert_eq!(&bytes[..length], b"12345678");
    });
}
