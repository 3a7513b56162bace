//! Directories that belong to one daemon, and go with it however it ends.
//!
//! A daemon that is killed leaves its directory behind. A lock on a file in it, which ends with
//! the process, tells the next daemon that nobody is home. One with a ledger in it stays for a daemon that
//! takes over what is there; the others are removed.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::fcntl::{Flock, FlockArg};

use crate::holder;
use crate::ledger::Ledger;
use crate::takeover;

/// What directories of ours begin with.
const PREFIX: &str = "kstatefs-";
/// The locked file in each.
const LOCK: &str = "lock";

/// What one begins with that is set aside, which nobody looks at any more.
const ASIDE: &str = "damaged-";

/// A locked directory; removed with everything in it when dropped, unless it is left to others.
#[derive(Debug)]
pub(crate) struct PrivateDirectory {
    path: PathBuf,
    /// None once it is another daemon's.
    lock: Mutex<Option<Flock<File>>>,
    /// Whether it goes when it is dropped.
    owned: AtomicBool,
}

impl PrivateDirectory {
    /// Makes one in `parent`, after removing those there whose daemons are gone.
    ///
    /// # Errors
    ///
    /// What the kernel says, with the path.
    pub(crate) fn create(parent: &Path, mode: u32) -> io::Result<Self> {
        sweep(parent);
        let named = |error: io::Error| {
            io::Error::other(format!(
                "cannot make a directory in {}: {error}",
                parent.display()
            ))
        };
        loop {
            // By chance, so that nobody can have made it before.
            let mut chance = [0; 8];
            getrandom::fill(&mut chance).map_err(|error| named(io::Error::other(error)))?;
            let (pid, chance) = (std::process::id(), u64::from_le_bytes(chance));
            let path = parent.join(format!("{PREFIX}{pid}-{chance:016x}"));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {
                    let directory = lock(&path).map_err(named)?;
                    fs::set_permissions(&path, Permissions::from_mode(mode)).map_err(named)?;
                    return Ok(directory);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(named(error)),
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// That of a daemon which is gone, if nobody has it. It stays there unless it is [kept](Self::keep).
    pub(crate) fn adopt(path: &Path) -> Option<Self> {
        let file = open_lock(path)?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()?;
        // Somebody may have removed it, and even have made another one, since it was opened.
        let (locked, there) = (lock.metadata().ok()?, fs::metadata(path.join(LOCK)).ok()?);
        let is_it = (locked.dev(), locked.ino()) == (there.dev(), there.ino());
        is_it.then(|| Self {
            path: path.to_owned(),
            lock: Mutex::new(Some(lock)),
            owned: AtomicBool::new(false),
        })
    }

    /// From now on it goes when this is dropped.
    pub(crate) fn keep(&self) {
        self.owned.store(true, Ordering::Relaxed);
    }

    /// From now on it does not go when this is dropped.
    pub(crate) fn give_up(&self) {
        self.owned.store(false, Ordering::Relaxed);
    }

    /// Leaves it as it is, for another daemon.
    pub(crate) fn leave(&self) {
        self.give_up();
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Leaves it where nobody looks any more.
    pub(crate) fn set_aside(&self) {
        let Some(name) = self.path.file_name() else {
            return;
        };
        let aside = self
            .path
            .with_file_name(format!("{ASIDE}{}", name.display()));
        match fs::rename(&self.path, &aside) {
            Ok(()) => tracing::warn!(
                directory = %aside.display(),
                "set aside: what a dead daemon left cannot be read; remove it to have its memory back"
            ),
            Err(error) => {
                tracing::warn!(directory = %self.path.display(), %error, "left behind");
            }
        }
        self.leave();
    }

    /// Removes the directory and what is in it, unless it is left; again, nothing.
    pub(crate) fn remove(&self) {
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if lock.is_none() {
            return;
        }
        // First, so that nobody takes half of it over.
        Ledger::remove(&self.path);
        if let Err(error) = fs::remove_dir_all(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(directory = %self.path.display(), %error, "left behind");
        }
    }
}

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        if self.owned.load(Ordering::Relaxed) {
            self.remove();
        }
    }
}

/// The file gets its name once it is locked, so that a daemon that sweeps meanwhile never finds
/// it unlocked.
fn lock(directory: &Path) -> io::Result<PrivateDirectory> {
    let unnamed = directory.join("lock.new");
    let file = File::create_new(&unnamed)?;
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno)?;
    fs::rename(&unnamed, directory.join(LOCK))?;
    Ok(PrivateDirectory {
        path: directory.to_owned(),
        lock: Mutex::new(Some(lock)),
        owned: AtomicBool::new(true),
    })
}

fn open_lock(directory: &Path) -> Option<File> {
    let mut options = File::options();
    let options = options.read(true).custom_flags(libc::O_NOFOLLOW);
    options.open(directory.join(LOCK)).ok()
}

/// Removes directories of ours whose lock is free, but those that are kept for a daemon to come. What
/// cannot be looked at stays.
fn sweep(parent: &Path) {
    for path in ours_in(parent) {
        // Before it is locked, which could keep a daemon from what it takes over; and once more, as somebody
        // may have done that meanwhile.
        if !takeover::is_kept(&path)
            && let Some(directory) = PrivateDirectory::adopt(&path)
            && !takeover::is_kept(&path)
        {
            tracing::info!(directory = %path.display(), "removing a dead daemon's");
            holder::dismiss(&path);
            directory.remove();
        }
    }
}

/// The directories of daemons of this user below `parent`.
pub(crate) fn ours_in(parent: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let ours = nix::unistd::geteuid().as_raw();
    let entries = fs::read_dir(parent).into_iter().flatten();
    let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
    paths.filter(move |path| {
        // The name first: what else is in there may be a mount that nobody serves, at which a
        // look would not come back.
        let is_named = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(PREFIX.as_bytes()));
        // Not followed: in a directory that anybody may write, a link could lead anywhere.
        let is_ours =
            || fs::symlink_metadata(path).is_ok_and(|found| found.is_dir() && found.uid() == ours);
        is_named && is_ours()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_living_keep_theirs_and_the_dead_are_swept() {
        let parent = tempfile::tempdir().unwrap();
        let living = PrivateDirectory::create(parent.path(), 0o700).unwrap();
        let dead = parent.path().join("kstatefs-1-0");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join(LOCK), "").unwrap();
        let foreign = parent.path().join("other");
        fs::create_dir(&foreign).unwrap();
        let second = PrivateDirectory::create(parent.path(), 0o700).unwrap();
        assert!(living.path().exists() && second.path().exists() && foreign.exists());
        assert!(!dead.exists());
        let path = second.path().to_owned();
        drop(second);
        assert!(!path.exists());
    }
    #[test]
    fn nobody_makes_a_name_before_it_is_chosen() {
        let parent = tempfile::tempdir().unwrap();
        let pid = std::process::id();
        for number in 0..1000 {
            fs::create_dir(parent.path().join(format!("{PREFIX}{pid}-{number}"))).unwrap();
        }
        PrivateDirectory::create(parent.path(), 0o700).unwrap();
    }
}
