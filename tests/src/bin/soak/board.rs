#![expect(unsafe_code, reason = "says that an entry is made of atomics")]
//! What the processes note of their work: memory that outlives each of them, so that what a killed one had
//! done is known to the last commit.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kstate_tests::Noted;

use super::outcome::OUTCOMES;

/// What one process notes. A process has one entry, and each entry one process.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct Entry {
    /// Commits begun: one more than those done while one is under way.
    begun: AtomicU64,
    /// Reads, commits, waits or whatever the process is for.
    done: AtomicU64,
    /// Attempts that others were in the way of.
    pub(crate) conflicts: AtomicU64,
    /// Values or cuts that were not whole.
    pub(crate) torn: AtomicU64,
    /// Reads that found an older generation than one before.
    pub(crate) backwards: AtomicU64,
    /// The longest call, in nanoseconds, since it was last looked at.
    longest: AtomicU64,
    /// Calls beside a hostile writer, by what came of them.
    outcomes: [AtomicU64; OUTCOMES],
}

impl Entry {
    pub(crate) fn begin(&self) {
        // One writer: its own process.
        self.begun.store(self.done() + 1, Ordering::Relaxed);
    }

    pub(crate) fn did(&self, count: u64) {
        self.done.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Commits that may have been made and were not noted as done.
    pub(crate) fn in_flight(&self) -> u64 {
        self.begun
            .load(Ordering::Relaxed)
            .saturating_sub(self.done())
    }

    pub(crate) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    /// Calls `work` and notes how long it took.
    pub(crate) fn timed<T>(&self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let value = work();
        self.took(start.elapsed());
        value
    }

    /// Notes that a call took so long.
    pub(crate) fn took(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.longest.fetch_max(nanos, Ordering::Relaxed);
    }

    /// The longest call since this was last asked.
    pub(crate) fn take_longest(&self) -> u64 {
        self.longest.swap(0, Ordering::Relaxed)
    }

    pub(crate) fn outcome(&self, index: usize) -> &AtomicU64 {
        &self.outcomes[index]
    }
}

// SAFETY: atomics alone, aligned to a cache line.
unsafe impl Noted for Entry {}

/// All entries.
pub(crate) type Board = kstate_tests::Board<Entry>;
