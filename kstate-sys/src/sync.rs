//! Every atomic of the protocol, so that a loom build can replace them in one place.
//!
//! Type aliases rather than re-exports: a lint on the standard atomics sees through the latter.

#[cfg(not(kstate_loom))]
mod imp {
    /// A 32-bit word shared between processes.
    pub type AtomicU32 = core::sync::atomic::AtomicU32;
    /// A 64-bit word shared between processes.
    pub type AtomicU64 = core::sync::atomic::AtomicU64;
    pub use core::sync::atomic::Ordering;
    pub use core::sync::atomic::fence;

    /// Orders an earlier `SeqCst` access of one word before a later `SeqCst` access of another.
    ///
    /// The C++ and Rust memory models already give that for `SeqCst` accesses, so this is
    /// nothing. Loom treats them as acquire-release and gets a fence here.
    #[inline(always)]
    pub fn fence_for_loom() {}
}

#[cfg(kstate_loom)]
mod words;

#[cfg(kstate_loom)]
mod imp {
    pub use super::words::{AtomicU32, AtomicU64};
    pub use loom::sync::atomic::Ordering;
    pub use loom::sync::atomic::fence;

    /// Orders an earlier `SeqCst` access of one word before a later one of another.
    pub fn fence_for_loom() {
        fence(Ordering::SeqCst);
    }
}

mod omittable;

pub use imp::*;
pub(crate) use omittable::load_omittable;
