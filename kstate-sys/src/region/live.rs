//! The live page: the newest value at a fixed address, for programs that map the file.
//!
//! It converges on the newest version and can be seen half-written. One word of the header,
//! `live_tag`, says which generation it holds, and is the lock of whoever changes it. Writers
//! refresh the page only while it is *armed*.

use super::read::{Attempt, ReadError, visit_version};
use super::{Generation, Head, Memory, intent};
use crate::sync::{Ordering, fence, fence_for_loom};

/// Rounds a refresher goes. It leaves the page free for a moment after every few, for a committer
/// that comes meanwhile to take its place: to be round after so many takes somebody who moves
/// `head` without publishing.
const MAX_ROUNDS: u32 = 10_000;
/// Rounds between two such moments.
const ROUNDS_AT_ONCE: u32 = 100;

/// In `live_tag`: the page is no whole version. Who changes it is in the other bits; with none
/// there, somebody began to and did not come to the end. Generations do not reach this bit.
pub const LIVE_UNFINISHED: u64 = 1 << 63;

/// Who refreshes: the writer's group plus one, so that the daemon can tell whose lock a dead
/// process left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveOwner(u64);

impl LiveOwner {
    /// The owner for a writer's group.
    pub const fn of(group: super::Group) -> Self {
        Self(group.0 as u64 + 1)
    }

    /// The writer's group.
    pub const fn group(self) -> super::Group {
        // Made from a group alone.
        super::Group(self.0.wrapping_sub(1).to_le_bytes()[0])
    }

