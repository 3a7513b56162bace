//! Filling missing pages: with a copy, with zeros, from the file, with pages moved or with poison.

#![expect(
    unsafe_code,
    reason = "the ioctls of userfaultfd have no wrapper in nix"
)]

use super::{Uffd, range};
use crate::error::{Error, Result};
use crate::raw;
use libc::c_void;
use nix::errno::Errno;
use std::os::fd::AsRawFd;

impl Uffd {
    /// Fills the missing pages of `len` bytes from `dst` with the bytes from `src`, atomically: a
    /// thread sees a page missing or complete. Returns the number of bytes, which is `len`.
    ///
    /// # Errors
    ///
    /// [`Error::SystemError`]: `EEXIST` when a page is there already, `ENOENT` when the range is
    /// not registered or changed, `EFAULT` when `src` cannot be read; [`Error::Partial`] when only
    /// the first pages were filled.
    ///
    /// # Safety
    ///
    /// - `src` is readable for `len` bytes, and nobody writes them during the call.
    /// - No reference into `dst..dst + len` exists that relies on what a missing page reads as.
    ///
    /// # Cost
    ///
    /// One system call and `len` bytes copied; 1.5 to 2 µs a page, the copy included.
    pub unsafe fn copy(
        &self,
        src: *const c_void,
        dst: *mut c_void,
        len: usize,
        wake: bool,
    ) -> Result<usize> {
        let mode = if wake {
            0
        } else {
            raw::UFFDIO_COPY_MODE_DONTWAKE
        };
        // SAFETY: the caller keeps this function's contract, which is that one's.
        unsafe { self.copy_with_mode(src, dst, len, mode) }
    }

    /// Like [`copy`](Self::copy), and the pages arrive write-protected: no write slips in between.
    /// The range must be registered for [`RegisterMode::WRITE_PROTECT`](crate::RegisterMode::WRITE_PROTECT) too.
    ///
    /// # Errors
    ///
    /// As [`copy`](Self::copy), and `EINVAL` when the range is not registered for it.
    ///
    /// # Safety
    ///
    /// As [`copy`](Self::copy).
    pub unsafe fn copy_write_protected(
        &self,
        src: *const c_void,
        dst: *mut c_void,
        len: usize,
        wake: bool,
    ) -> Result<usize> {
        let mode = if wake {
            0
        } else {
            raw::UFFDIO_COPY_MODE_DONTWAKE
        };
        // SAFETY: the caller keeps this function's contract, which is that one's.
        unsafe { self.copy_with_mode(src, dst, len, mode | raw::UFFDIO_COPY_MODE_WP) }
    }

    /// # Safety
    ///
    /// As [`copy`](Self::copy).
    unsafe fn copy_with_mode(
        &self,
        src: *const c_void,
        dst: *mut c_void,
        len: usize,
        mode: u64,
    ) -> Result<usize> {
        let raw::uffdio_range {
            start: dst,
            len: bytes,
        } = range(dst, len);
        let src = src.expose_provenance() as u64;
        let mut arg = raw::uffdio_copy {
            dst,
            src,
            len: bytes,
            mode,
            copy: 0,
        };
        // SAFETY: `arg` is a `struct uffdio_copy` (asserted in raw.rs) alive throughout; what it
        // points to is the caller's promise, and the kernel fills missing pages only.
        let done = unsafe { raw::uffdio_copy_call(self.as_raw_fd(), &raw mut arg) };
        filled("UFFDIO_COPY", done, arg.copy, len)
    }

    /// Fills the missing pages of `len` bytes from `start` with zeros, which is what they would
    /// have been without registration. Returns the number of bytes, which is `len`.
    ///
    /// # Errors
    ///
    /// As [`copy`](Self::copy).
    pub fn zeropage(&self, start: *mut c_void, len: usize, wake: bool) -> Result<usize> {
        let mode = if wake {
            0
        } else {
            raw::UFFDIO_ZEROPAGE_MODE_DONTWAKE
        };
        let mut arg = raw::uffdio_zeropage {
            range: range(start, len),
            mode,
            zeropage: 0,
        };
        // SAFETY: `arg` is a `struct uffdio_zeropage` (asserted in raw.rs) alive throughout. Only
        // missing pages are filled, with what they read as anyway: no value changes.
        let done = unsafe { raw::uffdio_zeropage_call(self.as_raw_fd(), &raw mut arg) };
        filled("UFFDIO_ZEROPAGE", done, arg.zeropage, len)
    }

    /// Maps the pages of `len` bytes from `start` that the file already has: the answer to
    /// [`FaultKind::Minor`](crate::FaultKind::Minor). Returns the number of bytes, which is `len`.
    ///
    /// # Errors
    ///
    /// As [`copy`](Self::copy), and `EFAULT` when the file has no page there.
    pub fn continue_mapping(&self, start: *mut c_void, len: usize, wake: bool) -> Result<usize> {
        self.continue_with_mode(start, len, wake, 0)
    }

