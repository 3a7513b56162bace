//! The namespaces that paths and process ids are of.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Inode number of the mount namespace of this process.
///
/// # Errors
///
/// `/proc` cannot be read.
pub(crate) fn of_mounts() -> io::Result<u64> {
    inode("/proc/self/ns/mnt")
}

/// Inode number of the pid namespace of this process.
///
/// # Errors
///
/// `/proc` cannot be read.
pub(crate) fn of_pids() -> io::Result<u64> {
    inode("/proc/self/ns/pid")
}

fn inode(path: impl AsRef<Path>) -> io::Result<u64> {
    Ok(std::fs::metadata(path)?.ino())
}

/// Whether a process that can be seen from here lives in the mount namespace `namespace`.
///
/// # Cost
///
/// A look at each process.
pub(crate) fn has_mounts_for_somebody(namespace: u64) -> bool {
    processes().any(|pid| inode(format!("/proc/{pid}/ns/mnt")).is_ok_and(|ino| ino == namespace))
}

/// The processes that can be seen from here.
pub(crate) fn processes() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}
