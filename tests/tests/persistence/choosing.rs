//! Which file a state can have.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};

use kstate_tests::{Daemon, attribute, both_transports};
use nix::sys::stat::Mode;

use crate::{Disk, create, errno, persist, replace};

#[test]
fn the_file_is_made_for_the_owner_alone_and_has_the_value() {
    both_transports(|daemon| {
        let disk = Disk::new();
        let state = create(daemon, "x");
        state.write_all_at(b"hello", 0).unwrap();
        let path = disk.path("x.state");
        persist(daemon, "x", &path).unwrap();
        let made = path.metadata().unwrap();
        assert_eq!(made.permissions().mode() & 0o7777, 0o600);
        assert_eq!(made.uid(), daemon.file("x").metadata().unwrap().uid());
        let saved = disk.saved("x.state");
        assert_eq!((&saved.value[..], saved.generation), (&b"hello"[..], 1));
        let told = attribute(&daemon.file("x"), "persistent").unwrap();
        assert_eq!(told, path.to_str().unwrap());
    });
}

#[test]
fn the_same_file_again_is_nothing_to_do_and_another_is_refused() {
    let (daemon, disk) = (Daemon::start(), Disk::new());
    let _state = create(&daemon, "x");
    let first = disk.path("first");
    persist(&daemon, "x", &first).unwrap();
    persist(&daemon, "x", &first).unwrap();
    assert_eq!(
        errno(persist(&daemon, "x", &disk.path("second"))),
        libc::EEXIST
    );
    assert!(!disk.path("second").exists());
    // Nor can it be without one again.
    let removed = kstate_tests::remove_attribute(&daemon.file("x"), "persistent");
    assert_eq!(errno(removed), libc::EPERM);
    assert_eq!(
        attribute(&daemon.file("x"), "persistent").unwrap(),
        first.to_str().unwrap()
    );
}

#[test]
fn what_is_no_regular_file_is_refused() {
    let (daemon, disk) = (Daemon::start(), Disk::new());
    let _state = create(&daemon, "x");
    nix::unistd::mkfifo(&disk.path("fifo"), Mode::S_IRWXU).unwrap();
    fs::create_dir(disk.path("directory")).unwrap();
    for (path, expected) in [
        (disk.path("directory"), libc::EINVAL),
        (disk.path("fifo"), libc::EINVAL),
        ("/dev/null".into(), libc::EINVAL),
        ("relative".into(), libc::EINVAL),
        (disk.path("absent/file"), libc::ENOENT),
        (daemon.file("x"), libc::EXDEV),
        (daemon.file("new"), libc::EXDEV),
        (daemon.file(".kstate/new"), libc::EXDEV),
    ] {
        assert_eq!(errno(persist(&daemon, "x", &path)), expected, "{path:?}");
    }
    assert!(!daemon.file("new").exists());
    assert_eq!(
        errno(attribute(&daemon.file("x"), "persistent")),
        libc::ENODATA
    );
}

#[test]
fn no_symbolic_link_on_the_way_is_followed() {
    let (daemon, disk) = (Daemon::start(), Disk::new());
    let _state = create(&daemon, "x");
    fs::create_dir(disk.path("real")).unwrap();
    symlink(disk.path("real"), disk.path("way")).unwrap();
    symlink(disk.path("real/file"), disk.path("last")).unwrap();
    for path in ["way/file", "last"] {
        assert_eq!(errno(persist(&daemon, "x", &disk.path(path))), libc::ELOOP);
    }
    assert_eq!(fs::read_dir(disk.path("real")).unwrap().count(), 0);
}

#[test]
fn a_file_that_another_state_uses_is_refused() {
    let (daemon, disk) = (Daemon::start(), Disk::new());
    let elsewhere = Daemon::start();
    for daemon in [&daemon, &elsewhere] {
        let _x = create(daemon, "x");
        replace(daemon, "x", b"1");
    }
    let (_x, _y, _there) = (
        create(&daemon, "x"),
        create(&daemon, "y"),
        create(&elsewhere, "x"),
    );
    let path = disk.path("file");
    persist(&daemon, "x", &path).unwrap();
    assert_eq!(errno(persist(&daemon, "y", &path)), libc::EBUSY);
    assert_eq!(errno(persist(&elsewhere, "x", &path)), libc::EBUSY);
    // Also by another name of it.
    fs::hard_link(&path, disk.path("link")).unwrap();
    assert_eq!(
        errno(persist(&daemon, "y", &disk.path("link"))),
        libc::EBUSY
    );
}

