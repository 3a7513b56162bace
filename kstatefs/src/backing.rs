//! Where the bytes of regions live: a file on tmpfs each, or a sealed memfd each.
//!
//! With passthrough the kernel maps the backing file itself when a program maps the state, so the
//! file must be one that `mmap` shares: tmpfs. Without passthrough programs get the descriptor of
//! a memfd over the daemon's socket, sealed so that nobody can cut it short under a reader. Files outlive
//! a daemon that is killed; memfds do in a process that holds them (`holder.rs`).

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use kstate_sys::abi::Geometry;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use crate::descriptors;
use crate::holder::{Held, Holder, Regions};
use crate::private::PrivateDirectory;

/// How programs get at a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// By mapping the state's own descriptor.
    Passthrough,
    /// By a descriptor passed over the daemon's socket.
    Socket,
}

/// The daemon's private directory of region files; removed with everything in it when dropped, unless it
/// is left to another daemon.
#[derive(Debug)]
pub(crate) struct Backing {
    directory: PrivateDirectory,
    /// Whether what is there stays when this daemon ends.
    left: Arc<AtomicBool>,
    /// Holds memfds when this daemon is killed.
    holder: OnceLock<Arc<Holder>>,
    /// What it held when it was found, and nobody has asked for yet.
    inherited: Mutex<Regions>,
}

/// The bytes of one region.
#[derive(Debug)]
pub(crate) enum RegionFile {
    /// A file of the backing directory, opened when needed, so that ten thousand states do not
    /// hold ten thousand descriptors.
    Tmpfs {
        path: PathBuf,
        /// Whether it stays.
        left: Arc<AtomicBool>,
    },
    /// A memfd, which lives as long as a descriptor of it.
    Memfd {
        memfd: OwnedFd,
        /// The one that is held elsewhere.
        held: Option<Held>,
        /// Whether it stays there.
        left: Arc<AtomicBool>,
    },
}

/// The directories tried for region files, in this order.
const CANDIDATES: [&str; 3] = ["/dev/shm", "/run/shm", "/run"];

impl Backing {
    /// Makes a private directory below `parent`, or below the first tmpfs found.
    ///
    /// # Errors
    ///
    /// No tmpfs, or no right to make a directory there; the message says what to do.
    pub(crate) fn create(parent: Option<&Path>) -> io::Result<Self> {
        let parent = match parent {
            Some(parent) if named_tmpfs(parent)? => parent.to_owned(),
            Some(parent) => {
                return Err(io::Error::other(format!(
                    "{} is not on a tmpfs; give --backing a directory that is, such as /dev/shm",
                    parent.display()
                )));
            }
            None => parents(None).next().ok_or_else(|| {
                io::Error::other(
                    "none of /dev/shm, /run/shm and /run is a tmpfs; mount one and name it with \
                     --backing",
                )
            })?,
        };
        let directory = PrivateDirectory::create(&parent, 0o700).map_err(|error| {
            io::Error::other(format!("{error}; name another tmpfs with --backing"))
        })?;
        Ok(Self {
            directory,
            left: Arc::new(AtomicBool::new(false)),
            holder: OnceLock::new(),
            inherited: Mutex::default(),
        })
    }

    /// What a dead daemon has left in `directory`. It stays there until it is [kept](Self::keep).
    ///
    /// # Errors
    ///
    /// `ECONNREFUSED` and `ENOENT` when nobody holds its memfds any more; what else the kernel says.
    pub(crate) fn adopt(directory: PrivateDirectory, transport: Transport) -> io::Result<Self> {
        let (holder, inherited) = match transport {
            Transport::Passthrough => (OnceLock::new(), Regions::new()),
            Transport::Socket => {
                let (holder, regions) = Holder::connect(directory.path())?;
                (OnceLock::from(holder), regions)
            }
        };
        Ok(Self {
            directory,
            left: Arc::new(AtomicBool::new(true)),
            holder,
            inherited: Mutex::new(inherited),
        })
    }

    /// Has memfds that are made from now on outlive this daemon, unless they do already.
    ///
    /// # Errors
    ///
    /// As [`Holder::start`].
    pub(crate) fn start_holder(&self) -> io::Result<()> {
        if self.holder.get().is_none() {
            let holder = Holder::start(self.directory())?;
            // Nobody else sets it.
            let _ = self.holder.set(Arc::new(holder));
        }
        Ok(())
    }

    /// Tells who holds memfds where the mount is.
    pub(crate) fn mounted(&self, minor: u64) {
        if let Some(holder) = self.holder.get() {
            holder.mounted(minor);
        }
    }

    /// From now on what is here goes with this daemon.
    pub(crate) fn keep(&self) {
        self.left.store(false, Ordering::Relaxed);
        self.directory.keep();
    }

    /// Leaves what is here to another daemon, which can have it when this one ends or has [unlocked](Self::unlock)
    /// it.
    pub(crate) fn leave(&self) {
        self.left.store(true, Ordering::Relaxed);
        self.directory.give_up();
    }

