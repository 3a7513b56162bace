//! A state's file, locked against other states and daemons for as long as it is open.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::Medium;

/// An open file with a lock of flock(2) on it, which goes with it.
#[derive(Debug)]
pub(crate) struct LockedFile(Flock<File>);

impl LockedFile {
    /// Locks `file`; none if another state has it.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(crate) fn new(file: File) -> io::Result<Option<Self>> {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(Self(lock))),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(errno.into()),
        }
    }
}

impl LockedFile {
    /// Makes it another user's.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(crate) fn give_to(&self, uid: u32, gid: u32) -> io::Result<()> {
        Ok(nix::unistd::fchown(
            &*self.0,
            Some(uid.into()),
            Some(gid.into()),
        )?)
    }
}

impl Medium for LockedFile {
    fn len(&self) -> io::Result<u64> {
        Medium::len(&*self.0)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.0.allocate(len)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        Medium::read_at(&*self.0, buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        Medium::write_at(&*self.0, bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
}
