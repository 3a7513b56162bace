#![expect(unsafe_code, reason = "writes a page that others read meanwhile")]
//! The live page of a view: private memory of this process, refreshed at the view's rate.

use core::ptr::NonNull;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use kstate_sys::fork::{Lock, Process};
use kstate_sys::region::{Generation, LIVE_UNFINISHED, Payload};
use memmap2::{MmapOptions, MmapRaw};

use super::refresher;
use crate::content::Bytes;
use crate::notify::{Key, NotifyError};
use crate::view::{Shown, View};

/// A page that shows what a view does.
///
/// # Invariants
///
/// 1. `memory` is one whole page, mapped as long as this, and no reference in this process points
///    into it.
/// 2. One thread at a time refreshes it, the refresher of its process.
#[derive(Debug)]
pub(super) struct PacedPage {
    memory: MmapRaw,
    /// The generation in the page; [`LIVE_UNFINISHED`] while it is being written.
    tag: AtomicU64,
    /// Bytes of the version in the page.
    length: AtomicU32,
    view: View<Bytes>,
}

impl PacedPage {
    /// One of zeros, of so many `bytes`.
    ///
    /// # Errors
    ///
    /// What `mmap` says.
    pub(super) fn new(shown: Arc<Shown>, bytes: usize) -> io::Result<Self> {
        // INVARIANT: 1.
        Ok(Self {
            memory: MmapOptions::new().len(bytes).map_anon()?.into(),
            tag: AtomicU64::new(Generation::NEVER.0),
            length: AtomicU32::new(0),
            view: View::of(shown),
        })
    }

    pub(super) fn memory(&self) -> &MmapRaw {
        &self.memory
    }

    /// What it shows.
    pub(super) fn view(&self) -> &View<Bytes> {
        &self.view
    }

    /// Which generation the page holds; `None` while it is being written.
    ///
    /// # Memory ordering
    ///
    /// As [`live_generation`](kstate_sys::region::live_generation).
    #[inline]
    pub(super) fn generation(&self) -> Option<Generation> {
        // ORDERING: Acquire with the Release in `refresh`: the bytes are those of this tag or later.
        let tag = self.tag.load(Ordering::Acquire);
        (tag != LIVE_UNFINISHED).then_some(Generation(tag))
    }

    /// Bytes of the version in the page.
    pub(super) fn length(&self) -> usize {
        self.length.load(Ordering::Relaxed) as usize
    }

    /// Brings the page up to what the view shows; the refresher's alone. What cannot be read leaves it as
    /// it is. `true` if it has changed.
    pub(super) fn refresh(&self) -> bool {
        let refreshed = self.view.shown().see(|bytes, version| {
            let generation = version.generation().0;
            let before = self.tag.load(Ordering::Relaxed);
            if before == generation {
                return false;
            }
            let Some(start) = NonNull::new(self.memory.as_mut_ptr()) else {
                return false;
            };
            // SAFETY: invariant 1; mapped writable.
            let page = unsafe { Payload::new(start, self.memory.len()) };
            self.tag.store(LIVE_UNFINISHED, Ordering::Relaxed);
            // ORDERING: the mark before the first byte; the partner is the fence of who checks a copy, in
            // `Live::load_into`.
            fence(Ordering::Release);
            page.store(bytes);
            // Left unfinished by a fork, it may be longer than was said.
            let old = match before == LIVE_UNFINISHED {
                true => self.memory.len(),
                false => self.length(),
            };
            page.zero(bytes.len(), old.max(bytes.len()));
            self.length.store(version.length, Ordering::Relaxed);
            // ORDERING: Release: who finds this tag finds the whole version.
            self.tag.store(generation, Ordering::Release);
            true
        });
        refreshed.unwrap_or(false)
    }
}

/// A page that this process refreshes, until it is dropped.
#[derive(Debug)]
pub(super) struct Paced {
    page: Arc<PacedPage>,
    /// The process whose refresher knows of it, by its token.
    home: AtomicU64,
    /// As what it knows it there.
    key: Lock<Option<Key>>,
}

impl Paced {
    /// Shows what the view does now, and from now on.
    ///
    /// # Errors
    ///
    /// What following the view's changes fails for.
    pub(super) fn refreshed(page: PacedPage) -> Result<Self, NotifyError> {
        let page = Arc::new(page);
        let key = refresher::add(page.clone())?;
        Ok(Self {
            page,
            home: AtomicU64::new(this_process()),
            key: Lock::new(Some(key)),
        })
    }

    /// The page, refreshed by this process: a forked child sees to that at its first call.
    #[inline]
    pub(super) fn here(&self) -> &PacedPage {
        if self.home.load(Ordering::Relaxed) != this_process() {
            self.move_here();
        }
        &self.page
    }

    #[cold]
    fn move_here(&self) {
        let mut key = self.key.lock();
        let here = this_process();
        if self.home.load(Ordering::Relaxed) == here {
            return;
        }
        // If it fails the page stays as it is, and the next call tries again.
        if let Ok(known) = refresher::add(self.page.clone()) {
            *key = Some(known);
            self.home.store(here, Ordering::Relaxed);
        }
    }
}

impl Drop for Paced {
    fn drop(&mut self) {
        if *self.home.get_mut() == this_process()
            && let Some(key) = self.key.lock().take()
        {
            refresher::remove(key);
        }
    }
}

/// What tells this process from its parent and its children; 0 where that cannot be told.
#[inline]
fn this_process() -> u64 {
    Process::current().map_or(0, Process::token)
}
