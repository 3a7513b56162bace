//! Intents: how a head tells of a commit of several states that may be under way.
//!
//! Such a commit first points each head at its new version with the *intent* bit set. Which
//! version counts then stands in one word elsewhere, the *status* in a record of the committer:
//! all its states change with that word. Whoever meets the bit resolves it here.
//!
//! The idea is that of Fraser's multi-word compare-and-swap (*Practical lock-freedom*, 2004), with
//! the descriptor found through the new version and readers that never help.

use super::read::{Corruption, ReadError};
use super::{Generation, Head, Memory, Notice, Slot};
use crate::sync::{AtomicU64, Ordering, fence};

/// Records are numbered from 1 up to this, and a number is never used again.
pub const MAX_RECORD: u32 = (1 << 24) - 1;

/// Commits that one record can serve, at a microsecond each those of twelve days.
pub const MAX_ROUND: Round = Round((1 << 40) - 1);

const ROUND_BITS: u32 = 40;
const DECISION_BITS: u32 = 3;

/// How often a head is resolved anew because its committer has gone on meanwhile. Each time takes
/// a whole commit that failed and was tried again, so that this many tell of damage.
const MAX_ATTEMPTS: u32 = 1000;

/// Which of the commits through its record a commit is; the first is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Round(pub u64);

impl Round {
    /// The one after it, if the record can serve that.
    pub const fn next(self) -> Option<Self> {
        if self.0 < MAX_ROUND.0 {
            Some(Self(self.0 + 1))
        } else {
            None
        }
    }
}

/// Which commit of several states a version belongs to: a record and a round, in a slot's
/// `intent_ref`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IntentRef(u64);

impl IntentRef {
    /// Belongs to none.
    pub const NONE: Self = Self(0);

    /// The commit `round` through `record`. Bits over [`MAX_RECORD`] and [`MAX_ROUND`] are cut off.
    pub const fn new(record: u32, round: Round) -> Self {
        Self(((record & MAX_RECORD) as u64) << ROUND_BITS | (round.0 & MAX_ROUND.0))
    }

    /// From the raw word, which may be anything.
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The raw word.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The record; 0 is none.
    pub const fn record(self) -> u32 {
        // 24 bits are left.
        (self.0 >> ROUND_BITS) as u32
    }

    /// The round.
    pub const fn round(self) -> Round {
        Round(self.0 & MAX_ROUND.0)
    }
}

/// What has become of a commit of several states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing yet: the values before it count.
    Undecided,
    /// As [`Undecided`](Decision::Undecided), and the states it only read are being checked. It
    /// stands where it checks them, so from here on nobody may take a cut that has the values
    /// before it.
    Checking,
    /// Its values count, also where a head still has the intent bit.
    Committed,
    /// Given up by its owner, who puts its heads back.
    Aborted,
    /// Given up by the daemon, which alone touches its heads now.
    Killed,
}

impl Decision {
    /// Whether it can still become anything.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Undecided | Self::Checking)
    }

    const fn from_bits(bits: u64) -> Self {
        match bits & ((1 << DECISION_BITS) - 1) {
            0 => Self::Undecided,
            1 => Self::Committed,
            2 => Self::Aborted,
            4 => Self::Checking,
            // What nobody writes counts as not committed.
            _ => Self::Killed,
        }
    }

    const fn bits(self) -> u64 {
        match self {
            Self::Undecided => 0,
            Self::Committed => 1,
            Self::Aborted => 2,
            Self::Killed => 3,
            Self::Checking => 4,
        }
    }
}

/// The value of a status word: a round and what has become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(u64);

impl Status {
    const fn new(round: Round, decision: Decision) -> Self {
        Self(round.0 << DECISION_BITS | decision.bits())
    }

    /// The round it tells of.
    pub const fn round(self) -> Round {
        Round(self.0 >> DECISION_BITS)
    }

    /// What has become of it.
    pub const fn decision(self) -> Decision {
        Decision::from_bits(self.0)
    }
}

/// The public word of a record. Its owner and the daemon write it; everybody may map it.
#[repr(transparent)]
#[derive(Debug)]
pub struct StatusWord(AtomicU64);

impl StatusWord {
    /// The word of a record that has served nobody.
    #[cfg(kstate_loom)]
    pub fn for_loom() -> Self {
        Self(AtomicU64::new(Status::new(Round(0), Decision::Aborted).0))
    }

    /// What it says now.
    ///
    /// # Memory ordering
    ///
    /// What its owner did before it said so is visible after this.
    #[inline]
    pub fn load(&self) -> Status {
        // ORDERING: Acquire with the Release in `open` and `decide`: all heads of a round were
        // put back before a later round is seen, and all were set before it is committed.
        Status(self.0.load(Ordering::Acquire))
    }

