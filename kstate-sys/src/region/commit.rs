//! A commit: fill a spare slot, tag it, swap `head`.

use core::num::NonZeroU32;

use super::{BUSY, Generation, Head, MAX_GENERATION, Memory, Slot, SlotSize, intent};
use crate::abi::{CLASSES, Class, SLOTS_PER_GROUP};
use crate::clock::Ticks;
use crate::sync::{Ordering, fence};

/// How often a publish begins again because another writer committed meanwhile.
const MAX_PUBLISH_ATTEMPTS: u32 = 1_000_000;

/// A slot group, claimed from the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Group(pub u8);

impl Group {
    /// The daemon's own group.
    pub const DAEMON: Self = Self(0);
}

/// Why a commit did not happen. The state is unchanged by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// Another commit came between, or one of several states is under way; `found` is what stands
    /// now.
    #[error("another commit came first: head is {found:?}")]
    Conflict {
        /// The head found instead of the base.
        found: Head,
    },
    /// The value does not fit the slots this writer was given.
    #[error("the value has {length} bytes, the slots of this writer hold {room}")]
    TooLong {
        /// Bytes of the value.
        length: usize,
        /// Bytes of a slot.
        room: usize,
    },
    /// The writer's slots are not mapped.
    #[error("slots of class {class:?} are not mapped")]
    Unmapped {
        /// Their class.
        class: Class,
    },
    /// The last generation has been reached.
    #[error("the state has reached its last generation, {}", MAX_GENERATION.0)]
    Exhausted,
    /// Others committed before each of very many attempts to publish.
    #[error("other writers came first {MAX_PUBLISH_ATTEMPTS} times in a row")]
    Contended,
}

/// The writing side of one handle: its group and which of its slots comes next.
///
/// # Invariants
///
/// 1. The group was claimed by the calling process and no other writer uses it.
/// 2. `last` is the slot of the last successful commit through it, or the slot that `head` named
///    when it was claimed if that is in the group, or the one before the first.
/// 3. It is one word: a value put together from parts and read back whole a moment later would
///    stall the processor for longer than a commit takes.
#[derive(Debug)]
pub struct Writer(NonZeroU32);

/// The class is above the slot's index, and above both a bit that is always set.
const CLASS_SHIFT: u32 = 16;
const PRESENT: u32 = 1 << 31;

impl Writer {
    /// A writer for a freshly claimed `group` whose slots of `class` are allocated.
    ///
    /// The newest version may be in this very group, left by an earlier owner; it is not the
    /// first slot to be filled then.
    pub fn claimed<M: Memory>(memory: &M, group: Group, class: Class) -> Self {
        // ORDERING: Acquire: the earlier owner's last commit is visible.
        let head = Head::from_raw(memory.header().head.load(Ordering::Acquire));
        let spared = Self::spared(memory, head, group);
        let last = spared.unwrap_or(Slot::of_group(group.0, SLOTS_PER_GROUP - 1));
        Self::new(last, class)
    }

    /// The slot of `group` that holds what readers may take for the newest version.
    fn spared<M: Memory>(memory: &M, mut head: Head, group: Group) -> Option<Slot> {
        let mine = |slot: &Slot| slot.group() == group.0;
        for _ in 0..super::MAX_READ_ATTEMPTS {
            if !head.has_intent() {
                return Some(head.slot()).filter(mine);
            }
            // An earlier owner's commits are settled, so that an intent is of another group; what
            // counts until it is decided can be of this one.
            if let Some((_, prev)) = intent::intent_at(memory, head) {
                return Some(prev).filter(mine);
            }
            // ORDERING: Acquire, as in `look_closer`.
            fence(Ordering::Acquire);
            head = Head::from_raw(memory.header().head.load(Ordering::Acquire));
        }
        None
    }

    #[inline]
    const fn new(last: Slot, class: Class) -> Self {
        let parts = (class as u32) << CLASS_SHIFT | last.index() as u32;
        // INVARIANT: 3.
        Self(NonZeroU32::new(parts | PRESENT).expect("a bit is set"))
    }

    #[inline]
    pub(super) const fn last(&self) -> Slot {
        Slot::from_low_bits(self.0.get())
    }

    /// The group.
    #[inline]
    pub const fn group(&self) -> Group {
        Group(self.last().group())
    }

    /// The class its versions go to.
    #[inline]
    pub const fn class(&self) -> Class {
        // By a table: which it is a branch could only guess, for a program that writes many states.
        CLASSES[(self.0.get() >> CLASS_SHIFT & 3) as usize]
    }

    /// Publishes in slots of `class` from now on: the daemon has allocated them.
    pub fn grow(&mut self, class: Class) {
        *self = Self::new(self.last(), self.class().max(class));
    }

    /// Commits `bytes` on top of `base`, a head that [`read`](super::read()) or
    /// [`newest`](super::newest) returned.
    ///
    /// Returns the new head. What follows a commit is owed by the caller:
    /// [`Header::notice`](super::Header::notice).
    ///
    /// # Errors
    ///
    /// [`CommitError`]; the state is then unchanged.
    ///
    /// # Memory ordering
    ///
    /// What happened before this call is visible to whoever reads the version.
    ///
    /// # Cost
    ///
    /// One copy and one compare-and-swap; no system call.
    #[inline]
    pub fn commit<M: Memory>(
        &mut self,
        memory: &M,
        base: Head,
        bytes: &[u8],
        time: Ticks,
    ) -> Result<Head, CommitError> {
        let slot = self.spare();
        // ORDERING: Relaxed suffices: the slot was chosen by this thread, whose own last commit
        // this load cannot miss. Without it an old base would refill a slot that has been live
        // since, under a tag it has had.
        let found = Head::from_raw(memory.header().head.load(Ordering::Relaxed));
        if found != base || base.has_intent() {
            return Err(CommitError::Conflict { found });
        }
        self.fill(memory, slot, bytes, time)?;
        self.swap(memory, base, slot)
    }

