//! `stat`, `chmod`, `chown`, times, `access`, `statfs`, `ioctl`.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::time::Duration;

use kstate_tests::{PATIENCE, Setup, eventually};
use nix::errno::Errno;
use nix::sys::statvfs::{FsFlags, fstatvfs, statvfs};
use nix::unistd::{AccessFlags, access};

use crate::{create, errno, generation, python};

both_ways!(
    the_time_of_modification_of_a_version_stays_the_same,
    a_file_still_open_of_a_deleted_state_has_its_attributes,
    the_time_of_modification_is_the_last_commits,
    stat_tells_the_length_now_and_one_link,
    setting_times_succeeds_and_changes_nothing,
    modes_and_owners_change_without_a_version,
    access_answers_by_the_mode_and_nothing_can_be_run,
    statfs_gives_the_space_of_the_backing_and_the_number_of_states,
    unknown_ioctls_are_enotty,
);

fn the_time_of_modification_is_the_last_commits(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    file.write_all_at(b"1", 0).unwrap();
    let first = file.metadata().unwrap().modified().unwrap();
    let age = first.elapsed().unwrap_or_default();
    assert!(age < PATIENCE, "{age:?}");
    eventually("a later commit has a later time", || {
        file.write_all_at(b"2", 0).unwrap();
        (file.metadata().unwrap().modified().unwrap() > first).then_some(())
    });
}

fn stat_tells_the_length_now_and_one_link(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    let state = daemon.library().subscribe("x").write().bytes().unwrap();
    let again = File::open(daemon.file("x")).unwrap();
    for length in [0, 5, 600, 3] {
        if length > 0 {
            state.publish(&vec![1; length]).unwrap();
        }
        let by_path = fs::metadata(daemon.file("x")).unwrap();
        for found in [
            &by_path,
            &file.metadata().unwrap(),
            &again.metadata().unwrap(),
        ] {
            assert!(found.is_file());
            assert_eq!(found.size(), length as u64);
            assert_eq!(found.blocks(), length.div_ceil(512) as u64);
            assert_eq!(found.nlink(), 1);
            assert_eq!(found.blksize(), u64::from(kstate_sys::abi::page_size()));
            assert_eq!(found.ino(), by_path.ino());
        }
    }
    let directory = fs::metadata(daemon.mount()).unwrap();
    assert!(directory.is_dir());
    assert_eq!(directory.dev(), file.metadata().unwrap().dev());
}

fn setting_times_succeeds_and_changes_nothing(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    file.write_all_at(b"1", 0).unwrap();
    let before = file.metadata().unwrap();
    let program = "
os.utime(path, (1, 1))
file = os.open(path, os.O_RDONLY)
os.utime(file, (1, 1))
";
    python(program, &daemon.file("x"));
    let (before, after) = (before.modified(), file.metadata().unwrap().modified());
    let moved = after.unwrap().duration_since(before.unwrap());
    let moved = moved.unwrap_or_else(|backwards| backwards.duration());
    assert!(moved < Duration::from_secs(1), "{moved:?}");
    assert_eq!(generation(&daemon, "x"), 1);
}

fn modes_and_owners_change_without_a_version(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    file.write_all_at(b"1", 0).unwrap();
    let mode = |file: &File| file.metadata().unwrap().mode();
    let by_path = |mode| fs::set_permissions(daemon.file("x"), Permissions::from_mode(mode));
    by_path(0o640).unwrap();
    assert_eq!(mode(&file), 0o100_640);
    file.set_permissions(Permissions::from_mode(0o600)).unwrap();
    assert_eq!(mode(&file), 0o100_600);
    by_path(0o7755).unwrap();
    assert_eq!(mode(&file), 0o101_755, "set-id bits are dropped");
    let found = file.metadata().unwrap();
    chown(daemon.file("x"), Some(found.uid()), Some(found.gid())).unwrap();
    // What is not a state keeps what the mount gave it.
    for name in ["", ".kstate", ".kstate/registry"] {
        let changed = fs::set_permissions(daemon.file(name), Permissions::from_mode(0o777));
        assert_eq!(errno(changed), libc::EPERM, "{name}");
    }
    assert_eq!(generation(&daemon, "x"), 1);
}

