//! Where the demo mounts: a directory of its own, in whatever way this user can.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};
use tempfile::TempDir;

use crate::doctor::Mounting;
use kstatefs::mountpoint::{self, Unmount};

/// The demo's own directories, taken away when this is dropped, with whatever is still mounted
/// there or was left by a daemon that was killed.
#[derive(Debug)]
pub(super) struct Place {
    above: PathBuf,
    /// On a tmpfs, for the regions; nothing where the daemon has to find a place for itself.
    backing: Option<TempDir>,
}

impl Place {
    /// Makes them below the directory for temporary files, and in `/dev/shm`.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub(super) fn make() -> io::Result<Self> {
        let above = named().tempdir()?.keep();
        let place = Self {
            above,
            backing: named().tempdir_in("/dev/shm").ok(),
        };
        fs::create_dir(place.directory())?;
        fs::create_dir(place.run())?;
        Ok(place)
    }

    /// Where to mount.
    pub(super) fn directory(&self) -> PathBuf {
        self.above.join("states")
    }

    /// Where the daemon may keep its socket.
    pub(super) fn run(&self) -> PathBuf {
        self.above.join("run")
    }

    /// Where the daemon may keep regions.
    pub(super) fn backing(&self) -> Option<&Path> {
        self.backing.as_ref().map(TempDir::path)
    }
}

fn named() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("kstate-demo-");
    builder
}

impl Drop for Place {
    fn drop(&mut self) {
        // Nothing is mounted there unless the daemon was killed.
        let _ = mountpoint::unmount(&self.directory(), Unmount::Lazy);
        // Where something is mounted in spite of that, nothing is deleted.
        if fs::remove_dir(self.directory()).is_ok() {
            let _ = fs::remove_dir_all(&self.above);
        }
    }
}

/// Gets ready for a way of mounting. To be called before any thread is started.
///
/// # Errors
///
/// The kernel refuses a namespace.
pub(super) fn prepare(way: Mounting) -> io::Result<()> {
    match way {
        Mounting::UserNamespace => enter_namespace(),
        Mounting::Direct | Mounting::Fusermount | Mounting::Impossible(_) => Ok(()),
    }
}

/// Makes this process root in a user namespace of its own, with a mount namespace in which it may
/// mount. All its children are in it, nobody else is.
fn enter_namespace() -> io::Result<()> {
    let (user, group) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
    // A group may be mapped without privilege only once setgroups(2) is given up
    // (user_namespaces(7)).
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))?;
    // Nothing mounted here shall appear outside.
    let none: Option<&Path> = None;
    Ok(mount(
        none,
        "/",
        none,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        none,
    )?)
}
