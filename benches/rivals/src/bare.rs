#![expect(
    unsafe_code,
    reason = "the limit is what a program without any protocol would do"
)]
//! A four-slot ring in shared memory with no checks at all.
//!
//! Reading is a load of the index and a copy; publishing a copy and a compare-and-swap. Nothing
//! tells whether what was read is whole. Copies are the compiler's `memcpy`.

use std::fs::File;
use std::hint::black_box;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};

use crate::value::Value;

/// The ring's slots, as many as one of kstate's writers has.
const SLOTS: u64 = 4;
/// Bytes before the first slot: the index alone in its page.
pub(crate) const FIRST: usize = 4096;

/// So many bytes of the file at `path`, which is made if there is none, shared with whoever maps it.
pub(crate) fn shared(path: &Path, length: usize) -> std::io::Result<MmapRaw> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    file.set_len(length as u64)?;
    MmapOptions::new().len(length).map_raw(&file)
}

/// What a ring of values does, whether it checks or not.
pub(crate) trait Ring<const W: usize> {
    /// The newest value, as far as the ring knows.
    fn read_into(&self, place: &mut Value<W>);

    /// Makes `value` the newest.
    fn publish(&self, value: &Value<W>);
}

impl<const W: usize> Ring<W> for Bare<W> {
    #[inline(always)]
    fn read_into(&self, place: &mut Value<W>) {
        self.read_into(place);
    }

    #[inline(always)]
    fn publish(&self, value: &Value<W>) {
        self.publish(value);
    }
}

/// A ring of values in a mapping that another process may share.
///
/// # Invariants
///
/// 1. The mapping has room for the index and four values, page aligned; everything is reached by
///    raw pointers.
pub(crate) struct Bare<const W: usize>(MmapRaw);

impl<const W: usize> Bare<W> {
    /// The ring in the file at `path`, which is made if there is none.
    pub(crate) fn open(path: &Path) -> std::io::Result<Self> {
        let length = FIRST + 4 * size_of::<Value<W>>().next_multiple_of(64);
        // INVARIANT: 1: whoever opens it sets the same length.
        Ok(Self(shared(path, length)?))
    }

    /// The index: how many values were published.
    #[inline]
    pub(crate) fn head(&self) -> &AtomicU64 {
        // SAFETY: invariant 1: the first word, aligned, always an atomic.
        unsafe { AtomicU64::from_ptr(self.0.as_mut_ptr().cast()) }
    }

    /// When the value of that index was published, in ticks: a line behind the index.
    #[inline]
    pub(crate) fn stamp(&self, index: u64) -> &AtomicU64 {
        // Four slots: fits every usize.
        let slot = usize::try_from(index % SLOTS).unwrap_or(0);
        // SAFETY: invariant 1: the first page is the index's alone.
        let stamp = unsafe { self.0.as_mut_ptr().add(64 + slot * size_of::<u64>()) };
        // SAFETY: invariant 1: aligned, always an atomic.
        unsafe { AtomicU64::from_ptr(stamp.cast()) }
    }

    #[inline]
    fn slot(&self, index: u64) -> *mut Value<W> {
        // Four slots: fits every usize.
        let index = usize::try_from(index % SLOTS).unwrap_or(0);
        let offset = FIRST + index * size_of::<Value<W>>().next_multiple_of(64);
        // SAFETY: invariant 1: within the mapping.
        unsafe { self.0.as_mut_ptr().add(offset).cast() }
    }

    /// The newest value, or a mixture.
    #[inline]
    pub(crate) fn read_into(&self, place: &mut Value<W>) {
        // ORDERING: Acquire with the exchange in `publish`.
        let index = self.head().load(Ordering::Acquire);
        // SAFETY: aligned and within the mapping; that it may be torn is the point.
        unsafe { std::ptr::copy_nonoverlapping(self.slot(index), place, 1) };
    }

    /// Its first word.
    pub(crate) fn word(&self) -> u64 {
        let mut place = [0; W];
        self.read_into(&mut place);
        black_box(&place)[0]
    }

    /// Copies `value` to the next slot and swaps the index.
    #[inline]
    pub(crate) fn publish(&self, value: &Value<W>) {
        let head = self.head();
        let index = head.load(Ordering::Relaxed);
        let slot = self.slot(index + 1);
        // SAFETY: aligned and within the mapping; a reader may be looking, which is the point.
        unsafe { std::ptr::copy_nonoverlapping(value, slot, 1) };
        // ORDERING: SeqCst as kstate's own, which looks for sleepers next; Release with the
        // Acquire in `read`.
        let swapped = head.compare_exchange(index, index + 1, Ordering::SeqCst, Ordering::Relaxed);
        let _ = black_box(swapped);
    }
}
