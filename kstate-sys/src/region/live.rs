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
/// [`ReadError`] of the version to be copied; until the next refresh the live page then counts as
/// being written.
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

/// As [`refresh_live`] for a committer that has its version still at hand: `bytes` is what it has
/// just committed as `head`.
///
/// # Errors
///
/// As [`refresh_live`], when somebody else's version turned out to be newer.
///
/// # Cost
///
/// As [`refresh_live`], but nothing of the slot is read back.
#[inline]
pub fn refresh_live_with<M: Memory>(
    memory: &M,
    owner: LiveOwner,
    head: Head,
    bytes: &[u8],
) -> Result<(), ReadError> {
    let header = memory.header();
    let live = memory.live();
    // ORDERING: each as in `refresh_live` and `copy_once`.
    fence_for_loom();
    let locked = header
        .live_lock
        .compare_exchange(0, owner.0, Ordering::SeqCst, Ordering::SeqCst);
    if locked.is_err() {
        return Ok(());
    }
    let generation = head.generation().0;
    let shown = header.live_tag.load(Ordering::Relaxed);
    // A newer one stays. So does BUSY, which a death or an error has left: a newer one may have
    // been shown before it, and a tag shown twice would pass a copy made across both for whole.
    if shown < generation {
        header.live_tag.store(BUSY, Ordering::Relaxed);
        fence(Ordering::Release);
        live.store(bytes);
        show(memory, generation, bytes.len(), false);
    }
    header.live_lock.store(0, Ordering::SeqCst);
    fence_for_loom();
    let newest = Head::from_raw(header.head.load(Ordering::SeqCst));
    match newest == head && shown != BUSY {
        true => Ok(()),
        false => refresh_live(memory, owner),
    }
}

/// Zeroes what a longer version left behind `length` bytes and says which generation is whole.
/// `mixed` says that somebody began to write another version and did not come to its end: then
/// `live_length` tells nothing.
#[inline]
fn show<M: Memory>(memory: &M, generation: u64, length: usize, mixed: bool) {
    let header = memory.header();
    let live = memory.live();
    let old = match mixed {
        true => live.len(),
        // Fetched once and bounded: a writer may have put anything there.
        false => (header.live_length.load(Ordering::Relaxed) as usize).min(live.len()),
    };
    if old > length {
        live.zero(length, old);
    }
    // At most a page.
    header
        .live_length
        .store(u32::try_from(length).unwrap_or(u32::MAX), Ordering::Relaxed);
    // ORDERING: Release: whoever finds this tag finds the whole copy.
    header.live_tag.store(generation, Ordering::Release);
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
    let shown = header.live_tag.load(Ordering::Relaxed);
    if shown == head.generation().0 {
        return Ok(head);
    }
    let mut mixed = shown == BUSY;
    for _ in 0..super::MAX_READ_ATTEMPTS {
        match copy_once(memory, head, mixed) {
            Ok(Attempt::Done(_)) => return Ok(head),
            Ok(Attempt::Overtaken(newer)) => {
                head = newer;
                mixed = true;
            }
            Err(error) => return Err(error),
        }
    }
    Err(ReadError::Unstable)
}

#[inline]
fn copy_once<M: Memory>(memory: &M, head: Head, mixed: bool) -> Result<Attempt, ReadError> {
    let header = memory.header();
    let live = memory.live();
    // ORDERING: BUSY before the first byte, as in a slot: the fence's partner is in whoever
    // checks a copy of the live page.
    header.live_tag.store(BUSY, Ordering::Relaxed);
    fence(Ordering::Release);
    let attempt = visit_version(memory, head, |source, bytes| {
        source.copy_to(&live, bytes);
        Ok(())
    })?;
    if let Attempt::Done(version) = &attempt {
        show(memory, head.generation().0, version.length as usize, mixed);
    }
    Ok(attempt)
}
