//! What is known of one slot besides its payload.

use crate::abi::Class;
use crate::sync::{AtomicU32, AtomicU64};

/// A tag that no generation has: the slot is being filled.
pub const BUSY: u64 = u64::MAX;

/// Metadata of one slot, a cache line of its own.
///
/// # Invariants
///
/// 1. A tag under which a slot was live never recurs there: an owner refills a slot only after it has seen a `head` beyond the
///    generation the slot was live at, and tags it higher.
/// 2. Payload, size and time belong to generation `tag` if `tag` reads the same before and after
///    they were read.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct SlotMeta {
    /// Generation of the version here, or [`BUSY`].
    pub tag: AtomicU64,
    /// [`SlotSize`].
    pub size: AtomicU32,
    /// While `intent_ref` is set: the slot of the version before this one.
    pub prev: AtomicU32,
    /// Commit time in ticks, 0 for none.
    pub time: AtomicU64,
    /// [`IntentRef`](super::IntentRef): which commit of several states it belongs to; 0 for none.
    pub intent_ref: AtomicU64,
    reserved: [AtomicU64; 4],
}

#[cfg(not(kstate_loom))]
const _: () = {
    use core::mem::{align_of, offset_of, size_of};
    assert!(size_of::<SlotMeta>() == crate::abi::SLOT_META_BYTES);
    assert!(align_of::<SlotMeta>() == 64);
    assert!(offset_of!(SlotMeta, tag) == 0);
    assert!(offset_of!(SlotMeta, size) == 8);
    assert!(offset_of!(SlotMeta, prev) == 12);
    assert!(offset_of!(SlotMeta, time) == 16);
    assert!(offset_of!(SlotMeta, intent_ref) == 24);
};

#[cfg(kstate_loom)]
impl SlotMeta {
    /// Metadata as a fresh region has it.
    pub fn for_loom() -> Self {
        Self {
            tag: AtomicU64::new(0),
            size: AtomicU32::new(0),
            prev: AtomicU32::new(0),
            time: AtomicU64::new(0),
            intent_ref: AtomicU64::new(0),
            reserved: core::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

/// Length and class of a version in one word, so that one fetch gives a consistent pair: length
/// in the low 24 bits, class above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotSize(u32);

impl SlotSize {
    /// Packs the two. `length` is at most a page, which is less than 24 bits.
    #[inline]
    pub const fn new(length: u32, class: Class) -> Self {
        Self(length & 0x00ff_ffff | (class as u32) << 24)
    }

    /// From the raw word, which may be anything.
    #[inline]
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// The raw word.
    #[inline]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// Length in bytes, unchecked.
    #[inline]
    pub const fn length(self) -> u32 {
        self.0 & 0x00ff_ffff
    }

    /// The class, if the byte names one.
    #[inline]
    pub const fn class(self) -> Option<Class> {
        Class::from_raw(self.0 >> 24)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::CLASSES;

    #[test]
    fn length_and_class_share_a_word() {
        for class in CLASSES {
            for length in [0, 1, 64, 4096, 65536] {
                let size = SlotSize::from_raw(SlotSize::new(length, class).raw());
                assert_eq!((size.length(), size.class()), (length, Some(class)));
            }
        }
        assert_eq!(SlotSize::from_raw(u32::MAX).class(), None);
    }
}