    /// Lets another daemon have it now.
    pub(crate) fn unlock(&self) {
        self.directory.leave();
    }

    /// The private directory.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The file of `length` bytes that a dead daemon has left for the number `ino`.
    ///
    /// # Errors
    ///
    /// `ENOENT`; `InvalidData` for one of another length.
    pub(crate) fn inherit(
        &self,
        ino: u64,
        length: usize,
        transport: Transport,
    ) -> io::Result<RegionFile> {
        let file = match transport {
            Transport::Passthrough => self.tmpfs(ino),
            Transport::Socket => {
                let (memfd, held) = self.inherited_regions().remove(&ino).ok_or_else(|| {
                    io::Error::new(io::ErrorKind::NotFound, "nobody holds its memfd")
                })?;
                self.memfd(memfd, Some(held))
            }
        };
        let found = file.with(|fd| Ok(nix::sys::stat::fstat(fd)?.st_size))?;
        match u64::try_from(found) == Ok(length as u64) {
            true => Ok(file),
            false => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// That of a state's region.
    ///
    /// # Errors
    ///
    /// As [`Backing::inherit`].
    pub(crate) fn inherit_region(&self, ino: u64, transport: Transport) -> io::Result<RegionFile> {
        self.inherit(ino, Geometry::of_this_machine().region_len(), transport)
    }

    /// Removes a file that nobody needs any more.
    pub(crate) fn forget(&self, ino: u64, transport: Transport) {
        // Dropped, it is not held any more.
        self.inherited_regions().remove(&ino);
        if transport == Transport::Passthrough {
            let path = self.directory().join(ino.to_string());
            if let Err(error) = std::fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "region file left behind");
            }
        }
    }

    /// The numbers that region files are left for.
    pub(crate) fn inherited(&self) -> Vec<u64> {
        let entries = std::fs::read_dir(self.directory()).into_iter().flatten();
        let number = |name: std::ffi::OsString| name.to_str()?.parse().ok();
        let files = entries.filter_map(|entry| number(entry.ok()?.file_name()));
        let held = self.inherited_regions();
        files.chain(held.keys().copied()).collect()
    }

    fn inherited_regions(&self) -> MutexGuard<'_, Regions> {
        let inherited = self.inherited.lock();
        inherited.unwrap_or_else(PoisonError::into_inner)
    }

    fn memfd(&self, memfd: OwnedFd, held: Option<Held>) -> RegionFile {
        RegionFile::Memfd {
            memfd,
            held,
            left: self.left.clone(),
        }
    }

    fn tmpfs(&self, ino: u64) -> RegionFile {
        RegionFile::Tmpfs {
            path: self.directory().join(ino.to_string()),
            left: self.left.clone(),
        }
    }

    /// A fresh, zeroed file of `length` bytes for the state `ino`, all holes.
    pub(crate) fn region(
        &self,
        ino: u64,
        length: usize,
        transport: Transport,
    ) -> io::Result<RegionFile> {
        let length = length as u64;
        match transport {
            Transport::Passthrough => {
                let file = File::options()
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(self.directory().join(ino.to_string()))?;
                let region = self.tmpfs(ino);
                file.set_len(length)?;
                Ok(region)
            }
            Transport::Socket => {
                let name = CString::new(format!("kstate-{ino}")).unwrap_or_default();
                let memfd =
                    memfd_create(&*name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
                let file = File::from(descriptors::keep(memfd)?);
                // A memfd is born with mode 0777: without this any user could open it again for
                // writing through /proc/PID/fd.
                nix::sys::stat::fchmod(&file, nix::sys::stat::Mode::from_bits_truncate(0o600))?;
                file.set_len(length)?;
                let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
                let seals = nix::fcntl::SealFlag::from_bits_retain(seals);
                nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_ADD_SEALS(seals))?;
                let held = self.holder.get().and_then(|holder| {
                    let held = holder.hold(file.as_fd());
                    let warn = |error: &io::Error| {
                        // Of one that does not answer it is said once.
                        if !holder.is_silent() {
                            tracing::warn!(ino, %error, "a state will not outlive this daemon");
                        }
                    };
                    held.inspect_err(warn).ok()
                });
                Ok(self.memfd(file.into(), held))
            }
        }
    }

    /// Removes all region files and their directory, unless they are left; again, nothing.
    pub(crate) fn remove(&self) {
        if !self.left.load(Ordering::Relaxed) {
            self.directory.remove();
            if let Some(holder) = self.holder.get() {
                holder.end();
            }
        }
    }

    /// Size and free space of the tmpfs, in bytes.
    pub(crate) fn space(&self) -> io::Result<Space> {
        let stat = statfs(self.directory.path())?;
        let block = u64::try_from(stat.block_size()).unwrap_or(4096);
        Ok(Space {
            block,
            blocks: stat.blocks(),
            free: stat.blocks_available(),
        })
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        if self.left.load(Ordering::Relaxed) {
            let inherited = std::mem::take(&mut *self.inherited_regions());
            inherited.into_values().for_each(|(_, held)| held.leave());
        } else {
            self.remove();
        }
    }
}