    /// Says that no round was begun. The daemon's, before anybody else has the record.
    pub fn initialise(&self) {
        let status = Status::new(Round(0), Decision::Aborted);
        self.0.store(status.0, Ordering::Relaxed);
    }

    /// Begins the round after `last`, which came to `decision`. The owner's alone, and only when no
    /// head names `last` any more.
    ///
    /// # Errors
    ///
    /// What the word was instead: the daemon is just settling `last`, or has.
    pub fn open(&self, last: Round, decision: Decision) -> Result<Round, Status> {
        let round = Round(last.0 + 1);
        let (from, to) = (
            Status::new(last, decision),
            Status::new(round, Decision::Undecided),
        );
        // ORDERING: Release: who finds this round finds the earlier ones' heads put back, and the
        // daemon finds the list of this one. Acquire with the daemon's `kill`.
        if decision == Decision::Committed {
            // Nobody but the owner changes what is committed, so that nothing can come between.
            let found = self.load();
            if found != from {
                return Err(found);
            }
            self.0.store(to.0, Ordering::Release);
            return Ok(round);
        }
        self.0
            .compare_exchange(from.0, to.0, Ordering::AcqRel, Ordering::Acquire)
            .map(|_| round)
            .map_err(Status)
    }

    /// Makes `to` of `round`, if it still is `from`.
    ///
    /// # Errors
    ///
    /// What it was instead.
    pub fn decide(&self, round: Round, from: Decision, to: Decision) -> Result<(), Status> {
        let (from, to) = (Status::new(round, from).0, Status::new(round, to).0);
        // ORDERING: Release as in `open`; Acquire on either side, since who decides goes on to
        // change heads that the other one may have changed before.
        self.0
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .map(drop)
            .map_err(Status)
    }

    /// Ends `round`, unless it is committed, in place of its owner, and says what it has come to;
    /// `None` when the word tells of another round. The owner cannot begin another one then before
    /// it has asked the daemon.
    pub fn kill(&self, round: Round) -> Option<Decision> {
        let mut status = self.load();
        // Its owner can change it twice at most: to checking, and to a decision.
        for _ in 0..3 {
            if status.round() != round {
                return None;
            }
            let decision = status.decision();
            if matches!(decision, Decision::Committed | Decision::Killed) {
                return Some(decision);
            }
            match self.decide(round, decision, Decision::Killed) {
                Ok(()) => return Some(Decision::Killed),
                Err(found) => status = found,
            }
        }
        None
    }
}

/// What is known here of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// Its word, by [`StatusWord::load`].
    Known(Status),
    /// This process has not mapped it yet.
    Unmapped,
    /// Its owner is dead and all its commits are settled: no head that still stands names it.
    Gone,
}

/// How the newest version of a state stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The word as it was found.
    pub found: Head,
    /// The head that counts, without intent.
    pub head: Head,
    /// The commit of several states that `found` has the intent of, and what became of it.
    pub intent: Option<(IntentRef, Decision)>,
}

impl Standing {
    /// A head that nothing is to be said of.
    const fn plain(head: Head) -> Self {
        Self {
            found: head,
            head,
            intent: None,
        }
    }

    /// Whether the value may be part of a cut; not while a commit that changes it is checking
    /// what it has read.
    pub const fn may_be_cut(&self) -> bool {
        !matches!(self.intent, Some((_, Decision::Checking)))
    }

    /// Finishes a commit that is committed: takes the bit off its head. Anyone who may write the
    /// state may; `true` if it was done here, and what follows a commit is then owed.
    ///
    /// A generation does not come back, so one that comes late changes nothing.
    pub fn finish<M: Memory>(&self, memory: &M) -> bool {
        matches!(self.intent, Some((_, Decision::Committed))) && finish(memory, self.found)
    }
}

/// How the newest version stands.
///
/// # Errors
///
/// [`ReadError::UnmappedRecord`] when the record that decides is to be mapped first,
/// [`ReadError::Corrupt`].
#[inline]
pub fn look<M: Memory>(memory: &M) -> Result<Standing, ReadError> {
    // ORDERING: Acquire with the committer's swap: its slot's metadata is visible.
    let head = Head::from_raw(memory.header().head.load(Ordering::Acquire));
    if head.has_intent() {
        look_closer(memory, head)
    } else {
        Ok(Standing::plain(head))
    }
}

