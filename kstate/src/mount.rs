//! A mounted kstate file system.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use kstate_sys::abi::{ABI_VERSION, O_LIBRARY};
use kstate_sys::ioctl::call;
use kstate_sys::name::{NameError, StateName};

use crate::errno::{self, Refusal};
use crate::host::{self, HostError};
use crate::info::{self, Info, InfoError};
use crate::registry::Registry;
use crate::subscribe::Subscribe;

/// The environment variable that names the file system to use.
pub const MOUNT_VARIABLE: &str = "KSTATE_MOUNT";

/// The file by which a kstate file system is known, below its root.
const REGISTRY: &str = ".kstate/registry";

/// A mounted kstate file system that speaks this library's ABI version.
///
/// It holds no descriptor, so it keeps nobody from unmounting.
///
/// ```no_run
/// let mount = kstate::Mount::find()?;
/// for name in mount.names()? {
///     println!("{name}: {} bytes", mount.info(&name)?.length);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Mount {
    path: PathBuf,
    /// The file system's number, by which a later look at `path` sees that it is still mounted.
    device: u64,
}

/// Why a file system cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// There is no kstate file system.
    #[error(
        "no kstate file system is mounted at {path}; run `kstate mount {path}`, or name another \
         directory with --mount or $KSTATE_MOUNT",
        path = path.display()
    )]
    NotMounted {
        /// Where one was looked for.
        path: PathBuf,
    },
    /// The directory has a `.kstate/registry`, but no daemon behind it.
    #[error(
        "{path} has a file {REGISTRY} that no kstate daemon serves; mount kstate on an empty \
         directory",
        path = path.display()
    )]
    NotKstate {
        /// Where one was looked for.
        path: PathBuf,
    },
    /// The daemon is gone and its mount was left behind.
    #[error(
        "the daemon that served {path} has died; run `kstate mount {path}`, which replaces what \
         it left",
        path = path.display()
    )]
    DaemonDied {
        /// Where it was mounted.
        path: PathBuf,
    },
    /// The daemon is of another version.
    #[error(
        "the daemon at {path} speaks ABI version {daemon}, this program version {library}; run a \
         daemon and programs of one version",
        path = path.display()
    )]
    AbiVersion {
        /// Where it is mounted.
        path: PathBuf,
        /// The daemon's version.
        daemon: u32,
        /// This library's version.
        library: u32,
    },
    /// There is none, and the attempt to start one has failed.
    #[error("no kstate file system is mounted at {path}, and none was started: {source}", path = path.display())]
    Host {
        /// Where one was looked for.
        path: PathBuf,
        /// Why.
        source: Box<HostError>,
    },
    /// This user may not look there.
    #[error("{path} may not be entered by this user", path = path.display())]
    Denied {
        /// Where one was looked for.
        path: PathBuf,
    },
    /// What the kernel or the daemon said.
    #[error("cannot use the kstate file system at {path}: {source}", path = path.display())]
    Io {
        /// Where one was looked for.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
}

impl MountError {
    /// Whether it may be that one daemon has ended and the next is not there yet.
    pub(crate) fn may_come_back(&self) -> bool {
        matches!(self, Self::DaemonDied { .. } | Self::NotMounted { .. })
    }
}

/// Why a state was not deleted; it is unchanged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoveError {
    /// No state can have that name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The file system could not be used.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// There is none.
    #[error("there is no state `{name}` to delete; `kstate ls` shows those there are")]
    NotFound {
        /// Its name.
        name: StateName,
    },
    /// Another process is subscribed.
    #[error(
        "state `{name}` was not deleted, because other processes are subscribed to it; \
         `kstate stat {name}` counts them"
    )]
    Subscribed {
        /// Its name.
        name: StateName,
    },
    /// Not this user's to delete.
    #[error("state `{name}` was not deleted: only its owner and the mount's may")]
    Denied {
        /// Its name.
        name: StateName,
    },
    /// What the kernel or the daemon said.
    #[error("state `{name}` was not deleted: {source}")]
    Io {
        /// Its name.
        name: StateName,
        /// The operating system's error.
        source: io::Error,
    },
}

