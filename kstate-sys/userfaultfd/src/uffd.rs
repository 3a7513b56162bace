//! The userfaultfd itself: registering ranges, filling pages, write-protecting them.

#![expect(
    unsafe_code,
    reason = "the ioctls of userfaultfd have no wrapper in nix"
)]

use crate::builder::FeatureFlags;
use crate::error::{Error, Result, calling};
use crate::event::Event;
use crate::raw;
use bitflags::bitflags;
use libc::c_void;
use nix::errno::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

bitflags! {
    /// Which faults of a range are caught.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct RegisterMode: u64 {
        /// The first touch of a page that is not there.
        const MISSING = raw::UFFDIO_REGISTER_MODE_MISSING;
        /// A write to a write-protected page.
        const WRITE_PROTECT = raw::UFFDIO_REGISTER_MODE_WP;
        /// The first touch of a page that the file has but this mapping has not.
        const MINOR = raw::UFFDIO_REGISTER_MODE_MINOR;
        const _ = !0;
    }
}

bitflags! {
    /// Which operations a userfaultfd, or a registered range, accepts. Bits of a later kernel are
    /// kept.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct IoctlFlags: u64 {
        /// [`Uffd::register`].
        const REGISTER = 1 << raw::_UFFDIO_REGISTER;
        /// [`Uffd::unregister`].
        const UNREGISTER = 1 << raw::_UFFDIO_UNREGISTER;
        /// [`Uffd::wake`].
        const WAKE = 1 << raw::_UFFDIO_WAKE;
        /// [`Uffd::copy`].
        const COPY = 1 << raw::_UFFDIO_COPY;
        /// [`Uffd::zeropage`].
        const ZEROPAGE = 1 << raw::_UFFDIO_ZEROPAGE;
        /// [`Uffd::move_pages`].
        const MOVE = 1 << raw::_UFFDIO_MOVE;
        /// [`Uffd::write_protect`].
        const WRITE_PROTECT = 1 << raw::_UFFDIO_WRITEPROTECT;
        /// [`Uffd::continue_mapping`].
        const CONTINUE = 1 << raw::_UFFDIO_CONTINUE;
        /// [`Uffd::poison`].
        const POISON = 1 << raw::_UFFDIO_POISON;
        /// The handshake.
        const API = 1 << raw::_UFFDIO_API;
        const _ = !0;
    }
}

/// A userfaultfd: answers for the page faults of the ranges registered with it.
///
/// Dropping it ends every registration: waiting threads go on as if there had been none, and
/// missing pages become zeros. Addresses and lengths are multiples of the page size; the kernel
/// refuses others with `EINVAL`.
///
/// Where an operation takes `wake`, false leaves the threads that wait for the range asleep, so
/// that several operations can be followed by one [`wake`](Self::wake).
#[derive(Debug)]
pub struct Uffd {
    fd: OwnedFd,
    offered: FeatureFlags,
    enabled: FeatureFlags,
    ioctls: IoctlFlags,
}

impl Uffd {
    pub(crate) fn new(
        fd: OwnedFd,
        offered: FeatureFlags,
        enabled: FeatureFlags,
        ioctls: IoctlFlags,
    ) -> Uffd {
        Uffd {
            fd,
            offered,
            enabled,
            ioctls,
        }
    }

    /// The userfaultfd of a forked child, which inherits what its parent's had agreed on.
    pub(crate) fn for_child(&self, fd: OwnedFd) -> Uffd {
        Uffd { fd, ..*self }
    }

    /// Everything the running kernel offers, enabled or not.
    pub fn features(&self) -> FeatureFlags {
        self.offered
    }

    /// What was required when this userfaultfd was made, and so is in force.
    pub fn enabled_features(&self) -> FeatureFlags {
        self.enabled
    }

    /// What can be done before a range is registered.
    pub fn ioctls(&self) -> IoctlFlags {
        self.ioctls
    }

    /// Catches the missing pages of `len` bytes from `start`, and returns what can be done there.
    ///
    /// # Errors
    ///
    /// [`Error::SystemError`]: `EINVAL` for a range that is not mapped, not whole pages or of a
    /// kind that cannot be caught, `EBUSY` for one that another userfaultfd holds. Nothing is
    /// registered then.
    pub fn register(&self, start: *mut c_void, len: usize) -> Result<IoctlFlags> {
        self.register_with_mode(start, len, RegisterMode::MISSING)
    }

    /// Catches the faults in `mode` of `len` bytes from `start`, and returns what can be done there.
    ///
    /// # Errors
    ///
    /// As [`register`](Self::register).
    pub fn register_with_mode(
        &self,
        start: *mut c_void,
        len: usize,
        mode: RegisterMode,
    ) -> Result<IoctlFlags> {
        let range = range(start, len);
        let mut arg = raw::uffdio_register {
            range,
            mode: mode.bits(),
            ioctls: 0,
        };
        // SAFETY: `arg` is a `struct uffdio_register` (asserted in raw.rs), alive and writable
        // throughout. Registering changes no byte: it only makes faults wait or raise SIGBUS.
        unsafe { raw::uffdio_register_call(self.as_raw_fd(), &raw mut arg) }
            .map_err(calling("UFFDIO_REGISTER"))?;
        Ok(IoctlFlags::from_bits_retain(arg.ioctls))
    }

