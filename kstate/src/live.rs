#![expect(
    unsafe_code,
    reason = "hands out a pointer to a page that others write"
)]
//! The live pointer: the newest value at an address that stays.

mod paced;
mod refresher;

use core::mem::MaybeUninit;
use core::ptr::NonNull;
use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{Ordering, fence};

use kstate_sys::ioctl::call;
use kstate_sys::name::StateName;
use kstate_sys::region::{self, Generation, Memory, Payload};
use memmap2::{MmapOptions, MmapRaw};

use crate::errno::{self, Refusal};
use crate::layout::Layout;
use crate::notify::NotifyError;
use crate::reader::Reader;
use crate::view::View;
use paced::{Paced, PacedPage};

/// Attempts of [`Live::load`] to find the page at rest.
const MAX_ATTEMPTS: u32 = 10_000;

/// A pointer to the newest value, in memory that every committer of the state refreshes; or, of a
/// [`View`], to the value it shows, in memory that a thread of this process refreshes at its rate.
///
/// The page converges on that version and can be seen half-written: a program that looks
/// at it directly compares [`Live::generation`] before and after, or uses [`Live::load`]. Having
/// one of a reader makes each commit cost one more copy for as long as the state lives; one of a view costs a
/// commit what any waiter does, for as long as it is there.
///
/// # Invariants
///
/// 1. `page.memory()` is one whole page, mapped for as long as this, which no reference in this
///    process points into.
pub struct Live<T> {
    page: Page,
    reader: Reader<T>,
}

/// Who refreshes a live page.
enum Page {
    /// The committers: it is page 0 of the region.
    Region(MmapRaw),
    /// A thread of this process.
    Paced(Paced),
}

impl Page {
    fn memory(&self) -> &MmapRaw {
        match self {
            Self::Region(memory) => memory,
            Self::Paced(paced) => paced.here().memory(),
        }
    }
}

/// Why there is no live pointer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LiveError {
    /// The daemon's memory is used up.
    #[error(
        "no memory is left for the live page of state `{name}`; delete states or enlarge the \
         daemon's tmpfs"
    )]
    NoSpace {
        /// The state's name.
        name: StateName,
    },
    /// Nobody can refresh the live page of a view.
    #[error("changes of state `{name}` cannot be followed for a live page: {source}")]
    Refresh {
        /// The state's name.
        name: StateName,
        /// Why.
        source: NotifyError,
    },
    /// What the kernel or the daemon said.
    #[error("cannot get the live page of state `{name}`: {source}")]
    Io {
        /// The state's name.
        name: StateName,
        /// The operating system's error.
        source: io::Error,
    },
}

impl<T> Reader<T> {
    /// The live pointer: arms the live page for the rest of the state's life.
    ///
    /// # Errors
    ///
    /// [`LiveError`].
    ///
    /// # Cost
    ///
    /// A FUSE request and an `mmap` of one page.
    pub fn live(&self) -> Result<Live<T>, LiveError> {
        let mut options = MmapOptions::new();
        options.len(self.geometry().page() as usize);
        let subscription = self.subscription();
        let mapped = subscription.request(|file| call::arm(file)).and_then(|()| {
            subscription.with_region(|region| options.map_raw_read_only(region.as_raw_fd()))
        });
        let name = || self.name().clone();
        let page = mapped.map_err(|source| match errno::refusal(&source) {
            Refusal::NoSpace => LiveError::NoSpace { name: name() },
            _ => LiveError::Io {
                name: name(),
                source,
            },
        })?;
        self.current().populate_live();
        // INVARIANT: 1: mapped just now.
        Ok(Live {
            page: Page::Region(page),
            reader: self.clone(),
        })
    }
}

