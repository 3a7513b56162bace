//! Keeping clear of the standard streams.
//!
//! A program may have closed them. What it prints then goes to whatever is opened next: to a state, as a commit, or into a
//! state's file.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, fcntl};

/// The first descriptor that is nobody's stream.
const FIRST: i32 = 3;

/// `descriptor`, or another one for it where its number is that of a standard stream.
///
/// # Errors
///
/// `EMFILE`.
pub(crate) fn clear_of<D: Into<OwnedFd> + From<OwnedFd>>(descriptor: D) -> io::Result<D> {
    let descriptor: OwnedFd = descriptor.into();
    if descriptor.as_raw_fd() >= FIRST {
        return Ok(descriptor.into());
    }
    let number = fcntl(&descriptor, FcntlArg::F_DUPFD_CLOEXEC(FIRST))?;
    #[expect(unsafe_code, reason = "nix returns a bare number")]
    // SAFETY: a new descriptor that nobody else owns.
    let clear = unsafe { OwnedFd::from_raw_fd(number) };
    Ok(clear.into())
}
