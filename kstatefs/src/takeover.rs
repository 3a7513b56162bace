//! What a daemon that was killed leaves, and who has it next: the daemon that is started on the same mount
//! point, or nobody.
//!
//! A dead daemon's directory stays as long as its mount is there, which only a user removes or a later daemon
//! replaces.

mod restore;
mod subscribers;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use crate::backing::{Backing, Transport, parents};
use crate::fs::Origin;
use crate::holder;
use crate::ledger::{self, Head, Ledger, Model};
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

/// How long somebody may hold what is left of a mount that is there.
const WHILE_LOCKED: Duration = Duration::from_secs(10);
/// How long a daemon may take to end whose mount is not there.
const WHILE_ENDING: Duration = Duration::from_secs(1);
/// Between two looks whether it is locked.
const PAUSE: Duration = Duration::from_millis(5);

/// What a dead daemon has left, locked.
#[derive(Debug)]
pub(crate) struct Left {
    directory: PrivateDirectory,
    model: Model,
}

impl Left {
    /// How programs have its regions.
    pub(crate) fn transport(&self) -> Transport {
        self.model.head.transport
    }

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
    /// Somebody else has this: a daemon that serves, one that ends, or one that only looks.
    Locked(PathBuf),
    Nothing,
}

/// What was left of the mount at `mount`, which no daemon serves, below one of the places for backing
/// files.
///
/// # Errors
///
/// It is there and cannot be had: somebody holds it, it is of another version, or what the kernel says.
///
/// # Cost
///
/// A look at the ledger of each daemon of this user; up to ten seconds where this one's is locked.
pub(crate) fn find(backing: Option<&Path>, mount: &Path) -> io::Result<Option<Left>> {
    let start = Instant::now();
    loop {
        let directory = match search(backing, mount)? {
            Search::Found(left) => return Ok(Some(*left)),
            Search::Nothing => return Ok(None),
            Search::Locked(directory) => directory,
        };
        if start.elapsed() >= WHILE_ENDING && !has_dead_mount(&directory) {
            // Of a daemon that serves a mount which was detached, and nobody else can reach.
            return Ok(None);
        }
        if start.elapsed() >= WHILE_LOCKED {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!(
                    "somebody holds what the last daemon has left of this mount: {}",
                    directory.display()
                ),
            ));
        }
        std::thread::sleep(PAUSE);
    }
}

/// As [`find`], at once and whoever serves the mount.
///
/// # Errors
///
/// As there.
pub(crate) fn search(backing: Option<&Path>, mount: &Path) -> io::Result<Search> {
    let mut found = Search::Nothing;
    for path in candidates(backing, mount)? {
        // Locked only now that it is known to be of this mount: who looks is in nobody's way.
        let Some(directory) = PrivateDirectory::adopt(&path) else {
            found = Search::Locked(path);
            continue;
        };
        match read(&path, mount) {
            Ok(Some(model)) => return Ok(Search::Found(Box::new(Left { directory, model }))),
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::error!(directory = %path.display(), %error, "what the last daemon noted cannot be read");
                holder::dismiss(&path);
                directory.set_aside();
            }
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// What the daemon that serves the mount at `mount` under this minor device number has noted, if it could be taken
/// over from here when it ends. Nothing is locked.
///
/// # Errors
///
/// `NotFound` when it keeps that elsewhere, is another user's or of another mount namespace; it is of another
/// version, or what the kernel says.
pub(crate) fn examine(backing: Option<&Path>, mount: &Path, minor: u64) -> io::Result<Model> {
    let mut found = Err(io::Error::new(
        io::ErrorKind::NotFound,
        "what it keeps is not found",
    ));
    for path in candidates(backing, mount)? {
        match read(&path, mount) {
            Ok(Some(model)) if model.head.minors.last() == Some(&minor) => return Ok(model),
            Err(error) => found = Err(error),
            Ok(_) => {}
        }
    }
    found
}

/// The directories whose ledgers say that they are of this mount, in whatever version. Others are left alone, and
/// so is what does not say whose it is.
fn candidates(backing: Option<&Path>, mount: &Path) -> io::Result<impl Iterator<Item = PathBuf>> {
    let here = namespace::of_mounts()?;
    let is_it =
        move |path: &PathBuf| Ledger::label(path).is_ok_and(|label| label.names(mount, here));
    let all = parents(backing).flat_map(|parent| ours_in(&parent));
    Ok(all.filter(is_it))
}

/// What is noted there; `None` for what has gone, or is left of another version and not awaited any more.
fn read(directory: &Path, mount: &Path) -> io::Result<Option<Model>> {
    let is_gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    match Ledger::label(directory) {
        Ok(label) if label.version == ledger::VERSION => {}
        Ok(_) if is_kept(directory) => return Err(other_version(mount)),
        Ok(_) => return Ok(None),
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(error),
    }
    match Ledger::look(directory) {
        Ok(model) => Ok(Some(model)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn other_version(mount: &Path) -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        format!(
            "it was left by another version of kstatefs; run that one, or give the states up: kstate \
             umount {}",
            mount.display()
        ),
    )
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

/// Keeps what is there for a minute after the mount that it is of has gone.
///
/// # Errors
///
/// What the kernel says.
pub(crate) fn touch(directory: &Path) -> io::Result<()> {
    Ledger::touch(directory)
}

/// Whether a dead daemon's directory is there for a daemon to come.
pub(crate) fn is_kept(directory: &Path) -> bool {
    if !Ledger::is_in(directory) {
        return false;
    }
    let Ok(label) = Ledger::label(directory) else {
        // Whose it is nobody knows, nor whether that one comes.
        return true;
    };
    match namespace::of_mounts() {
        Ok(here) if here == label.mount_namespace => {
            has_dead_mount(directory) || is_recent(directory)
        }
        Ok(_) => namespace::has_mounts_for_somebody(label.mount_namespace),
        Err(_) => true,
    }
}

/// Whether the mount that it is of is in the table, or may be.
fn has_dead_mount(directory: &Path) -> bool {
    let is_mounted = match (Ledger::label(directory), Ledger::look(directory)) {
        (Err(_), _) => return true,
        (_, Ok(model)) => mountpoint::is_mounted(&model.head.mount, Some(&model.head.minors)),
        // Under which device number is known to who can read it.
        (Ok(label), Err(_)) => mountpoint::is_mounted(&label.mount, None),
    };
    is_mounted.unwrap_or(true)
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
    for path in candidates(None, mount).into_iter().flatten() {
        if let Some(directory) = PrivateDirectory::adopt(&path) {
            holder::dismiss(&path);
            directory.remove();
        }
    }
}
