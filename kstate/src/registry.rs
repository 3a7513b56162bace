#![expect(unsafe_code, reason = "lends the mapped registry page to the protocol")]
//! Waiting for a state that is not there yet.

use core::ptr::NonNull;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

use kstate_sys::abi::page_size;
use kstate_sys::futex::Woken;
use kstate_sys::region;
use memmap2::{MmapOptions, MmapRaw};

use crate::errno::{self, Refusal};
use crate::sleep::{self, Until};
use crate::ticket;

/// The mount's registry page, mapped read-only: its word grows when a state is created or
/// deleted.
///
/// # Invariants
///
/// 1. `page` is a whole page that passed the check of [`region::Registry::new`].
#[derive(Debug)]
pub(crate) struct Registry {
    page: MmapRaw,
}

impl Registry {
    /// Maps the registry open as `file`, or has the daemon hand it out where that cannot be.
    ///
    /// # Errors
    ///
    /// What the kernel or the daemon says, or that it is no registry of this version.
    pub(crate) fn map(file: BorrowedFd<'_>) -> io::Result<Self> {
        let mut options = MmapOptions::new();
        options.len(page_size() as usize);
        let page = match options.map_raw_read_only(file.as_raw_fd()) {
            Err(error) if errno::refusal(&error) == Refusal::NotMappable => {
                options.map_raw_read_only(ticket::redeem(file)?.as_fd().as_raw_fd())?
            }
            page => page?,
        };
        let registry = Self { page };
        registry
            .words()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        // INVARIANT: 1, checked above.
        Ok(registry)
    }

    /// How many creations and deletions there have been.
    pub(crate) fn changes(&self) -> io::Result<u64> {
        let words = self.words().map_err(io::Error::other)?;
        // ORDERING: SeqCst with the daemon's increment: who then finds no state has a number
        // from before its creation.
        Ok(words.changes().load(Ordering::SeqCst))
    }

    /// Sleeps until there have been others than `seen`, at most until `until`, and no longer than `most`.
    pub(crate) fn wait(&self, seen: u64, until: Until<'_>, most: Duration) -> io::Result<Woken> {
        let words = self.words().map_err(io::Error::other)?;
        #[expect(clippy::cast_possible_truncation, reason = "the futex is the low half")]
        let word = (words.changes(), seen as u32);
        sleep::on(word, until, until.slice(most))
    }

    fn words(&self) -> Result<region::Registry<'_>, region::HeaderError> {
        let base = NonNull::new(self.page.as_mut_ptr()).unwrap_or(NonNull::dangling());
        // SAFETY: a page that `self` keeps mapped for the lifetime of the words; never null,
        // because `mmap` without MAP_FIXED places nothing at 0.
        unsafe { region::Registry::new(base) }
    }
}
