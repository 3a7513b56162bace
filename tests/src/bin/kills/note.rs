#![expect(unsafe_code, reason = "says that a note is atomics alone")]
//! What a process notes of its work, where it stays when it is killed.

use std::sync::atomic::{AtomicU64, Ordering};

use kstate_tests::Noted;

/// The states there are.
pub(crate) const STATES: [&str; 6] = [
    "kills.published",
    "kills.added",
    "kills.pair.a",
    "kills.pair.b",
    "kills.durable",
    "kills.filed",
];

/// Of one process.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct Note {
    /// By state: the newest generation that a commit of the process has returned.
    committed: [AtomicU64; STATES.len()],
    /// The newest generation that was said to be durable.
    durable: AtomicU64,
    /// Whatever it does, how often.
    done: AtomicU64,
    /// Values that were not whole, or not the one of their generation.
    torn: AtomicU64,
    /// Generations behind one seen before.
    backwards: AtomicU64,
    /// Requests that found no daemon.
    alone: AtomicU64,
}

// SAFETY: atomics alone, aligned to 64.
unsafe impl Noted for Note {}

impl Note {
    pub(crate) fn commit(&self, state: usize, generation: u64) {
        // ORDERING: Release with `committed`: who sees the number looks at the state behind it.
        self.committed[state].fetch_max(generation, Ordering::Release);
        self.work();
    }

    pub(crate) fn durable(&self, generation: u64) {
        self.durable.fetch_max(generation, Ordering::Release);
    }

    pub(crate) fn work(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn torn(&self) {
        self.torn.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn backwards(&self) {
        self.backwards.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn alone(&self) {
        self.alone.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn committed(&self, state: usize) -> u64 {
        self.committed[state].load(Ordering::Acquire)
    }

    pub(crate) fn durable_upto(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Torn values, steps backwards, requests without a daemon.
    pub(crate) fn counts(&self) -> [u64; 3] {
        [&self.torn, &self.backwards, &self.alone].map(|count| count.load(Ordering::Relaxed))
    }
}

/// What a process has seen of each state last.
#[derive(Debug, Default)]
pub(crate) struct Seen([u64; STATES.len()]);

impl Seen {
    /// Looks at a version: its value is the one of its generation, which is not behind the last one.
    pub(crate) fn look(&mut self, note: &Note, state: usize, generation: u64, number: Option<u64>) {
        // A state that nobody has written is all zeros.
        let whole = number == Some(generation) || generation == 0;
        if !whole {
            note.torn();
        }
        if generation < self.0[state] {
            note.backwards();
        }
        self.0[state] = generation;
        note.work();
    }
}
