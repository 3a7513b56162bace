//! A commit of several states: all of them change, or none.
//!
//! 1. Note in the record's list which heads are going to be changed; open a round.
//! 2. Fill a spare slot of each state that is written, tagged with the next generation.
//! 3. Point each head, in ascending order of states, at the new slot with the intent bit set.
//! 4. Say that the states only read are being checked, and check that they are as they were and
//!    carry no intent.
//! 5. Commit: one compare-and-swap of the record's status.
//! 6. Take the bits off. Or, when something came between, say so and put the heads back.

use core::borrow::BorrowMut;

use super::intent::{self, Decision, IntentRef, Round, StatusWord};
use super::{CommitError, Head, MAX_GENERATION, Memory, Slot, Writer};
use crate::clock::Ticks;
use crate::sync::{AtomicU64, Ordering, fence};

/// States that one commit can write.
#[cfg(not(kstate_loom))]
pub const MAX_WRITTEN: usize = 64;
/// States that one commit can write.
#[cfg(kstate_loom)]
pub const MAX_WRITTEN: usize = 2;

/// The private part of a record: which heads its owner is changing, for the daemon to settle when
/// the owner cannot. Only the two can map it.
///
/// # Invariants
///
/// 1. It is changed only while no head has an intent of the record. So if the daemon finds a mixture
///    of two lists there is nothing left to be settled.
/// 2. The daemon takes nothing of it on trust: [`Listed::is_sound`], rights, owner of the slot,
///    and the slot's own word are compared.
#[repr(C)]
#[derive(Debug)]
pub struct IntentList {
    /// How many of `entries` count.
    length: AtomicU64,
    entries: [ListedWords; MAX_WRITTEN],
}

#[repr(C)]
#[derive(Debug)]
struct ListedWords {
    state: AtomicU64,
    base: AtomicU64,
    intent: AtomicU64,
}

#[cfg(not(kstate_loom))]
const _: () = {
    assert!(core::mem::size_of::<ListedWords>() == 24);
    assert!(core::mem::size_of::<IntentList>() == 8 + 24 * MAX_WRITTEN);
    assert!(core::mem::size_of::<IntentList>() <= 4096);
};

/// One entry of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The state's inode number.
    pub state: u64,
    /// Its head before the commit, to be put back.
    pub base: Head,
    /// Its head while the commit is undecided.
    pub intent: Head,
}

impl IntentList {
    /// An empty list.
    #[cfg(kstate_loom)]
    pub fn for_loom() -> Self {
        Self {
            length: AtomicU64::new(0),
            entries: core::array::from_fn(|_| ListedWords {
                state: AtomicU64::new(0),
                base: AtomicU64::new(0),
                intent: AtomicU64::new(0),
            }),
        }
    }

    fn write(&self, listed: impl Iterator<Item = Listed>) {
        let mut length = 0;
        // ORDERING: Relaxed: opening the round publishes the list.
        for (words, listed) in self.entries.iter().zip(listed) {
            words.state.store(listed.state, Ordering::Relaxed);
            words.base.store(listed.base.raw(), Ordering::Relaxed);
            words.intent.store(listed.intent.raw(), Ordering::Relaxed);
            length += 1;
        }
        self.length.store(length, Ordering::Relaxed);
    }

    /// What it says, each word fetched once. For the daemon, of a round that is over: by its
    /// owner's death, or by having been killed.
    pub fn entries(&self) -> impl Iterator<Item = Listed> {
        let length = usize::try_from(self.length.load(Ordering::Relaxed));
        let length = length.unwrap_or(usize::MAX).min(MAX_WRITTEN);
        self.entries[..length].iter().map(|words| Listed {
            state: words.state.load(Ordering::Relaxed),
            base: Head::from_raw(words.base.load(Ordering::Relaxed)),
            intent: Head::from_raw(words.intent.load(Ordering::Relaxed)),
        })
    }
}

impl Listed {
    /// Whether the two heads can be those of one commit.
    pub fn is_sound(&self) -> bool {
        self.intent.has_intent()
            && !self.base.has_intent()
            && self.base.generation() == self.intent.generation()
            && self.base.generation() < MAX_GENERATION
    }

    /// Whether the slot that the intent names says that it belongs to `commit`.
    fn belongs_to<M: Memory>(&self, memory: &M, commit: IntentRef) -> bool {
        let found = intent::intent_at(memory, self.intent);
        found.is_some_and(|(intent, _)| intent == commit)
    }

