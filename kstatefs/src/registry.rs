#![expect(unsafe_code, reason = "gives a mapping its lifetime")]
//! The page that tells programs when a state is created or deleted.

use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::Arc;

use kstate_sys::abi::page_size;
use kstate_sys::region::Registry;
use memmap2::{MmapOptions, MmapRaw};

use crate::backing::{Backing, RegionFile, Transport};
use crate::inode::Node;
use crate::region::without_children;

/// The registry page and its file.
///
/// # Invariants
///
/// 1. `mapping` is one shared, writable page that only the daemon may write, and is only reached
///    through [`Registry`].
#[derive(Debug)]
pub(crate) struct RegistryFile {
    file: Arc<RegionFile>,
    mapping: MmapRaw,
}

impl RegistryFile {
    pub(crate) fn create(backing: &Backing, transport: Transport) -> io::Result<Self> {
        let page = page_size() as usize;
        Self::of(backing.region(Node::Registry.ino(), page, transport)?)
    }

    /// The one that the daemon before this one has left, on whose page programs wait.
    pub(crate) fn inherit(backing: &Backing, transport: Transport) -> io::Result<Self> {
        let page = page_size() as usize;
        Self::of(backing.inherit(Node::Registry.ino(), page, transport)?)
    }

    fn of(file: RegionFile) -> io::Result<Self> {
        let page = page_size();
        file.allocate(0, page as usize)?;
        let options = MmapOptions::new().len(page as usize).clone();
        let mapping = file.with(|fd| options.map_raw(fd.as_raw_fd()))?;
        without_children(&mapping)?;
        let base = NonNull::new(mapping.as_mut_ptr()).unwrap_or(NonNull::dangling());
        // SAFETY: mapped writable just now, page aligned; invariant 1.
        unsafe { Registry::initialise(base, page) };
        // INVARIANT: 1: nobody else has the mapping.
        let file = Arc::new(file);
        Ok(Self { file, mapping })
    }

    /// A state came or went.
    pub(crate) fn bump(&self) {
        let base = NonNull::new(self.mapping.as_mut_ptr()).unwrap_or(NonNull::dangling());
        // SAFETY: invariant 1; the page lives as long as `self`.
        match unsafe { Registry::new(base) } {
            Ok(registry) => registry.bump(),
            Err(error) => tracing::error!(%error, "the registry page is damaged"),
        }
    }

    pub(crate) fn region_file(&self) -> &Arc<RegionFile> {
        &self.file
    }
}
