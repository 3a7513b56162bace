//! The directory to mount on: what is there already, and how it is freed.

mod table;

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::mount::{MntFlags, umount2};

use crate::takeover;

use self::table::{MountEntry, MountTable};
use crate::service::ServiceManager;

/// The file system type in the mount table.
pub(crate) const FILE_SYSTEM_TYPE: &str = "fuse.kstatefs";

/// How long a daemon may take to say that it is there.
const TIME_TO_ANSWER: Duration = Duration::from_secs(2);

/// How many symbolic links are followed one after the other, as the kernel does.
const MAX_LINKS: usize = 40;

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
    /// A file system of ours is mounted there whose daemon is stopped, or hangs.
    #[error(
        "{0}: a kstate file system is mounted there whose daemon does not answer; let it go on, or \
         end it and detach what it leaves: kstate umount --lazy {0}"
    )]
    Silent(PathBuf),
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
    /// One of ours is mounted there, and something else over it.
    #[error(
        "{0}: another file system is mounted over the kstate file system there, which cannot be \
         reached; unmount that one (umount {0}), then: kstate umount {0}"
    )]
    Covered(PathBuf),
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
///
/// # Cost
///
/// Two seconds where the daemon of a mount that is there does not answer.
pub fn prepare(path: &Path) -> Result<PathBuf, MountPointError> {
    let path = resolve(path)?;
    let cannot_look = |path, source| MountPointError::System {
        path,
        doing: "cannot look at it",
        source,
    };
    if examine(&path)? {
        tracing::info!(path = %path.display(), "replacing the mount of a daemon that is gone");
        // Lazily: open files of the dead mount hold it, and nothing else ever frees it.
        detach(&path, Unmount::Lazy)?;
        // There may be another below.
        return prepare(&path);
    }
    match std::fs::metadata(&path) {
        Ok(found) if found.is_dir() => Ok(path),
        Ok(_) => Err(MountPointError::NotADirectory(path)),
        Err(error) => Err(match (error.kind(), mounted_type(&path)?) {
            (_, Some(kind)) if is_dead(&error) => MountPointError::DeadForeign { path, kind },
            (io::ErrorKind::NotFound, _) => MountPointError::Absent(path),
            (io::ErrorKind::NotADirectory, _) => MountPointError::NotADirectory(path),
            _ => cannot_look(path, error),
        }),
    }
}

/// Whether a kstate file system that nobody serves is mounted at `path`.
///
/// # Errors
///
/// [`MountPointError`] where somebody serves one, or seems to.
pub(crate) fn examine(path: &Path) -> Result<bool, MountPointError> {
    if !is_ours(path)? {
        return Ok(false);
    }
    let path = path.to_owned();
    match look(&path) {
        None => Err(MountPointError::Silent(path)),
        Some(Ok(())) => Err(MountPointError::Busy(path)),
        Some(Err(error)) if is_dead(&error) => Ok(true),
        Some(Err(source)) => Err(MountPointError::System {
            path,
            doing: "cannot look at it",
            source,
        }),
    }
}

/// Whether nobody serves a file system any more, as a look at it says.
pub(crate) fn is_dead(error: &io::Error) -> bool {
    // Aborted: the daemon died while it was asked.
    matches!(
        error.raw_os_error(),
        Some(libc::ENOTCONN | libc::ECONNABORTED)
    )
}

/// Looks at a mount, from a thread that is left behind where nobody answers. What its directory is like
/// the kernel may know from before; how much room there is it asks the daemon each time.
fn look(path: &Path) -> Option<io::Result<()>> {
    let (sender, answer) = mpsc::sync_channel(1);
    let theirs = path.to_owned();
    let looking = thread::Builder::new()
        .name("kstate-look".into())
        .spawn(move || {
            // Who asked may have lost patience.
            let looked = nix::sys::statvfs::statvfs(&theirs);
            let _ = sender.send(looked.map(|_| ()).map_err(io::Error::from));
        });
    let looking = match looking {
        Ok(looking) => looking,
        Err(error) => return Some(Err(error)),
    };
    let answer = answer.recv_timeout(TIME_TO_ANSWER).ok()?;
    // Gone before signals are blocked in the threads that there will be.
    let _ = looking.join();
    Some(answer)
}

