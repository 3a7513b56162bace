//! The one place of the daemon where an error becomes an errno.

use std::io;

use kstate_sys::name::NameError;
use kstate_sys::region::{CommitError, ReadError};

/// What a system call on the file system reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Errno(i32);

macro_rules! errnos {
    ($($name:ident),+) => {
        #[allow(missing_docs, reason = "errno(3) documents them")]
        impl Errno {
            $(pub(crate) const $name: Self = Self(libc::$name);)+
        }
    };
}

errnos!(
    EACCES, EBADF, EBUSY, EEXIST, EFBIG, EINVAL, EIO, EISDIR, ENFILE, ENODATA, ENOENT, ENOSPC,
    ENOTDIR, ENOTTY, EOPNOTSUPP, EPERM, ESTALE, EUSERS
);

impl Errno {
    /// The number.
    pub(crate) const fn code(self) -> i32 {
        self.0
    }
}

impl From<io::Error> for Errno {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            // What the backing says of memory it cannot give is a full file system to the caller.
            Some(libc::ENOMEM | libc::EDQUOT) => Self::ENOSPC,
            // The daemon's own table is full: the caller's is not, so this is the system's.
            Some(libc::EMFILE) => Self::ENFILE,
            Some(code) if code > 0 => Self(code),
            _ => Self::EIO,
        }
    }
}

impl From<NameError> for Errno {
    fn from(error: NameError) -> Self {
        Self(error.errno())
    }
}

impl From<ReadError> for Errno {
    fn from(error: ReadError) -> Self {
        tracing::warn!(%error, "a state cannot be read");
        Self::EIO
    }
}

impl From<CommitError> for Errno {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::TooLong { .. } => Self::EFBIG,
            CommitError::Conflict { .. } => Self::ESTALE,
            _ => {
                tracing::warn!(%error, "a state cannot be written");
                Self::EIO
            }
        }
    }
}
