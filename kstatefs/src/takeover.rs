//! What a daemon that was killed leaves, and who has it next: the daemon that is started on the same mount
//! point, or nobody.
//!
//! A dead daemon's directory stays as long as its mount is there, which only a user removes or a later daemon
//! replaces.

mod restore;
mod subscribers;

use std::io;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use crate::backing::{Backing, Transport, parents};
use crate::fs::Origin;
use crate::holder;
use crate::ledger::{Head, Ledger, Model};
use crate::mountpoint;
use crate::namespace;
use crate::private::{PrivateDirectory, ours_in};

pub(crate) use restore::restore;
pub(crate) use subscribers::look_again;

/// Between two looks at those who had states open at a daemon before this one and have not returned.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// How long a directory stays whose mount is not there: somebody may be taking it over, and has detached
/// the dead mount but not mounted yet.
const BETWEEN_MOUNTS: Duration = Duration::from_secs(60);

/// How long somebody may look at what is left, or end.
const WHILE_LOCKED: Duration = Duration::from_secs(1);
/// Between two looks whether it is locked.
const PAUSE: Duration = Duration::from_millis(5);

/// What a dead daemon has left, locked.
#[derive(Debug)]
pub(crate) struct Left {
    directory: PrivateDirectory,
    model: Model,
}

impl Left {
    /// Opens it; `None` if nobody holds it any more, and it is gone.
    ///
    /// # Errors
    ///
    /// What the kernel says; it stays then.
    pub(crate) fn open(self) -> io::Result<Option<(Backing, Model)>> {
        let path = self.directory.path().to_owned();
        match Backing::adopt(self.directory, self.model.head.transport) {
            Ok(backing) => Ok(Some((backing, self.model))),
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ECONNREFUSED | libc::ENOENT)
                ) =>
            {
                tracing::warn!(
                    directory = %path.display(),
                    "the process that held the last daemon's states has ended, and they with it"
                );
                if let Some(directory) = PrivateDirectory::adopt(&path) {
                    directory.remove();
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// What a search has found.
#[derive(Debug)]
pub(crate) enum Search {
    Found(Box<Left>),
    /// Somebody else has it: a daemon that serves, one that ends, or one that only looks.
    Locked,
    Nothing,
}

/// What was left of the mount at `mount`, which no daemon serves, below one of the places for backing
/// files.
///
/// # Cost
///
/// A look at the ledger of each daemon of this user; up to a second where it is locked.
pub(crate) fn find(backing: Option<&Path>, mount: &Path) -> Option<Left> {
    let start = Instant::now();
    loop {
        match search(backing, mount) {
            Search::Found(left) => return Some(*left),
            Search::Locked if start.elapsed() < WHILE_LOCKED => std::thread::sleep(PAUSE),
            Search::Locked | Search::Nothing => return None,
        }
    }
}

/// As [`find`], at once and whoever serves the mount.
pub(crate) fn search(backing: Option<&Path>, mount: &Path) -> Search {
    let mut found = Search::Nothing;
    let Ok(here) = namespace::of_mounts() else {
        return found;
    };
    let is_it = |model: &Model| model.head.mount == mount && model.head.mount_namespace == here;
    for path in parents(backing).flat_map(|parent| ours_in(&parent)) {
        // Those without one are swept when a directory is made here.
        if !Ledger::is_in(&path) {
            continue;
        }
        let directory = PrivateDirectory::adopt(&path);
        match (directory, Ledger::look(&path)) {
            (Some(directory), Ok(model)) if is_it(&model) => {
                return Search::Found(Box::new(Left { directory, model }));
            }
            (None, Ok(model)) if is_it(&model) => found = Search::Locked,
            (Some(directory), Err(error)) if Ledger::is_in(&path) => {
                tracing::warn!(directory = %path.display(), %error, "ledger unreadable");
                holder::dismiss(&path);
                directory.set_aside();
            }
            _ => {}
        }
    }
    found
}

/// The beginning of a mount, noted in `directory` for a daemon to come.
///
/// # Errors
///
/// `ENOSPC`, and what else the kernel says.
pub(crate) fn begin(directory: &Path, mount: &Path, transport: Transport) -> io::Result<Origin> {
    let mut origin = Origin::fresh()?;
    let head = Head {
        mount: mount.to_owned(),
        mount_namespace: namespace::of_mounts()?,
        pid_namespace: namespace::of_pids()?,
        transport,
        mount_id: origin.mount_id,
        epoch: 0,
        clock: origin.clock,
        minors: Vec::new(),
        next_ino: 0,
        last_record: 0,
    };
    origin.ledger = Ledger::create(directory, head)?;
    Ok(origin)
}

/// The same of a mount that a dead daemon has noted there, which a new epoch begins for.
///
/// # Errors
///
/// What the kernel says.
pub(crate) fn resume(directory: &Path) -> io::Result<Origin> {
    let here = namespace::of_pids()?;
    let ledger = Ledger::resume(directory, |head| {
        head.epoch = head.epoch.wrapping_add(1);
        if head.pid_namespace != here {
            // Of no namespace: what is noted from now on is of another than what was.
            head.pid_namespace = 0;
        }
    })?;
    let origin = ledger.model(|model| (model.head.clock, model.head.mount_id));
    let (clock, mount_id) = origin.ok_or(io::ErrorKind::NotFound)?;
    Ok(Origin {
        clock,
        mount_id,
        ledger,
        is_left: true,
    })
}

/// Whether a dead daemon's directory is there for a daemon to come.
pub(crate) fn is_kept(directory: &Path) -> bool {
    if !Ledger::is_in(directory) {
        return false;
    }
    let Ok(model) = Ledger::look(directory) else {
        // Who looks for it sets it aside, and says so.
        return true;
    };
    let head = &model.head;
    match namespace::of_mounts() {
        Ok(here) if here == head.mount_namespace => {
            let is_mounted = mountpoint::is_mounted(&head.mount, &head.minors);
            is_mounted.unwrap_or(true) || is_recent(directory)
        }
        Ok(_) => namespace::has_mounts_for_somebody(head.mount_namespace),
        Err(_) => true,
    }
}

fn is_recent(directory: &Path) -> bool {
    let age = || -> io::Result<Duration> {
        let modified = Ledger::modified(directory)?;
        Ok(SystemTime::now()
            .duration_since(modified)
            .unwrap_or_default())
    };
    age().is_ok_and(|age| age < BETWEEN_MOUNTS)
}

/// Removes what a dead daemon has left of the mount at `mount`, which somebody has undone.
pub(crate) fn discard(mount: &Path) {
    // It may be at another place, which was named to the daemon and is not known here; there it goes when
    // the next directory is made.
    if let Search::Found(left) = search(None, mount) {
        holder::dismiss(left.directory.path());
        left.directory.remove();
    }
}
