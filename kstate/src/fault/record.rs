#![expect(unsafe_code, reason = "a lock that a signal handler may take")]
//! What is known of one raw page, and how it is filled.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

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
    /// Where a version is put together before it can be seen: never straight from a slot, which
    /// may change meanwhile.
    pub(super) buffer: Buffer,
}

/// A page of bytes.
///
/// # Invariants
///
/// 1. Its bytes are mapped and writable for the rest of the process's life.
/// 2. Nobody else reaches them while its record is locked and its page is not shown.
pub(super) struct Buffer(NonNull<[u8]>);

// SAFETY: invariant 2.
unsafe impl Send for Buffer {}

impl Buffer {
    pub(super) fn start(&self) -> *const u8 {
        self.0.as_ptr().cast_const().cast()
    }

    /// For the time before the page is shown.
    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: invariants 1 and 2; the lock of the record is held by whoever has `self`.
        unsafe { self.0.as_mut() }
    }
}

/// Rounds of waiting that only yield.
const YIELDS: u32 = 200;
/// Between two looks after those.
const SLEEP: Duration = Duration::from_micros(50);

/// The record of a page.
///
/// A lock that waits by looking again: it is held for a copy or a system call, and the handler of SIGBUS
/// takes it, which the holder cannot be interrupted by: whoever holds it touches no raw page. A handler
/// of the program's own that touched one while it interrupts the library would break that, and wait for
/// ever; see [`RawTransaction`](crate::RawTransaction).
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
    /// The record of a page that nobody has.
    ///
    /// # Safety
    ///
    /// The invariants of [`Buffer`] hold for `buffer`.
    pub(super) unsafe fn new(buffer: NonNull<[u8]>) -> Self {
        Self {
            locked: AtomicBool::new(false),
            known: UnsafeCell::new(Known {
                phase: Phase::Dead,
                sealed: true,
                source: None,
                base: None,
                filled: None,
                dirty: false,
                buffer: Buffer(buffer),
            }),
        }
    }

    pub(super) fn lock(&self) -> Held<'_> {
        let mut rounds = 0;
        // ORDERING: Acquire with the Release in `drop`.
        while self.locked.swap(true, Ordering::Acquire) {
            rounds += 1;
            if rounds < YIELDS {
                // The holder may have been put aside. Both are plain system calls.
                std::thread::yield_now();
            } else {
                // It may be one of lower priority, which a yield does not let on.
                std::thread::sleep(SLEEP);
            }
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
    /// Puts the version together in `buffer`: zeros if it cannot be read. Only while the page is
    /// not shown.
    pub(super) fn prepare(&mut self) {
        let Self {
            source,
            base,
            buffer,
            filled,
            ..
        } = self;
        let (Some(source), Some(base)) = (source, *base) else {
            return;
        };
        let bytes = buffer.bytes();
        let contents = source.fill(base, bytes);
        let length = contents.map_or(0, |contents| contents.length as usize);
        if let Some(rest) = bytes.get_mut(length..) {
            rest.fill(0);
        }
        *filled = Some(contents);
    }
}