impl<T> View<T> {
    /// The live pointer at this view's rate: what is behind it changes no more often than once a
    /// period, and shows what the view does.
    ///
    /// The page is private to this process. One thread refreshes all such pages, and is there as long as there
    /// is one of them; the state is not armed. **After `fork`** the page is the child's own and keeps its
    /// value, until the child's first call of a method here, which has a thread of the child's refresh
    /// it from then on. If the fork came in the middle of a refresh, it is half-written until then.
    ///
    /// # Errors
    ///
    /// [`LiveError`].
    ///
    /// # Cost
    ///
    /// A page of memory, and what [`Notifier::add`](crate::Notifier::add) costs; the first one a thread as well. As long as it is there,
    /// each commit costs its writer a system call.
    pub fn live(&self) -> Result<Live<T>, LiveError> {
        let reader = self.reader();
        let name = || reader.name().clone();
        let bytes = reader.geometry().page() as usize;
        let page = PacedPage::new(self.shown().clone(), bytes).map_err(|source| LiveError::Io {
            name: name(),
            source,
        })?;
        let page = Paced::refreshed(page).map_err(|source| LiveError::Refresh {
            name: name(),
            source,
        })?;
        // INVARIANT: 1: `PacedPage` invariant 1.
        Ok(Live {
            page: Page::Paced(page),
            reader: reader.clone(),
        })
    }
}

impl<T> Live<T> {
    /// Address of the newest value. It stays for as long as this `Live`; the bytes behind it
    /// change at any time, so reading them is a data race that the reader answers for: through
    /// [`Live::load`], or by other code that compares [`Live::generation`] around its look.
    pub fn as_ptr(&self) -> *const u8 {
        self.page.memory().as_ptr()
    }

    /// Bytes at [`Live::as_ptr`]: the machine's page.
    pub fn page_len(&self) -> usize {
        self.page.memory().len()
    }

    /// Which generation the page holds; `None` while it is being written.
    ///
    /// # Memory ordering
    ///
    /// A copy of the page between two equal answers, with an acquire fence before the second
    /// one, is of that version.
    #[inline]
    pub fn generation(&self) -> Option<Generation> {
        match &self.page {
            Page::Region(_) => region::live_generation(self.reader.memory()),
            Page::Paced(paced) => paced.here().generation(),
        }
    }

    /// Length in bytes of the version in the page; the rest is zeros.
    #[inline]
    pub fn len(&self) -> usize {
        match &self.page {
            Page::Region(memory) => {
                let header = self.reader.memory().header();
                // A writer could have scribbled over it.
                (header.live_length.load(Ordering::Relaxed) as usize).min(memory.len())
            }
            Page::Paced(paced) => paced.here().length(),
        }
    }

    /// Whether the page holds no byte of a version.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The handle it came from.
    pub fn reader(&self) -> &Reader<T> {
        &self.reader
    }

    /// Copies the first bytes of the page to `into` and says of which version they are; `None`
    /// when the page was being written at every one of many looks, as it is when a writer was
    /// stopped in the middle.
    #[inline]
    pub fn load_into(&self, into: &mut [u8]) -> Option<Generation> {
        let memory = self.page.memory();
        let wanted = into.len().min(memory.len());
        let start = NonNull::new(memory.as_mut_ptr())?;
        // SAFETY: invariant 1; `self` outlives the payload. It is only loaded from.
        let page = unsafe { Payload::new(start, memory.len()) };
        let room = into[..wanted].as_mut_ptr().cast::<MaybeUninit<u8>>();
        // SAFETY: the same bytes, borrowed as long; `load` writes initialised ones.
        let room = unsafe { core::slice::from_raw_parts_mut(room, wanted) };
        for _ in 0..MAX_ATTEMPTS {
            let Some(before) = self.generation() else {
                core::hint::spin_loop();
                continue;
            };
            page.load(room);
            // ORDERING: the fence keeps the copy before the second look at the tag; its partner
            // is the refresher's fence between its lock and its first byte.
            fence(Ordering::Acquire);
            if self.generation() == Some(before) {
                return Some(before);
            }
        }
        None
    }
}

impl<T: Layout> Live<T> {
    /// The value in the page and its generation, checked to be of one version; `None` as
    /// [`Live::load_into`].
    ///
    /// A version that is shorter than the type is filled up with zeros.
    pub fn load(&self) -> Option<(Generation, T)> {
        let mut value = T::new_zeroed();
        let generation = self.load_into(value.as_mut_bytes())?;
        Some((generation, value))
    }
}

impl<T> fmt::Debug for Live<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live")
            .field("page", &self.as_ptr())
            .field("generation", &self.generation())
            .field("reader", &self.reader)
            .finish()
    }
}
