#![expect(
    unsafe_code,
    reason = "the limit is what a program without any protocol would do"
)]
//! The limit: a four-slot ring in shared memory with no checks at all.
//!
//! Reading is a load of the index and a copy; publishing a copy and a compare-and-swap. Nothing
//! tells whether what was read is whole. Copies are the compiler's `memcpy`.

use std::hint::black_box;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};

/// The ring's slots, as many as one of our writers has.
const SLOTS: u64 = 4;
/// Bytes before the first slot: the index alone in its page.
const FIRST: usize = 4096;

/// A ring of values of type `T` in a mapping that another process may share.
///
/// # Invariants
///
/// 1. The mapping has room for the index and four values, page aligned; everything is reached by
///    raw pointers.
pub(crate) struct Ring<T> {
    mapping: MmapRaw,
    value: std::marker::PhantomData<T>,
}

impl<T: Copy> Ring<T> {
    /// A ring in `file`, which is made long enough.
    pub(crate) fn open(file: &std::fs::File) -> std::io::Result<Self> {
        let length = FIRST + 4 * size_of::<T>().next_multiple_of(64);
        if file.metadata()?.len() < length as u64 {
            file.set_len(length as u64)?;
        }
        let mapping = MmapOptions::new().len(length).map_raw(file.as_raw_fd())?;
        // INVARIANT: 1.
        Ok(Self {
            mapping,
            value: std::marker::PhantomData,
        })
    }

    /// The index: how many values were published.
    #[inline]
    pub(crate) fn head(&self) -> &AtomicU64 {
        // SAFETY: invariant 1: the first word, aligned, always an atomic.
        unsafe { AtomicU64::from_ptr(self.mapping.as_mut_ptr().cast()) }
    }

    #[inline]
    fn slot(&self, index: u64) -> *mut T {
        // Four slots: fits every usize.
        let index = usize::try_from(index % SLOTS).unwrap_or(0);
        let offset = FIRST + index * size_of::<T>().next_multiple_of(64);
        // SAFETY: invariant 1: within the mapping.
        unsafe { self.mapping.as_mut_ptr().add(offset).cast() }
    }

    /// The newest value, or a mixture.
    #[inline]
    pub(crate) fn read(&self) -> T {
        let index = self.head().load(Ordering::Acquire);
        // SAFETY: aligned and within the mapping; that it may be torn is the point.
        unsafe { self.slot(index).read() }
    }

    /// Copies `value` to the next slot and swaps the index.
    #[inline]
    pub(crate) fn publish(&self, value: &T) {
        let head = self.head();
        let index = head.load(Ordering::Relaxed);
        let slot = self.slot(index + 1);
        // SAFETY: aligned and within the mapping; a reader may be looking, which is the point.
        unsafe { std::ptr::copy_nonoverlapping(value, slot, 1) };
        let swapped = head.compare_exchange(index, index + 1, Ordering::SeqCst, Ordering::Relaxed);
        let _ = black_box(swapped);
    }
}

/// A page under a lock nobody else wants: what the live page could cost at the least.
///
/// The lock is in the mapping as well: the compiler may take the atomicity out of one that no
/// other thread can reach.
pub(crate) struct Locked<T>(Ring<T>);

impl<T: Copy> Locked<T> {
    pub(crate) fn open(file: &std::fs::File) -> std::io::Result<Self> {
        Ok(Self(Ring::open(file)?))
    }

    /// Locks by compare-and-swap, copies from a slot, unlocks so that a later load of an index
    /// cannot pass.
    #[inline]
    pub(crate) fn copy(&self) {
        let lock = self.0.head();
        let _ = black_box(lock.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed));
        // SAFETY: two slots of one ring, aligned, within the mapping.
        unsafe { std::ptr::copy_nonoverlapping(self.0.slot(0), self.0.slot(1), 1) };
        lock.store(0, Ordering::SeqCst);
    }
}