/// Unmounts the kstate file system at `path`, without asking its daemon anything.
///
/// # Errors
///
/// [`MountPointError::NotMounted`], [`MountPointError::Covered`], [`MountPointError::InUse`], or
/// what the kernel says.
pub fn unmount(path: &Path, how: Unmount) -> Result<(), MountPointError> {
    let path = resolve(path)?;
    if !is_ours(&path)? {
        let is_below = table(&path)?.ours_at(&path).next().is_some();
        return Err(match is_below {
            true => MountPointError::Covered(path),
            false => MountPointError::NotMounted(path),
        });
    }
    detach(&path, how)?;
    // Of a daemon that lives nobody else can have it; it removes it itself.
    takeover::discard(&path);
    Ok(())
}

/// Cuts the connection of the kstate file system with that device number at `path`, which stays mounted.
///
/// # Errors
///
/// `EBUSY` when it is not the uppermost there, and what the kernel says.
pub(crate) fn cut(path: &Path, minor: u64) -> io::Result<()> {
    let is_it = || connection(path).is_ok_and(|found| found == Some(minor));
    if !is_it() {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    // Held, so that it is not unmounted: the kernel cuts first and looks whether it is in use then
    // (fs/namespace.c, do_umount). Such an open asks the daemon nothing.
    let flags = nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_DIRECTORY;
    let flags = flags | nix::fcntl::OFlag::O_CLOEXEC;
    let _held = nix::fcntl::open(path, flags, nix::sys::stat::Mode::empty())?;
    match umount2(path, MntFlags::MNT_FORCE) {
        Err(nix::errno::Errno::EBUSY) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether a daemon serves a kstate file system at `path`.
///
/// # Errors
///
/// `/proc` cannot be read.
pub(crate) fn is_served(path: &Path) -> Result<bool, MountPointError> {
    Ok(is_ours(path)? && matches!(look(path), Some(Ok(()))))
}

/// Whether a kstate file system with one of these device numbers, or any, is mounted at `path`.
///
/// # Errors
///
/// `/proc` cannot be read.
pub(crate) fn is_mounted(path: &Path, minors: Option<&[u64]>) -> Result<bool, MountPointError> {
    let table = table(path)?;
    Ok(table
        .ours_at(path)
        .any(|entry| minors.is_none_or(|minors| minors.contains(&entry.minor))))
}

/// Unmounts the kstate file system with that device number from every place it is at, though
/// programs use it. `path` is where it was mounted first.
///
/// The number is another file system's as soon as this one is gone, and so may the path be. What
/// the mount table says counts only if `is_connected` holds afterwards: the kernel ends a connection
/// before it frees the number (fs/fuse/inode.c, fuse_kill_sb_anon).
///
/// # Errors
///
/// [`MountPointError::Covered`], or what the kernel says, of the first place where it stays; it is
/// gone from all others where that can be.
pub(crate) fn unmount_device(
    path: &Path,
    minor: u64,
    is_connected: impl Fn() -> bool,
) -> Result<(), MountPointError> {
    let table = table(path)?;
    if !is_connected() {
        return detach_dead(path);
    }
    let mut outcome = Ok(());
    for place in table.places_of(minor) {
        outcome = outcome.and(detach_device(place, minor, &is_connected));
    }
    outcome
}

/// Unmounts the kstate file system with that device number, mounted at `path` and nowhere else, if nobody uses
/// it; whether it did.
///
/// # Errors
///
/// `/proc` cannot be read, or what the kernel says but `EBUSY`.
pub(crate) fn unmount_unused(path: &Path, minor: u64) -> Result<bool, MountPointError> {
    let table = table(path)?;
    if !table.places_of(minor).eq([path]) || connection(path)? != Some(minor) {
        return Ok(false);
    }
    match detach(path, Unmount::IfUnused) {
        Ok(()) => Ok(true),
        Err(MountPointError::InUse(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes what is left at `path` of a connection that was cut and not unmounted.
fn detach_dead(path: &Path) -> Result<(), MountPointError> {
    match is_ours(path)? && matches!(look(path), Some(Err(error)) if is_dead(&error)) {
        true => detach(path, Unmount::Lazy),
        false => Ok(()),
    }
}

fn detach_device(
    place: &Path,
    minor: u64,
    is_connected: impl Fn() -> bool,
) -> Result<(), MountPointError> {
    let is_it = |entry: &MountEntry| entry.is_ours() && entry.minor == minor;
    let is_there = || {
        let is_listed = table(place)?.ours_at(place).any(is_it);
        Ok::<_, MountPointError>(is_listed && is_connected())
    };
    let is_uppermost = mounted(place)?.is_some_and(|entry| is_it(&entry));
    // If not, somebody else has unmounted it.
    if !is_there()? {
        return Ok(());
    }
    let covered = || Err(MountPointError::Covered(place.to_owned()));
    if !is_uppermost {
        return covered();
    }
    let detached = match detach(place, Unmount::IfUnused) {
        Err(MountPointError::InUse(_)) => detach(place, Unmount::Lazy),
        other => other,
    };
    match detached {
        Err(_) if !is_there()? => Ok(()),
        // A directory above it is covered, so that the path leads elsewhere.
        Err(MountPointError::System { source, .. })
            if matches!(source.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) =>
        {
            covered()
        }
        other => other,
    }
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
            ServiceManager::hide_from(&mut command).args(["-u", "-q"]);
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

/// The path with its symbolic links resolved. A kstate file system that is mounted there is not
/// looked at: its daemon may be dead, or not answer.
pub(crate) fn resolve(path: &Path) -> Result<PathBuf, MountPointError> {
    let system = |source| MountPointError::System {
        path: path.to_owned(),
        doing: "cannot look at it",
        source,
    };
    let mut path = std::path::absolute(path).map_err(system)?;
    for _ in 0..MAX_LINKS {
        if let Some(entry) = mounted(&path)?.filter(MountEntry::is_ours) {
            return Ok(entry.point);
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return path.canonicalize().map_err(system);
        };
        let parent = match parent.canonicalize() {
            Ok(parent) => parent,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(MountPointError::Absent(path));
            }
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Err(MountPointError::NotADirectory(path));
            }
            Err(error) => return Err(system(error)),
        };
        let resolved = parent.join(name);
        if is_ours(&resolved)? {
            return Ok(resolved);
        }
        // A symbolic link to a directory is followed, as mount(8) does.
        match std::fs::read_link(&resolved) {
            Ok(target) => path = parent.join(target),
            Err(_) => return Ok(resolved),
        }
    }
    Err(system(io::Error::from_raw_os_error(libc::ELOOP)))
}

/// The type of what is mounted exactly at `path`, if anything is.
///
/// # Errors
///
/// `/proc` cannot be read.
pub fn mounted_type(path: &Path) -> Result<Option<String>, MountPointError> {
    Ok(mounted(path)?.map(|entry| entry.kind))
}

/// The kernel's name of the connection behind the kstate file system at `path`, if there is one.
/// Nothing there is touched.
pub(crate) fn connection(path: &Path) -> Result<Option<u64>, MountPointError> {
    let entry = mounted(path)?.filter(MountEntry::is_ours);
    Ok(entry.map(|entry| entry.minor))
}

fn mounted(path: &Path) -> Result<Option<MountEntry>, MountPointError> {
    Ok(table(path)?.at(path).cloned())
}

fn is_ours(path: &Path) -> Result<bool, MountPointError> {
    Ok(table(path)?.at(path).is_some_and(MountEntry::is_ours))
}

fn table(path: &Path) -> Result<MountTable, MountPointError> {
    MountTable::read().map_err(|source| MountPointError::System {
        path: path.to_owned(),
        doing: "cannot read /proc/self/mountinfo",
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
