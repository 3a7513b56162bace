//! The end of a persistent state.

use std::fs;
use std::os::unix::fs::FileExt;

use kstate_tests::attribute;

use crate::{Disk, create, errno, number, persist};

#[test]
fn its_file_stays_with_the_last_value_and_it_does_not_come_back() {
    let disk = Disk::new();
    let path = disk.path("x");
    {
        let daemon = disk.daemon();
        let state = create(&daemon, "x");
        persist(&daemon, "x", &path).unwrap();
        state.write_all_at(b"last", 0).unwrap();
        drop(state);
        fs::remove_file(daemon.file("x")).unwrap();
        assert!(!daemon.file("x").exists());
        let saved = disk.saved("x");
        assert_eq!((&saved.value[..], saved.clean), (&b"last"[..], true));
        // The name is free, and so is the file.
        let again = create(&daemon, "x");
        assert_eq!(
            errno(attribute(&daemon.file("x"), "persistent")),
            libc::ENODATA
        );
        again.write_all_at(b"new", 0).unwrap();
        assert_eq!(number(&daemon, "x", "generation"), 1);
        fs::remove_file(&path).unwrap();
        persist(&daemon, "x", &path).unwrap();
        drop(again);
        fs::remove_file(daemon.file("x")).unwrap();
    }
    let daemon = disk.daemon();
    assert!(!daemon.file("x").exists());
    assert!(path.exists());
    // Whoever wants it back says so.
    let _state = create(&daemon, "x");
    persist(&daemon, "x", &path).unwrap();
    assert_eq!(fs::read(daemon.file("x")).unwrap(), b"new");
}

#[test]
fn while_another_process_is_subscribed_it_stays_and_stays_listed() {
    let disk = Disk::new();
    {
        let daemon = disk.daemon();
        let state = create(&daemon, "x");
        persist(&daemon, "x", &disk.path("x")).unwrap();
        state.write_all_at(b"1", 0).unwrap();
        let mut other = daemon.worker("x", &["hold"]);
        other.line();
        assert_eq!(errno(fs::remove_file(daemon.file("x"))), libc::EBUSY);
    }
    assert!(disk.daemon().file("x").exists());
}
