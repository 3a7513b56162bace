//! Persistent states come back with the next mount.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::time::Duration;

use kstate_tests::{Daemon, Setup, attribute, eventually, kstatefs, set_attribute};
use nix::sys::signal::Signal;

use crate::{Disk, create, errno, number, persist, replace};

kstate::layout! {
    /// Something that has a layout.
    struct Position { x: f64, y: f64 }
}

#[test]
fn everything_of_a_state_comes_back() {
    let disk = Disk::new();
    let modes = ["--passthrough=auto", "--passthrough=off"];
    let mut ino = 0;
    for (index, (first, second)) in [(0, 1), (1, 0)].into_iter().enumerate() {
        let name = format!("robot.position{index}");
        let position = Position { x: 1.5, y: -2.5 };
        let before = {
            let daemon = disk.daemon_with(Setup::default().with(modes[first]));
            let mount = daemon.library();
            let subscribe = mount.subscribe(&name).mode(0o640).capacity(100);
            let state = subscribe.write().typed::<Position>().unwrap();
            for _ in 0..7 {
                state.publish(&position).unwrap();
            }
            persist(&daemon, &name, &disk.path(&name)).unwrap();
            set_attribute(&daemon.file(&name), "linger", b"3s").unwrap();
            set_attribute(&daemon.file(&name), "deadline", b"1h").unwrap();
            state.publish(&position).unwrap();
            daemon.file(&name).metadata().unwrap()
        };
        let daemon = disk.daemon_with(Setup::default().with(modes[second]));
        let file = daemon.file(&name);
        let after = file.metadata().unwrap();
        let of = |found: &fs::Metadata| (found.mode(), found.uid(), found.gid(), found.len());
        assert_eq!(of(&after), of(&before));
        let mount = daemon.library();
        let info = mount.info(&name).unwrap();
        assert_eq!((info.generation.0, info.capacity), (8, 100));
        assert_eq!(info.linger, Duration::from_secs(3));
        assert_eq!(info.deadline, Some(Duration::from_secs(3600)));
        assert_eq!(info.layout.unwrap().id, <Position as kstate::Layout>::id());
        let state = mount.subscribe(&name).write().typed::<Position>().unwrap();
        let snapshot = state.snapshot().unwrap();
        assert_eq!(*snapshot, position);
        // As old as it is, not as the mount.
        assert!(snapshot.age().unwrap() > Duration::ZERO);
        assert_eq!(state.publish(&position).unwrap().0, 9);
        assert_ne!(state.state_id(), ino);
        ino = state.state_id();
        let wrong = mount.subscribe(&name).typed::<[u64; 2]>();
        assert!(matches!(wrong, Err(kstate::SubscribeError::Layout { .. })));
    }
}

#[test]
fn it_stays_without_subscribers_and_without_a_value() {
    let disk = Disk::new();
    {
        let daemon = disk.daemon();
        drop(create(&daemon, "gone"));
        let empty = create(&daemon, "empty");
        persist(&daemon, "empty", &disk.path("empty")).unwrap();
        drop(empty);
        assert!(daemon.file("empty").exists() && !daemon.file("gone").exists());
    }
    let daemon = disk.daemon();
    assert!(daemon.file("empty").exists());
    assert_eq!(number(&daemon, "empty", "generation"), 0);
    replace(&daemon, "empty", b"first");
    assert_eq!(number(&daemon, "empty", "generation"), 1);
}

#[test]
fn after_a_killed_daemon_and_machine_no_number_is_used_again() {
    let disk = Disk::new();
    let mut last = 0;
    for round in 0..3 {
        let mut daemon = disk.daemon();
        let state = create(&daemon, "x");
        if round == 0 {
            persist(&daemon, "x", &disk.path("x")).unwrap();
        }
        let found = number(&daemon, "x", "generation");
        assert!(found >= last, "{found} after {last}");
        let value = format!("round {round}");
        state.write_all_at(value.as_bytes(), 0).unwrap();
        state.sync_all().unwrap();
        // Others have seen these, and no file has them.
        for _ in 0..5 {
            replace(&daemon, "x", b"not kept, perhaps");
        }
        last = number(&daemon, "x", "generation");
        // Killed, and started elsewhere: nothing of its memory is found.
        daemon.process().signal(Signal::SIGKILL);
        daemon.process().finish();
        drop(daemon);
        let saved = disk.saved("x");
        assert!(!saved.clean && saved.ceiling >= last);
    }
    let daemon = disk.daemon();
    let value = fs::read(daemon.file("x")).unwrap();
    assert!(value == b"round 2" || value == b"not kept, perhaps");
    assert!(number(&daemon, "x", "generation") > last);
}

#[test]
fn an_orderly_end_leaves_the_last_version_and_says_so() {
    let disk = Disk::new();
    {
        let daemon = disk.daemon();
        let state = create(&daemon, "x");
        persist(&daemon, "x", &disk.path("x")).unwrap();
        set_attribute(&daemon.file("x"), "durability", b"1h").unwrap();
        state.write_all_at(b"last", 0).unwrap();
    }
    let saved = disk.saved("x");
    assert!(saved.clean);
    assert_eq!((saved.generation, saved.ceiling), (1, 1));
    assert_eq!(saved.value, b"last");
    assert_eq!(saved.within, Duration::from_secs(3600));
}

