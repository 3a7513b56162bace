//! Making a userfaultfd: the system call, its fallback and the handshake.

#![expect(
    unsafe_code,
    reason = "userfaultfd(2) and its handshake have no wrapper in nix"
)]

use crate::error::{Error, Result, calling};
use crate::raw;
use crate::uffd::{IoctlFlags, Uffd};
use bitflags::bitflags;
use nix::errno::Errno;
use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

bitflags! {
    /// What a userfaultfd can do beyond missing pages, by the name of the kernel's `UFFD_FEATURE_`.
    /// Bits of a later kernel are kept.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct FeatureFlags: u64 {
        /// Write-protect faults are reported (Linux 5.7).
        const PAGEFAULT_FLAG_WP = raw::UFFD_FEATURE_PAGEFAULT_FLAG_WP;
        /// [`Event::Fork`](crate::Event::Fork); needs CAP_SYS_PTRACE.
        const EVENT_FORK = raw::UFFD_FEATURE_EVENT_FORK;
        /// [`Event::Remap`](crate::Event::Remap).
        const EVENT_REMAP = raw::UFFD_FEATURE_EVENT_REMAP;
        /// [`Event::Remove`](crate::Event::Remove).
        const EVENT_REMOVE = raw::UFFD_FEATURE_EVENT_REMOVE;
        /// Missing pages of hugetlbfs mappings.
        const MISSING_HUGETLBFS = raw::UFFD_FEATURE_MISSING_HUGETLBFS;
        /// Missing pages of shared memory (tmpfs, memfd).
        const MISSING_SHMEM = raw::UFFD_FEATURE_MISSING_SHMEM;
        /// [`Event::Unmap`](crate::Event::Unmap).
        const EVENT_UNMAP = raw::UFFD_FEATURE_EVENT_UNMAP;
        /// A fault raises SIGBUS in the faulting thread; no event is sent (Linux 4.14).
        const SIGBUS = raw::UFFD_FEATURE_SIGBUS;
        /// Page faults carry the faulting thread's id (Linux 4.14).
        const THREAD_ID = raw::UFFD_FEATURE_THREAD_ID;
        /// Minor faults of hugetlbfs mappings (Linux 5.13).
        const MINOR_HUGETLBFS = raw::UFFD_FEATURE_MINOR_HUGETLBFS;
        /// Minor faults of shared memory (Linux 5.14).
        const MINOR_SHMEM = raw::UFFD_FEATURE_MINOR_SHMEM;
        /// Page faults carry the very byte touched, not its page (Linux 5.18).
        const EXACT_ADDRESS = raw::UFFD_FEATURE_EXACT_ADDRESS;
        /// Write-protection of hugetlbfs and shared memory (Linux 5.19).
        const WP_HUGETLBFS_SHMEM = raw::UFFD_FEATURE_WP_HUGETLBFS_SHMEM;
        /// Write-protection sticks to anonymous pages that are not there yet (Linux 6.4).
        const WP_UNPOPULATED = raw::UFFD_FEATURE_WP_UNPOPULATED;
        /// [`Uffd::poison`] (Linux 6.6).
        const POISON = raw::UFFD_FEATURE_POISON;
        /// Asynchronous write-protection: a write resolves itself and is found by
        /// [`Pagemap::scan`](crate::Pagemap::scan) (Linux 6.7). Brings `WP_UNPOPULATED` with it.
        const WP_ASYNC = raw::UFFD_FEATURE_WP_ASYNC;
        /// [`Uffd::move_pages`] (Linux 6.8).
        const MOVE = raw::UFFD_FEATURE_MOVE;
        const _ = !0;
    }
}

/// Collects what a [`Uffd`] must be able to do, and makes it.
///
/// ```
/// # use userfaultfd::UffdBuilder;
/// let uffd = UffdBuilder::new().non_blocking(true).create();
/// ```
#[derive(Debug, Clone)]
pub struct UffdBuilder {
    close_on_exec: bool,
    non_blocking: bool,
    user_mode_only: bool,
    features: FeatureFlags,
    ioctls: IoctlFlags,
}

impl Default for UffdBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl UffdBuilder {
    /// A blocking, close-on-exec userfaultfd for faults in user mode, with no required features.
    pub fn new() -> UffdBuilder {
        UffdBuilder {
            close_on_exec: true,
            non_blocking: false,
            user_mode_only: true,
            features: FeatureFlags::empty(),
            ioctls: IoctlFlags::empty(),
        }
    }

    /// Whether the descriptor closes on `execve(2)`.
    ///
    /// On unless turned off; the registry's crate leaves it off unless turned on.
    pub fn close_on_exec(&mut self, close_on_exec: bool) -> &mut Self {
        self.close_on_exec = close_on_exec;
        self
    }

