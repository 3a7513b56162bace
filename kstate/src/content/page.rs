#![expect(
    unsafe_code,
    reason = "allocates a value where copies to and from slots are quick"
)]
//! Private memory for the value that a transaction works on.

use core::alloc::Layout as Shape;
use core::fmt;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use std::alloc;

use crate::layout::Layout;

/// Values longer than this are in slots of a page.
const SMALL_BYTES: usize = 1024;
/// A cache line: where a slot of a small class begins.
const LINE_BYTES: usize = 64;
/// The least page, where a slot of that class begins.
const PAGE_BYTES: usize = 4096;

/// A value on the heap, aligned as the slots of its size are.
///
/// A processor takes a load for one that depends on an earlier store if the two addresses agree
/// in their low 12 bits (*4K aliasing* in Intel's optimisation manual): with a page that begins
/// anywhere between two slots' beginnings a copy takes twice as long.
///
/// It is one word, for the reason that a [`Writer`](kstate_sys::region::Writer) is.
///
/// # Invariants
///
/// 1. `start` is an allocation of `Self::SHAPE`, owned by this alone; its bytes are initialised.
pub struct ValuePage<T> {
    start: NonNull<T>,
    owned: PhantomData<T>,
}

// SAFETY: an owned `T` (invariant 1).
unsafe impl<T: Send> Send for ValuePage<T> {}
// SAFETY: as for `Send`.
unsafe impl<T: Sync> Sync for ValuePage<T> {}

impl<T> ValuePage<T> {
    const SHAPE: Shape = {
        let usual = match size_of::<T>() > SMALL_BYTES {
            true => PAGE_BYTES,
            false => LINE_BYTES,
        };
        let align = match align_of::<T>() > usual {
            true => align_of::<T>(),
            false => usual,
        };
        // The allocator knows no size of nothing.
        let size = match size_of::<T>() {
            0 => 1,
            size => size,
        };
        match Shape::from_size_align(size, align) {
            Ok(shape) => shape,
            Err(_) => panic!("a value that no memory has room for"),
        }
    };
}

impl<T: Layout> ValuePage<T> {
    /// All zeros.
    pub(super) fn zeroed() -> Self {
        // SAFETY: its size is not zero.
        let start = unsafe { alloc::alloc_zeroed(Self::SHAPE) };
        match NonNull::new(start) {
            // INVARIANT: 1: any bytes are a `T`.
            Some(start) => Self {
                start: start.cast(),
                owned: PhantomData,
            },
            None => alloc::handle_alloc_error(Self::SHAPE),
        }
    }

    /// The same, and nobody knows of what type.
    pub(super) fn forget_type(self) -> PlainPage {
        let this = ManuallyDrop::new(self);
        // INVARIANT: 1 of `PlainPage`, by invariant 1.
        PlainPage {
            start: this.start.cast(),
            shape: Self::SHAPE,
        }
    }
}

impl<T> Deref for ValuePage<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: invariant 1.
        unsafe { self.start.as_ref() }
    }
}

impl<T> DerefMut for ValuePage<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: invariant 1.
        unsafe { self.start.as_mut() }
    }
}

impl<T> Drop for ValuePage<T> {
    fn drop(&mut self) {
        // SAFETY: invariant 1. A `T` is its bytes and has nothing to drop.
        unsafe { alloc::dealloc(self.start.as_ptr().cast(), Self::SHAPE) }
    }
}

impl<T> fmt::Debug for ValuePage<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValuePage").finish_non_exhaustive()
    }
}

/// A [`ValuePage`] of a type that is forgotten: what is in it is any plain type of its shape.
///
/// # Invariants
///
/// 1. `start` is an allocation of `shape`, owned by this alone; its bytes are initialised.
pub(crate) struct PlainPage {
    start: NonNull<u8>,
    shape: Shape,
}

impl PlainPage {
    /// Seen as of type `T`, if it has that shape.
    pub(super) fn recall_type<T: Layout>(self) -> Option<ValuePage<T>> {
        if !self.is_of::<T>() {
            return None;
        }
        let this = ManuallyDrop::new(self);
        // INVARIANT: 1: the shape was compared, and any bytes are a `T`.
        Some(ValuePage {
            start: this.start.cast(),
            owned: PhantomData,
        })
    }

    #[inline]
    fn is_of<T>(&self) -> bool {
        self.shape == ValuePage::<T>::SHAPE
    }

    /// The value.
    #[inline]
    pub(super) fn get<T: Layout>(&self) -> Option<&T> {
        // SAFETY: invariant 1, and the shape is compared: any bytes are a `T`.
        self.is_of::<T>()
            .then(|| unsafe { self.start.cast().as_ref() })
    }

    /// The value, to be changed.
    #[inline]
    pub(super) fn get_mut<T: Layout>(&mut self) -> Option<&mut T> {
        // SAFETY: as in `get`. A `T` has no padding, so the bytes stay initialised.
        self.is_of::<T>()
            .then(|| unsafe { self.start.cast().as_mut() })
    }
}

impl Drop for PlainPage {
    fn drop(&mut self) {
        // SAFETY: invariant 1.
        unsafe { alloc::dealloc(self.start.as_ptr(), self.shape) }
    }
}
