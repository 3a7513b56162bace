#![expect(unsafe_code, reason = "exported, and writes to a program's streams")]
//! Names that nobody else has, and handles as people read them.

use std::ffi::{CStr, CString, c_char};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::boundary::{answer_or, quietly};
use crate::failure::{Failure, Outcome};
use crate::handle::{Handle, State, Transaction};
use crate::state::described;

/// # Safety
///
/// `prefix` is null or a string.
#[unsafe(no_mangle)]
unsafe extern "C" fn kstate_get_unique_name(prefix: *const c_char) -> *mut c_char {
    static LAST: AtomicU32 = AtomicU32::new(0);
    answer_or(core::ptr::null_mut(), || {
        if prefix.is_null() {
            return Err(Failure::plain(libc::EINVAL, c"the prefix is NULL"));
        }
        // SAFETY: by the contract above.
        let prefix = unsafe { CStr::from_ptr(prefix) }.to_bytes();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let (seconds, micros) = (now.as_secs(), now.subsec_micros());
        let number = LAST.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let rest = format!(".{seconds}{micros:06}.{}.{number}", std::process::id());
        allocated(&[prefix, rest.as_bytes()].concat())
    })
}

/// A string that the program frees with free(3).
fn allocated(bytes: &[u8]) -> Outcome<*mut c_char> {
    let no_memory = Failure::plain(libc::ENOMEM, c"no memory for a string");
    let text = CString::new(bytes)
        .map_err(|_| Failure::plain(libc::EINVAL, c"a byte of zero in a string"))?;
    // SAFETY: copies a string to memory of malloc(3)'s.
    let copy = unsafe { libc::strdup(text.as_ptr()) };
    match copy.is_null() {
        true => Err(no_memory),
        false => Ok(copy),
    }
}

/// # Safety
///
/// `stream` is null or open for writing; `start` is null or a string.
#[unsafe(no_mangle)]
unsafe extern "C" fn kstate_print_state(
    stream: *mut libc::FILE,
    start: *const c_char,
    state: Handle<State>,
    eol: bool,
) {
    let told = quietly(None, || {
        state.with(|entry| {
            let id = entry.id;
            Ok(Some(match entry.subscribed() {
                Err(_) => format!("State {id}: not subscribed"),
                Ok(subscribed) => {
                    let name = described(subscribed.shared.name(), subscribed.permissions);
                    let reader = subscribed.shared.reader();
                    let (generation, room) = (reader.generation(), reader.capacity());
                    format!("State {id}: {name}, generation {generation}, room for {room} bytes")
                }
            }))
        })
    });
    let told = told.unwrap_or_else(|| "State: none".into());
    // SAFETY: by the contract above.
    unsafe { print(stream, start, told, eol) }
}

/// # Safety
///
/// `stream` is null or open for writing; `start` is null or a string.
#[unsafe(no_mangle)]
unsafe extern "C" fn kstate_print_transaction(
    stream: *mut libc::FILE,
    start: *const c_char,
    transaction: Handle<Transaction>,
    eol: bool,
) {
    let told = quietly(None, || {
        transaction.with(|entry| {
            let id = entry.id;
            Ok(Some(match entry.active() {
                Err(_) => format!("Transaction {id}: not active"),
                Ok(active) => {
                    let permissions = active.permissions;
                    let names = active.members();
                    let names = names.map(|member| described(member.shared.name(), permissions));
                    format!(
                        "Transaction {id}: on {}",
                        names.collect::<Vec<_>>().join(", ")
                    )
                }
            }))
        })
    });
    let told = told.unwrap_or_else(|| "Transaction: none".into());
    // SAFETY: by the contract above.
    unsafe { print(stream, start, told, eol) }
}

/// # Safety
///
/// As of the two above.
unsafe fn print(stream: *mut libc::FILE, start: *const c_char, told: String, eol: bool) {
    quietly((), || {
        let told = CString::new(told).unwrap_or_default();
        let end = if eol { c"\n" } else { c"" };
        for text in [start, told.as_ptr(), end.as_ptr()] {
            if !stream.is_null() && !text.is_null() {
                // SAFETY: by the contract above, or a string of ours.
                unsafe { libc::fputs(text, stream) };
            }
        }
        Ok(())
    });
}

/// The version of this library.
#[unsafe(no_mangle)]
extern "C" fn kstate_version() -> *const c_char {
    const VERSION: &CStr =
        match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
            Ok(version) => version,
            Err(_) => c"",
        };
    VERSION.as_ptr()
}
