//! The directory to mount on: what is there already, and how it is freed.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, umount2};

/// The file system type in the mount table.
pub(crate) const FILE_SYSTEM_TYPE: &str = "fuse.kstatefs";

/// Why nothing can be mounted or unmounted there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountPointError {
    /// There is no such directory.
    #[error("{0}: no such directory; make it first: mkdir -p {0}")]
    Absent(PathBuf),
    /// It is something else.
    #[error("{0}: not a directory; name an empty directory to mount on")]
    NotADirectory(PathBuf),
    /// A living file system of ours is mounted there.
    #[error("{0}: a kstate file system is mounted there already; use it, or: kstate umount {0}")]
    Busy(PathBuf),
    /// A dead file system of somebody else's is mounted there.
    #[error(
        "{path}: a dead {kind} file system is mounted there; unmount it first: umount -l {path}"
    )]
    DeadForeign {
        /// The mount point.
        path: PathBuf,
        /// Its type.
        kind: String,
    },
    /// None of ours is mounted there.
    #[error("{0}: no kstate file system is mounted there")]
    NotMounted(PathBuf),
    /// Somebody uses it.
    #[error("{0}: in use by a program; end it, or detach with: kstate umount --lazy {0}")]
    InUse(PathBuf),
    /// The kernel refused.
    #[error("{path}: {doing}: {source}")]
    System {
        /// The mount point.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// How to unmount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmount {
    /// Only if nobody uses it.
    IfUnused,
    /// Detach now, whoever still uses it.
    Lazy,
}

/// Makes sure that `path` can be mounted on, and returns it absolute. A mount that a killed
/// daemon left there is removed.
///
/// # Errors
///
/// [`MountPointError`], each saying what to do.
pub fn prepare(path: &Path) -> Result<PathBuf, MountPointError> {
    let path = absolute(path)?;
    match std::fs::metadata(&path) {
        Ok(found) if !found.is_dir() => return Err(MountPointError::NotADirectory(path)),
        Ok(_) => {
            if mounted_type(&path)?.as_deref() == Some(FILE_SYSTEM_TYPE) {
                return Err(MountPointError::Busy(path));
            }
        }
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {
            match mounted_type(&path)? {
                Some(kind) if kind != FILE_SYSTEM_TYPE => {
                    return Err(MountPointError::DeadForeign { path, kind });
                }
                _ => {}
            }
            tracing::info!(path = %path.display(), "replacing the mount of a daemon that is gone");
            // Lazily: open files of the dead mount hold it, and nothing else ever frees it.
            detach(&path, Unmount::Lazy)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(MountPointError::Absent(path));
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(MountPointError::NotADirectory(path));
        }
        Err(source) => {
            return Err(MountPointError::System {
                path,
                doing: "cannot look at it",
                source,
            });
        }
    }
    Ok(path)
}

/// Unmounts the kstate file system at `path`.
///
/// # Errors
///
/// [`MountPointError::NotMounted`], [`MountPointError::InUse`], or what the kernel says.
pub fn unmount(path: &Path, how: Unmount) -> Result<(), MountPointError> {
    let path = absolute(path)?;
    if mounted_type(&path)?.as_deref() != Some(FILE_SYSTEM_TYPE) {
        return Err(MountPointError::NotMounted(path));
    }
    detach(&path, how)
}

/// Unmounts without a look at what is there, which would wait for a daemon that does not serve.
pub(crate) fn detach(path: &Path, how: Unmount) -> Result<(), MountPointError> {
    let flags = match how {
        Unmount::IfUnused => MntFlags::empty(),
        Unmount::Lazy => MntFlags::MNT_DETACH,
    };
    let failed = |errno: nix::errno::Errno| match errno {
        nix::errno::Errno::EBUSY => MountPointError::InUse(path.to_owned()),
        _ => MountPointError::System {
            path: path.to_owned(),
            doing: "cannot unmount",
            source: errno.into(),
        },
    };
    match umount2(path, flags) {
        Ok(()) => Ok(()),
        // An ordinary user's mount is undone by the helper that made it.
        Err(refused @ nix::errno::Errno::EPERM) => {
            let mut command = Command::new("fusermount3");
            command.arg("-u").arg("-q");
            if how == Unmount::Lazy {
                command.arg("-z");
            }
            match command.arg("--").arg(path).status() {
                Ok(status) if status.success() => Ok(()),
                Ok(_) if how == Unmount::IfUnused => Err(failed(nix::errno::Errno::EBUSY)),
                _ => Err(failed(refused)),
            }
        }
        Err(errno) => Err(failed(errno)),
    }
}

