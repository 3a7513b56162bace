//! Payload as mapped bytes.

use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use super::copy::{copy, fetch};

/// A run of shared bytes.
///
/// # Invariants
///
/// 1. `start..start + len` stays mapped for `'a`.
/// 2. No reference to these bytes exists anywhere in this process; they are only reached through
///    the copies below.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    start: NonNull<u8>,
    len: usize,
    mapped: PhantomData<&'a ()>,
}

// SAFETY: invariant 1 holds in every thread while 'a lasts, and the copies may race by design.
unsafe impl Send for Payload<'_> {}
// SAFETY: as for `Send`.
unsafe impl Sync for Payload<'_> {}

impl Payload<'_> {
    /// A payload over mapped bytes.
    ///
    /// # Safety
    ///
    /// The invariants of this type hold for `start`, `len` and the lifetime chosen. For
    /// [`store`](Self::store), [`zero`](Self::zero) and as the destination of
    /// [`copy_to`](Self::copy_to) the bytes must be mapped writable.
    #[inline]
    pub unsafe fn new(start: NonNull<u8>, len: usize) -> Self {
        // INVARIANT: 1 and 2, by the caller's promise.
        Self {
            start,
            len,
            mapped: PhantomData,
        }
    }

    /// Room in bytes.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "a slot always has room")]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Copies `bytes` to the start.
    ///
    /// # Panics
    ///
    /// When there is no room.
    #[inline]
    pub fn store(&self, bytes: &[u8]) {
        assert!(bytes.len() <= self.len, "a version longer than its slot");
        // SAFETY: invariants 1 and 2; the source is a borrowed slice and the lengths fit.
        unsafe { copy(self.start.as_ptr(), bytes.as_ptr(), bytes.len()) }
    }

    /// Fills `into` from the start.
    ///
    /// # Panics
    ///
    /// When there are fewer bytes.
    #[inline]
    pub fn load(&self, into: &mut [MaybeUninit<u8>]) {
        assert!(into.len() <= self.len, "a version longer than its slot");
        // SAFETY: invariants 1 and 2; the destination is a borrowed slice and the lengths fit.
        unsafe { fetch(into.as_mut_ptr().cast(), self.start.as_ptr(), into.len()) }
    }

    /// Whether the first bytes are others than `bytes`; what is found to be so early costs little.
    ///
    /// # Panics
    ///
    /// When there are fewer.
    pub fn differs_from(&self, bytes: &[u8]) -> bool {
        const RUN_BYTES: usize = 256;
        assert!(bytes.len() <= self.len, "a version longer than its slot");
        let mut run = [MaybeUninit::<u8>::uninit(); RUN_BYTES];
        bytes.chunks(RUN_BYTES).enumerate().any(|(at, expected)| {
            // SAFETY: within the payload: asserted above.
            let from = unsafe { self.start.add(at * RUN_BYTES) };
            // SAFETY: invariants 1 and 2; `run` has room for that many bytes.
            unsafe { fetch(run.as_mut_ptr().cast(), from.as_ptr(), expected.len()) };
            // SAFETY: so many bytes were written just now.
            let found: &[u8] =
                unsafe { core::slice::from_raw_parts(run.as_ptr().cast(), expected.len()) };
            found != expected
        })
    }

    /// Copies the first `length` bytes to the start of `other`.
    ///
    /// # Panics
    ///
    /// When either is shorter.
    #[inline]
    pub fn copy_to(&self, other: &Payload<'_>, length: usize) {
        assert!(
            length <= self.len && length <= other.len,
            "a version longer than its slot"
        );
        // SAFETY: invariants 1 and 2 of both; slots and the live page do not overlap.
        unsafe { copy(other.start.as_ptr(), self.start.as_ptr(), length) }
    }

    /// Zeroes the bytes `from..to`.
    ///
    /// # Panics
    ///
    /// When the range is not within.
    #[inline]
    pub fn zero(&self, from: usize, to: usize) {
        assert!(from <= to && to <= self.len, "zeroing outside the payload");
        static ZEROS: [u8; 256] = [0; 256];
        let mut at = from;
        while at < to {
            let run = (to - at).min(ZEROS.len());
            // SAFETY: `at` is within the payload: asserted above.
            let destination = unsafe { self.start.add(at) };
            // SAFETY: invariants 1 and 2; `run` bytes remain in both.
            unsafe { copy(destination.as_ptr(), ZEROS.as_ptr(), run) };
            at += run;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_copies_exactly_its_bytes() {
        let source: Vec<u8> = (0..5000_u32)
            .map(|i| (i % 251 + 1).to_le_bytes()[0])
            .collect();
        for len in (0..600).chain([1000, 1023, 1024, 1025, 2048, 4000, 4095, 4096]) {
            for shift in [0, 1, 7] {
                let mut shared = vec![0_u8; 4200];
                let start = NonNull::new(&raw mut shared[8]).unwrap();
                // SAFETY: `shared` lives to the end of this block and is only looked at after
                // the last use of the payload.
                let payload = unsafe { Payload::new(start, 4096) };
                payload.store(&source[shift..shift + len]);
                let mut back = vec![MaybeUninit::new(0_u8); shift + len + 64];
                payload.load(&mut back[shift..shift + len]);
                // SAFETY: written by `new(0)` at the latest.
                let back: Vec<u8> = back.iter().map(|b| unsafe { b.assume_init() }).collect();
                let (before, back) = back.split_at(shift);
                let (back, behind) = back.split_at(len);
                assert_eq!(back, &source[shift..shift + len], "length {len}");
                let mut around = before.iter().chain(behind);
                assert!(around.all(|b| *b == 0), "length {len} read beside");
                assert!(
                    shared[..8].iter().all(|b| *b == 0),
                    "length {len} wrote before"
                );
                assert!(
                    shared[8 + len..].iter().all(|b| *b == 0),
                    "length {len} wrote behind"
                );
            }
        }
    }

    /// A caller for whom the compiler may use the wide registers, too.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn move_around_a_store(payload: &Payload<'_>, bytes: &[u8; 512], lanes: &Lanes) {
        let values = lanes.each_ref().map(|lane| lane.get());
        payload.store(bytes);
        for (lane, value) in lanes.iter().zip(values) {
            lane.set(value.map(|word| word.wrapping_add(1)));
        }
    }

    #[cfg(target_arch = "x86_64")]
    type Lanes = [core::cell::Cell<[u64; 4]>; 8];

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn a_wide_copy_leaves_its_callers_registers_alone() {
        if !std::arch::is_x86_feature_detected!("avx2") {
            return;
        }
        let mut shared = vec![0_u8; 512];
        // SAFETY: as above.
        let payload = unsafe { Payload::new(NonNull::new(shared.as_mut_ptr()).unwrap(), 512) };
        let lanes: Lanes = core::array::from_fn(|_| core::cell::Cell::new([1, 2, 3, 4]));
        // SAFETY: the processor has the feature.
        unsafe { move_around_a_store(&payload, &[7; 512], core::hint::black_box(&lanes)) };
        assert!(
            lanes.iter().all(|lane| lane.get() == [2, 3, 4, 5]),
            "{lanes:?}"
        );
    }

    #[test]
    fn zeroing_keeps_to_its_range() {
        let mut shared = vec![1_u8; 1000];
        // SAFETY: as above.
        let payload = unsafe { Payload::new(NonNull::new(shared.as_mut_ptr()).unwrap(), 1000) };
        payload.zero(100, 900);
        let zeroed = |at: usize| (100..900).contains(&at);
        assert!(
            shared
                .iter()
                .enumerate()
                .all(|(at, b)| *b == u8::from(!zeroed(at)))
        );
    }
}
