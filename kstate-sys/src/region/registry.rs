#![expect(
    unsafe_code,
    reason = "turns a mapped page into the words of the registry"
)]
//! The page of the whole mount: a word that grows when a state is created or deleted.
//!
//! A program that waits for a state which is not there yet maps `.kstate/registry` read-only and
//! sleeps on that word. The daemon wakes the sleepers at each change; it alone may write.

use core::ptr::NonNull;

use super::HeaderError;
use crate::abi::{ABI_VERSION, REGISTRY_MAGIC};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// The start of the registry page.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 8 | `magic` |
/// | 8 | 4 | `abi_version` |
/// | 12 | 4 | `page_size` in bytes |
/// | 64 | 8 | `changes`: creations and deletions so far |
#[repr(C, align(64))]
#[derive(Debug)]
pub struct RegistryPage {
    /// [`REGISTRY_MAGIC`].
    pub magic: AtomicU64,
    /// [`ABI_VERSION`].
    pub abi_version: AtomicU32,
    /// Page size in bytes.
    pub page_size: AtomicU32,
    reserved: [AtomicU64; 6],
    /// Creations and deletions of states so far; its low half is a futex.
    pub changes: AtomicU64,
}

const _: () = {
    use core::mem::{offset_of, size_of};
    assert!(size_of::<RegistryPage>() == 128);
    assert!(offset_of!(RegistryPage, abi_version) == 8);
    assert!(offset_of!(RegistryPage, page_size) == 12);
    assert!(offset_of!(RegistryPage, changes) == 64);
};

/// A mapped registry page. Copied freely, owns nothing.
///
/// # Invariants
///
/// 1. The page stays mapped for `'a` and is reached through its atomics only.
#[derive(Clone, Copy, Debug)]
pub struct Registry<'a>(&'a RegistryPage);

impl<'a> Registry<'a> {
    /// Takes a mapped page for a registry.
    ///
    /// # Errors
    ///
    /// [`HeaderError`] when it is none, or of another ABI version.
    ///
    /// # Safety
    ///
    /// Invariant 1 holds for `base`, a page-aligned address, and the lifetime chosen.
    pub unsafe fn new(base: NonNull<u8>) -> Result<Self, HeaderError> {
        // SAFETY: mapped and page aligned, by the caller's promise; all fields are atomics.
        let page: &'a RegistryPage = unsafe { base.cast().as_ref() };
        // ORDERING: Acquire with the Release in `initialise`.
        let found = page.magic.load(Ordering::Acquire);
        if found != REGISTRY_MAGIC {
            return Err(HeaderError::Magic { found });
        }
        let found = page.abi_version.load(Ordering::Relaxed);
        if found != ABI_VERSION {
            return Err(HeaderError::Version { found });
        }
        Ok(Self(page))
    }

    /// Writes the header of a fresh, zeroed page.
    ///
    /// # Safety
    ///
    /// As [`Registry::new`], and the page is mapped writable.
    pub unsafe fn initialise(base: NonNull<u8>, page_size: u32) -> Self {
        // SAFETY: mapped and page aligned, by the caller's promise; all fields are atomics.
        let page: &'a RegistryPage = unsafe { base.cast().as_ref() };
        page.abi_version.store(ABI_VERSION, Ordering::Relaxed);
        page.page_size.store(page_size, Ordering::Relaxed);
        // ORDERING: Release: who finds the magic finds the rest.
        page.magic.store(REGISTRY_MAGIC, Ordering::Release);
        Self(page)
    }

    /// The word to sleep on.
    pub fn changes(&self) -> &'a AtomicU64 {
        &self.0.changes
    }

    /// Counts a creation or deletion and wakes who waits for one. The daemon's alone.
    pub fn bump(&self) {
        // ORDERING: SeqCst: after the change of the name table it announces.
        self.0.changes.fetch_add(1, Ordering::SeqCst);
        crate::futex::wake_all(&self.0.changes);
    }
}
