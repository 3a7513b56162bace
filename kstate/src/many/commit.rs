//! Committing what was written to several states, if all that was touched still stands.

use std::collections::HashMap;
use std::io;

use kstate_sys::futex::Deadline;
use kstate_sys::name::StateName;
use kstate_sys::region::{self, Check, LONGEST_TURN, Memory, Notice, SeveralError, Write, Writer};
use smallvec::SmallVec;

use super::member::Member;
use super::{FEW, Generations, Many, ManyOutcome};
use crate::claim::ClaimError;
use crate::errno;
use crate::intent::Region;
use crate::reader::{Reader, Untyped};
use crate::records::OwnRecord;
use crate::transaction::{CommitError, Outcome};
use crate::writing::{Room, Writing};

/// How often the daemon is asked to settle what it has itself given up.
const MAX_SETTLES: u32 = 1000;

/// Why a commit of several states could not be tried. No state was changed, except that those with
/// a [deleted](CommitError::Deleted) one may have been.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitManyError {
    /// For a reason that one of the states gives.
    #[error(transparent)]
    State(#[from] CommitError),
    /// The daemon gave no record to commit through.
    #[error("no record to commit several states through was had from the daemon: {source}")]
    Record {
        /// The operating system's error.
        source: io::Error,
    },
    /// The daemon gave the commit up for others, and died before it had settled it.
    #[error(
        "a commit of several states, `{name}` the first of them, was given up and cannot be \
         settled: {source}"
    )]
    Settle {
        /// The first state written.
        name: StateName,
        /// The operating system's error.
        source: io::Error,
    },
}

/// States that are going to be changed, in ascending order of their numbers.
type Targets<'t> = SmallVec<[Target<'t>; FEW]>;

/// What writes to them.
type Writers = SmallVec<[Writer; FEW]>;

/// One of them.
#[derive(Clone, Copy)]
struct Target<'t> {
    member: &'t Member<'t>,
    writing: &'t Writing,
}

impl Many<'_> {
    /// Makes all that was written newest, if nobody has committed to any state that was touched.
    ///
    /// A single state that was written, with nothing else read, is committed as by itself.
    ///
    /// # Errors
    ///
    /// [`CommitManyError`]; a conflict is an [outcome](ManyOutcome::Conflict).
    ///
    /// # Memory ordering
    ///
    /// What happened before this call is visible to whoever reads one of the versions.
    ///
    /// # Cost
    ///
    /// A copy and two compare-and-swaps a state and one for all; no system call unless somebody
    /// waits. While other handles have their turns it sleeps at the end, up to 10 ms in all. The first of
    /// a process asks the daemon for a record, 1 ms.
    #[inline]
    pub fn commit(self) -> Result<ManyOutcome, CommitManyError> {
        // Not moved any further: it is long.
        self.try_commit()
    }

    /// The states that were written, in the order they were added.
    pub(crate) fn written(&self) -> impl Iterator<Item = &Reader<Untyped>> {
        let written = self.members.iter();
        let written = written.filter(|member| member.is_dirty() && member.writing().is_some());
        written.map(Member::reader)
    }

    pub(crate) fn try_commit(&self) -> Result<ManyOutcome, CommitManyError> {
        let mut targets = Targets::new();
        targets.reserve(self.members.len());
        let (mut any_read, mut sorted, mut last) = (false, true, 0);
        for member in &self.members {
            match member.writing().filter(|_| member.is_dirty()) {
                Some(writing) => targets.push(Target { member, writing }),
                None => {
                    any_read |= member.is_read_alone();
                    continue;
                }
            }
            sorted &= last <= member.state_id();
            last = member.state_id();
        }
        let Some(first) = targets.first() else {
            return Ok(ManyOutcome::Unchanged);
        };
        if !self.is_ours() {
            return Err(first.writing.forked().into());
        }
        if let ([target], false) = (&targets[..], any_read) {
            return target.commit_alone();
        }
        if !sorted {
            targets.sort_unstable_by_key(|target| target.member.state_id());
        }
        let mut read: SmallVec<[&Member<'_>; FEW]> = SmallVec::new();
        if any_read {
            read.extend(self.members.iter().filter(|member| member.is_read_alone()));
        }
        Ok(match commit_all(&targets, &read)? {
            None => {
                let mut generations = SmallVec::new();
                generations.reserve(targets.len());
                let dirty = self.members.iter().filter(|member| member.is_dirty());
                generations.extend(dirty.map(|member| member.base.generation().next()));
                ManyOutcome::Committed {
                    generations: Generations(generations),
                }
            }
            Some(member) => ManyOutcome::Conflict {
                name: member.reader().name().clone(),
                base: member.base.generation(),
                found: member.reader().generation(),
            },
        })
    }
}

