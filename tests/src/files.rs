//! What any program does with the file of a state.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

use crate::daemon::Daemon;

/// Opens a state for reading and writing, creating it where it is not.
///
/// # Panics
///
/// When that is refused.
#[track_caller]
pub fn create(daemon: &Daemon, name: &str) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true);
    let opened = options.open(daemon.file(name));
    opened.expect("it may be opened")
}

/// Replaces the whole value from a descriptor of its own, as `echo -n value > file` does.
///
/// # Panics
///
/// When that is refused.
#[track_caller]
pub fn replace(daemon: &Daemon, name: &str, value: &[u8]) {
    let mut options = OpenOptions::new();
    let file = options.write(true).truncate(true).open(daemon.file(name));
    let file = file.expect("it is there");
    file.write_all_at(value, 0).expect("it may be written");
}
