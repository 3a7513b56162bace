#![expect(unsafe_code, reason = "words that processes share")]
//! What teller and follower say to each other beside what is measured.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use memmap2::{MmapOptions, MmapRaw};

/// Two words in a page that processes share.
///
/// # Invariants
///
/// 1. The mapping is page aligned and has room for two words, and the file keeps that length.
pub(crate) struct Board(MmapRaw);

impl Board {
    /// The board of the run in `directory`.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(directory.join("board"))?;
        let length = 2 * size_of::<AtomicU64>();
        file.set_len(length as u64)?;
        // INVARIANT: 1: whoever opens it sets the same length.
        Ok(Self(MmapOptions::new().len(length).map_raw(&file)?))
    }

    /// The word that the follower holds.
    pub(crate) fn held(&self) -> &AtomicU64 {
        // SAFETY: invariant 1: the first word, always an atomic.
        unsafe { AtomicU64::from_ptr(self.0.as_mut_ptr().cast()) }
    }

    /// Grows when the teller has ended.
    pub(crate) fn ended(&self) -> &AtomicU64 {
        let first: *mut u64 = self.0.as_mut_ptr().cast();
        // SAFETY: invariant 1: there are two words.
        let second = unsafe { first.add(1) };
        // SAFETY: invariant 1: always an atomic.
        unsafe { AtomicU64::from_ptr(second) }
    }
}