    /// The tag while this owner changes the page.
    const fn tag(self) -> u64 {
        LIVE_UNFINISHED | self.0
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
/// One copy, one atomic swap and one store that is a barrier when nobody contends; no system call.
pub fn refresh_live<M: Memory>(memory: &M, owner: LiveOwner) -> Result<(), ReadError> {
    let header = memory.header();
    // For all rounds together: one who moves `head` in each round as often as a round bears would
    // have us copy for minutes.
    let mut attempts = super::MAX_READ_ATTEMPTS;
    for round in 1..=MAX_ROUNDS {
        // ORDERING: SeqCst behind a committer's swap of `head`: pairs with a holder's store of the
        // tag before its last look at `head`. If we find the page held, that store is yet to
        // come, and that look will find our head.
        let seen = header.live_tag.load(Ordering::SeqCst);
        if seen & LIVE_UNFINISHED != 0 && seen != LIVE_UNFINISHED {
            return Ok(());
        }
        // ORDERING: Acquire as in `read`; SeqCst behind the daemon's `raise`: pairs with a
        // committer's swap of `head` before its load of `notice`. Either it finds the mark, or
        // we find its head.
        let head = resolved(memory, Head::from_raw(header.head.load(Ordering::SeqCst)))?;
        if seen == head.generation().0 {
            return Ok(());
        }
        if !lock(memory, seen, owner) {
            continue;
        }
        let copied = copy_newest(memory, head, seen == LIVE_UNFINISHED, &mut attempts);
        let tag = copied.as_ref().map(|head| head.generation().0);
        let newest = unlock(memory, *tag.as_ref().unwrap_or(&LIVE_UNFINISHED));
        let newest = resolved(memory, newest)?;
        match copied {
            Ok(copied) if copied == newest => return Ok(()),
            // Of a version that stands, or of too many.
            Err(error) if head == newest || attempts == 0 => return Err(error),
            _ => {}
        }
        if round % ROUNDS_AT_ONCE == 0 {
            pause();
        }
    }
    Err(ReadError::Unstable)
}

/// The short way for a committer that has its version still at hand: `bytes` is what it has just
/// committed as `head`. If the answer is `false` the page may not show the newest version, and
/// the committer owes [`refresh_live`].
///
/// # Cost
///
/// As [`refresh_live`], but nothing of the slot is read back.
#[inline]
#[must_use = "`false` leaves the live page stale"]
pub fn show_live<M: Memory>(memory: &M, owner: LiveOwner, head: Head, bytes: &[u8]) -> bool {
    // ORDERING: SeqCst as in `refresh_live`.
    let seen = memory.header().live_tag.load(Ordering::SeqCst);
    // A newer version stays. Nor is the page shown as this one after somebody did not finish: a
    // newer one may have been shown before, and this one before that, and a generation shown
    // twice would pass a copy made across both for whole.
    if seen >= head.generation().0 || !lock(memory, seen, owner) {
        return false;
    }
    memory.live().store(bytes);
    end_at(memory, bytes.len(), false);
    unlock(memory, head.generation().0) == head
}

/// The head that counts, of one that may have an intent.
#[inline]
fn resolved<M: Memory>(memory: &M, head: Head) -> Result<Head, ReadError> {
    match head.has_intent() {
        false => Ok(head),
        true => intent::look_closer(memory, head).map(|standing| standing.head),
    }
}

/// Some commits' time.
#[cold]
fn pause() {
    for _ in 0..100 {
        core::hint::spin_loop();
    }
}

/// Takes the page as it was `seen`, for changing it; `false` if it is no longer so.
#[inline]
fn lock<M: Memory>(memory: &M, seen: u64, owner: LiveOwner) -> bool {
    let tag = &memory.header().live_tag;
    // ORDERING: Acquire with the last holder's store of the tag: its copy is complete.
    let locked = tag.compare_exchange(seen, owner.tag(), Ordering::Acquire, Ordering::Relaxed);
    // ORDERING: the tag before the first byte, as in a slot: the fence's partner is in whoever
    // checks a copy of the live page.
    fence(Ordering::Release);
    locked.is_ok()
}

/// The holder's last step. Returns the head as it is then.
#[inline]
fn unlock<M: Memory>(memory: &M, tag: u64) -> Head {
    let header = memory.header();
    // ORDERING: Release within: whoever finds this tag finds the whole copy. SeqCst, then a
    // SeqCst load of `head`: pairs with a committer's swap of `head` followed by its load of the
    // tag. Either it finds the page free, or we find its head.
    header.live_tag.store(tag, Ordering::SeqCst);
    fence_for_loom();
    Head::from_raw(header.head.load(Ordering::SeqCst))
}

/// Zeroes what a longer version left behind `length` bytes. `mixed` says that somebody began to
/// write another version and did not come to its end: then `live_length` tells nothing.
#[inline]
fn end_at<M: Memory>(memory: &M, length: usize, mixed: bool) {
    // Fetched once: a writer may have put anything there.
    let old = memory.header().live_length.load(Ordering::Relaxed) as usize;
    if old != length || mixed {
        let old = if mixed { usize::MAX } else { old };
        change_length(memory, old, length);
    }
}

/// Zeroes from `length` to `old`, which is bounded here.
#[cold]
#[inline(never)]
fn change_length<M: Memory>(memory: &M, old: usize, length: usize) {
    let live = memory.live();
    let old = old.min(live.len());
    if old > length {
        live.zero(length, old);
    }
    // At most a page.
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    memory.header().live_length.store(length, Ordering::Relaxed);
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
    let tag = &memory.header().live_tag;
    let _ = tag.compare_exchange(
        dead.tag(),
        LIVE_UNFINISHED,
        Ordering::AcqRel,
        Ordering::Relaxed,
    );
    refresh_live(memory, heir)
}

/// The generation that the live page holds, `None` while it is being written.
///
/// A program that copied the live page between two equal answers has a whole version.
#[inline]
pub fn live_generation<M: Memory>(memory: &M) -> Option<Generation> {
    // ORDERING: Acquire with the holder's Release of the tag after its copy.
    let tag = memory.header().live_tag.load(Ordering::Acquire);
    (tag & LIVE_UNFINISHED == 0).then_some(Generation(tag))
}

/// Copies the newest version, which `head` names or a later one, under the lock. `mixed` as for
/// `end_at`. Takes as many of `attempts` as it makes.
fn copy_newest<M: Memory>(
    memory: &M,
    mut head: Head,
    mut mixed: bool,
    attempts: &mut u32,
) -> Result<Head, ReadError> {
    let live = memory.live();
    while *attempts > 0 {
        *attempts -= 1;
        let attempt = visit_version(memory, head, |source, bytes| {
            source.copy_to(&live, bytes);
            Ok(())
        })?;
        match attempt {
            Attempt::Done(version) => {
                end_at(memory, version.length as usize, mixed);
                return Ok(version.head);
            }
            Attempt::Overtaken(newer) => {
                head = newer;
                mixed = true;
            }
        }
    }
    Err(ReadError::Unstable)
}