impl Mount {
    /// The file system that `$KSTATE_MOUNT` names, or the one at [`Mount::default_path`]; where there is none, one
    /// that is started, if this process [is to](crate::Host).
    ///
    /// # Errors
    ///
    /// As [`Mount::at`], and [`MountError::Host`].
    pub fn find() -> Result<Self, MountError> {
        let path = Self::place();
        match Self::at(&path) {
            Err(error) if error.may_come_back() => match host::start_where_absent(&path) {
                None => Err(error),
                Some(started) => started.map_err(|source| match source {
                    HostError::Mount(error) => error,
                    source => MountError::Host {
                        path,
                        source: Box::new(source),
                    },
                }),
            },
            found => found,
        }
    }

    /// Where [`Mount::find`] looks.
    pub(crate) fn place() -> PathBuf {
        match std::env::var_os(MOUNT_VARIABLE) {
            Some(path) if !path.is_empty() => path.into(),
            _ => Self::default_path(),
        }
    }

    /// Where kstate is mounted unless somebody says otherwise: `/run/kstate` for root,
    /// `$XDG_RUNTIME_DIR/kstate` for a user who has such a directory, `/run/kstate` for others.
    pub fn default_path() -> PathBuf {
        let system = PathBuf::from("/run/kstate");
        if nix::unistd::geteuid().is_root() {
            return system;
        }
        match std::env::var_os("XDG_RUNTIME_DIR") {
            Some(directory) if !directory.is_empty() => PathBuf::from(directory).join("kstate"),
            _ => system,
        }
    }

