#![expect(unsafe_code, reason = "owns a value through an atomic pointer")]
//! A place that is filled once, without a state in between that a forked child could get stuck in.

use core::fmt;
use core::marker::PhantomData;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

/// A value that comes to be there once, and stays as long as the place.
///
/// The standard library's has a third state, being filled, which a `fork` can copy: a child would
/// wait there for a thread that it has not. Here each who comes brings a value, and the first
/// one's serves.
///
/// # Invariants
///
/// 1. The pointer is null, or that of a box which this place owns; it changes once, from null.
pub struct Once<T>(AtomicPtr<T>, PhantomData<*const T>);

// SAFETY: invariant 1: it owns a `T`, and nothing else.
unsafe impl<T: Send> Send for Once<T> {}
// SAFETY: it lends the `T`, and takes one from whoever has a reference to it.
unsafe impl<T: Send + Sync> Sync for Once<T> {}

impl<T> Once<T> {
    /// A place with nothing there.
    pub const fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()), PhantomData)
    }

    /// What is there.
    pub fn get(&self) -> Option<&T> {
        // ORDERING: Acquire with the Release in `get_or_set`: the value is complete.
        let value = self.0.load(Ordering::Acquire);
        // SAFETY: invariant 1; only `drop` takes the box away.
        unsafe { value.as_ref() }
    }

    /// What is there, which is `value` if there was nothing.
    pub fn get_or_set(&self, value: T) -> &T {
        let ours = Box::into_raw(Box::new(value));
        // ORDERING: Release with the Acquires of who finds it; Acquire to find another's.
        let swapped =
            self.0
                .compare_exchange(ptr::null_mut(), ours, Ordering::Release, Ordering::Acquire);
        let value = match swapped {
            // INVARIANT: 1.
            Ok(_) => ours,
            Err(theirs) => {
                // SAFETY: from the box above, and nobody has seen it.
                drop(unsafe { Box::from_raw(ours) });
                theirs
            }
        };
        // SAFETY: invariant 1; only `drop` takes the box away.
        unsafe { &*value }
    }
}

impl<T> Drop for Once<T> {
    fn drop(&mut self) {
        let value = *self.0.get_mut();
        if !value.is_null() {
            // SAFETY: invariant 1.
            drop(unsafe { Box::from_raw(value) });
        }
    }
}

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: fmt::Debug> fmt::Debug for Once<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Once").field(&self.get()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn the_first_value_serves_all_and_the_others_are_dropped() {
        let counted = Arc::new(7);
        let place = Once::new();
        assert!(place.get().is_none());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert_eq!(**place.get_or_set(counted.clone()), 7));
            }
        });
        assert_eq!(Arc::strong_count(&counted), 2);
        drop(place);
        assert_eq!(Arc::strong_count(&counted), 1);
    }
}
