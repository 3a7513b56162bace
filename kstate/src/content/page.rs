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

/// A page of whatever content: two words, since it goes from hand to hand.
///
/// # Invariants
///
/// 1. `start` is what `kind` says, owned by this alone.
pub struct AnyPage {
    start: NonNull<u8>,
    kind: Kind,
}

/// What is behind a page's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A value of so many bytes, as in a [`ValuePage`], allocated so aligned.
    Plain { length: u32, align: u32 },
    /// A boxed vector.
    Bytes,
}

// SAFETY: plain bytes or a vector of them, owned (invariant 1).
unsafe impl Send for AnyPage {}
// SAFETY: as for `Send`; a shared borrow only reads.
unsafe impl Sync for AnyPage {}

impl<T> ValuePage<T> {
    const KIND: Kind = {
        let (length, align) = (size_of::<T>(), Self::SHAPE.align());
        assert!(length < 1 << 31 && align < 1 << 31);
        #[expect(clippy::cast_possible_truncation, reason = "compared above")]
        Kind::Plain {
            length: length as u32,
            align: align as u32,
        }
    };
}

impl AnyPage {
    #[inline]
    pub(super) fn of_value<T: Layout>(page: ValuePage<T>) -> Self {
        let page = ManuallyDrop::new(page);
        // INVARIANT: 1.
        Self {
            start: page.start.cast(),
            kind: ValuePage::<T>::KIND,
        }
    }

    pub(super) fn of_bytes(page: Vec<u8>) -> Self {
        // INVARIANT: 1.
        Self {
            start: NonNull::from(Box::leak(Box::new(page))).cast(),
            kind: Kind::Bytes,
        }
    }

    #[inline]
    pub(super) fn into_value<T: Layout>(self) -> Option<ValuePage<T>> {
        if self.kind != ValuePage::<T>::KIND {
            return None;
        }
        let page = ManuallyDrop::new(self);
        // INVARIANT: 1: the kind has the shape of a `T`, and any bytes are one.
        Some(ValuePage {
            start: page.start.cast(),
            owned: PhantomData,
        })
    }

    pub(super) fn into_bytes(mut self) -> Option<Vec<u8>> {
        // An empty one is left for the drop.
        self.bytes_page_mut().map(std::mem::take)
    }

    #[inline]
    pub(super) fn value<T: Layout>(&self) -> Option<&T> {
        // SAFETY: invariant 1, and the kind has the shape of a `T`: any bytes are one.
        (self.kind == ValuePage::<T>::KIND).then(|| unsafe { self.start.cast().as_ref() })
    }

    #[inline]
    pub(super) fn value_mut<T: Layout>(&mut self) -> Option<&mut T> {
        // SAFETY: as in `value`. A `T` has no padding, so the bytes stay initialised.
        (self.kind == ValuePage::<T>::KIND).then(|| unsafe { self.start.cast().as_mut() })
    }

    pub(super) fn bytes_page(&self) -> Option<&Vec<u8>> {
        // SAFETY: invariant 1.
        (self.kind == Kind::Bytes).then(|| unsafe { self.start.cast().as_ref() })
    }

    pub(super) fn bytes_page_mut(&mut self) -> Option<&mut Vec<u8>> {
        // SAFETY: invariant 1.
        (self.kind == Kind::Bytes).then(|| unsafe { self.start.cast().as_mut() })
    }

    /// The bytes of a version.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        match self.kind {
            Kind::Plain { length, .. } => {
                // SAFETY: invariant 1; a `Layout` has no padding.
                unsafe { core::slice::from_raw_parts(self.start.as_ptr(), length as usize) }
            }
            Kind::Bytes => self.bytes_page().map_or(&[], Vec::as_slice),
        }
    }
}

impl Drop for AnyPage {
    fn drop(&mut self) {
        match self.kind {
            Kind::Plain { length, align } => {
                let size = (length as usize).max(1);
                // SAFETY: invariant 1; it was allocated with a size and alignment that fit.
                let shape = unsafe { Shape::from_size_align_unchecked(size, align as usize) };
                // SAFETY: as above.
                unsafe { alloc::dealloc(self.start.as_ptr(), shape) }
            }
            Kind::Bytes => {
                let start = self.start.as_ptr().cast::<Vec<u8>>();
                // SAFETY: invariant 1.
                drop(unsafe { Box::from_raw(start) });
            }
        }
    }
}

impl fmt::Debug for AnyPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnyPage")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}
