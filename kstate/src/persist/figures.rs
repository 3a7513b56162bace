#![expect(
    unsafe_code,
    reason = "asks for attributes, which has no safe wrapper here"
)]
//! What is known of a state's file.

use std::ffi::{CStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use kstate_sys::persist::MAX_PATH_BYTES;
use kstate_sys::region::Generation;

use super::Durability;
use crate::errno;

/// What is known of the file of a persistent state.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Persistence {
    /// Where it is; `None` if that is not told.
    pub file: Option<PathBuf>,
    /// How soon behind a commit its version is there; `None` if that is not told.
    pub durability: Option<Durability>,
    /// The newest generation that is in it for good; 0 if none is.
    pub durable: Generation,
    /// Bytes written to it since the daemon has had it; `None` if that is not told.
    pub written: Option<u64>,
    /// How often that failed; `None` if that is not told.
    pub failures: Option<u64>,
}

impl Persistence {
    /// Asks for what is not known yet of the state open as `state`.
    ///
    /// # Errors
    ///
    /// What the daemon says.
    ///
    /// # Cost
    ///
    /// Four FUSE requests.
    pub(crate) fn ask(state: BorrowedFd<'_>, durable: Generation) -> io::Result<Self> {
        let number =
            |name| Ok::<_, io::Error>(text(state, name)?.and_then(|text| text.parse().ok()));
        Ok(Self {
            file: attribute(state, c"user.kstate.persistent")?
                .map(|path| OsString::from_vec(path).into()),
            durability: text(state, c"user.kstate.durability")?.and_then(|text| durability(&text)),
            durable,
            written: number(c"user.kstate.flushed_bytes")?,
            failures: number(c"user.kstate.flush_errors")?,
        })
    }
}

fn durability(text: &str) -> Option<Durability> {
    match kstate_sys::duration::parse(text) {
        Ok(Duration::ZERO) => Some(Durability::Each),
        Ok(within) => Some(Durability::Within(within)),
        Err(_) => (text == "each").then_some(Durability::Each),
    }
}

fn text(state: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<String>> {
    let value = attribute(state, name)?;
    Ok(value.and_then(|value| String::from_utf8(value).ok()))
}

/// An attribute of an open file, if it has it.
fn attribute(state: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0_u8; MAX_PATH_BYTES + 1];
    let get = || {
        // SAFETY: an open descriptor, a name that ends, and room of as many bytes as it says.
        let length = unsafe {
            libc::fgetxattr(
                state.as_raw_fd(),
                name.as_ptr(),
                value.as_mut_ptr().cast(),
                value.len(),
            )
        };
        usize::try_from(length).map_err(|_| io::Error::last_os_error())
    };
    match errno::uninterrupted(get) {
        Ok(length) => {
            value.truncate(length);
            Ok(Some(value))
        }
        Err(error) if errno::has_no_attribute(&error) => Ok(None),
        Err(error) => Err(error),
    }
}