    /// Does for the owner, who is dead or waits for it, what `decision` on `commit` asks for. It
    /// may be done already.
    pub fn settle<M: Memory>(&self, memory: &M, commit: IntentRef, decision: Decision) {
        if !self.is_sound() || !self.belongs_to(memory, commit) {
            return;
        }
        match decision {
            Decision::Committed => {
                intent::finish(memory, self.intent);
            }
            Decision::Aborted | Decision::Killed => put_back(memory, self.intent, self.base),
            Decision::Undecided | Decision::Checking => {}
        }
    }
}

/// A record as its owner has it.
pub trait Record {
    /// Its number, from 1.
    fn number(&self) -> u32;

    /// The public word.
    fn status(&self) -> &StatusWord;

    /// The private list.
    fn list(&self) -> &IntentList;
}

/// A state that is written, and what with; `W` is a [`Writer`] or borrows one.
#[derive(Debug)]
pub struct Write<'a, M, W> {
    /// Its region.
    pub memory: M,
    /// Its inode number.
    pub state: u64,
    /// Whose slots take the new version. The caller's again afterwards.
    pub writer: W,
    /// The version to be replaced.
    pub base: Head,
    /// The new one.
    pub bytes: &'a [u8],
    /// Its commit time.
    pub time: Ticks,
}

/// A state that was read and must not have changed.
#[derive(Clone, Copy, Debug)]
pub struct Check<M> {
    /// Its region.
    pub memory: M,
    /// The version that was read.
    pub base: Head,
}

/// Why no state was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SeveralError {
    /// Another commit came between.
    WriteConflict {
        /// Which of the states to be written.
        index: usize,
        /// Its head as it was found.
        found: Head,
    },
    /// A state that was only read has changed, or is just being changed.
    CheckConflict {
        /// Which of those read.
        index: usize,
        /// Its head as it was found.
        found: Head,
    },
    /// A new version could not be written; never a conflict.
    Refused {
        /// Which of the states to be written.
        index: usize,
        /// Why.
        error: CommitError,
    },
    /// The daemon gave the commit up, or the one before it, because it took long. Its heads are the
    /// daemon's: the record serves again when that says that it has settled them.
    Killed,
}

impl<M: Memory, W: BorrowMut<Writer>> Write<'_, M, W> {
    /// The slot to be filled.
    fn slot(&self) -> Slot {
        self.writer.borrow().spare()
    }

    /// The head while the commit is undecided.
    fn intent(&self) -> Head {
        Head::with_intent(self.base.generation(), self.slot())
    }

    /// The head when it is committed and finished.
    pub fn committed(&self) -> Head {
        intent::after(Head::with_intent(
            self.base.generation(),
            self.writer.borrow().last(),
        ))
    }

    fn listed(&self) -> Listed {
        Listed {
            state: self.state,
            base: self.base,
            intent: self.intent(),
        }
    }

    fn fill(&self, commit: IntentRef) -> Result<(), CommitError> {
        let slot = self.slot();
        // ORDERING: Relaxed, as in `Writer::commit`, and as needed.
        let found = Head::from_raw(self.memory.header().head.load(Ordering::Relaxed));
        if found != self.base || self.base.has_intent() {
            return Err(CommitError::Conflict { found });
        }
        if self.base.generation() >= MAX_GENERATION {
            return Err(CommitError::Exhausted);
        }
        let writer = self.writer.borrow();
        writer.fill(&self.memory, slot, self.bytes, self.time)?;
        let meta = self.memory.slot(slot);
        meta.intent_ref.store(commit.raw(), Ordering::Relaxed);
        let prev = u32::from(self.base.slot().index());
        meta.prev.store(prev, Ordering::Relaxed);
        // ORDERING: Release: whoever finds this tag finds the filling and whose it is.
        let tag = intent::after(self.intent()).generation().0;
        meta.tag.store(tag, Ordering::Release);
        Ok(())
    }

    fn place(&self) -> Result<(), Head> {
        // ORDERING: SeqCst on success: publishes the filling, and stands before the looks at what
        // was only read. Relaxed on failure: what was found is only compared.
        let placed = self.memory.header().head.compare_exchange(
            self.base.raw(),
            self.intent().raw(),
            Ordering::SeqCst,
            Ordering::Relaxed,
        );
        placed.map(drop).map_err(Head::from_raw)
    }
}

