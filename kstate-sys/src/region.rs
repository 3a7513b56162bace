//! The memory protocol of a state, `head`, slots, live page, and of commits of several states.
//!
//! A region is read and written by processes that do not trust each other's contents, so every
//! word is fetched once and checked, and no reference is ever made to payload. The protocol is
//! written over [`Memory`], which a mapped region implements ([`Mapped`]) and the loom tests
//! implement with a few words of their own: what loom explores is this code.
//!
//! | page | what |
//! |---|---|
//! | 0 | the live page |
//! | 1 | the [`Header`], then the slots' metadata, 64 bytes each, running on into further pages |
//! | then | one area of slots for each [`Class`], smallest first |

mod commit;
mod head;
mod header;
mod intent;
mod live;
#[cfg(not(kstate_loom))]
mod mapped;
mod payload;
mod read;
#[cfg(not(kstate_loom))]
mod registry;
mod several;
mod slot;
mod turn;

pub use commit::{CommitError, Group, Writer};
pub use head::{Generation, Head, MAX_GENERATION, Slot};
pub use header::{Header, Notice};
pub use intent::{
    Decision, IntentRef, MAX_RECORD, MAX_ROUND, Recorded, Round, Standing, Status, StatusWord, look,
};
pub use live::{LIVE_UNFINISHED, LiveOwner, live_generation, refresh_live, seize_live, show_live};
#[cfg(not(kstate_loom))]
pub use mapped::{HeaderError, Mapped, Records, WithRecords, initialise};
pub use payload::Payload;
pub use read::{
    Candidate, Corruption, MAX_READ_ATTEMPTS, ReadError, Version, describe, describe_at, differs,
    newest, read, read_at,
};
#[cfg(not(kstate_loom))]
pub use registry::{Registry, RegistryPage};
pub use several::{
    Check, IntentList, Listed, MAX_WRITTEN, Record, SeveralError, Write, commit_several, cut_fence,
};
pub use slot::{BUSY, SlotMeta, SlotSize};
pub use turn::{LONGEST_TURN, Turn};

use crate::abi::Class;

/// The words of one region, however they are held.
pub trait Memory {
    /// The header.
    fn header(&self) -> &Header;

    /// The metadata of `slot`. Every [`Slot`] is in range, so this cannot fail.
    fn slot(&self, slot: Slot) -> &SlotMeta;

    /// The payload of `slot` in the area of `class`; `None` when this process has not mapped so
    /// far (a state that has grown).
    fn payload(&self, slot: Slot, class: Class) -> Option<Payload<'_>>;

    /// The live page.
    fn live(&self) -> Payload<'_>;

    /// What is known of the record `record`, which decides a commit of several states. Records
    /// are the whole mount's, but it is through one of its states that one is met.
    fn status(&self, record: u32) -> Recorded;

    /// Payload bytes of a slot of `class`.
    fn slot_bytes(&self, class: Class) -> usize;
}

impl<M: Memory> Memory for &M {
    #[inline]
    fn header(&self) -> &Header {
        (**self).header()
    }

    #[inline]
    fn slot(&self, slot: Slot) -> &SlotMeta {
        (**self).slot(slot)
    }

    #[inline]
    fn payload(&self, slot: Slot, class: Class) -> Option<Payload<'_>> {
        (**self).payload(slot, class)
    }

    #[inline]
    fn live(&self) -> Payload<'_> {
        (**self).live()
    }

    #[inline]
    fn status(&self, record: u32) -> Recorded {
        (**self).status(record)
    }

    #[inline]
    fn slot_bytes(&self, class: Class) -> usize {
        (**self).slot_bytes(class)
    }
}
