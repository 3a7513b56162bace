//! When a version is on the medium, and what that costs.

use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use kstate_tests::{Daemon, PATIENCE, both_transports, eventually, set_attribute};

use crate::{Disk, create, errno, number, persist};

#[test]
fn fsync_returns_when_the_version_is_in_the_file() {
    both_transports(|daemon| {
        let disk = Disk::new();
        let state = create(daemon, "x");
        persist(daemon, "x", &disk.path("x")).unwrap();
        set_attribute(&daemon.file("x"), "durability", b"1h").unwrap();
        for round in 1..20_u64 {
            state.write_all_at(&round.to_ne_bytes(), 0).unwrap();
            state.sync_data().unwrap();
            let saved = disk.saved("x");
            assert_eq!(saved.generation, round);
            assert_eq!(saved.value, round.to_ne_bytes());
            assert_eq!(number(daemon, "x", "durable_generation"), round);
        }
    });
}

#[test]
fn many_who_wait_share_a_flush() {
    let (daemon, disk) = (Daemon::start(), Disk::new());
    let _state = create(&daemon, "x");
    persist(&daemon, "x", &disk.path("x")).unwrap();
    set_attribute(&daemon.file("x"), "durability", b"1h").unwrap();
    const WRITERS: u64 = 16;
    const ROUNDS: u64 = 40;
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let file = create(&daemon, "x");
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let value = writer * ROUNDS + round;
                    file.write_all_at(&value.to_ne_bytes(), 0).unwrap();
                    file.sync_data().unwrap();
                }
            });
        }
    });
    let flushes = number(&daemon, "x", "flushed_bytes") / 4096;
    assert_eq!(number(&daemon, "x", "generation"), WRITERS * ROUNDS);
    assert_eq!(disk.saved("x").generation, WRITERS * ROUNDS);
    assert!(flushes < WRITERS * ROUNDS, "{flushes}");
}

#[test]
fn each_version_or_a_newer_one_is_in_the_file_in_the_time_that_was_given() {
    let (daemon, disk) = (Daemon::start(), Disk::new());
    let state = create(&daemon, "x");
    persist(&daemon, "x", &disk.path("x")).unwrap();
    for within in ["200ms", "each", "20ms"] {
        set_attribute(&daemon.file("x"), "durability", within.as_bytes()).unwrap();
        for pause in [0, 5, 150] {
            std::thread::sleep(Duration::from_millis(pause));
            let before = number(&daemon, "x", "generation");
            state.write_all_at(within.as_bytes(), 0).unwrap();
            let start = Instant::now();
            eventually("the version is in the file", || {
                (disk.saved("x").generation > before).then_some(())
            });
            // A busy machine takes its time; hours it would be without.
            assert!(start.elapsed() < PATIENCE / 2, "{within} after {pause} ms");
        }
    }
}

#[test]
fn what_is_written_is_bounded_however_often_is_committed() {
    let (daemon, disk) = (Daemon::start(), Disk::new());
    let mount = daemon.library();
    let state = mount.subscribe("x").write().typed::<[u64; 8]>().unwrap();
    persist(&daemon, "x", &disk.path("x")).unwrap();
    for (within, bound) in [("100ms", 40_u64), ("each", 210)] {
        set_attribute(&daemon.file("x"), "durability", within.as_bytes()).unwrap();
        let before = number(&daemon, "x", "flushed_bytes");
        let start = Instant::now();
        let mut commits = 0_u64;
        while start.elapsed() < Duration::from_secs(1) {
            state.publish(&[commits; 8]).unwrap();
            commits += 1;
        }
        let seconds = start.elapsed().as_secs_f64();
        let blocks = (number(&daemon, "x", "flushed_bytes") - before) / 4096;
        assert!(commits > 10_000, "{commits}");
        #[expect(clippy::cast_precision_loss, reason = "some hundred")]
        let bound = bound as f64 * (seconds + 0.1);
        #[expect(clippy::cast_precision_loss, reason = "some hundred")]
        let written = blocks as f64;
        assert!(
            written > 1.0 && written <= bound,
            "{within}: {written} blocks in {seconds} s"
        );
    }
}

#[test]
fn a_quiet_state_is_not_written() {
    let (daemon, disk) = (Daemon::start(), Disk::new());
    let state = create(&daemon, "x");
    persist(&daemon, "x", &disk.path("x")).unwrap();
    for within in ["20ms", "each"] {
        set_attribute(&daemon.file("x"), "durability", within.as_bytes()).unwrap();
        state.write_all_at(b"1", 0).unwrap();
        state.sync_data().unwrap();
        // The change of the durability itself is kept, too.
        eventually("it is quiet", || {
            let before = number(&daemon, "x", "flushed_bytes");
            std::thread::sleep(Duration::from_millis(200));
            (number(&daemon, "x", "flushed_bytes") == before).then_some(())
        });
    }
}

#[test]
fn only_a_persistent_state_has_a_durability() {
    let daemon = Daemon::start();
    let state = create(&daemon, "x");
    let set = set_attribute(&daemon.file("x"), "durability", b"1s");
    assert_eq!(errno(set), libc::EOPNOTSUPP);
    let mut generation = 0;
    let synced = kstate_sys::ioctl::call::sync(&state, &mut generation);
    assert_eq!(errno(synced), libc::EOPNOTSUPP);
    // A transient one is as durable as it gets.
    state.sync_all().unwrap();
}

#[test]
fn a_generation_that_is_not_there_yet_is_not_waited_for() {
    let (daemon, disk) = (Daemon::start(), Disk::new());
    let state = create(&daemon, "x");
    persist(&daemon, "x", &disk.path("x")).unwrap();
    state.write_all_at(b"1", 0).unwrap();
    for (wanted, expected) in [(0, Ok(1)), (1, Ok(1)), (2, Err(libc::EINVAL))] {
        let mut generation = wanted;
        let synced = kstate_sys::ioctl::call::sync(&state, &mut generation);
        let found = synced
            .map(|()| generation)
            .map_err(|e| e.raw_os_error().unwrap());
        assert_eq!(found, expected);
    }
}
