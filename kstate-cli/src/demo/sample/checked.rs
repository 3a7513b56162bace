//! Values that know whether they are whole.

/// Plain old data of whole 8-byte words, the last of which are `published_ns`, `sequence` and
/// `check`.
pub(crate) trait Sample: kstate::Layout {}

/// A value whose last word is a check over all others, so that half of one value and half of
/// another are not taken for a third.
pub(crate) trait Checked {
    /// Notes when the value is published, in nanoseconds of `CLOCK_MONOTONIC`, numbers it, and
    /// writes its check.
    fn seal(&mut self, published_ns: u64, sequence: u64);

    /// Whether the check is that of the other words, as it is after [`seal`](Self::seal).
    ///
    /// Any change to one word is found; changes to several escape only where their effects cancel,
    /// about once in 2^64. A value of zeros, as in a state never published to, is not whole.
    fn is_whole(&self) -> bool;

    /// The number given by [`seal`](Self::seal).
    fn sequence(&self) -> u64;

    /// The time given to [`seal`](Self::seal).
    fn published_ns(&self) -> u64;
}

impl<T: Sample> Checked for T {
    fn seal(&mut self, published_ns: u64, sequence: u64) {
        if let ([body @ .., number, check], []) = self.as_mut_bytes().as_chunks_mut() {
            if let [.., published] = body {
                *published = published_ns.to_ne_bytes();
            }
            *number = sequence.to_ne_bytes();
            *check = hash(body, *number).to_ne_bytes();
        }
    }

    fn is_whole(&self) -> bool {
        match self.as_bytes().as_chunks() {
            ([body @ .., number, check], []) => hash(body, *number) == u64::from_ne_bytes(*check),
            _ => false,
        }
    }

    fn sequence(&self) -> u64 {
        match self.as_bytes().as_chunks() {
            ([.., number, _], []) => u64::from_ne_bytes(*number),
            _ => 0,
        }
    }

    fn published_ns(&self) -> u64 {
        match self.as_bytes().as_chunks() {
            ([.., published, _, _], []) => u64::from_ne_bytes(*published),
            _ => 0,
        }
    }
}

/// The hash of rustc's `FxHasher`, from another start: each step is a bijection of the word and of
/// the hash before it, so that values which differ in one word never have the same hash.
fn hash(body: &[[u8; 8]], number: [u8; 8]) -> u64 {
    const START: u64 = 0x6b73_7461_7465_0001;
    const FACTOR: u64 = 0x517c_c1b7_2722_0a95;
    body.iter().chain([&number]).fold(START, |hash, word| {
        (hash.rotate_left(5) ^ u64::from_ne_bytes(*word)).wrapping_mul(FACTOR)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zerocopy::{FromZeros, IntoBytes};

    use super::super::{CpuSample, LoadSample};
    use super::*;

    fn sealed(words: [u64; 11], sequence: u64) -> CpuSample {
        let mut sample = CpuSample::new_zeroed();
        sample.as_mut_bytes()[..88].copy_from_slice(words.as_bytes());
        sample.seal(7, sequence);
        sample
    }

    #[test]
    fn a_sealed_value_is_whole_and_zeros_are_not() {
        let mut sample = LoadSample::new_zeroed();
        assert!(!sample.is_whole());
        sample.seal(0, 0);
        assert!(sample.is_whole());
        sample.seal(7, 41);
        assert_eq!((sample.sequence(), sample.sequence), (41, 41));
        assert_eq!((sample.published_ns(), sample.published_ns), (7, 7));
        sample.running ^= 1;
        assert!(!sample.is_whole());
    }

    proptest! {
        #[test]
        fn one_changed_byte_is_found(
            words: [u64; 11], sequence: u64, at in 0..112usize, change in 1..=u8::MAX,
        ) {
            let mut sample = sealed(words, sequence);
            sample.as_mut_bytes()[at] ^= change;
            prop_assert!(!sample.is_whole());
        }

        #[test]
        fn two_samples_mixed_at_any_byte_are_found(
            first in 0..1000u64,
            step in 1..3u64,
            growth in prop::array::uniform11(0..3u64),
            at in 1..112usize,
        ) {
            let old = sealed([first; 11], first);
            let new = sealed(growth.map(|growth| first + growth), first + step);
            let mut mixed = old;
            mixed.as_mut_bytes()[..at].copy_from_slice(&new.as_bytes()[..at]);
            prop_assert!(mixed == old || mixed == new || !mixed.is_whole());
        }
    }
}