    /// The file system mounted at `path`.
    ///
    /// # Errors
    ///
    /// [`MountError`], which says what to do.
    ///
    /// # Cost
    ///
    /// An `open` and an ioctl, some 200 µs.
    pub fn at(path: impl AsRef<Path>) -> Result<Self, MountError> {
        let path = path.as_ref().to_owned();
        let registry = open_registry(&path)?;
        let mut daemon = 0;
        match call::version(&registry, &mut daemon) {
            Ok(()) if daemon == ABI_VERSION => {}
            Ok(()) => {
                return Err(MountError::AbiVersion {
                    path,
                    daemon,
                    library: ABI_VERSION,
                });
            }
            Err(error) if errno::refusal(&error) == Refusal::NotOurs => {
                return Err(MountError::NotKstate { path });
            }
            Err(error) => return Err(refused(&path, error)),
        }
        let device = registry
            .metadata()
            .map_err(|error| refused(&path, error))?
            .dev();
        Ok(Self { path, device })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Subscribes to the state `name`; see [`Subscribe`] for what can be asked.
    pub fn subscribe(&self, name: impl AsRef<str>) -> Subscribe {
        Subscribe::on(Ok(self.clone()), StateName::new(name.as_ref()))
    }

    /// The states there are, sorted by name.
    ///
    /// # Errors
    ///
    /// What the kernel says when the root directory is read.
    pub fn names(&self) -> io::Result<Vec<StateName>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            // What is no legal name, such as `.kstate`, is no state.
            if let Ok(name) = StateName::new(entry?.file_name().as_encoded_bytes()) {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// What the daemon knows of the state `name`. Asking counts as one more subscriber for as
    /// long as it takes.
    ///
    /// # Errors
    ///
    /// [`InfoError`].
    pub fn info(&self, name: impl AsRef<str>) -> Result<Info, InfoError> {
        let name = StateName::new(name.as_ref())?;
        let asked = open_for_library(&self.file(&name)).and_then(|file| info::ask(file.as_fd()));
        asked.map_err(|source| match errno::refusal(&source) {
            Refusal::NotFound => InfoError::NotFound { name },
            Refusal::DaemonDied => self.died().into(),
            Refusal::Denied => InfoError::Denied { name },
            _ => InfoError::Io { name, source },
        })
    }

    /// Deletes the state `name`, with its value.
    ///
    /// # Errors
    ///
    /// [`RemoveError`]; in particular [`RemoveError::Subscribed`] while another process is
    /// subscribed.
    pub fn remove(&self, name: impl AsRef<str>) -> Result<(), RemoveError> {
        let name = StateName::new(name.as_ref())?;
        std::fs::remove_file(self.file(&name)).map_err(|source| match errno::refusal(&source) {
            Refusal::NotFound => RemoveError::NotFound { name },
            Refusal::DaemonDied => self.died().into(),
            Refusal::Busy => RemoveError::Subscribed { name },
            Refusal::Denied => RemoveError::Denied { name },
            _ => RemoveError::Io { name, source },
        })
    }

    fn died(&self) -> MountError {
        MountError::DaemonDied {
            path: self.path.clone(),
        }
    }

    /// The file of a state. A legal name has no `/` and does not begin with a dot.
    pub(crate) fn file(&self, name: &StateName) -> PathBuf {
        self.path.join(name.as_str())
    }

    /// Whether the same file system is still mounted. Without this, creating a state after an
    /// unmount would leave an ordinary file in the directory underneath.
    pub(crate) fn check_mounted(&self) -> Result<(), MountError> {
        match std::fs::metadata(&self.path) {
            Ok(root) if root.dev() == self.device => Ok(()),
            // Another file system is there now; it will do if it is a kstate one.
            Ok(_) => Self::at(&self.path).map(drop),
            Err(error) => Err(refused(&self.path, error)),
        }
    }

    /// The registry page, to wait for creations.
    pub(crate) fn registry(&self) -> Result<Registry, MountError> {
        let file = open_registry(&self.path)?;
        Registry::map(file.as_fd()).map_err(|error| refused(&self.path, error))
    }
}

/// Which mount is at `root`, as its daemon says, and the number the kernel has for it.
pub(crate) fn identity(root: &Path) -> io::Result<(u64, u64)> {
    let registry = open_for_library(&root.join(REGISTRY))?;
    let mut id = 0;
    errno::uninterrupted(|| call::mount_id(&registry, &mut id))?;
    Ok((id, registry.metadata()?.dev()))
}

/// Opens something below `root`, where the mount `mount_id` is. That it is not there counts only if the mount was,
/// all the time: between two daemons there is nothing.
///
/// # Errors
///
/// That of `open`; [`errno::daemon_died`] and [`errno::replaced`] where that mount is not there.
pub(crate) fn open_below<R>(
    root: &Path,
    mount_id: u64,
    mut open: impl FnMut() -> io::Result<R>,
) -> io::Result<R> {
    let is_absent = |opened: &io::Result<R>| {
        let error = opened.as_ref().err().map(errno::refusal);
        matches!(error, Some(Refusal::NotFound | Refusal::NotDirectory))
    };
    let device = || match identity(root) {
        Ok((found, device)) if found == mount_id => Ok(device),
        Ok(_) => Err(errno::replaced()),
        Err(_) => Err(errno::daemon_died()),
    };
    let opened = open();
    if !is_absent(&opened) {
        return opened;
    }
    let before = device()?;
    let opened = open();
    match is_absent(&opened) && device()? != before {
        true => Err(errno::daemon_died()),
        false => opened,
    }
}

fn open_registry(path: &Path) -> Result<File, MountError> {
    open_for_library(&path.join(REGISTRY)).map_err(|error| refused(path, error))
}

fn open_for_library(path: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .custom_flags(O_LIBRARY)
        .open(path)
}

fn refused(path: &Path, source: io::Error) -> MountError {
    let path = path.to_owned();
    match errno::refusal(&source) {
        Refusal::NotFound | Refusal::NotDirectory => MountError::NotMounted { path },
        Refusal::DaemonDied => MountError::DaemonDied { path },
        Refusal::Denied => MountError::Denied { path },
        _ => MountError::Io { path, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_a_mount_is_refused_with_advice() {
        for path in ["/proc", "/nonexistent/kstate", "/etc/hostname"] {
            let error = Mount::at(path).unwrap_err();
            assert!(
                matches!(error, MountError::NotMounted { .. }),
                "{path}: {error:?}"
            );
            assert!(
                error.to_string().contains(&format!("kstate mount {path}")),
                "{error}"
            );
        }
    }
}