#[test]
fn what_cannot_come_back_is_told_kept_as_it_is_and_holds_up_nothing_else() {
    let disk = Disk::new();
    {
        let daemon = disk.daemon();
        for name in ["damaged", "absent", "other", "whole"] {
            let _state = create(&daemon, name);
            persist(&daemon, name, &disk.path(name)).unwrap();
            replace(&daemon, name, name.as_bytes());
        }
    }
    let mut bytes = fs::read(disk.path("damaged")).unwrap();
    let half = bytes.len() / 2;
    bytes[50] ^= 1;
    bytes[half + 50] ^= 1;
    fs::write(disk.path("damaged"), &bytes).unwrap();
    fs::rename(disk.path("absent"), disk.path("elsewhere")).unwrap();
    fs::copy(disk.path("whole"), disk.path("other")).unwrap();
    {
        let daemon = disk.daemon();
        assert_eq!(fs::read(daemon.file("whole")).unwrap(), b"whole");
        for name in ["damaged", "absent", "other"] {
            assert!(!daemon.file(name).exists(), "{name}");
        }
        let metrics = fs::read_to_string(daemon.file(".kstate/metrics")).unwrap();
        assert!(
            metrics.contains("kstate_states_not_restored 3"),
            "{metrics}"
        );
        assert_eq!(fs::read(disk.path("damaged")).unwrap(), bytes);
        // A state of that name is a new one, and does not get that file.
        let _state = create(&daemon, "damaged");
        let refused = persist(&daemon, "damaged", &disk.path("damaged"));
        assert_eq!(errno(refused), libc::EUCLEAN);
    }
    // It was absent for a while, and is listed still.
    fs::rename(disk.path("elsewhere"), disk.path("absent")).unwrap();
    let daemon = disk.daemon();
    assert_eq!(fs::read(daemon.file("absent")).unwrap(), b"absent");
}

#[test]
fn a_list_that_is_none_is_refused_when_it_mounts() {
    let disk = Disk::new();
    fs::write(disk.path("manifest"), "a letter\n").unwrap();
    let place = disk.path("mount");
    fs::create_dir(&place).unwrap();
    let mut command = std::process::Command::new(kstatefs());
    let manifest = format!("--manifest={}", disk.path("manifest").display());
    let refused = command.arg(manifest).arg(&place).output().unwrap();
    assert!(!refused.status.success());
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(
        said.contains("manifest") && said.contains("a letter"),
        "{said}"
    );
    assert_eq!(fs::read(disk.path("manifest")).unwrap(), b"a letter\n");
}

#[test]
fn without_a_list_a_program_brings_its_state_back() {
    let disk = Disk::new();
    for round in 1..4 {
        let daemon = Daemon::start();
        let state = create(&daemon, "x");
        persist(&daemon, "x", &disk.path("x")).unwrap();
        state
            .write_all_at(format!("{round}").as_bytes(), 0)
            .unwrap();
        assert_eq!(number(&daemon, "x", "generation"), round);
        assert_eq!(number(&daemon, "x", "subscribers"), 1);
    }
}

#[test]
fn who_waits_for_a_first_version_is_woken_by_the_one_in_the_file() {
    let disk = Disk::new();
    {
        let daemon = Daemon::start();
        let state = create(&daemon, "x");
        state.write_all_at(&7_u64.to_ne_bytes(), 0).unwrap();
        persist(&daemon, "x", &disk.path("x")).unwrap();
    }
    let daemon = Daemon::start();
    let mount = daemon.library();
    let reader = mount.subscribe("x").typed::<u64>().unwrap().reader();
    let asleep = kstate_tests::Sleeper::start({
        let reader = reader.clone();
        move || {
            reader
                .wait(kstate::Generation::NEVER, Some(kstate_tests::PATIENCE))
                .unwrap()
        }
    });
    asleep.await_asleep();
    persist(&daemon, "x", &disk.path("x")).unwrap();
    assert_eq!(
        asleep.join(),
        kstate::Waited::Changed(kstate::Generation(1))
    );
    assert_eq!(reader.snapshot().unwrap().value, 7);
}

#[test]
fn changed_rights_are_kept_as_well() {
    let disk = Disk::new();
    {
        let daemon = disk.daemon();
        let _state = create(&daemon, "x");
        persist(&daemon, "x", &disk.path("x")).unwrap();
        set_attribute(&daemon.file("x"), "durability", b"50ms").unwrap();
        fs::set_permissions(daemon.file("x"), Permissions::from_mode(0o604)).unwrap();
        eventually("the rights are in the file", || {
            (disk.saved("x").mode == 0o604).then_some(())
        });
        assert_eq!(attribute(&daemon.file("x"), "durability").unwrap(), "50ms");
    }
    let daemon = disk.daemon();
    let mode = daemon.file("x").metadata().unwrap().mode();
    assert_eq!(mode & 0o7777, 0o604);
    assert_eq!(attribute(&daemon.file("x"), "durability").unwrap(), "50ms");
}
