#![expect(unsafe_code, reason = "fills a result that is not there yet")]
//! A snapshot filled where it is wanted.
//!
//! The bytes of a version are copied by instructions that the compiler does not look into, so a
//! value made that way is moved to the caller afterwards: another copy, or two. For a page that
//! is more than the reading itself. Here the caller's own place is filled.

use core::mem::MaybeUninit;

use kstate_sys::region::Candidate;

use super::typed::{copy_if_whole, typed_slowly};
use crate::layout::Layout;
use crate::reader::Reader;
use crate::snapshot::{Label, ReadError, Snapshot};

/// A snapshot, copied once.
#[inline(always)]
pub(super) fn snapshot<T: Layout>(reader: &Reader<T>) -> Result<Snapshot<T>, ReadError> {
    let mut place = MaybeUninit::uninit();
    fill(reader, &mut place);
    // SAFETY: `fill` writes a result.
    unsafe { place.assume_init() }
}

/// Writes a result to `place`. Not inlined, because a call is what the compiler hands its
/// caller's place to.
#[inline(never)]
fn fill<T: Layout>(reader: &Reader<T>, place: &mut MaybeUninit<Result<Snapshot<T>, ReadError>>) {
    // Where the two have one size, each byte of an `Ok` is one of its snapshot, and what says
    // `Ok` is the niche in the label: a snapshot in that place is an `Ok` of it.
    if const { size_of::<Result<Snapshot<T>, ReadError>>() == size_of::<Snapshot<T>>() } {
        let memory = reader.memory_copied();
        let candidate = Candidate::newest(&memory, size_of::<T>());
        let place = place.as_mut_ptr().cast::<MaybeUninit<Snapshot<T>>>();
        // SAFETY: of that size, and aligned for the snapshot it can hold.
        let snapshot = unsafe { &mut *place };
        if let Some(version) = copy_if_whole(candidate, value_bytes(snapshot)) {
            let label = Label::new(&version, reader.clock());
            // SAFETY: within `snapshot`. With the value's bytes, all written, it is whole.
            unsafe { (*snapshot.as_mut_ptr()).label = label };
            return;
        }
    }
    let mut value = T::new_zeroed();
    place.write(match typed_slowly(reader, &mut value) {
        Ok(version) => Ok(Snapshot::new(value, &version, reader.clock())),
        Err(error) => Err(error),
    });
}

/// The value's bytes of a snapshot that is not there yet.
#[inline(always)]
pub(super) fn value_bytes<T>(snapshot: &mut MaybeUninit<Snapshot<T>>) -> &mut [MaybeUninit<u8>] {
    // SAFETY: within `snapshot`.
    let value = unsafe { &raw mut (*snapshot.as_mut_ptr()).value };
    // SAFETY: exactly the bytes of the value, borrowed as long; they may be uninitialised.
    unsafe { core::slice::from_raw_parts_mut(value.cast::<MaybeUninit<u8>>(), size_of::<T>()) }
}

/// The snapshot with its label.
///
/// # Safety
///
/// All bytes of the value were written, and any bytes are a `T`.
#[inline(always)]
pub(super) unsafe fn labelled<T>(
    mut snapshot: MaybeUninit<Snapshot<T>>,
    label: Label,
) -> Snapshot<T> {
    // SAFETY: within `snapshot`.
    unsafe { (*snapshot.as_mut_ptr()).label = label };
    // SAFETY: the caller's promise, and the label.
    unsafe { snapshot.assume_init() }
}
