#![expect(unsafe_code, reason = "a lock that a signal handler may take")]
//! What is known of one raw page, and how it is filled.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use kstate_sys::region::{Head, ReadError};

/// Where a page's bytes come from.
pub(crate) trait Source: Send + Sync {
    /// Copies the version that `head` names to the start of `into`, or the newest one if that is
    /// there no more. Allocates nothing, maps nothing, and takes no lock whose holder touches
    /// raw pages: a signal handler calls it.
    fn fill(&self, head: Head, into: &mut [u8]) -> Result<Contents, ReadError>;
}

/// What a page was filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Contents {
    /// Bytes of the version; zeros follow.
    pub(crate) length: u32,
    /// Which version.
    pub(crate) head: Head,
}

/// Where a page is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No transaction has it; touching it kills: it is sealed, or it is not there and gets sealed
    /// when the touch is answered.
    Dead,
    /// A transaction has it, and nobody has touched it.
    Empty,
    /// It has what `filled` says, and what was written since.
    Filled,
}

/// What is known of a page, under its lock.
pub(super) struct Known {
    pub(super) phase: Phase,
    /// Whether it is inaccessible, as it is when it was made.
    pub(super) sealed: bool,
    pub(super) source: Option<Arc<dyn Source>>,
    /// The version that the transaction began from.
    pub(super) base: Option<Head>,
    pub(super) filled: Option<Result<Contents, ReadError>>,
    /// Somebody has said, or was seen, to write.
    pub(super) dirty: bool,
    /// Where a version is put together before it is installed: never straight from a slot, which
    /// may change meanwhile.
    pub(super) scratch: Box<[u8]>,
}

/// The record of a page.
///
/// A lock that spins: it is held for a copy or a system call, and a signal handler takes it, which
/// the holder cannot be interrupted by: whoever holds it touches no raw page.
///
/// # Invariants
///
/// 1. `known` is reached only through a [`Held`], of which there is one at a time.
pub(super) struct Record {
    locked: AtomicBool,
    known: UnsafeCell<Known>,
}

// SAFETY: invariant 1; what is inside is Send.
unsafe impl Sync for Record {}

impl Record {
    pub(super) fn new(page: usize) -> Self {
        Self {
            locked: AtomicBool::new(false),
            known: UnsafeCell::new(Known {
                phase: Phase::Dead,
                sealed: true,
                source: None,
                base: None,
                filled: None,
                dirty: false,
                scratch: vec![0; page].into_boxed_slice(),
            }),
        }
    }

    pub(super) fn lock(&self) -> Held<'_> {
        // ORDERING: Acquire with the Release in `drop`.
        while self.locked.swap(true, Ordering::Acquire) {
            // The holder may have been put aside; a yield is a plain system call.
            std::thread::yield_now();
        }
        // INVARIANT: 1: the word was false, and only `drop` makes it so.
        Held(self)
    }
}

/// The lock of a record.
pub(super) struct Held<'a>(&'a Record);

impl Deref for Held<'_> {
    type Target = Known;

    fn deref(&self) -> &Known {
        // SAFETY: invariant 1.
        unsafe { &*self.0.known.get() }
    }
}

impl DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut Known {
        // SAFETY: invariant 1.
        unsafe { &mut *self.0.known.get() }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // ORDERING: Release with the Acquire in `lock`.
        self.0.locked.store(false, Ordering::Release);
    }
}

impl Known {
    /// Puts the version together in `scratch`: zeros if it cannot be read.
    pub(super) fn prepare(&mut self) {
        let Self {
            source,
            base,
            scratch,
            filled,
            ..
        } = self;
        let (Some(source), Some(base)) = (source, *base) else {
            return;
        };
        let contents = source.fill(base, scratch);
        let length = contents.map_or(0, |contents| contents.length as usize);
        if let Some(rest) = scratch.get_mut(length..) {
            rest.fill(0);
        }
        *filled = Some(contents);
    }
}
