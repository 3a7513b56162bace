#![expect(unsafe_code, reason = "exported, and reads what programs point to")]
//! A daemon where there is none.

use std::ffi::{CStr, OsStr, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use kstate::Host;

use crate::boundary::answer;

/// # Safety
///
/// `directory` is null or a string.
#[unsafe(no_mangle)]
unsafe extern "C" fn kstate_start_daemon(directory: *const c_char) -> c_int {
    answer(|| {
        let started = match directory.is_null() {
            true => {
                // Not only now: the one that is there may die.
                Host::new().where_absent();
                Host::new().start()
            }
            false => {
                // SAFETY: by the contract above.
                let directory = unsafe { CStr::from_ptr(directory) };
                Host::new().start_at(Path::new(OsStr::from_bytes(directory.to_bytes())))
            }
        };
        started?;
        Ok(())
    })
}