/// Where the private directory may be: below the directory that was named, else below each tmpfs there is
/// of those tried, in that order.
pub(crate) fn parents(named: Option<&Path>) -> impl Iterator<Item = PathBuf> {
    let candidates = CANDIDATES.iter().filter(move |_| named.is_none());
    let found = candidates.map(PathBuf::from);
    let found = found.filter(|path| is_tmpfs(path).unwrap_or(false));
    named.map(Path::to_owned).into_iter().chain(found)
}

/// What `statfs` reports, in blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Space {
    pub(crate) block: u64,
    pub(crate) blocks: u64,
    pub(crate) free: u64,
}

impl RegionFile {
    /// Runs `work` with an open descriptor of the file.
    pub(crate) fn with<R>(
        &self,
        work: impl FnOnce(BorrowedFd<'_>) -> io::Result<R>,
    ) -> io::Result<R> {
        match self {
            Self::Tmpfs { path, .. } => {
                let file = File::options().read(true).write(true).open(path)?;
                work(file.as_fd())
            }
            Self::Memfd { memfd, .. } => work(memfd.as_fd()),
        }
    }

    /// Allocates every page that `offset..offset + length` touches, so that no later access can
    /// find the tmpfs full.
    ///
    /// # Errors
    ///
    /// `ENOSPC`; nothing the region had is lost.
    pub(crate) fn allocate(&self, offset: usize, length: usize) -> io::Result<()> {
        let offset = i64::try_from(offset).map_err(io::Error::other)?;
        let length = i64::try_from(length).map_err(io::Error::other)?;
        self.with(|file| {
            Ok(fallocate(
                file,
                FallocateFlags::FALLOC_FL_KEEP_SIZE,
                offset,
                length,
            )?)
        })
    }

    /// A descriptor for a program: writable, or one that cannot be mapped writable.
    pub(crate) fn for_program(&self, writable: bool) -> io::Result<OwnedFd> {
        self.with(|file| {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            Ok(File::options()
                .read(true)
                .write(writable)
                .open(path)?
                .into())
        })
    }
}

impl Drop for RegionFile {
    fn drop(&mut self) {
        match self {
            Self::Tmpfs { path, left } if !left.load(Ordering::Relaxed) => {
                if let Err(error) = std::fs::remove_file(&*path)
                    && error.kind() != io::ErrorKind::NotFound
                {
                    tracing::warn!(path = %path.display(), %error, "region file left behind");
                }
            }
            Self::Memfd { held, left, .. } if left.load(Ordering::Relaxed) => {
                if let Some(held) = held.take() {
                    held.leave();
                }
            }
            _ => {}
        }
    }
}

/// As [`is_tmpfs`], for a directory that somebody has named.
fn named_tmpfs(path: &Path) -> io::Result<bool> {
    is_tmpfs(path).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!(
                "{}: {error}; give --backing a directory on a tmpfs, such as /dev/shm",
                path.display()
            ),
        )
    })
}

fn is_tmpfs(path: &Path) -> io::Result<bool> {
    Ok(statfs(path)?.filesystem_type() == TMPFS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn region_files_and_their_directory_go_away() {
        let backing = Backing::create(None).unwrap();
        let directory = backing.directory.path().to_owned();
        let region = backing.region(7, 1 << 20, Transport::Passthrough).unwrap();
        region.allocate(4096, 4096).unwrap();
        assert!(directory.join("7").exists());
        drop(region);
        assert!(!directory.join("7").exists());
        drop(backing);
        assert!(!directory.exists());
    }

    #[test]
    fn a_memfd_cannot_be_cut_short_and_a_readers_copy_cannot_be_written() {
        let backing = Backing::create(None).unwrap();
        let region = backing.region(7, 1 << 20, Transport::Socket).unwrap();
        region
            .with(|fd| {
                let shrunk = nix::unistd::ftruncate(fd, 4096);
                assert_eq!(shrunk, Err(nix::errno::Errno::EPERM));
                Ok(())
            })
            .unwrap();
        let reader = File::from(region.for_program(false).unwrap());
        let written = nix::unistd::write(&reader, b"x");
        assert_eq!(written, Err(nix::errno::Errno::EBADF));
    }

    #[test]
    fn a_directory_that_is_no_tmpfs_is_refused_with_advice() {
        let error = Backing::create(Some(Path::new("/proc"))).unwrap_err();
        assert!(error.to_string().contains("--backing"), "{error}");
        let error = Backing::create(Some(Path::new("/nonexistent/tmpfs"))).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/tmpfs"), "{error}");
    }
}