    /// Catches nothing more in `len` bytes from `start`, and wakes who waits there. Pages that are
    /// still missing become zeros at their next touch.
    ///
    /// # Errors
    ///
    /// [`Error::SystemError`], `EINVAL` for a range that is not mapped or not whole pages.
    pub fn unregister(&self, start: *mut c_void, len: usize) -> Result<()> {
        let mut arg = range(start, len);
        // SAFETY: `arg` is a `struct uffdio_range` (asserted in raw.rs) alive throughout. A missing
        // page has no value yet, so no value changes.
        unsafe { raw::uffdio_unregister_call(self.as_raw_fd(), &raw mut arg) }
            .map_err(calling("UFFDIO_UNREGISTER"))?;
        Ok(())
    }

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
    /// The range must be registered for [`RegisterMode::WRITE_PROTECT`] too.
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
        let mode = if wake {
            0
        } else {
            raw::UFFDIO_CONTINUE_MODE_DONTWAKE
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

    /// Wakes the threads that wait for a page of `len` bytes from `start`. A page that is still
    /// missing faults again.
    ///
    /// # Errors
    ///
    /// [`Error::SystemError`], `EINVAL` for a range that is not whole pages.
    pub fn wake(&self, start: *mut c_void, len: usize) -> Result<()> {
        let mut arg = range(start, len);
        // SAFETY: `arg` is a `struct uffdio_range` (asserted in raw.rs) alive throughout. Waking
        // changes no byte: a thread woken too early faults again.
        unsafe { raw::uffdio_wake_call(self.as_raw_fd(), &raw mut arg) }
            .map_err(calling("UFFDIO_WAKE"))?;
        Ok(())
    }

    /// Write-protects `len` bytes from `start`, registered for [`RegisterMode::WRITE_PROTECT`].
    ///
    /// Anonymous pages that are not there yet are skipped, unless [`FeatureFlags::WP_UNPOPULATED`]
    /// was required.
    ///
    /// # Errors
    ///
    /// [`Error::SystemError`]: `ENOENT` when the range is not registered so, `EAGAIN` when the
    /// mapping is changing: call again.
    ///
    /// # Cost
    ///
    /// One system call; 0.8 µs a page.
    pub fn write_protect(&self, start: *mut c_void, len: usize) -> Result<()> {
        self.change_protection(start, len, raw::UFFDIO_WRITEPROTECT_MODE_WP)
    }

    /// Lets `len` bytes from `start` be written again.
    ///
    /// # Errors
    ///
    /// As [`write_protect`](Self::write_protect).
    pub fn remove_write_protection(
        &self,
        start: *mut c_void,
        len: usize,
        wake: bool,
    ) -> Result<()> {
        let mode = if wake {
            0
        } else {
            raw::UFFDIO_WRITEPROTECT_MODE_DONTWAKE
        };
        self.change_protection(start, len, mode)
    }

    fn change_protection(&self, start: *mut c_void, len: usize, mode: u64) -> Result<()> {
        let mut arg = raw::uffdio_writeprotect {
            range: range(start, len),
            mode,
        };
        // SAFETY: `arg` is a `struct uffdio_writeprotect` (asserted in raw.rs) alive throughout.
        // Protection changes no byte: it only makes writes wait, raise SIGBUS or be noted.
        unsafe { raw::uffdio_writeprotect_call(self.as_raw_fd(), &raw mut arg) }
            .map_err(calling("UFFDIO_WRITEPROTECT"))?;
        Ok(())
    }

    /// Takes the next event, waiting for it unless the descriptor is non-blocking; `None` when
    /// there is none yet. Several threads may read; each event goes to one of them.
    ///
    /// # Errors
    ///
    /// [`Error::SystemError`] when the read fails, [`Error::UnrecognizedEvent`] for an event of a
    /// later kernel.
    pub fn read_event(&self) -> Result<Option<Event>> {
        let mut bytes = [0u8; size_of::<raw::uffd_msg>()];
        let read = loop {
            match nix::unistd::read(&self.fd, &mut bytes) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                read => break read.map_err(calling("read(userfaultfd)"))?,
            }
        };
        if read != bytes.len() {
            return Err(Error::IncompleteMsg {
                read,
                expected: bytes.len(),
            });
        }
        // SAFETY: a `struct uffd_msg` is integers without padding (asserted in raw.rs), so any bytes
        // are a value. transmute compares the sizes and copies: alignment does not matter.
        let msg = unsafe { std::mem::transmute::<[u8; _], raw::uffd_msg>(bytes) };
        Event::from_uffd_msg(&msg, self).map(Some)
    }
}

/// The kernel's range. The provenance is exposed, because faults come back as numbers.
fn range(start: *mut c_void, len: usize) -> raw::uffdio_range {
    raw::uffdio_range {
        start: start.expose_provenance() as u64,
        len: len as u64,
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

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Uffd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl From<Uffd> for OwnedFd {
    fn from(uffd: Uffd) -> OwnedFd {
        uffd.fd
    }
}