/// How the newest version stands, given that `head` with an intent was found last.
#[cold]
#[inline(never)]
pub(super) fn look_closer<M: Memory>(memory: &M, mut head: Head) -> Result<Standing, ReadError> {
    for _ in 0..MAX_ATTEMPTS {
        if !head.has_intent() {
            return Ok(Standing::plain(head));
        }
        if let Some(standing) = resolve(memory, head)? {
            return Ok(standing);
        }
        if is_sealed(memory, head) {
            return Err(ReadError::Deleted);
        }
        // ORDERING: Acquire before the load of `head`, as in `overtaken`: what told that the
        // committer has gone on was stored after it had put this head back.
        fence(Ordering::Acquire);
        head = Head::from_raw(memory.header().head.load(Ordering::Acquire));
    }
    Err(ReadError::Corrupt(Corruption::Intent))
}

/// Whether `head` has the bit because the state was deleted: it names the version that was the newest, where an
/// intent names one that is to follow.
fn is_sealed<M: Memory>(memory: &M, head: Head) -> bool {
    let is_newest = memory.slot(head.slot()).tag.load(Ordering::Relaxed) == head.generation().0;
    is_newest && memory.header().notice().contains(Notice::DELETED)
}

/// How `head` with an intent stands; `None` when its committer has gone on meanwhile.
fn resolve<M: Memory>(memory: &M, head: Head) -> Result<Option<Standing>, ReadError> {
    let Some((intent, prev)) = intent_at(memory, head) else {
        return Ok(None);
    };
    if intent.record() == 0 {
        return Ok(None);
    }
    let status = match memory.status(intent.record()) {
        Recorded::Known(status) => status,
        Recorded::Gone => return Ok(None),
        Recorded::Unmapped => {
            return Err(ReadError::UnmappedRecord {
                record: intent.record(),
            });
        }
    };
    if status.round() != intent.round() {
        return Ok(None);
    }
    let decision = status.decision();
    let counts = match decision {
        Decision::Committed => after(head),
        _ => Head::new(head.generation(), prev),
    };
    Ok(Some(Standing {
        found: head,
        head: counts,
        intent: Some((intent, decision)),
    }))
}

/// What the slot that `head` with an intent names says of the commit, and which slot was live
/// before it; `None` if the slot holds something else.
pub(super) fn intent_at<M: Memory>(memory: &M, head: Head) -> Option<(IntentRef, Slot)> {
    let slot = memory.slot(head.slot());
    let tag = after(head).generation().0;
    // ORDERING: Acquire with the filler's Release of this tag: the words below are of this
    // filling or of a later one.
    if slot.tag.load(Ordering::Acquire) != tag {
        return None;
    }
    let intent = IntentRef::from_raw(slot.intent_ref.load(Ordering::Relaxed));
    let prev = slot.prev.load(Ordering::Relaxed);
    // ORDERING: the fence keeps them before the second look, as in `visit_version`.
    fence(Ordering::Acquire);
    if slot.tag.load(Ordering::Relaxed) != tag {
        return None;
    }
    let prev = u16::try_from(prev).ok().and_then(Slot::new)?;
    Some((intent, prev))
}

/// The head that `intent`, which has the bit, becomes when it is committed.
pub(super) const fn after(intent: Head) -> Head {
    Head::new(Generation(intent.generation().0 + 1), intent.slot())
}

/// Takes the bit off the head `intent` of a committed commit; `false` if somebody else has.
pub(super) fn finish<M: Memory>(memory: &M, intent: Head) -> bool {
    // ORDERING: SeqCst on success: it stands before the look at `notice` (see there).
    let finished = memory.header().head.compare_exchange(
        intent.raw(),
        after(intent).raw(),
        Ordering::SeqCst,
        Ordering::Relaxed,
    );
    crate::sync::fence_for_loom();
    finished.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_and_round_share_a_word() {
        for record in [1, 2, MAX_RECORD] {
            for round in [Round(1), Round(77), MAX_ROUND] {
                let intent = IntentRef::from_raw(IntentRef::new(record, round).raw());
                assert_eq!((intent.record(), intent.round()), (record, round));
            }
        }
        assert_eq!(IntentRef::NONE.record(), 0);
        assert_eq!(MAX_ROUND.next(), None);
    }

    #[test]
    fn round_and_decision_share_a_word() {
        let all = [
            Decision::Undecided,
            Decision::Checking,
            Decision::Committed,
            Decision::Aborted,
            Decision::Killed,
        ];
        for decision in all {
            let status = Status::new(MAX_ROUND, decision);
            assert_eq!((status.round(), status.decision()), (MAX_ROUND, decision));
        }
        assert_eq!(Status(7).decision(), Decision::Killed);
    }
}
