#![expect(unsafe_code, reason = "borrows for longer than the compiler can see")]
//! What something beside it borrows.

use std::ptr::NonNull;

/// A handle on the heap, which can be borrowed for longer than the compiler can see.
///
/// # Invariants
///
/// 1. It came from a box, and goes back into one when this is dropped or taken apart.
pub(crate) struct Pinned<T>(NonNull<T>);

// SAFETY: it owns a `T`, as a box does.
unsafe impl<T: Send> Send for Pinned<T> {}

impl<T> Pinned<T> {
    /// One of what is in `boxed`.
    pub(crate) fn new(boxed: Box<T>) -> Self {
        // INVARIANT: 1.
        Self(NonNull::from(Box::leak(boxed)))
    }

    /// What it owns, for longer than the compiler can see.
    ///
    /// # Safety
    ///
    /// Nothing that this gives is used after `self` has gone, which may move meanwhile.
    pub(crate) unsafe fn borrow_long<'a>(&self) -> &'a T {
        // SAFETY: invariant 1, and the caller's promise.
        unsafe { self.0.as_ref() }
    }

    /// As a box again.
    pub(crate) fn into_box(self) -> Box<T> {
        let pointer = std::mem::ManuallyDrop::new(self).0;
        // SAFETY: invariant 1, and it is not dropped besides.
        unsafe { Box::from_raw(pointer.as_ptr()) }
    }
}

impl<T> Drop for Pinned<T> {
    fn drop(&mut self) {
        // SAFETY: invariant 1.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}
