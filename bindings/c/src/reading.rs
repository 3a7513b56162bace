#![expect(unsafe_code, reason = "exported, and writes where programs say")]
//! Looking at a state: copies, and the live pointer.

use std::ffi::{c_int, c_void};
use std::sync::Arc;
use std::time::Duration;

use kstate::ReadError;
use kstate_sys::abi::page_size;

use crate::boundary::{answer, answer_or};
use crate::failure::Failure;
use crate::handle::{Handle, State};
use crate::state::Subscribed;

/// `struct kstate_snapshot` of the header.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Snapshot {
    generation: u64,
    age_ns: i64,
    length: u32,
    flags: u32,
    reserved: [u64; 2],
}

const _: () = {
    assert!(size_of::<Snapshot>() == 40 && align_of::<Snapshot>() == 8);
    assert!(core::mem::offset_of!(Snapshot, age_ns) == 8);
    assert!(core::mem::offset_of!(Snapshot, length) == 16);
    assert!(core::mem::offset_of!(Snapshot, flags) == 20);
    assert!(core::mem::offset_of!(Snapshot, reserved) == 24);
};

/// `KSTATE_OVERDUE` of the header.
const OVERDUE: u32 = 1;
/// The longest page of any machine, in bytes.
pub(crate) const LONGEST: usize = 65536;
/// `KSTATE_BEING_WRITTEN` of the header.
const BEING_WRITTEN: u64 = u64::MAX;

impl Snapshot {
    #[inline]
    fn of(now: &kstate::Snapshot<usize>) -> Self {
        let age = now.age().map(|age| i64::try_from(age.as_nanos()));
        Self {
            generation: now.generation().0,
            age_ns: age.map_or(-1, |age| age.unwrap_or(i64::MAX)),
            length: now.length(),
            flags: if now.is_overdue() { OVERDUE } else { 0 },
            reserved: [0; 2],
        }
    }

    /// What can be said of a version for which there is not enough room.
    fn of_length(length: u32) -> Self {
        Self {
            length,
            age_ns: -1,
            ..Self::default()
        }
    }
}

impl Subscribed {
    /// Copies what the handle shows to the start of `into`.
    #[inline]
    fn snapshot(&self, into: &mut [u8]) -> Result<kstate::Snapshot<usize>, ReadError> {
        match &self.view {
            None => self.shared.reader().snapshot_into(into),
            Some(view) => view.snapshot_into(into),
        }
    }

    /// What is known of what the handle shows, without the value.
    #[cold]
    fn look(&self) -> Result<kstate::Snapshot<usize>, ReadError> {
        self.snapshot(&mut vec![0; page_size() as usize])
    }
}

/// # Safety
///
/// `buffer` has room for `size` bytes, or is null if that is 0; `into` is null or has room for one.
#[unsafe(no_mangle)]
unsafe extern "C" fn kstate_take_snapshot(
    state: Handle<State>,
    buffer: *mut c_void,
    size: usize,
    into: *mut Snapshot,
) -> c_int {
    answer(|| {
        if buffer.is_null() && size > 0 {
            return Err(Failure::plain(libc::EINVAL, c"the buffer is NULL"));
        }
        state.with_subscribed(|subscribed| {
            // First: what is committed behind this look has the descriptor readable again.
            if let Some(watched) = &mut subscribed.watched {
                watched.take()?;
            }
            let taken = match buffer.is_null() {
                true => subscribed.look(),
                false => {
                    // No value is longer, and no more of the buffer is looked at.
                    let room = size.min(LONGEST);
                    // SAFETY: by the contract above. It may hold anything, of which nothing is read.
                    let room = unsafe { core::slice::from_raw_parts_mut(buffer.cast(), room) };
                    subscribed.snapshot(room)
                }
            };
            let told = match &taken {
                _ if into.is_null() => None,
                Ok(now) => Some(Snapshot::of(now)),
                Err(ReadError::TooLong { length, .. }) => Some(Snapshot::of_length(*length)),
                Err(_) => None,
            };
            if let Some(told) = told {
                // SAFETY: not null, and by the contract above.
                unsafe { into.write(told) };
            }
            match taken {
                Ok(now) => subscribed.seen = now.generation(),
                Err(error) => {
                    // It is still to be taken.
                    subscribed.rewatch()?;
                    return Err(error.into());
                }
            }
            Ok(())
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn kstate_get_generation(state: Handle<State>) -> u64 {
    answer_or(0, || {
        state.with_subscribed(|subscribed| {
            Ok(match &subscribed.view {
                None => subscribed.shared.reader().generation().0,
                Some(view) => view.generation().0,
            })
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn kstate_get_state_ptr(state: Handle<State>) -> *const c_void {
    answer_or(core::ptr::null(), || {
        state.with_subscribed(|subscribed| {
            if !subscribed.is_live_in_force {
                let live = match &subscribed.view {
                    None => subscribed.shared.reader().live()?,
                    Some(view) => view.live()?,
                };
                subscribed.live.push(live);
                subscribed.is_live_in_force = true;
            }
            let live = subscribed.live.last();
            Ok(live.map_or(core::ptr::null(), |live| live.as_ptr().cast()))
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn kstate_get_ptr_generation(state: Handle<State>) -> u64 {
    answer_or(BEING_WRITTEN, || {
        state.with_subscribed(|subscribed| match subscribed.live.last() {
            Some(live) => Ok(live
                .generation()
                .map_or(BEING_WRITTEN, |generation| generation.0)),
            None => Err(Failure::plain(
                libc::EINVAL,
                c"no pointer was fetched; call kstate_get_state_ptr first",
            )),
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn kstate_set_min_interval(state: Handle<State>, interval_ns: i64) -> c_int {
    answer(|| {
        let interval = u64::try_from(interval_ns)
            .map_err(|_| Failure::plain(libc::EINVAL, c"an interval is not negative"))?;
        state.with_subscribed(|subscribed| {
            let reader = subscribed.shared.reader();
            subscribed.view =
                (interval > 0).then(|| Arc::new(reader.view(Duration::from_nanos(interval))));
            subscribed.is_live_in_force = false;
            subscribed.rewatch()
        })
    })
}