fn the_time_of_modification_of_a_version_stays_the_same(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    file.write_all_at(b"1", 0).unwrap();
    let modified = || file.metadata().unwrap().modified().unwrap();
    let first = modified();
    for _ in 0..1000 {
        assert_eq!(modified(), first);
    }
    file.write_all_at(b"2", 0).unwrap();
    assert!(modified() > first);
}

fn a_file_still_open_of_a_deleted_state_has_its_attributes(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    file.write_all_at(b"last", 0).unwrap();
    std::fs::remove_file(daemon.file("x")).unwrap();
    let found = file.metadata().unwrap();
    assert_eq!(found.len(), 4);
    file.set_permissions(Permissions::from_mode(0o600)).unwrap();
    assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
    let _other = create(&daemon, "x");
    assert_ne!(daemon.file("x").metadata().unwrap().ino(), found.ino());
}

fn access_answers_by_the_mode_and_nothing_can_be_run(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    let x = daemon.file("x");
    let asked = |flags| access(&x, flags);
    assert_eq!(asked(AccessFlags::F_OK), Ok(()));
    assert_eq!(asked(AccessFlags::R_OK | AccessFlags::W_OK), Ok(()));
    assert_eq!(asked(AccessFlags::X_OK), Err(Errno::EACCES));
    file.set_permissions(Permissions::from_mode(0o755)).unwrap();
    file.write_all_at(b"#!/bin/true\n", 0).unwrap();
    // Mounted noexec.
    assert_eq!(asked(AccessFlags::X_OK), Err(Errno::EACCES));
    let run = std::process::Command::new(&x).status();
    assert_eq!(errno(run), libc::EACCES);
    let absent = access(&daemon.file("y"), AccessFlags::F_OK);
    assert_eq!(absent, Err(Errno::ENOENT));
}

fn statfs_gives_the_space_of_the_backing_and_the_number_of_states(setup: Setup) {
    let daemon = setup.start();
    let _files = [create(&daemon, "x"), create(&daemon, "y")];
    let found = statvfs(daemon.mount()).unwrap();
    assert!(found.blocks_free() <= found.blocks());
    assert_eq!(found.blocks_available(), found.blocks_free());
    assert_eq!(found.block_size(), u64::from(kstate_sys::abi::page_size()));
    // As many as there are, and as many more as there is room for.
    assert_eq!(found.files() - found.files_free(), 2);
    assert!(found.files_free() > 0);
    assert_eq!(found.name_max(), 247);
    let closed = FsFlags::ST_NOSUID | FsFlags::ST_NOEXEC | FsFlags::ST_NODEV;
    assert!(found.flags().contains(closed));
    let z = create(&daemon, "z");
    let found = fstatvfs(&z).unwrap();
    assert_eq!(found.files() - found.files_free(), 3);
}

fn unknown_ioctls_are_enotty(setup: Setup) {
    let daemon = setup.start();
    let keep = create(&daemon, "x");
    keep.write_all_at(b"1", 0).unwrap();
    // TCGETS, FS_IOC_GETFLAGS, FS_IOC_FSGETXATTR, BLKGETSIZE, one of kstate's magic that is none.
    let program = "
file = os.open(path, os.O_RDWR)
for number in 0x5401, 0x80086601, 0x801c581f, 0x1260, 0xb5ff:
    print(said(lambda: fcntl.ioctl(file, number, bytes(64))))
directory = os.open(os.path.dirname(path), os.O_RDONLY)
print(said(lambda: fcntl.ioctl(directory, 0x5401, bytes(64))))
# FIONREAD and FIONBIO are the kernel's own.
os.fstat(file)
print(*struct.unpack('i', fcntl.ioctl(file, 0x541B, bytes(4))))
fcntl.ioctl(file, 0x5421, struct.pack('i', 1))
print(bool(fcntl.fcntl(file, fcntl.F_GETFL) & os.O_NONBLOCK), os.pread(file, 9, 0).decode())
";
    let expected = format!("{}1\nTrue 1\n", "ENOTTY\n".repeat(6));
    assert_eq!(python(program, &daemon.file("x")), expected);
    assert_eq!(generation(&daemon, "x"), 1);
}
