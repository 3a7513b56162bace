#![expect(unsafe_code, reason = "words that two processes share")]
//! What writer and readers tell each other beside what is measured.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use kstate_sys::futex::{self, Deadline};
use memmap2::{MmapOptions, MmapRaw};

use super::asleep::PATIENCE;
use crate::bare_wake::low;
use crate::setup::Result;

/// Words in a page that processes share.
///
/// # Invariants
///
/// 1. The mapping is page aligned and has room for [`Words`], and the file keeps that length.
pub(super) struct Board(MmapRaw);

/// All zero at first.
#[repr(C)]
pub(super) struct Words {
    /// What the reader is to wait for next: see [`Turn`].
    pub(super) turn: AtomicU64,
    /// How often readers were about to wait.
    pub(super) waiting: AtomicU64,
    /// The number of the turn whose value the reader holds.
    pub(super) held: AtomicU64,
    /// When that was, in ticks.
    pub(super) held_at: AtomicU64,
    /// When it was published, in ticks, as the value says.
    pub(super) published_at: AtomicU64,
}

/// Which side is waited on for which value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) number: u64,
    pub(super) side: Side,
}

/// Ours or what it stands beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Ours,
    Limit,
}

/// How the other process is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Looking {
    Sleeping,
    /// Where nobody sleeps, so that both processors are as busy as those who spin keep them.
    Spinning,
}

impl Turn {
    pub(super) fn to_word(self) -> u64 {
        self.number << 1 | u64::from(self.side == Side::Limit)
    }

    pub(super) fn from_word(word: u64) -> Self {
        Self {
            number: word >> 1,
            side: match word & 1 {
                0 => Side::Ours,
                _ => Side::Limit,
            },
        }
    }
}

impl Board {
    /// The board in the file at `path`, which is made if there is none.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let length = size_of::<Words>();
        file.set_len(length as u64)?;
        // INVARIANT: 1: whoever opens it sets the same length.
        Ok(Self(MmapOptions::new().len(length).map_raw(&file)?))
    }
}

impl Deref for Board {
    type Target = Words;

    fn deref(&self) -> &Words {
        // SAFETY: invariant 1; all of it are atomics, which may change at any time and have no
        // invalid value. It lives as long as `self`.
        unsafe { &*self.0.as_ptr().cast() }
    }
}

/// Sets `word` and wakes who [awaits](await_other) that.
pub(super) fn tell(word: &AtomicU64, value: u64) {
    // ORDERING: Release with the Acquire in `await_other`: what was written before is seen.
    word.store(value, Ordering::Release);
    futex::wake_all(word);
}

/// Returns when `word` is another than `old`, however long that takes, and what it is.
pub(super) fn await_other(word: &AtomicU64, old: u64, looking: Looking) -> io::Result<u64> {
    loop {
        // ORDERING: Acquire with the Release in `tell`.
        let new = word.load(Ordering::Acquire);
        if new != old {
            return Ok(new);
        }
        match looking {
            Looking::Spinning => std::hint::spin_loop(),
            Looking::Sleeping => {
                let _ = futex::wait(word, low(old), None)?;
            }
        }
    }
}

/// Returns when `word` is `value`; fails when that takes too long.
pub(super) fn await_value(word: &AtomicU64, value: u64, looking: Looking) -> Result<()> {
    let deadline = Deadline::after(PATIENCE);
    loop {
        // ORDERING: Acquire with the Release in `tell`.
        let found = word.load(Ordering::Acquire);
        if found == value {
            return Ok(());
        }
        if deadline.has_passed() {
            return Err("a reader does not answer".into());
        }
        match looking {
            Looking::Spinning => std::hint::spin_loop(),
            Looking::Sleeping => {
                let _ = futex::wait(word, low(found), Some(deadline))?;
            }
        }
    }
}