/// Counts it once, with a state that is written to: those that are only read may be mapped so.
#[cold]
fn count_conflict(first: &Member<'_>) {
    first.reader().memory().header().count_conflict();
}

/// Commits `targets`. `None`, or who was changed by others.
fn commit_all<'m>(
    targets: &[Target<'m>],
    read: &[&'m Member<'m>],
) -> Result<Option<&'m Member<'m>>, CommitManyError> {
    let first = targets[0].member;
    let records = first.records();
    let mut record = records
        .take()
        .map_err(|source| CommitManyError::Record { source })?;
    let (mut asked, mut prepared) = (Asked::default(), false);
    let done = loop {
        let attempted = match attempt(&mut record, targets, read, prepared) {
            Some(attempted) => attempted,
            None if prepared => break Err(lost(first)),
            None => match prepare(targets, &mut asked) {
                Ok(()) => {
                    prepared = true;
                    continue;
                }
                Err(error) => break Err(error.into()),
            },
        };
        match attempted {
            Ok(()) => break Ok(None),
            Err(SeveralError::WriteConflict { index, .. })
                if targets[index].member.reader().is_deleted() =>
            {
                break Err(is_deleted(targets[index].member).into());
            }
            Err(SeveralError::CheckConflict { index, .. }) if read[index].reader().is_deleted() => {
                break Err(is_deleted(read[index]).into());
            }
            Err(SeveralError::WriteConflict { index, found }) => {
                count_conflict(first);
                if found.has_intent() {
                    targets[index].writing.meet();
                }
                break Ok(Some(targets[index].member));
            }
            Err(SeveralError::CheckConflict { index, found }) => {
                count_conflict(first);
                if found.has_intent() {
                    meet_reading(read[index]);
                }
                break Ok(Some(read[index]));
            }
            Err(SeveralError::Killed) => match settle(&mut record, first) {
                Ok(()) => break Ok(Some(first)),
                // The record is not given back: nobody knows what became of its heads.
                Err(source) => {
                    let name = first.reader().name().clone();
                    return Err(CommitManyError::Settle { name, source });
                }
            },
            Err(SeveralError::Refused { index, error }) => {
                if let Err(error) = targets[index].make_room(error, &mut asked) {
                    break Err(error.into());
                }
            }
            Err(_) => break Err(lost(first)),
        }
    };
    let mut deleted = None;
    if let Ok(None) = &done {
        // All are owed something, also when one of them turns out to be deleted.
        for target in targets {
            if !target.pay() {
                deleted.get_or_insert(target.member);
            }
        }
    }
    records.put_back(record);
    if let Ok(None) = &done {
        // When nobody waits for anything any more.
        stand_back(targets);
    }
    match deleted {
        Some(member) => Err(is_deleted(member).into()),
        None => done,
    }
}

/// The capacities that the daemon was asked for, by the states' numbers.
type Asked = HashMap<u64, u32>;

