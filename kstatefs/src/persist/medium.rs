//! Where the bytes of a state's file are.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

/// A file, or what a test puts in its place to stop at every step.
///
/// What was written is on the disk only when a [`sync`](Self::sync) that began afterwards has
/// succeeded. After one that failed, nothing that was written since the last success counts as
/// written: the kernel takes its pages for clean and does not try again, so that a later success says
/// nothing of them (since Linux 4.13 each open file is told once;
/// `Documentation/filesystems/vfs.rst`, "Handling errors during writeback").
pub trait Medium {
    /// Its length in bytes.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    fn len(&self) -> io::Result<u64>;

    /// Whether there is nothing in it.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Has room for `len` bytes, and makes it at least as long.
    ///
    /// # Errors
    ///
    /// What the kernel says, mostly that there is no space.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Reads from `offset`; less than asked for at the end, and perhaps elsewhere.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes` to `offset`.
    ///
    /// # Errors
    ///
    /// What the kernel says; any part of it may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Has the disk take all that was written: fdatasync(2).
    ///
    /// # Errors
    ///
    /// What the kernel says; see [`Medium`] for what that means.
    fn sync(&self) -> io::Result<()>;
}

impl Medium for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let bytes = i64::try_from(len).map_err(io::Error::other)?;
        loop {
            match fallocate(self, FallocateFlags::empty(), 0, bytes) {
                Ok(()) => return Ok(()),
                Err(Errno::EINTR) => {}
                // A file system that knows no allocating; what is written allocates there.
                Err(Errno::EOPNOTSUPP) if Medium::len(self)? < len => return self.set_len(len),
                Err(Errno::EOPNOTSUPP) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

impl<M: Medium + ?Sized> Medium for &M {
    fn len(&self) -> io::Result<u64> {
        (**self).len()
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        (**self).allocate(len)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        (**self).read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        (**self).write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        (**self).sync()
    }
}