    /// Whether [`Uffd::read_event`] returns `None` instead of waiting. Off unless turned on.
    ///
    /// `poll(2)` works on a non-blocking descriptor only: on a blocking one it reports `POLLERR`
    /// (kernel `fs/userfaultfd.c`, `userfaultfd_poll`).
    pub fn non_blocking(&mut self, non_blocking: bool) -> &mut Self {
        self.non_blocking = non_blocking;
        self
    }

    /// Whether only faults of user mode are caught (`UFFD_USER_MODE_ONLY`, Linux 5.11).
    ///
    /// On unless turned off: it needs no privilege, and a system call that touches a missing page
    /// fails with `EFAULT` instead of hanging until somebody fills it. Without it the caller needs
    /// CAP_SYS_PTRACE, `vm.unprivileged_userfaultfd = 1` or access to `/dev/userfaultfd`.
    pub fn user_mode_only(&mut self, user_mode_only: bool) -> &mut Self {
        self.user_mode_only = user_mode_only;
        self
    }

    /// Enables `features`, and makes [`create`](Self::create) fail where one is missing.
    pub fn require_features(&mut self, features: FeatureFlags) -> &mut Self {
        self.features |= features;
        self
    }

    /// Makes [`create`](Self::create) fail where one of `ioctls` is missing. What a range can do
    /// is not known before [`Uffd::register`] returns it.
    pub fn require_ioctls(&mut self, ioctls: IoctlFlags) -> &mut Self {
        self.ioctls |= ioctls;
        self
    }

    /// Makes the userfaultfd.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] when this process may not have one, [`Error::UnsupportedFeatures`] and
    /// [`Error::UnsupportedIoctls`] when the kernel lacks what was required. No descriptor is left
    /// open.
    ///
    /// # Cost
    ///
    /// Two system calls.
    pub fn create(&self) -> Result<Uffd> {
        let fd = self.open()?;
        let answer = match handshake(fd.as_raw_fd(), self.features) {
            Err(Errno::EINVAL) => {
                // A refused handshake leaves the descriptor new, so the same one can tell what it
                // would have accepted (kernel fs/userfaultfd.c, userfaultfd_api).
                let offered = handshake(fd.as_raw_fd(), FeatureFlags::empty())
                    .map_err(calling("UFFDIO_API"))?
                    .features;
                return Err(Error::UnsupportedFeatures {
                    wanted: self.features,
                    offered: FeatureFlags::from_bits_retain(offered),
                });
            }
            answer => answer.map_err(calling("UFFDIO_API"))?,
        };
        let ioctls = IoctlFlags::from_bits_retain(answer.ioctls);
        if !ioctls.contains(self.ioctls) {
            return Err(Error::UnsupportedIoctls {
                wanted: self.ioctls,
                offered: ioctls,
            });
        }
        Ok(Uffd::new(
            fd,
            FeatureFlags::from_bits_retain(answer.features),
            self.features,
            ioctls,
        ))
    }

    fn open(&self) -> Result<OwnedFd> {
        let mut flags = 0;
        if self.close_on_exec {
            flags |= libc::O_CLOEXEC;
        }
        if self.non_blocking {
            flags |= libc::O_NONBLOCK;
        }
        if self.user_mode_only {
            flags |= raw::UFFD_USER_MODE_ONLY;
        }
        match userfaultfd(flags) {
            Ok(fd) => Ok(fd),
            Err(errno @ (Errno::EPERM | Errno::ENOSYS)) => {
                // Linux 6.1: whoever may open the device needs no other right
                // (Documentation/admin-guide/mm/userfaultfd.rst). That the device is absent or
                // closed is not news: the system call's answer is the one to report.
                let refused = Error::Refused {
                    user_mode_only: self.user_mode_only,
                    errno,
                };
                let device = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open("/dev/userfaultfd");
                let device = device.map_err(|_| refused)?;
                // SAFETY: the ioctl takes flags by value and no pointer; `device` is open.
                let fd = unsafe { raw::userfaultfd_ioc_new(device.as_raw_fd(), flags) }
                    .map_err(calling("USERFAULTFD_IOC_NEW"))?;
                Ok(owned(fd))
            }
            Err(errno) => Err(Error::SystemError {
                call: "userfaultfd",
                errno,
            }),
        }
    }
}

fn userfaultfd(flags: i32) -> nix::Result<OwnedFd> {
    // SAFETY: the call takes flags by value and no pointer.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
    let fd = Errno::result(fd)?;
    RawFd::try_from(fd).map(owned).map_err(|_| Errno::EOVERFLOW)
}

fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: both callers have this number fresh from the kernel's success, and pass it nowhere
    // else.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn handshake(fd: RawFd, features: FeatureFlags) -> nix::Result<raw::uffdio_api> {
    let mut api = raw::uffdio_api {
        api: raw::UFFD_API,
        features: features.bits(),
        ioctls: 0,
    };
    // SAFETY: `api` is a `struct uffdio_api` (asserted in raw.rs), alive and writable throughout.
    unsafe { raw::uffdio_api_call(fd, &raw mut api) }?;
    Ok(api)
}
