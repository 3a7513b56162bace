//! Directories that belong to one daemon, and go with it however it ends.
//!
//! A daemon that is killed leaves its directory behind. A lock on a file in it, which ends with
//! the process, tells the next daemon that nobody is home.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

/// What directories of ours begin with.
const PREFIX: &str = "kstatefs-";
/// The locked file in each.
const LOCK: &str = "lock";

/// A locked directory; removed with everything in it when dropped.
#[derive(Debug)]
pub(crate) struct PrivateDirectory {
    path: PathBuf,
    _lock: Flock<File>,
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
        for attempt in 0..1000 {
            let path = parent.join(format!("{PREFIX}{}-{attempt}", std::process::id()));
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
        Err(named(io::Error::other(
            "a thousand of ours are there already",
        )))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the directory and what is in it; again, nothing.
    pub(crate) fn remove(&self) {
        if let Err(error) = fs::remove_dir_all(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(directory = %self.path.display(), %error, "left behind");
        }
    }
}

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        self.remove();
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
        _lock: lock,
    })
}

/// Removes directories of ours whose lock is free. What cannot be looked at stays.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    let ours = nix::unistd::geteuid().as_raw();
    for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        // The name first: what else is in there may be a mount that nobody serves, at which a
        // look would not come back.
        let is_named = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(PREFIX.as_bytes()));
        // Not followed: in a directory that anybody may write, a link could lead anywhere.
        let is_ours =
            || fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir() && found.uid() == ours);
        if !is_named || !is_ours() {
            continue;
        }
        let Ok(file) = File::open(path.join(LOCK)) else {
            continue;
        };
        if Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok() {
            match fs::remove_dir_all(&path) {
                Ok(()) => tracing::info!(directory = %path.display(), "removed a dead daemon's"),
                Err(error) => {
                    tracing::warn!(directory = %path.display(), %error, "left behind");
                }
            }
        }
    }
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
}
