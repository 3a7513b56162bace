//! One daemon at a time makes itself a mount point's: who comes second finds what the first has mounted.
//!
//! The lock is a file outside the mount, that is there only while it is held.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

/// How long a daemon may take to begin. It is a look at a mount that does not answer, two seconds, and then
/// some hundredths.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between two looks at a lock that another daemon has.
const PAUSE: Duration = Duration::from_millis(5);

/// The right to mount at a place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Gate {
    /// None where no place for a lock is to be had.
    held: Option<(PathBuf, Flock<File>)>,
}

impl Gate {
    /// Waits until no other daemon of this user is about to mount at `mount`.
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT` when one is for longer than it takes.
    pub(crate) fn enter(mount: &Path) -> io::Result<Self> {
        let user = nix::unistd::geteuid();
        // By a number, since the path may be longer than a name can be. Of two paths with the same number one
        // waits in vain, for a moment.
        let number = crc32c::crc32c(mount.as_os_str().as_bytes());
        let name = format!("kstate-mount-{user}-{number:08x}.lock");
        for place in places() {
            match Self::enter_in(&place.join(&name), user.as_raw()) {
                Ok(held) => return Ok(Self { held: Some(held) }),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(error),
                // It may not be written to, or somebody else has made such a file, who must not be able to
                // keep us from mounting.
                Err(_) => {}
            }
        }
        tracing::debug!("no place for a lock of the mount point");
        Ok(Self { held: None })
    }

    fn enter_in(path: &Path, user: u32) -> io::Result<(PathBuf, Flock<File>)> {
        let start = Instant::now();
        loop {
            let mut options = File::options();
            let options = options.read(true).write(true).create(true).truncate(false);
            let options = options.mode(0o600).custom_flags(libc::O_NOFOLLOW);
            let file = options.open(path)?;
            if file.metadata()?.uid() != user {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            if let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                // Whoever had it has removed it.
                let is_there = std::fs::symlink_metadata(path)
                    .is_ok_and(|there| lock.metadata().is_ok_and(|l| l.ino() == there.ino()));
                if is_there {
                    return Ok((path.to_owned(), lock));
                }
            } else {
                std::thread::sleep(PAUSE);
            }
            if start.elapsed() >= PATIENCE {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if let Some((path, lock)) = self.held.take() {
            // Before it is unlocked: who opens it from now on has another one.
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::debug!(path = %path.display(), %error, "lock left behind");
            }
            drop(lock);
        }
    }
}

/// Where a lock may be, the same for each daemon of this user; those of which nobody else can make files come
/// first.
fn places() -> impl Iterator<Item = PathBuf> {
    let user = nix::unistd::geteuid();
    let root = user.is_root().then(|| "/run".into());
    let own = format!("/run/user/{user}").into();
    let shared = ["/dev/shm".into(), std::env::temp_dir()];
    root.into_iter().chain([own]).chain(shared)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_is_let_in_and_no_file_stays() {
        let mount = tempfile::tempdir().unwrap();
        let inside = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let gate = Gate::enter(mount.path()).unwrap();
                        let before = inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        assert_eq!(before, 0);
                        inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        drop(gate);
                    }
                });
            }
        });
        let gate = Gate::enter(mount.path()).unwrap();
        let (path, _) = gate.held.as_ref().unwrap();
        let path = path.clone();
        assert!(path.exists());
        drop(gate);
        assert!(!path.exists());
    }
}
