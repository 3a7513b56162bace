#![expect(unsafe_code, reason = "gives a mapping its lifetime")]
//! The daemon's own mapping of a region.

use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::Arc;

use kstate_sys::abi::{Class, Geometry};
use kstate_sys::region::{Mapped, WithRecords};
use memmap2::{Advice, MmapOptions, MmapRaw};

use crate::backing::RegionFile;
use crate::guard::Guard;
use crate::intents::Intents;

/// A mapped region as the daemon sees it: with all records.
pub(crate) type Region<'a> = WithRecords<'a, Intents>;

/// A guarded mapping of a region up to the end of one class's area.
///
/// # Invariants
///
/// 1. `mapping` is shared, writable, and lives as long as the value; `guard` covers all of it.
/// 2. Its bytes are only reached through [`RegionMapping::mapped`].
#[derive(Debug)]
pub(crate) struct RegionMapping {
    // Dropped before the mapping, so that the guard never covers somebody else's memory.
    guard: Guard,
    mapping: MmapRaw,
    geometry: Geometry,
    class: Class,
    intents: Arc<Intents>,
}

/// Keeps a mapping from processes that are split off this one: they would keep its memory.
///
/// # Errors
///
/// `ENOMEM` is the number of mappings, as of mmap.
pub(crate) fn without_children(mapping: &MmapRaw) -> io::Result<()> {
    mapping.advise(Advice::DontFork)
}

impl RegionMapping {
    pub(crate) fn new(
        file: &RegionFile,
        geometry: Geometry,
        class: Class,
        intents: Arc<Intents>,
    ) -> io::Result<Self> {
        let len = geometry.mapped_len(class);
        let mapping = file.with(|fd| MmapOptions::new().len(len).map_raw(fd.as_raw_fd()));
        // ENOMEM is the number of mappings a process may have (vm.max_map_count), not memory.
        let mapping = mapping.map_err(|error| match error.raw_os_error() {
            Some(libc::ENOMEM) => io::Error::from_raw_os_error(libc::ENFILE),
            _ => error,
        })?;
        without_children(&mapping)?;
        let guard = Guard::new(mapping.as_ptr(), len)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENFILE))?;
        // INVARIANT: 1: made here from one mapping.
        Ok(Self {
            guard,
            mapping,
            geometry,
            class,
            intents,
        })
    }

    /// The words of the protocol.
    pub(crate) fn mapped(&self) -> Region<'_> {
        let base = NonNull::new(self.mapping.as_mut_ptr()).unwrap_or(NonNull::dangling());
        // SAFETY: invariants 1 and 2 are those of `Mapped`; mmap returns page-aligned addresses
        // that are not null.
        match unsafe { Mapped::new(base, self.mapping.len(), self.geometry) } {
            Ok(mapped) => Region::new(mapped, &self.intents),
            Err(error) => unreachable!("every class's area is behind the metadata: {error}"),
        }
    }

    /// The biggest class within reach.
    pub(crate) fn class(&self) -> Class {
        self.class
    }

    /// Whether a writer made a hole here that could not be filled any more.
    pub(crate) fn is_damaged(&self) -> bool {
        self.guard.is_damaged()
    }
}