#[test]
fn what_is_in_a_file_is_never_lost() {
    let (daemon, disk) = (Daemon::start(), Disk::new());
    let old = disk.path("old");
    let _old = create(&daemon, "old");
    persist(&daemon, "old", &old).unwrap();
    replace(&daemon, "old", b"old value");
    fs::remove_file(daemon.file("old")).ok();
    drop(_old);
    let (_x, _state) = (create(&daemon, "x"), create(&daemon, "y"));
    fs::write(disk.path("letter"), "Dear Sir").unwrap();
    let mut damaged = fs::read(&old).unwrap();
    for copy in damaged.chunks_mut(2) {
        copy[0] ^= 1;
    }
    fs::write(disk.path("damaged"), &damaged).unwrap();
    let mut newer = fs::read(&old).unwrap();
    for at in [8, newer.len() / 2 + 8] {
        newer[at] += 1;
    }
    fs::write(disk.path("newer"), &newer).unwrap();
    for (file, expected) in [
        ("letter", libc::ENOTEMPTY),
        ("damaged", libc::ENOTEMPTY),
        ("newer", libc::EPROTONOSUPPORT),
    ] {
        let before = fs::read(disk.path(file)).unwrap();
        let refused = errno(persist(&daemon, "x", &disk.path(file)));
        assert_eq!(refused, expected, "{file}");
        assert_eq!(fs::read(disk.path(file)).unwrap(), before, "{file}");
    }
    // The file of a state of another name; and of the same name, which has a value of its own.
    assert_eq!(errno(persist(&daemon, "y", &old)), libc::EADDRINUSE);
}

#[test]
fn a_file_with_one_copy_that_is_not_whole_serves_and_with_none_does_not() {
    let disk = Disk::new();
    {
        let daemon = Daemon::start();
        let _state = create(&daemon, "x");
        persist(&daemon, "x", &disk.path("x")).unwrap();
        for value in [b"first", b"other"] {
            replace(&daemon, "x", value);
            create(&daemon, "x").sync_all().unwrap();
        }
    }
    let whole = fs::read(disk.path("x")).unwrap();
    let half = whole.len() / 2;
    for broken in [0, half] {
        let mut bytes = whole.clone();
        bytes[broken + 100] ^= 0x80;
        fs::write(disk.path("x"), &bytes).unwrap();
        let daemon = Daemon::start();
        let state = create(&daemon, "x");
        persist(&daemon, "x", &disk.path("x")).unwrap();
        assert_eq!(state.metadata().unwrap().len(), 5);
    }
    let mut bytes = whole;
    bytes[100] ^= 0x80;
    bytes[half + 100] ^= 0x80;
    fs::write(disk.path("x"), &bytes).unwrap();
    let daemon = Daemon::start();
    let _state = create(&daemon, "x");
    assert_eq!(errno(persist(&daemon, "x", &disk.path("x"))), libc::EUCLEAN);
    assert_eq!(fs::read(disk.path("x")).unwrap(), bytes);
}

#[test]
fn a_file_of_zeros_alone_counts_as_empty() {
    let (daemon, disk) = (Daemon::start(), Disk::new());
    let state = create(&daemon, "x");
    state.write_all_at(b"value", 0).unwrap();
    fs::write(disk.path("zeros"), vec![0; 16_384]).unwrap();
    persist(&daemon, "x", &disk.path("zeros")).unwrap();
    assert_eq!(disk.saved("zeros").value, b"value");
    // One of another size is somebody's.
    let _other = create(&daemon, "y");
    fs::write(disk.path("long"), vec![0; 1 << 20]).unwrap();
    let refused = persist(&daemon, "y", &disk.path("long"));
    assert_eq!(errno(refused), libc::ENOTEMPTY);
}

#[test]
fn a_state_that_has_a_value_does_not_take_another_ones() {
    let disk = Disk::new();
    {
        let daemon = Daemon::start();
        let state = create(&daemon, "x");
        state.write_all_at(b"kept", 0).unwrap();
        persist(&daemon, "x", &disk.path("x")).unwrap();
    }
    let daemon = Daemon::start();
    let state = create(&daemon, "x");
    state.write_all_at(b"new", 0).unwrap();
    assert_eq!(
        errno(persist(&daemon, "x", &disk.path("x"))),
        libc::ENOTUNIQ
    );
    assert_eq!(fs::read(daemon.file("x")).unwrap(), b"new");
    drop(state);
    let reader = create(&daemon, "x");
    persist(&daemon, "x", &disk.path("x")).unwrap();
    assert_eq!(fs::read(daemon.file("x")).unwrap(), b"kept");
    drop(reader);
}
