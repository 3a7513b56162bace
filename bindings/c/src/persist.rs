#![expect(unsafe_code, reason = "exported, and reads what programs point to")]
//! What a state is like beside its value: its size, its file, its end.

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use kstate::{Durability, Trapping};

use crate::boundary::{answer, answer_or};
use crate::failure::{Failure, Outcome};
use crate::handle::{Handle, State};
use crate::reading::LONGEST;
use crate::shared::Using;

impl Handle<State> {
    /// Runs `work` with the subscription, but without the handle: it asks the daemon.
    fn using<R>(self, work: impl FnOnce(Using<'_>) -> Outcome<R>) -> Outcome<R> {
        let shared = self.shared()?;
        let using = shared.using()?;
        work(using)
    }
}

/// # Safety
///
/// `data` has `length` bytes that can be read, or is null if that is 0.
#[unsafe(no_mangle)]
unsafe extern "C" fn kstate_publish(
    state: Handle<State>,
    data: *const c_void,
    length: usize,
) -> c_int {
    answer(|| {
        if data.is_null() && length > 0 {
            return Err(Failure::plain(libc::EINVAL, c"the data is NULL"));
        }
        if length > LONGEST {
            return Err(Failure::plain(
                libc::EFBIG,
                c"a value is no longer than a page",
            ));
        }
        let bytes = match data.is_null() {
            true => &[][..],
            // SAFETY: by the contract above.
            false => unsafe { core::slice::from_raw_parts(data.cast::<u8>(), length) },
        };
        state.with_subscribed(|subscribed| {
            subscribed.shared.using()?.publish(bytes)?;
            Ok(())
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn kstate_set_size(state: Handle<State>, size: usize) -> c_int {
    answer(|| {
        // More than a page in any case.
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        state.using(|using| {
            using.set_capacity(size)?;
            Ok(())
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn kstate_get_size(state: Handle<State>) -> usize {
    answer_or(0, || {
        state.with_subscribed(|subscribed| Ok(subscribed.shared.reader().capacity() as usize))
    })
}

/// # Safety
///
/// `path` is null or a string.
#[unsafe(no_mangle)]
unsafe extern "C" fn kstate_set_persistent(state: Handle<State>, path: *const c_char) -> c_int {
    answer(|| {
        if path.is_null() {
            return Err(Failure::plain(libc::EINVAL, c"the file's name is NULL"));
        }
        // SAFETY: by the contract above.
        let path = Path::new(OsStr::from_bytes(
            unsafe { CStr::from_ptr(path) }.to_bytes(),
        ));
        let shared = state.shared()?;
        Ok(shared.reader().set_persistent(path)?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn kstate_set_durability(state: Handle<State>, within_ns: i64) -> c_int {
    answer(|| {
        let durability = match u64::try_from(within_ns) {
            Ok(0) => Durability::Each,
            Ok(within) => Durability::Within(Duration::from_nanos(within)),
            Err(_) => return Err(Failure::plain(libc::EINVAL, c"a time is not negative")),
        };
        let shared = state.shared()?;
        Ok(shared.reader().set_durability(durability)?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn kstate_sync(state: Handle<State>) -> c_int {
    answer(|| {
        let shared = state.shared()?;
        shared.reader().sync()?;
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn kstate_delete(state: Handle<State>) -> c_int {
    answer(|| state.using(|using| Ok(using.delete()?)))
}

#[unsafe(no_mangle)]
extern "C" fn kstate_set_trapping(state: Handle<State>, trapping: c_int) -> c_int {
    answer(|| {
        let trapping = match trapping {
            0 => Trapping::Thread,
            1 => Trapping::Signal,
            2 => Trapping::Kernel,
            3 => Trapping::Software,
            _ => {
                return Err(Failure::plain(
                    libc::EINVAL,
                    c"there is no such way of trapping",
                ));
            }
        };
        state.using(|using| {
            using.set_trapping(trapping);
            Ok(())
        })
    })
}
