#![expect(unsafe_code, reason = "words that processes share")]
//! What teller and follower say to each other beside what is measured.

use std::io;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use memmap2::MmapRaw;

use crate::bare::shared;

/// Words in a page that processes share, a cache line each.
///
/// # Invariants
///
/// 1. The mapping is page aligned and has room for [`WORDS`] lines, and the file keeps that length.
pub(crate) struct Board(MmapRaw);

const WORDS: usize = 3;
const LINE: usize = 64;

impl Board {
    /// The board of the run in `directory`.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        // INVARIANT: 1: whoever opens it sets the same length.
        Ok(Self(shared(&directory.join("board"), WORDS * LINE)?))
    }

    /// The word that the follower holds.
    pub(crate) fn held(&self) -> &AtomicU64 {
        self.word(0)
    }

    /// Grows when the teller has ended.
    pub(crate) fn ended(&self) -> &AtomicU64 {
        self.word(1)
    }

    /// Grows with each block of publications.
    pub(crate) fn published(&self) -> &AtomicU64 {
        self.word(2)
    }

    fn word(&self, number: usize) -> &AtomicU64 {
        // SAFETY: invariant 1: there are so many lines.
        let line = unsafe { self.0.as_mut_ptr().add(number % WORDS * LINE) };
        // SAFETY: invariant 1: aligned, and always an atomic.
        unsafe { AtomicU64::from_ptr(line.cast()) }
    }
}