/// Commits all of `writes`, if all they replace and all of `checks` are still the newest.
///
/// `writes` are in ascending order of states, each once. `last` is the record's last round and what
/// it came to: committed, aborted after an error, killed if the daemon has settled it. What follows a
/// commit is owed by the caller for each state written, before the record serves again: [`Header::notice`](super::Header::notice).
///
/// # Errors
///
/// [`SeveralError`]; nothing was changed then. After [`SeveralError::Killed`] the record must be
/// settled by the daemon before it is used again, and so must the writers.
///
/// # Memory ordering
///
/// What happened before this call is visible to whoever reads one of the versions.
///
/// # Cost
///
/// A copy and two compare-and-swaps for each state written, one for all; no system call.
pub fn commit_several<M: Memory, W: BorrowMut<Writer>, R: Record>(
    record: &R,
    (last, outcome): (Round, Decision),
    writes: &mut [Write<'_, M, W>],
    checks: &[Check<M>],
) -> Result<(), SeveralError> {
    debug_assert!(writes.len() <= MAX_WRITTEN);
    record.list().write(writes.iter().map(Write::listed));
    let opened = record.status().open(last, outcome);
    let round = opened.map_err(|_| SeveralError::Killed)?;
    let commit = IntentRef::new(record.number(), round);
    for (index, write) in writes.iter().enumerate() {
        if let Err(error) = write.fill(commit) {
            let why = match error {
                CommitError::Conflict { found } => SeveralError::WriteConflict { index, found },
                error => SeveralError::Refused { index, error },
            };
            return Err(give_up::<M, W, R>(
                record,
                round,
                Decision::Undecided,
                &[],
                why,
            ));
        }
    }
    for (index, write) in writes.iter().enumerate() {
        if let Err(found) = write.place() {
            let why = SeveralError::WriteConflict { index, found };
            let placed = &writes[..index];
            return Err(give_up(record, round, Decision::Undecided, placed, why));
        }
    }
    let mut phase = Decision::Undecided;
    if !checks.is_empty() {
        let said = record.status().decide(round, phase, Decision::Checking);
        said.map_err(|_| SeveralError::Killed)?;
        phase = Decision::Checking;
        // ORDERING: SeqCst between the intents and the word above, and the looks below. Its
        // partners are this fence of another committer, which has written what we read and reads
        // what we write: one of the two finds the other's intent; and `cut_fence`.
        fence(Ordering::SeqCst);
        for (index, check) in checks.iter().enumerate() {
            // ORDERING: Relaxed: behind the fence, and only compared.
            let found = Head::from_raw(check.memory.header().head.load(Ordering::Relaxed));
            if found != check.base {
                let why = SeveralError::CheckConflict { index, found };
                return Err(give_up(record, round, phase, writes, why));
            }
        }
    }
    let committed = record.status().decide(round, phase, Decision::Committed);
    committed.map_err(|_| SeveralError::Killed)?;
    for write in writes {
        // If it does not succeed somebody else has finished it: `head` has moved on all the same.
        intent::finish(&write.memory, write.intent());
        let slot = write.slot();
        write.writer.borrow_mut().took(slot);
    }
    Ok(())
}

/// Ends a round that cannot be committed, and puts back what was placed.
#[cold]
fn give_up<M: Memory, W: BorrowMut<Writer>, R: Record>(
    record: &R,
    round: Round,
    phase: Decision,
    placed: &[Write<'_, M, W>],
    why: SeveralError,
) -> SeveralError {
    if record
        .status()
        .decide(round, phase, Decision::Aborted)
        .is_err()
    {
        return SeveralError::Killed;
    }
    for write in placed {
        put_back(&write.memory, write.intent(), write.base);
    }
    why
}

/// Puts a head back to before the commit. The owner's or the daemon's alone: one that came late
/// would take away the owner's next intent.
fn put_back<M: Memory>(memory: &M, intent: Head, base: Head) {
    // ORDERING: Release: who finds the base finds what was found before. A failure means that it
    // is done.
    let head = &memory.header().head;
    let _ = head.compare_exchange(
        intent.raw(),
        base.raw(),
        Ordering::AcqRel,
        Ordering::Relaxed,
    );
}

/// To be called between two collections of [`Standing`](super::Standing)s that are to make a cut: if all pairs of
/// [`head`](super::Standing::head)s are equal, and all of the second [may be cut](super::Standing::may_be_cut),
/// the values were the newest all at one time, between the two.
#[inline]
pub fn cut_fence() {
    // ORDERING: SeqCst: two cuts agree on the order of two commits of different writers, and a
    // commit that checks what it reads behind its own fence finds what a cut has found that did
    // not see it checking.
    fence(Ordering::SeqCst);
}
