//! Copying without reading: `sendfile`, `splice`, `copy_file_range`.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::Command;

use kstate_tests::{Daemon, Setup};
use nix::errno::Errno;
use nix::fcntl::{SpliceFFlags, copy_file_range, splice};
use nix::sys::sendfile::sendfile;
use nix::unistd::pipe;

use crate::{create, generation, replace, value};

both_ways!(
    copying_programs_get_the_newest_value_each_time,
    out_of_a_state_nothing_is_sent_nor_spliced,
    with_o_direct_a_version_is_sent_and_spliced_whole,
    into_a_state_what_comes_at_once_is_one_version,
);

/// A file beside the mount.
fn beside(daemon: &Daemon) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true);
    options.open(daemon.home().join("beside")).unwrap()
}

fn spliced(from: &impl std::os::fd::AsFd, to: &impl std::os::fd::AsFd) -> Result<usize, Errno> {
    splice(from, None, to, None, 64, SpliceFFlags::empty())
}

fn copying_programs_get_the_newest_value_each_time(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    let copy = daemon.home().join("copy");
    for value in ["one", "three", "two"] {
        file.set_len(0).unwrap();
        file.write_all_at(value.as_bytes(), 0).unwrap();
        let mut cp = Command::new("cp");
        assert!(
            cp.arg(daemon.file("x"))
                .arg(&copy)
                .status()
                .unwrap()
                .success()
        );
        assert_eq!(fs::read_to_string(&copy).unwrap(), value);
    }
    // Into a state as well.
    fs::write(&copy, "back").unwrap();
    let mut cp = Command::new("cp");
    assert!(
        cp.arg(&copy)
            .arg(daemon.file("x"))
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(value(&daemon, "x"), b"back");
}

fn out_of_a_state_nothing_is_sent_nor_spliced(setup: Setup) {
    let daemon = setup.start();
    let keep = create(&daemon, "x");
    keep.write_all_at(b"value", 0).unwrap();
    let from = File::open(daemon.file("x")).unwrap();
    let (to, other) = (beside(&daemon), create(&daemon, "y"));
    let (reader, writer) = pipe().unwrap();
    assert_eq!(sendfile(&to, &from, Some(&mut 0), 5), Err(Errno::EINVAL));
    assert_eq!(spliced(&from, &writer), Err(Errno::EINVAL));
    let copied = copy_file_range(&from, Some(&mut 0), &to, Some(&mut 0), 5);
    assert_eq!(copied, Err(Errno::EXDEV));
    let copied = copy_file_range(&from, Some(&mut 0), &other, Some(&mut 0), 5);
    assert_eq!(copied, Err(Errno::EINVAL));
    // What the library has published since the kernel looked last may be behind the end for it.
    let state = daemon.library().subscribe("y").write().bytes().unwrap();
    state.publish(b"value").unwrap();
    let sent = sendfile(&to, &other, Some(&mut 0), 5);
    assert!([Ok(0), Err(Errno::EINVAL)].contains(&sent), "{sent:?}");
    drop(writer);
    assert_eq!(nix::unistd::read(&reader, &mut [0; 8]), Ok(0));
    assert_eq!(generation(&daemon, "y"), 1);
    assert_eq!(to.metadata().unwrap().len(), 0);
}

fn with_o_direct_a_version_is_sent_and_spliced_whole(setup: Setup) {
    let daemon = setup.start();
    let _keep = create(&daemon, "x");
    replace(&daemon, "x", b"hello world");
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_DIRECT);
    let direct = options.open(daemon.file("x")).unwrap();
    let mut to = beside(&daemon);
    assert_eq!(sendfile(&to, &direct, None, 6), Ok(6));
    replace(&daemon, "x", b"other value, longer");
    assert_eq!(sendfile(&to, &direct, None, 99), Ok(5));
    let mut text = String::new();
    to.rewind().unwrap();
    to.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello world", "it goes on in the version begun");
    let (reader, writer) = pipe().unwrap();
    (&direct).rewind().unwrap();
    assert_eq!(spliced(&direct, &writer), Ok(19));
    let mut bytes = [0; 64];
    assert_eq!(nix::unistd::read(&reader, &mut bytes), Ok(19));
    assert_eq!(&bytes[..19], b"other value, longer");
    let other = create(&daemon, "y");
    let copied = copy_file_range(&direct, Some(&mut 0), &other, Some(&mut 0), 99);
    assert_eq!(copied, Ok(19));
    assert_eq!(value(&daemon, "y"), b"other value, longer");
}

fn into_a_state_what_comes_at_once_is_one_version(setup: Setup) {
    let daemon = setup.start();
    let state = create(&daemon, "x");
    let mut from = beside(&daemon);
    from.write_all(b"from a file").unwrap();
    assert_eq!(sendfile(&state, &from, Some(&mut 0), 99), Ok(11));
    assert_eq!(value(&daemon, "x"), b"from a file");
    assert_eq!(generation(&daemon, "x"), 1);
    let (reader, mut writer) = pipe().map(|(r, w)| (r, File::from(w))).unwrap();
    writer.write_all(b"from ").unwrap();
    writer.write_all(b"a pipe").unwrap();
    let again = create(&daemon, "x");
    assert_eq!(spliced(&reader, &again), Ok(11));
    assert_eq!(value(&daemon, "x"), b"from a pipe");
    assert_eq!(generation(&daemon, "x"), 2);
    // It is validated, as a write is.
    again.read_exact_at(&mut [0; 4], 0).unwrap();
    replace(&daemon, "x", b"other");
    writer.write_all(b"late").unwrap();
    assert_eq!(spliced(&reader, &again), Err(Errno::ESTALE));
    assert_eq!(value(&daemon, "x"), b"other");
}