/// Does for each of `targets` what has to be done before a commit.
#[cold]
fn prepare(targets: &[Target<'_>], asked: &mut Asked) -> Result<(), CommitError> {
    for target in targets {
        if target.member.reader().is_deleted() {
            return Err(is_deleted(target.member));
        }
        target.writing.ensure_claimed()?;
        let (length, known) = (target.member.bytes().len(), target.asked(asked));
        if target.writing.has_room(length, known).is_err() {
            target.grow(asked)?;
        }
    }
    Ok(())
}

/// Lets others have their turns of the states just committed: once, however many there are.
#[inline]
fn stand_back(targets: &[Target<'_>]) {
    let mut latest = None;
    for target in targets {
        let header = target.writing.reader().memory().header();
        if header.notice().contains(Notice::TURN) {
            let latest = *latest.get_or_insert_with(|| Deadline::after(LONGEST_TURN));
            target.writing.stand_back_own(latest);
        }
    }
}

#[cold]
fn is_deleted(member: &Member<'_>) -> CommitError {
    CommitError::Deleted {
        name: member.reader().name().clone(),
    }
}

#[cold]
fn lost(member: &Member<'_>) -> CommitManyError {
    CommitManyError::Record {
        source: io::Error::other(format!(
            "the commit to state `{}` failed in an unknown way",
            member.reader().name()
        )),
    }
}

/// One attempt, with everybody's writer in hand; `None` if one of `targets` has to be
/// [prepared](prepare), which they may be.
fn attempt(
    record: &mut OwnRecord,
    targets: &[Target<'_>],
    read: &[&Member<'_>],
    prepared: bool,
) -> Option<Result<(), SeveralError>> {
    let mut writers = Writers::new();
    for target in targets {
        match target.writer(prepared) {
            Some(writer) => writers.push(writer),
            None => {
                put_back(targets, writers);
                return None;
            }
        }
    }
    let mut writes: SmallVec<[Write<'_, Region<'_>, &mut Writer>; FEW]> = SmallVec::new();
    writes.extend(
        targets
            .iter()
            .zip(&mut writers)
            .map(|(target, writer)| Write {
                memory: target.writing.reader().region(),
                state: target.member.state_id(),
                writer,
                base: target.member.base,
                bytes: target.member.bytes(),
                time: target.writing.now(),
            }),
    );
    let mut checks: SmallVec<[Check<Region<'_>>; FEW]> = SmallVec::new();
    checks.extend(read.iter().map(|member| Check {
        memory: member.reader().region(),
        base: member.base,
    }));
    let done = region::commit_several(record, record.last, &mut writes, &checks);
    if !matches!(done, Err(SeveralError::Killed)) {
        record.note_last();
    }
    drop(writes);
    put_back(targets, writers);
    Some(done)
}

/// Gives the writers back to their handles.
#[inline]
fn put_back(targets: &[Target<'_>], writers: Writers) {
    for (target, writer) in targets.iter().zip(writers) {
        target.writing.writer.set(Some(writer));
    }
}

/// Has the daemon settle what it has given up, so that the record serves again.
fn settle(record: &mut OwnRecord, member: &Member<'_>) -> io::Result<()> {
    let subscription = member.reader().subscription();
    for _ in 0..MAX_SETTLES {
        if subscription.settle(record.commit())? {
            record.note_last();
            return Ok(());
        }
    }
    Err(errno::protocol_violation())
}

/// What a committer does about an intent on a state that it only read.
fn meet_reading(member: &Member<'_>) {
    if let Some(writing) = member.writing() {
        writing.meet();
        return;
    }
    let standing = region::look(&member.reader().region());
    if let Ok(Some((commit, _))) = standing.map(|standing| standing.intent) {
        member.reader().subscription().urge(commit);
    }
}

impl Target<'_> {
    /// What writes, if nothing has to be done before that: neither are there slots to be claimed nor,
    /// unless it is prepared, is the version longer than was announced or the state deleted.
    #[inline]
    fn writer(&self, prepared: bool) -> Option<Writer> {
        let header = self.writing.reader().memory().header();
        let fits = self.member.bytes().len() <= header.announced_capacity();
        if !prepared && (!fits || header.notice().contains(Notice::DELETED)) {
            return None;
        }
        self.writing.own_writer()
    }

    /// Pays what the commit owes; `false` if the state was deleted.
    #[inline]
    fn pay(&self) -> bool {
        let notice = self.writing.reader().memory().header().notice();
        notice.is_none() || self.writing.settle_own(notice)
    }

    /// The ordinary commit.
    #[cold]
    fn commit_alone(&self) -> Result<ManyOutcome, CommitManyError> {
        let (base, bytes) = (self.member.base, self.member.bytes());
        Ok(match self.writing.commit_slowly(base, bytes)? {
            Outcome::Committed { generation } => ManyOutcome::Committed {
                generations: [generation].into_iter().collect(),
            },
            Outcome::Unchanged { .. } => ManyOutcome::Unchanged,
            Outcome::Conflict { base, found } => ManyOutcome::Conflict {
                name: self.member.reader().name().clone(),
                base,
                found,
            },
        })
    }

    fn asked(&self, asked: &Asked) -> Option<u32> {
        asked.get(&self.member.state_id()).copied()
    }

    /// After the slots were found too small or not mapped.
    #[cold]
    fn make_room(&self, error: region::CommitError, asked: &mut Asked) -> Result<(), CommitError> {
        match error {
            region::CommitError::Exhausted => Err(CommitError::Exhausted {
                name: self.member.reader().name().clone(),
            }),
            _ => self.grow(asked),
        }
    }

    #[cold]
    fn grow(&self, asked: &mut Asked) -> Result<(), CommitError> {
        let name = || self.member.reader().name().clone();
        let length = self.member.bytes().len();
        match self.writing.make_room(length, self.asked(asked)) {
            Ok(Room::Made { capacity }) => {
                asked.insert(self.member.state_id(), capacity);
                Ok(())
            }
            Ok(Room::Lacking { capacity }) => Err(CommitError::TooLong {
                name: name(),
                length,
                capacity,
            }),
            Err(source) => Err(CommitError::Io {
                name: name(),
                source,
            }),
        }
    }
}

impl From<ClaimError> for CommitManyError {
    fn from(error: ClaimError) -> Self {
        Self::State(error.into())
    }
}
