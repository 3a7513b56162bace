//! Names, and what is not made here: directories, links, special files.

use std::fs;
use std::fs::OpenOptions;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use kstate_tests::Setup;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::stat::{Mode, SFlag, mknod};

use crate::{create, errno, generation, in_control, value};

both_ways!(
    names_outside_the_rules_are_einval_and_too_long_ones_enametoolong,
    directories_links_special_files_and_renames_are_not_there,
    only_states_are_deleted,
);

fn names_outside_the_rules_are_einval_and_too_long_ones_enametoolong(setup: Setup) {
    let daemon = setup.start();
    let open = |name: &str| {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        options.open(daemon.file(name))
    };
    for name in ["a b", ".a", "a..b", "a.", "ü", "a@four"] {
        assert_eq!(errno(open(name)), libc::EINVAL, "{name}");
        let path = daemon.file(name);
        assert_eq!(errno(fs::metadata(&path)), libc::EINVAL, "{name}");
        assert_eq!(errno(fs::remove_file(&path)), libc::EINVAL, "{name}");
        assert_eq!(errno(fs::create_dir(&path)), libc::EINVAL, "{name}");
    }
    for length in [248, 255, 256] {
        let opened = open(&"x".repeat(length));
        assert_eq!(errno(opened), libc::ENAMETOOLONG, "{length} bytes");
    }
    open(&"x".repeat(247)).unwrap();
}

fn directories_links_special_files_and_renames_are_not_there(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    let _other = create(&daemon, "z");
    nix::unistd::write(&file, b"kept").unwrap();
    let (x, y, z) = (daemon.file("x"), daemon.file("y"), daemon.file("z"));
    assert_eq!(errno(fs::create_dir(&y)), libc::EPERM);
    assert_eq!(errno(fs::hard_link(&x, &y)), libc::EPERM);
    assert_eq!(errno(symlink("x", &y)), libc::EPERM);
    for kind in [SFlag::S_IFREG, SFlag::S_IFIFO, SFlag::S_IFSOCK] {
        let made = mknod(&y, kind, Mode::S_IRUSR, 0);
        assert_eq!(made, Err(Errno::EPERM), "{kind:?}");
    }
    assert_eq!(errno(UnixListener::bind(&y)), libc::EPERM);
    assert_eq!(errno(fs::rename(&x, &y)), libc::EPERM);
    let renamed = |onto, flags| renameat2(AT_FDCWD, &x, AT_FDCWD, onto, flags);
    assert_eq!(renamed(&z, RenameFlags::empty()), Err(Errno::EPERM));
    let exchanged = renamed(&z, RenameFlags::RENAME_EXCHANGE);
    assert_eq!(exchanged, Err(Errno::EPERM));
    // What the kernel finds out by itself comes first.
    let onto_another = renamed(&z, RenameFlags::RENAME_NOREPLACE);
    assert_eq!(onto_another, Err(Errno::EEXIST));
    assert_eq!(errno(fs::create_dir(&x)), libc::EEXIST);
    let outside = daemon.home().join("outside");
    assert_eq!(errno(fs::hard_link(&x, &outside)), libc::EXDEV);
    assert_eq!(errno(fs::rename(&x, &outside)), libc::EXDEV);
    assert!(!y.exists());
    assert_eq!(value(&daemon, "x"), b"kept");
    assert_eq!(generation(&daemon, "x"), 1);
}

fn only_states_are_deleted(setup: Setup) {
    let daemon = setup.start();
    let _file = create(&daemon, "x");
    assert_eq!(errno(fs::remove_dir(daemon.file("x"))), libc::ENOTDIR);
    assert_eq!(errno(fs::remove_file(daemon.file("y"))), libc::ENOENT);
    let control = daemon.file(".kstate");
    let no = match in_control("EPERM") {
        "EPERM" => libc::EPERM,
        _ => libc::EACCES,
    };
    assert_eq!(errno(fs::remove_dir(&control)), libc::EPERM);
    assert_eq!(errno(fs::remove_file(&control)), libc::EISDIR);
    let registry = control.join("registry");
    assert_eq!(errno(fs::remove_file(&registry)), no);
    let created = fs::write(control.join("x"), "");
    assert_eq!(errno(created), no);
    let written = OpenOptions::new().write(true).open(&registry);
    assert_eq!(errno(written), libc::EACCES);
    assert_eq!(fs::read(&registry).unwrap(), b"");
}
