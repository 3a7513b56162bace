#![expect(unsafe_code, reason = "maps a region and makes its pages present")]
//! A region mapped into this process.

use core::ops::Range;
use core::ptr::NonNull;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use kstate_sys::abi::{Class, Geometry, SLOTS_PER_GROUP};
use kstate_sys::access::Access;
use kstate_sys::region::{Group, Head, HeaderError, Mapped, Memory, Slot, SlotSize};
use kstate_sys::sync::Ordering;
use memmap2::{MmapOptions, MmapRaw};

/// A mapped region, unmapped on drop.
///
/// # Invariants
///
/// 1. `mapped` lies over the mapping that `raw` owns, and leaves this struct only with a lifetime
///    that ends before it.
/// 2. The mapping is writable exactly if `access` is [`Access::Write`].
#[derive(Debug)]
pub(crate) struct Map {
    mapped: Mapped<'static>,
    access: Access,
    raw: MmapRaw,
}

impl Map {
    /// Maps the region behind `file` as far as slots of `class` reach, and checks its header.
    ///
    /// # Errors
    ///
    /// What `mmap` says; a [`HeaderError`] as [`io::ErrorKind::InvalidData`].
    pub(crate) fn new(
        file: impl AsFd,
        geometry: Geometry,
        class: Class,
        access: Access,
    ) -> io::Result<Self> {
        let file = file.as_fd().as_raw_fd();
        let mut options = MmapOptions::new();
        options.len(geometry.mapped_len(class));
        let raw = match access {
            Access::Read => options.map_raw_read_only(file)?,
            Access::Write => options.map_raw(file)?,
        };
        let base = NonNull::new(raw.as_mut_ptr()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        // SAFETY: `raw` keeps the mapping for as long as this struct lives, page aligned and of
        // that length (invariant 1); nothing in this process makes references into it but
        // `Mapped`. Only the holder of a `State` stores, which needs write access (invariant 2).
        let mapped = unsafe { Mapped::new(base, raw.len(), geometry) }.map_err(invalid)?;
        mapped.check().map_err(invalid)?;
        let map = Self {
            mapped,
            access,
            raw,
        };
        map.populate_page_of(geometry.header());
        Ok(map)
    }

    /// The words of the region.
    #[inline]
    pub(crate) fn mapped(&self) -> &Mapped<'_> {
        &self.mapped
    }

    /// Makes the pages present that reading the newest version touches, and those of the slots
    /// its writer will fill next, so that no read faults.
    ///
    /// Nothing happens for a state that nobody has written: which slots will be used is unknown,
    /// and touching a hole of the file would allocate it.
    pub(crate) fn populate_newest(&self) {
        // ORDERING: Acquire with the committer's swap: its slot's size is visible.
        let head = Head::from_raw(self.mapped.header().head.load(Ordering::Acquire));
        if head.generation().is_never() {
            return;
        }
        let size = SlotSize::from_raw(self.mapped.slot(head.slot()).size.load(Ordering::Relaxed));
        if let Some(class) = size.class() {
            self.populate_group(Group(head.slot().group()), class);
        }
    }

    /// Makes the pages of a group present: its metadata and its slots of `class`, all of which
    /// the daemon allocates when it gives the group out.
    pub(crate) fn populate_group(&self, group: Group, class: Class) {
        let geometry = self.mapped.geometry();
        let first = Slot::of_group(group.0, 0).index();
        self.populate_page_of(geometry.slot_meta(first));
        let start = geometry.payload(first, class);
        self.populate(start..start + usize::from(SLOTS_PER_GROUP) * geometry.slot_bytes(class));
    }

    /// Makes the live page present.
    pub(crate) fn populate_live(&self) {
        self.populate_page_of(0);
    }

    fn populate_page_of(&self, offset: usize) {
        self.populate(offset..offset + 1);
    }

    /// Makes the pages present that hold `bytes`, as far as they are mapped. A failure shows as
    /// a page fault later, nothing else.
    fn populate(&self, bytes: Range<usize>) {
        let page = self.mapped.geometry().page() as usize;
        let start = bytes.start / page * page;
        let end = bytes.end.next_multiple_of(page).min(self.raw.len());
        if start >= end {
            return;
        }
        let advice = match self.access {
            Access::Read => libc::MADV_POPULATE_READ,
            Access::Write => libc::MADV_POPULATE_WRITE,
        };
        // SAFETY: within the mapping (invariant 1), which holds bytes of any value.
        let first = unsafe { self.raw.as_mut_ptr().add(start) };
        // SAFETY: the range is mapped (invariant 1); populating changes no byte. Known since Linux
        // 5.14; what it cannot do here is done, or is an error, where the page is touched.
        unsafe { libc::madvise(first.cast(), end - start, advice) };
    }
}

fn invalid(error: HeaderError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
