//! Truncating and preallocating: neither is a commit.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use kstate_tests::{PATIENCE, Setup};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate, posix_fallocate};
use nix::unistd::truncate;

use crate::polling::readable;
use crate::{create, errno, generation, replace, value};

both_ways!(
    truncating_commits_nothing_and_the_next_write_replaces_the_whole_value,
    truncating_by_path_to_nothing_has_no_effect,
    a_truncated_file_still_reads_the_value,
    a_replacement_is_validated_as_any_write,
    preallocation_is_refused_and_makes_no_versions,
);

fn truncating_commits_nothing_and_the_next_write_replaces_the_whole_value(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    file.write_all_at(b"longer value", 0).unwrap();
    let watcher = File::open(daemon.file("x")).unwrap();
    let mut bytes = [0; 64];
    let length = watcher.read_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes[..length], b"longer value");
    let mut options = OpenOptions::new();
    options.write(true).truncate(true);
    let truncated = options.open(daemon.file("x")).unwrap();
    let new = readable(&watcher, Duration::ZERO);
    assert!(!new, "O_TRUNC alone is no commit");
    truncated.write_all_at(b"s", 0).unwrap();
    assert!(readable(&watcher, PATIENCE));
    let length = watcher.read_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes[..length], b"s");
    file.set_len(0).unwrap();
    assert_eq!(generation(&daemon, "x"), 2, "nor is ftruncate");
    file.write_all_at(b"tt", 0).unwrap();
    file.write_all_at(b"T", 0).unwrap();
    let length = watcher.read_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes[..length], b"Tt", "only the next write replaces");
}

fn truncating_by_path_to_nothing_has_no_effect(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    file.write_all_at(b"kept", 0).unwrap();
    assert_eq!(truncate(&daemon.file("x"), 0), Ok(()));
    assert_eq!(value(&daemon, "x"), b"kept");
    file.write_all_at(b"K", 0).unwrap();
    assert_eq!(value(&daemon, "x"), b"Kept");
    let reader = File::open(daemon.file("x")).unwrap();
    assert_eq!(errno(reader.set_len(0)), libc::EINVAL);
}

fn a_truncated_file_still_reads_the_value(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    file.write_all_at(b"value", 0).unwrap();
    file.set_len(0).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 5);
    let mut bytes = [0; 64];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), 5);
    // A gap before what is written is not filled: it is the whole value.
    file.write_all_at(b"new", 2).unwrap();
    assert_eq!(value(&daemon, "x"), b"new");
}

fn a_replacement_is_validated_as_any_write(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    file.write_all_at(b"1", 0).unwrap();
    file.read_exact_at(&mut [0; 1], 0).unwrap();
    file.set_len(0).unwrap();
    replace(&daemon, "x", b"2");
    assert_eq!(errno(file.write_at(b"three", 0)), libc::ESTALE);
    file.read_exact_at(&mut [0; 1], 0).unwrap();
    file.write_all_at(b"", 0).unwrap();
    file.write_all_at(b"4", 0).unwrap();
    assert_eq!(value(&daemon, "x"), b"4");
}

fn preallocation_is_refused_and_makes_no_versions(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    file.write_all_at(b"1", 0).unwrap();
    let punched = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    for (mode, refused) in [
        (FallocateFlags::empty(), Errno::EINVAL),
        (FallocateFlags::FALLOC_FL_KEEP_SIZE, Errno::EINVAL),
        (FallocateFlags::FALLOC_FL_ZERO_RANGE, Errno::EINVAL),
        (punched, Errno::EINVAL),
        // These the kernel does not pass on.
        (FallocateFlags::FALLOC_FL_COLLAPSE_RANGE, Errno::EOPNOTSUPP),
        (FallocateFlags::FALLOC_FL_INSERT_RANGE, Errno::EOPNOTSUPP),
    ] {
        let done = fallocate(&file, mode, 0, 8192);
        assert_eq!(done, Err(refused), "{mode:?}");
    }
    assert_eq!(posix_fallocate(&file, 0, 8192), Err(Errno::EINVAL));
    assert_eq!(generation(&daemon, "x"), 1);
    assert_eq!(value(&daemon, "x"), b"1");
}
