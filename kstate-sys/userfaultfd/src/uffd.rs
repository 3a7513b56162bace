//! The userfaultfd itself: registering ranges, write-protecting them, reading events.

#![expect(
    unsafe_code,
    reason = "the ioctls of userfaultfd have no wrapper in nix"
)]

mod filling;

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
pub(crate) fn range(start: *mut c_void, len: usize) -> raw::uffdio_range {
    raw::uffdio_range {
        start: start.expose_provenance() as u64,
        len: len as u64,
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