    /// Replaces whatever is newest by `bytes`.
    ///
    /// # Errors
    ///
    /// [`CommitError`], [`Conflict`](CommitError::Conflict) excepted; the state is then unchanged.
    ///
    /// # Cost
    ///
    /// One copy however many writers contend; a compare-and-swap each time one came first.
    #[inline]
    pub fn publish<M: Memory>(
        &mut self,
        memory: &M,
        bytes: &[u8],
        time: Ticks,
    ) -> Result<Head, CommitError> {
        let slot = self.spare();
        // ORDERING: Relaxed, as in `commit`; `swap` orders the rest.
        let mut base = Head::from_raw(memory.header().head.load(Ordering::Relaxed));
        self.fill(memory, slot, bytes, time)?;
        for _ in 0..MAX_PUBLISH_ATTEMPTS {
            if base.has_intent() {
                return Err(CommitError::Conflict { found: base });
            }
            match self.swap(memory, base, slot) {
                Err(CommitError::Conflict { found }) => base = found,
                outcome => return outcome,
            }
        }
        Err(CommitError::Contended)
    }

    /// Puts `bytes` in place as the first version there is of a state, under the number it had when it
    /// was kept elsewhere. Like any other first commit it comes too late where there is a version.
    ///
    /// # Errors
    ///
    /// [`CommitError`]; the state is then unchanged.
    pub fn restore<M: Memory>(
        &mut self,
        memory: &M,
        generation: Generation,
        bytes: &[u8],
        time: Ticks,
    ) -> Result<Head, CommitError> {
        let slot = self.spare();
        // ORDERING: Relaxed, as in `commit`.
        let base = Head::from_raw(memory.header().head.load(Ordering::Relaxed));
        if !base.generation().is_never() || base.has_intent() {
            return Err(CommitError::Conflict { found: base });
        }
        if generation > MAX_GENERATION {
            return Err(CommitError::Exhausted);
        }
        self.fill(memory, slot, bytes, time)?;
        self.swap_to(memory, base, Head::new(generation, slot))
    }

    /// Notes that `slot` became the newest version by a commit of several states.
    pub(super) fn took(&mut self, slot: Slot) {
        // INVARIANT: 2.
        *self = Self::new(slot, self.class());
    }

    /// The slot to fill next: never the one of the last success, which may be live.
    #[inline]
    pub(super) fn spare(&self) -> Slot {
        let last = self.last();
        Slot::of_group(last.group(), last.index() + 1)
    }

    #[inline]
    pub(super) fn fill<M: Memory>(
        &self,
        memory: &M,
        slot: Slot,
        bytes: &[u8],
        time: Ticks,
    ) -> Result<(), CommitError> {
        let class = self.class();
        let room = memory.slot_bytes(class);
        let length = match u32::try_from(bytes.len()) {
            Ok(length) if bytes.len() <= room => length,
            _ => {
                return Err(CommitError::TooLong {
                    length: bytes.len(),
                    room,
                });
            }
        };
        let payload = memory
            .payload(slot, class)
            .ok_or(CommitError::Unmapped { class })?;
        let meta = memory.slot(slot);
        // ORDERING: Release, so that a reader who meets BUSY sees the head this thread has seen
        // (`overtaken` in read.rs); the fence keeps BUSY before the first byte (`copy_version`).
        meta.tag.store(BUSY, Ordering::Release);
        fence(Ordering::Release);
        payload.store(bytes);
        // Most are what they were, and the swap waits for each store to be made.
        // ORDERING: Relaxed: a word that stays was stored by this owner of the slot, or by one before it
        // that the daemon has buried; whoever meets the new tag finds it or what came later.
        let size = SlotSize::new(length, class).raw();
        if meta.size.load(Ordering::Relaxed) != size {
            meta.size.store(size, Ordering::Relaxed);
        }
        if meta.time.load(Ordering::Relaxed) != time.0 {
            meta.time.store(time.0, Ordering::Relaxed);
        }
        if meta.intent_ref.load(Ordering::Relaxed) != 0 {
            meta.intent_ref.store(0, Ordering::Relaxed);
        }
        Ok(())
    }

    #[inline]
    fn swap<M: Memory>(&mut self, memory: &M, base: Head, slot: Slot) -> Result<Head, CommitError> {
        if base.generation() >= MAX_GENERATION {
            return Err(CommitError::Exhausted);
        }
        self.swap_to(
            memory,
            base,
            Head::new(Generation(base.generation().0 + 1), slot),
        )
    }

    #[inline]
    fn swap_to<M: Memory>(
        &mut self,
        memory: &M,
        base: Head,
        next: Head,
    ) -> Result<Head, CommitError> {
        let slot = next.slot();
        // ORDERING: Release: whoever finds this tag finds the filling.
        memory
            .slot(slot)
            .tag
            .store(next.generation().0, Ordering::Release);
        // ORDERING: SeqCst on success: publishes the filling, and stands before the look at
        // `notice` (see there). Relaxed on failure: what was found is only compared.
        let head = &memory.header().head;
        match head.compare_exchange(base.raw(), next.raw(), Ordering::SeqCst, Ordering::Relaxed) {
            Ok(_) => {
                crate::sync::fence_for_loom();
                *self = Self::new(slot, self.class());
                Ok(next)
            }
            Err(found) => Err(CommitError::Conflict {
                found: Head::from_raw(found),
            }),
        }
    }
}
