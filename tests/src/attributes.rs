#![expect(unsafe_code, reason = "setxattr(2) and getxattr(2) have no wrappers")]
//! Extended attributes of files.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

fn c_string(text: &[u8]) -> CString {
    CString::new(text).expect("no NUL")
}

/// Sets `user.kstate.` and `key` of the file at `path`.
///
/// # Errors
///
/// What the file system says.
///
/// # Panics
///
/// With a NUL in a name.
pub fn set_attribute(path: &Path, key: &str, value: &[u8]) -> io::Result<()> {
    let (path, name) = (
        c_string(path.as_os_str().as_bytes()),
        c_string(format!("user.kstate.{key}").as_bytes()),
    );
    let (bytes, length) = (value.as_ptr().cast(), value.len());
    // SAFETY: two strings that end in NUL, and as many bytes as it says.
    let set = unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), bytes, length, 0) };
    match set {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Removes `user.kstate.` and `key` of the file at `path`.
///
/// # Errors
///
/// What the file system says.
///
/// # Panics
///
/// With a NUL in a name.
pub fn remove_attribute(path: &Path, key: &str) -> io::Result<()> {
    let (path, name) = (
        c_string(path.as_os_str().as_bytes()),
        c_string(format!("user.kstate.{key}").as_bytes()),
    );
    // SAFETY: two strings that end in NUL.
    match unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The text of `user.kstate.` and `key` of the file at `path`.
///
/// # Errors
///
/// What the file system says.
///
/// # Panics
///
/// With a NUL in a name, or where it is no text of less than 4 KiB.
pub fn attribute(path: &Path, key: &str) -> io::Result<String> {
    let (path, name) = (
        c_string(path.as_os_str().as_bytes()),
        c_string(format!("user.kstate.{key}").as_bytes()),
    );
    let mut value = vec![0_u8; 4096];
    let (bytes, length) = (value.as_mut_ptr().cast(), value.len());
    // SAFETY: two strings that end in NUL, and room for as many bytes as it says.
    let found = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), bytes, length) };
    match usize::try_from(found) {
        Ok(length) => {
            value.truncate(length);
            Ok(String::from_utf8(value).expect("text"))
        }
        Err(_) => Err(io::Error::last_os_error()),
    }
}
