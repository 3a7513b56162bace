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

/// A page of whatever content.
#[derive(Debug)]
pub struct AnyPage(Kind);

#[derive(Debug)]
enum Kind {
    Plain(PlainPage),
    Bytes(Vec<u8>),
}

/// A [`ValuePage`] of a type that is forgotten: what is in it is any plain type of its shape.
///
/// # Invariants
///
/// 1. `start` is an allocation of `shape`, owned by this alone; its bytes are initialised.
/// 2. The first `length` of them are those of a value, without padding.
#[derive(Debug)]
struct PlainPage {
    start: NonNull<u8>,
    shape: Shape,
    length: usize,
}

// SAFETY: plain bytes, owned (invariant 1).
unsafe impl Send for PlainPage {}
// SAFETY: as for `Send`; a shared borrow only reads.
unsafe impl Sync for PlainPage {}

impl AnyPage {
    #[inline]
    pub(super) fn of_value<T: Layout>(page: ValuePage<T>) -> Self {
        let page = ManuallyDrop::new(page);
        // INVARIANT: 1 and 2 of `PlainPage`, by 1 of `ValuePage`; a `Layout` has no padding.
        Self(Kind::Plain(PlainPage {
            start: page.start.cast(),
            shape: ValuePage::<T>::SHAPE,
            length: size_of::<T>(),
        }))
    }

    pub(super) fn of_bytes(page: Vec<u8>) -> Self {
        Self(Kind::Bytes(page))
    }

    #[inline]
    pub(super) fn into_value<T: Layout>(self) -> Option<ValuePage<T>> {
        match self.0 {
            Kind::Plain(page) if page.is_of::<T>() => {
                let page = ManuallyDrop::new(page);
                // INVARIANT: 1: the shape was compared, and any bytes are a `T`.
                Some(ValuePage {
                    start: page.start.cast(),
                    owned: PhantomData,
                })
            }
            _ => None,
        }
    }

    pub(super) fn into_bytes(self) -> Option<Vec<u8>> {
        match self.0 {
            Kind::Bytes(page) => Some(page),
            Kind::Plain(_) => None,
        }
    }

    #[inline]
    pub(super) fn value<T: Layout>(&self) -> Option<&T> {
        match &self.0 {
            // SAFETY: invariant 1, and the shape is compared: any bytes are a `T`.
            Kind::Plain(page) if page.is_of::<T>() => Some(unsafe { page.start.cast().as_ref() }),
            _ => None,
        }
    }

    #[inline]
    pub(super) fn value_mut<T: Layout>(&mut self) -> Option<&mut T> {
        match &mut self.0 {
            // SAFETY: as in `value`. A `T` has no padding, so the bytes stay initialised.
            Kind::Plain(page) if page.is_of::<T>() => Some(unsafe { page.start.cast().as_mut() }),
            _ => None,
        }
    }

    pub(super) fn bytes_page(&self) -> Option<&Vec<u8>> {
        match &self.0 {
            Kind::Bytes(page) => Some(page),
            Kind::Plain(_) => None,
        }
    }

    pub(super) fn bytes_page_mut(&mut self) -> Option<&mut Vec<u8>> {
        match &mut self.0 {
            Kind::Bytes(page) => Some(page),
            Kind::Plain(_) => None,
        }
    }

    /// The bytes of a version.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.0 {
            // SAFETY: invariants 1 and 2 of `PlainPage`.
            Kind::Plain(page) => unsafe {
                core::slice::from_raw_parts(page.start.as_ptr(), page.length)
            },
            Kind::Bytes(page) => page,
        }
    }
}

impl PlainPage {
    #[inline]
    fn is_of<T>(&self) -> bool {
        self.shape == ValuePage::<T>::SHAPE && self.length == size_of::<T>()
    }
}

impl Drop for PlainPage {
    fn drop(&mut self) {
        // SAFETY: invariant 1.
        unsafe { alloc::dealloc(self.start.as_ptr(), self.shape) }
    }
}
