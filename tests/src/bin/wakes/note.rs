#![expect(unsafe_code, reason = "says that a note is made of atomics")]
//! What a waiter or a writer notes of its work.

use std::sync::atomic::{AtomicU64, Ordering};

use kstate_sys::clock::monotonic_ns;
use kstate_tests::Noted;

/// How many states are committed to.
pub(crate) const STATES: usize = 2;

/// What one waiter has seen. It has one note, and each note one waiter.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct Note {
    /// It has begun, and seen a first version of what it follows.
    ready: AtomicU64,
    /// The newest generation seen of each state; of a writer, committed.
    seen: [AtomicU64; STATES],
    /// When that was, in nanoseconds of the monotonic clock.
    at: [AtomicU64; STATES],
    /// What was the newest when it began.
    first: [AtomicU64; STATES],
    /// How often it was woken; of a writer, bursts it has made.
    wakes: AtomicU64,
    /// How often there was something newer.
    newer: AtomicU64,
    /// Wakes with nothing newer.
    causeless: AtomicU64,
    /// Something older than what it had seen.
    backwards: AtomicU64,
}

// SAFETY: atomics alone, aligned to a cache line.
unsafe impl Noted for Note {}

impl Note {
    pub(crate) fn begin(&self, newest: [u64; STATES]) {
        for (first, newest) in self.first.iter().zip(newest) {
            first.store(newest, Ordering::Relaxed);
        }
    }

    /// Notes that it has seen `generation` of a state; whether that was newer.
    pub(crate) fn saw(&self, state: usize, generation: u64) -> bool {
        let before = self.seen[state].swap(generation, Ordering::Relaxed);
        if generation < before {
            self.backwards.fetch_add(1, Ordering::Relaxed);
        }
        if generation > before {
            self.at[state].store(monotonic_ns(), Ordering::Relaxed);
        }
        generation > before
    }

    /// Notes a wake, and whether there was something newer.
    pub(crate) fn woke(&self, is_newer: bool) {
        self.wakes.fetch_add(1, Ordering::Relaxed);
        let counter = match is_newer {
            true => &self.newer,
            false => &self.causeless,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.ready.store(1, Ordering::Release);
    }

    /// Notes that it slept more often than it was told of something.
    pub(crate) fn slept_in_vain(&self, times: u64) {
        self.wakes.fetch_add(times, Ordering::Relaxed);
        self.causeless.fetch_add(times, Ordering::Relaxed);
    }

    /// Notes that a burst was made, whose last commit began at a time.
    pub(crate) fn committed(&self, state: usize, generation: u64, at: u64) {
        self.seen[state].store(generation, Ordering::Relaxed);
        self.at[state].store(at, Ordering::Relaxed);
        self.wakes.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn bursts(&self) -> u64 {
        self.wakes.load(Ordering::Acquire)
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) != 0
    }

    pub(crate) fn seen(&self, state: usize) -> u64 {
        self.seen[state].load(Ordering::Relaxed)
    }

    /// When it last saw a newer version of a state, or began to commit the last one of a burst.
    pub(crate) fn at(&self, state: usize) -> u64 {
        self.at[state].load(Ordering::Relaxed)
    }

    pub(crate) fn wakes(&self) -> u64 {
        self.wakes.load(Ordering::Relaxed)
    }

    pub(crate) fn newer(&self) -> u64 {
        self.newer.load(Ordering::Relaxed)
    }

    pub(crate) fn causeless(&self) -> u64 {
        self.causeless.load(Ordering::Relaxed)
    }

    pub(crate) fn backwards(&self) -> u64 {
        self.backwards.load(Ordering::Relaxed)
    }

    /// How many versions have come since it began, of the states it follows, when `newest` are the
    /// newest; `None` if it has not begun.
    pub(crate) fn commits(&self, follows: usize, newest: [u64; STATES]) -> Option<u64> {
        let first = |state: usize| self.first[state].load(Ordering::Relaxed);
        if first(0) == 0 {
            return None;
        }
        let since = (0..follows).map(|state| newest[state].saturating_sub(first(state)));
        Some(since.sum())
    }
}
