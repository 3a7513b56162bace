//! Moments, choices and words by chance.

use std::time::Duration;

use kstate_sys::region::BUSY;

/// A cheap sequence of random words (xorshift).
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// Another sequence for each seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Another sequence for each process and time.
    pub(crate) fn of_this_process() -> Self {
        Self::new(u64::from(std::process::id()) << 32 ^ kstate_sys::clock::monotonic_ns())
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap_or(0)
    }

    /// A time up to `longest`, short ones more often.
    pub(crate) fn time(&mut self, longest: Duration) -> Duration {
        let part = |random: &mut Self| random.below(1000) as f64 / 1000.0;
        longest.mul_f64(part(self) * part(self) * part(self))
    }

    /// A word that the protocol might have put there, or any.
    pub(crate) fn word(&mut self) -> u64 {
        let any = self.next();
        match any % 9 {
            0 => 0,
            1 => BUSY,
            2 => 1,
            // A small generation.
            3 => self.next() % 16,
            // A head with a small generation and slot, with and without intent.
            4 => ((self.next() % 8) << 53) | (self.next() % 16),
            5 => ((self.next() % 8) << 53) | (self.next() % 16) | (1 << 63),
            // A size within and outside of what there is.
            6 => self.next() & 0x0700_1fff,
            // A commit through one of the first records.
            7 => ((self.next() % 32) << 40) | (self.next() % 16),
            _ => any,
        }
    }
}
