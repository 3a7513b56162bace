//! The word that is the state: which generation is newest and which slot holds it.

use core::fmt;

use crate::abi::{SLOTS, SLOTS_PER_GROUP};

/// The last generation a state can reach: 53 bits, 5.7 years of a commit every 20 ns.
pub const MAX_GENERATION: Generation = Generation((1 << 53) - 1);

/// How many versions of a state were published; 0 is the state as created, never written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation of a state that nobody has written.
    pub const NEVER: Self = Self(0);

    /// The one after it.
    #[must_use]
    #[inline]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Whether nobody has written yet.
    #[inline]
    pub const fn is_never(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Index of a slot, always below [`SLOTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot(u16);

impl Slot {
    /// The slot with `index`, if there is one.
    pub const fn new(index: u16) -> Option<Self> {
        if index < SLOTS {
            Some(Self(index))
        } else {
            None
        }
    }

    /// The slot that the low ten bits of `bits` name.
    #[inline]
    pub(super) const fn from_low_bits(bits: u32) -> Self {
        // INVARIANT: ten bits are below 1024.
        Self((bits & 1023) as u16)
    }

    /// Slot `offset` of the group `group`, both taken modulo what there is.
    #[inline]
    pub const fn of_group(group: u8, offset: u16) -> Self {
        // INVARIANT: 256 groups of 4 are exactly 1024 slots.
        Self(group as u16 * SLOTS_PER_GROUP + offset % SLOTS_PER_GROUP)
    }

    /// The index.
    #[inline]
    pub const fn index(self) -> u16 {
        self.0
    }

    /// The group it belongs to.
    #[inline]
    pub const fn group(self) -> u8 {
        // 1024 slots are 256 groups.
        (self.0 / SLOTS_PER_GROUP).to_le_bytes()[0]
    }
}

/// The value of `head`: generation low (32 bits, the futex word), generation high (21), slot
/// (10), intent (1), from the least significant bit.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Head(u64);

impl Head {
    /// The bit of a commit of several states that is under way, or of a state that was deleted.
    pub(super) const INTENT: u64 = 1 << 63;

    /// The head of a region nobody has written.
    pub const INITIAL: Self = Self(0);

    /// From the raw word. Every bit pattern is a head: ten slot bits name 1024 slots.
    #[inline]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The raw word.
    #[inline]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// A head without intent. Bits of the generation over 53 are cut off; [`MAX_GENERATION`] is
    /// refused before that.
    #[inline]
    pub const fn new(generation: Generation, slot: Slot) -> Self {
        Self((generation.0 & MAX_GENERATION.0) | (slot.0 as u64) << 53)
    }

    /// A head whose next version, in `slot`, depends on a commit of several states; `generation`
    /// is the one before it.
    #[inline]
    pub(super) const fn with_intent(generation: Generation, slot: Slot) -> Self {
        Self(Self::new(generation, slot).0 | Self::INTENT)
    }

    /// The newest generation; with an intent, the one before the version in question.
    #[inline]
    pub const fn generation(self) -> Generation {
        Generation(self.0 & MAX_GENERATION.0)
    }

    /// The newest generation, or a number that no tag has if there is an intent: one comparison
    /// with a slot's tag asks both.
    #[inline]
    pub(super) const fn generation_or_intent(self) -> u64 {
        self.0 & (MAX_GENERATION.0 | Self::INTENT)
    }

    /// The slot that holds it; with an intent, the version in question.
    #[inline]
    pub const fn slot(self) -> Slot {
        // INVARIANT: ten bits are below 1024.
        Slot((self.0 >> 53) as u16 & 1023)
    }

    /// Whether a commit of several states is under way here.
    #[inline]
    pub const fn has_intent(self) -> bool {
        self.0 & Self::INTENT != 0
    }

    /// The 32 bits a futex waits on.
    #[inline]
    pub const fn futex_word(self) -> u32 {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the low half is what is wanted"
        )]
        {
            self.0 as u32
        }
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let intent = if self.has_intent() { ", intent" } else { "" };
        write!(
            f,
            "Head(g{}, slot {}{intent})",
            self.generation(),
            self.slot().0
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_into_each_other() {
        for generation in [0, 1, u64::from(u32::MAX), 1 << 32, MAX_GENERATION.0] {
            for index in [0, 1, 511, 1023] {
                let head = Head::new(Generation(generation), Slot::new(index).unwrap());
                assert_eq!(head.generation().0, generation);
                assert_eq!(head.slot().index(), index);
                assert!(!head.has_intent());
                assert_eq!(u64::from(head.futex_word()), generation & 0xffff_ffff);
            }
        }
        let all_bits = Head::from_raw(u64::MAX);
        assert!(all_bits.has_intent());
        assert_eq!(all_bits.slot().index(), 1023);
    }

    #[test]
    fn groups_cover_all_slots_once() {
        let mut seen = vec![false; usize::from(SLOTS)];
        for group in 0..=255 {
            for offset in 0..SLOTS_PER_GROUP {
                let slot = Slot::of_group(group, offset);
                assert_eq!(slot.group(), group);
                assert!(!std::mem::replace(
                    &mut seen[usize::from(slot.index())],
                    true
                ));
            }
        }
        assert!(seen.into_iter().all(|slot| slot));
    }
}
