//! What can go wrong, and the one place that reads errno.

use crate::{FeatureFlags, IoctlFlags};
use nix::errno::Errno;

/// What an operation of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation failed. Whatever it names was left as it was, unless the variant says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel makes no userfaultfd for this process, and `/dev/userfaultfd` cannot be opened.
    #[error(
        "userfaultfd(2) for {} was refused: {errno}; {}",
        if *user_mode_only { "faults in user mode" } else { "faults in the kernel too" },
        refusal_advice(*user_mode_only, *errno)
    )]
    Refused {
        /// Whether `UFFD_USER_MODE_ONLY` was asked for, which needs no privilege.
        user_mode_only: bool,
        /// What the system call said; never what opening the device said.
        errno: Errno,
    },

    /// The running kernel does not offer a feature that was required.
    #[error(
        "this kernel lacks the userfaultfd features {:?} (it offers {offered:?})",
        *wanted - *offered
    )]
    UnsupportedFeatures {
        /// What [`UffdBuilder::require_features`](crate::UffdBuilder::require_features) was given.
        wanted: FeatureFlags,
        /// What the kernel offers.
        offered: FeatureFlags,
    },

    /// The running kernel does not offer an ioctl that was required.
    #[error("this kernel lacks the userfaultfd ioctls {:?} (it offers {offered:?})", *wanted - *offered)]
    UnsupportedIoctls {
        /// What [`UffdBuilder::require_ioctls`](crate::UffdBuilder::require_ioctls) was given.
        wanted: IoctlFlags,
        /// What the kernel offers.
        offered: IoctlFlags,
    },

    /// A call filled only the first part of the range, because the mapping was changing under it.
    /// The rest is as it was: call again for it.
    #[error("{call} did only the first {bytes} bytes; call it again for the rest")]
    Partial {
        /// The kernel's name of the call.
        call: &'static str,
        /// How many bytes, counted from the start of the range, were done.
        bytes: usize,
    },

    /// A system call failed.
    #[error("{call}: {errno}")]
    SystemError {
        /// The kernel's name of the call.
        call: &'static str,
        /// What it said.
        errno: Errno,
    },

    /// The descriptor yielded a message of the wrong size; the message is lost.
    #[error("a userfaultfd message has {expected} bytes, the descriptor yielded {read}")]
    IncompleteMsg {
        /// Bytes read.
        read: usize,
        /// Bytes a message has.
        expected: usize,
    },

    /// The descriptor yielded an event that this crate does not know; the event is lost.
    #[error("unknown userfaultfd event {0:#x}; this crate knows those of Linux 6.8")]
    UnrecognizedEvent(u8),
}

impl Error {
    /// The kernel's error number, where the failure has one.
    pub fn errno(&self) -> Option<Errno> {
        match *self {
            Error::Refused { errno, .. } | Error::SystemError { errno, .. } => Some(errno),
            // What the ioctl itself said, before this crate looked closer.
            Error::UnsupportedFeatures { .. } => Some(Errno::EINVAL),
            Error::Partial { .. } => Some(Errno::EAGAIN),
            _ => None,
        }
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        let kind = error.errno().map_or(std::io::ErrorKind::Other, |errno| {
            std::io::Error::from(errno).kind()
        });
        std::io::Error::new(kind, error)
    }
}

/// Names the system call in a failure of nix's.
pub(crate) fn calling(call: &'static str) -> impl FnOnce(Errno) -> Error {
    move |errno| Error::SystemError { call, errno }
}

fn refusal_advice(user_mode_only: bool, errno: Errno) -> &'static str {
    match (errno, user_mode_only) {
        (Errno::ENOSYS, _) => "this kernel is built without CONFIG_USERFAULTFD",
        (Errno::EPERM, true) => {
            "a seccomp filter refuses it: let the container make the call, or open \
             /dev/userfaultfd to this user"
        }
        (Errno::EPERM, false) => {
            "it needs CAP_SYS_PTRACE, vm.unprivileged_userfaultfd = 1 or access to \
             /dev/userfaultfd; faults in user mode only need none of them"
        }
        _ => "see userfaultfd(2)",
    }
}
