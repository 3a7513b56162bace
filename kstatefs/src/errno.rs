//! The one place of the daemon where an error becomes an errno.

use std::io;
use std::sync::Mutex;
use std::time::{Duration, Instant};

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
    EACCES,
    EADDRINUSE,
    EBADF,
    EBUSY,
    EEXIST,
    EFBIG,
    EINTR,
    EINVAL,
    EIO,
    EISDIR,
    EOWNERDEAD,
    ENOTEMPTY,
    ENOTUNIQ,
    EPROTONOSUPPORT,
    EPROTOTYPE,
    EUCLEAN,
    EXDEV,
    ENAMETOOLONG,
    ENFILE,
    ENODATA,
    ENODEV,
    ENOENT,
    ENOSPC,
    ENOTCONN,
    ENOTDIR,
    ENOTTY,
    EOPNOTSUPP,
    EOVERFLOW,
    EPERM,
    ESTALE,
    ETIMEDOUT,
    EUSERS
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

/// Whether a device says that it has no room now, and may have some later.
pub(crate) fn means_full(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::ENOSPC)
    )
}

impl From<NameError> for Errno {
    fn from(error: NameError) -> Self {
        Self(error.errno())
    }
}

impl From<ReadError> for Errno {
    fn from(error: ReadError) -> Self {
        if may_tell_of_damage() {
            tracing::warn!(%error, "a state cannot be read");
        }
        Self::EIO
    }
}

impl From<CommitError> for Errno {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::TooLong { .. } => Self::EFBIG,
            CommitError::Conflict { .. } => Self::ESTALE,
            _ => {
                if may_tell_of_damage() {
                    tracing::warn!(%error, "a state cannot be written");
                }
                Self::EIO
            }
        }
    }
}

/// Whether to log that a state is damaged: once in a while. Who writes over a state and reads its file
/// again and again could fill everybody's log.
pub(crate) fn may_tell_of_damage() -> bool {
    static TOLD: Seldom = Seldom::new();
    TOLD.is_due(Instant::now())
}

/// What happens once a second at most.
#[derive(Debug)]
pub(crate) struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(None))
    }

    pub(crate) fn is_due(&self, now: Instant) -> bool {
        // Who holds it says so in a moment.
        let Ok(mut last) = self.0.try_lock() else {
            return false;
        };
        let is_due = last.is_none_or(|last| now.duration_since(last) >= Duration::from_secs(1));
        if is_due {
            *last = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_seldom_happens_once_a_second() {
        let seldom = Seldom::new();
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        let due = [0, 1, 999, 1000, 1001, 3000].map(|millis| seldom.is_due(after(millis)));
        assert_eq!(due, [true, false, false, true, false, true]);
    }
}