/// The path without looking at its last part, which may be a dead mount.
fn absolute(path: &Path) -> Result<PathBuf, MountPointError> {
    let system = |source| MountPointError::System {
        path: path.to_owned(),
        doing: "cannot look at it",
        source,
    };
    let path = std::path::absolute(path).map_err(system)?;
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => match parent.canonicalize() {
            Ok(parent) => {
                let path = parent.join(name);
                // A symbolic link to a directory is followed, as mount(8) does; a dead mount is
                // none.
                match std::fs::symlink_metadata(&path) {
                    Ok(found) if found.is_symlink() => path.canonicalize().map_err(system),
                    _ => Ok(path),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(MountPointError::Absent(path))
            }
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                Err(MountPointError::NotADirectory(path))
            }
            Err(error) => Err(system(error)),
        },
        _ => Ok(path),
    }
}

/// The type of what is mounted exactly at `path`, if anything is.
///
/// # Errors
///
/// `/proc` cannot be read.
pub fn mounted_type(path: &Path) -> Result<Option<String>, MountPointError> {
    Ok(mounted(path)?.map(|entry| entry.kind))
}

/// What is mounted exactly at `path`, if anything is. Nothing there is touched.
pub(crate) fn mounted(path: &Path) -> Result<Option<MountEntry>, MountPointError> {
    let table =
        std::fs::read("/proc/self/mountinfo").map_err(|source| MountPointError::System {
            path: path.to_owned(),
            doing: "cannot read /proc/self/mountinfo",
            source,
        })?;
    Ok(find_mount(&table, path.as_os_str().as_bytes()))
}

/// What is mounted somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MountEntry {
    /// The type of the file system.
    pub(crate) kind: String,
    /// The minor device number: the kernel's name of a FUSE connection.
    pub(crate) minor: u64,
}

/// The last mount at `path` in a table as proc_pid_mountinfo(5) describes it.
fn find_mount(table: &[u8], path: &[u8]) -> Option<MountEntry> {
    table.split(|byte| *byte == b'\n').rev().find_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let device = fields.nth(2)?;
        let point = fields.nth(1)?;
        // Optional fields end with a lone dash; the type follows it.
        let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
        let (_, minor) = std::str::from_utf8(device).ok()?.split_once(':')?;
        (unescape(point).as_bytes() == path).then_some(MountEntry {
            kind: String::from_utf8_lossy(kind).into_owned(),
            minor: minor.parse().ok()?,
        })
    })
}

/// Undoes the octal escapes of the mount table.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let escape = after
            .get(..3)
            .filter(|_| byte == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match escape {
            Some(value) => {
                bytes.push(value);
                rest = &after[3..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_mount_at_a_place_counts() {
        let table = b"22 1 0:20 / /a\\040b rw,nosuid shared:1 master:2 - tmpfs tmpfs rw\n\
                      23 1 0:21 / /a\\040b rw - fuse.kstatefs kstatefs rw,user_id=0\n\
                      24 1 0:22 / /c rw - ext4 /dev/x rw\n";
        let entry = |kind: &str, minor| {
            let kind = kind.to_owned();
            Some(MountEntry { kind, minor })
        };
        assert_eq!(find_mount(table, b"/a b"), entry("fuse.kstatefs", 21));
        assert_eq!(find_mount(table, b"/c"), entry("ext4", 22));
        assert_eq!(find_mount(table, b"/d"), None);
    }

    #[test]
    fn what_cannot_be_mounted_on_says_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let absent = prepare(&directory.path().join("absent")).unwrap_err();
        assert!(absent.to_string().contains("mkdir -p"), "{absent}");
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(
            prepare(&file),
            Err(MountPointError::NotADirectory(_))
        ));
        assert!(matches!(
            prepare(&file.join("x")),
            Err(MountPointError::NotADirectory(_))
        ));
        let deep = directory.path().join("absent/deeper");
        assert!(matches!(prepare(&deep), Err(MountPointError::Absent(_))));
        let unmounted = unmount(directory.path(), Unmount::IfUnused);
        assert!(matches!(unmounted, Err(MountPointError::NotMounted(_))));
        assert_eq!(
            prepare(directory.path()).unwrap(),
            directory.path().canonicalize().unwrap()
        );
    }
}