    /// Like [`continue_mapping`](Self::continue_mapping), and the pages arrive write-protected: no
    /// write slips in between. The range must be registered for
    /// [`RegisterMode::WRITE_PROTECT`](crate::RegisterMode::WRITE_PROTECT) too.
    ///
    /// # Errors
    ///
    /// As [`continue_mapping`](Self::continue_mapping), and `EINVAL` when the range is not registered
    /// for it, or before Linux 6.4.
    pub fn continue_write_protected(
        &self,
        start: *mut c_void,
        len: usize,
        wake: bool,
    ) -> Result<usize> {
        self.continue_with_mode(start, len, wake, raw::UFFDIO_CONTINUE_MODE_WP)
    }

    fn continue_with_mode(
        &self,
        start: *mut c_void,
        len: usize,
        wake: bool,
        mode: u64,
    ) -> Result<usize> {
        let mode = if wake {
            mode
        } else {
            mode | raw::UFFDIO_CONTINUE_MODE_DONTWAKE
        };
        let mut arg = raw::uffdio_continue {
            range: range(start, len),
            mode,
            mapped: 0,
        };
        // SAFETY: `arg` is a `struct uffdio_continue` (asserted in raw.rs) alive throughout. The
        // pages mapped are those of the file that is mapped here: no value changes.
        let done = unsafe { raw::uffdio_continue_call(self.as_raw_fd(), &raw mut arg) };
        filled("UFFDIO_CONTINUE", done, arg.mapped, len)
    }

    /// Makes the missing pages of `len` bytes from `start` deadly: touching one raises SIGBUS, as
    /// broken memory would. Returns the number of bytes, which is `len`.
    ///
    /// # Errors
    ///
    /// As [`copy`](Self::copy); `EINVAL` before Linux 6.6.
    pub fn poison(&self, start: *mut c_void, len: usize, wake: bool) -> Result<usize> {
        let mode = if wake {
            0
        } else {
            raw::UFFDIO_POISON_MODE_DONTWAKE
        };
        let mut arg = raw::uffdio_poison {
            range: range(start, len),
            mode,
            updated: 0,
        };
        // SAFETY: `arg` is a `struct uffdio_poison` (asserted in raw.rs) alive throughout. Only
        // missing pages are marked: no value changes, and a touch is a signal, not a value.
        let done = unsafe { raw::uffdio_poison_call(self.as_raw_fd(), &raw mut arg) };
        filled("UFFDIO_POISON", done, arg.updated, len)
    }

    /// Moves the private anonymous pages of `len` bytes from `src` into the missing pages from
    /// `dst`, without copying; `src` has missing pages afterwards. Returns the number of bytes.
    ///
    /// # Errors
    ///
    /// As [`copy`](Self::copy), `EBUSY` for pages that are pinned or shared after a fork, `ENOENT`
    /// for a hole in `src`; `EINVAL` before Linux 6.8.
    ///
    /// # Safety
    ///
    /// - `src` is private anonymous memory of this process for `len` bytes, which nobody touches
    ///   during the call, and to which no reference exists: it is zeros afterwards, or missing.
    /// - No reference into `dst..dst + len` exists that relies on what a missing page reads as.
    pub unsafe fn move_pages(
        &self,
        src: *mut c_void,
        dst: *mut c_void,
        len: usize,
        wake: bool,
    ) -> Result<usize> {
        let mode = if wake {
            0
        } else {
            raw::UFFDIO_MOVE_MODE_DONTWAKE
        };
        let raw::uffdio_range {
            start: dst,
            len: bytes,
        } = range(dst, len);
        let src = src.expose_provenance() as u64;
        let mut arg = raw::uffdio_move {
            dst,
            src,
            len: bytes,
            mode,
            moved: 0,
        };
        // SAFETY: `arg` is a `struct uffdio_move` (asserted in raw.rs) alive throughout; what it
        // points to is the caller's promise.
        let done = unsafe { raw::uffdio_move_call(self.as_raw_fd(), &raw mut arg) };
        filled("UFFDIO_MOVE", done, arg.moved, len)
    }
}

/// What a filling ioctl did: it answers `EAGAIN` for a part of the range, with the bytes done in its
/// output field, which otherwise holds the negated errno or is left alone (ioctl_userfaultfd(2)).
fn filled(call: &'static str, answer: nix::Result<i32>, done: i64, len: usize) -> Result<usize> {
    match (answer, usize::try_from(done)) {
        (Ok(_), _) => Ok(len),
        (Err(Errno::EAGAIN), Ok(bytes @ 1..)) => Err(Error::Partial { call, bytes }),
        (Err(errno), _) => Err(Error::SystemError { call, errno }),
    }
}
