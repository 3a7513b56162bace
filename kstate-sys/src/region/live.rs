//! The live page: the newest value at a fixed address, for programs that map the file.
//!
//! It converges on the newest version and can be seen half-written; `live_tag` says which
//! generation it holds, [`BUSY`] while it changes. Writers refresh it only while it is *armed*.

use super::read::{Attempt, ReadError, visit_version};
use super::{BUSY, Generation, Head, Memory};
use crate::sync::{Ordering, fence, fence_for_loom};

/// Rounds a refresher goes before it leaves the rest to the next commit.
const MAX_ROUNDS: u32 = 1000;

/// Who refreshes: the writer's group plus one, so that the daemon can tell whose lock a dead
/// process left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveOwner(u64);

impl LiveOwner {
    /// The owner for a writer's group.
    pub const fn of(group: super::Group) -> Self {
        Self(group.0 as u64 + 1)
    }
}

/// Brings the live page up to the newest version, unless somebody else is doing so.
///
/// # Errors
///
/// [`ReadError`] of the version to be copied; the live page keeps what it had.
///
/// # Cost
///
/// One copy and two atomic swaps when nobody contends; no system call.
#[inline]
pub fn refresh_live<M: Memory>(memory: &M, owner: LiveOwner) -> Result<(), ReadError> {
    let header = memory.header();
    for _ in 0..MAX_ROUNDS {
        // ORDERING: Acquire with the unlocking store: the last holder's copy is complete. SeqCst
        // also where it fails: the committer's half of the pair below. An Acquire attempt could
        // find a holder gone long ago, which has not seen this commit.
        fence_for_loom();
        let locked =
            header
                .live_lock
                .compare_exchange(0, owner.0, Ordering::SeqCst, Ordering::SeqCst);
        if locked.is_err() {
            // The holder looks at `head` again after it unlocks, so it will see our commit.
            return Ok(());
        }
        let copied = copy_newest(memory);
        // ORDERING: SeqCst store, then SeqCst load of `head`: pairs with a committer's swap of
        // `head` followed by its attempt to lock. Either it finds the lock free, or we find its
        // head.
        header.live_lock.store(0, Ordering::SeqCst);
        fence_for_loom();
        let copied = copied?;
        let head = Head::from_raw(header.head.load(Ordering::SeqCst));
        if head == copied {
            return Ok(());
        }
    }
    Ok(())
}

/// Frees the lock that a dead owner left behind and brings the live page up to date.
///
/// Never to be called for a living owner: two would write the live page at once.
///
/// # Errors
///
/// As [`refresh_live`].
pub fn seize_live<M: Memory>(
    memory: &M,
    dead: LiveOwner,
    heir: LiveOwner,
) -> Result<(), ReadError> {
    // ORDERING: Release in the dead owner's place: what it stored, which the news of its death
    // made visible here, comes before all that whoever locks next stores.
    let lock = &memory.header().live_lock;
    let _ = lock.compare_exchange(dead.0, 0, Ordering::AcqRel, Ordering::Relaxed);
    refresh_live(memory, heir)
}

/// The generation that the live page holds, `None` while it is being written.
///
/// A program that copied the live page between two equal answers has a whole version.
pub fn live_generation<M: Memory>(memory: &M) -> Option<Generation> {
    // ORDERING: Acquire with the holder's Release of the tag after its copy.
    let tag = memory.header().live_tag.load(Ordering::Acquire);
    (tag != BUSY).then_some(Generation(tag))
}

/// Copies the newest version under the lock.
#[inline]
fn copy_newest<M: Memory>(memory: &M) -> Result<Head, ReadError> {
    let header = memory.header();
    // ORDERING: Acquire, as in `read`.
    let mut head = Head::from_raw(header.head.load(Ordering::Acquire));
    let before = header.live_tag.load(Ordering::Relaxed);
    if before == head.generation().0 {
        return Ok(head);
    }
    for _ in 0..super::MAX_READ_ATTEMPTS {
        match copy_once(memory, head) {
            Ok(Attempt::Done(_)) => return Ok(head),
            Ok(Attempt::Overtaken(newer)) => head = newer,
            Err(error) => return Err(error),
        }
    }
    Err(ReadError::Unstable)
}

#[inline]
fn copy_once<M: Memory>(memory: &M, head: Head) -> Result<Attempt, ReadError> {
    let header = memory.header();
    let live = memory.live();
    let mut length = 0;
    // ORDERING: BUSY before the first byte, as in a slot: the fence's partner is in whoever
    // checks a copy of the live page.
    header.live_tag.store(BUSY, Ordering::Relaxed);
    fence(Ordering::Release);
    let attempt = visit_version(memory, head, |source, bytes| {
        source.copy_to(&live, bytes);
        length = bytes;
        Ok(())
    })?;
    if let Attempt::Done(version) = &attempt {
        // Fetched once and bounded: a writer may have put anything there.
        let old = (header.live_length.load(Ordering::Relaxed) as usize).min(live.len());
        if old > length {
            live.zero(length, old);
        }
        header.live_length.store(version.length, Ordering::Relaxed);
        // ORDERING: Release: whoever finds this tag finds the whole copy.
        header
            .live_tag
            .store(head.generation().0, Ordering::Release);
    }
    Ok(attempt)
}
