//! Committing what was written to several states, if all that was touched still stands.

use std::io;

use kstate_sys::name::StateName;
use kstate_sys::region::{self, Check, Generation, Memory, SeveralError, Write, Writer};
use smallvec::SmallVec;

use super::member::Member;
use super::{FEW, Many, ManyOutcome};
use crate::claim::ClaimError;
use crate::errno;
use crate::intent::Region;
use crate::records::OwnRecord;
use crate::transaction::{CommitError, Outcome};
use crate::writing::{Room, Writing};

/// How often the daemon is asked to settle what it has itself given up.
const MAX_SETTLES: u32 = 1000;

/// Why a commit of several states could not be tried. No state was changed, except as
/// [`CommitError::Deleted`] says.
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

/// A state that is going to be changed.
#[derive(Clone, Copy)]
struct Target<'t> {
    member: &'t Member<'t>,
    writing: &'t Writing,
    bytes: &'t [u8],
    asked: Option<u32>,
}

type Targets<'t> = SmallVec<[Target<'t>; FEW]>;
type Checked<'t> = SmallVec<[&'t Member<'t>; FEW]>;

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
    /// waits. The first of a process asks the daemon for a record, 1 ms.
    pub fn commit(self) -> Result<ManyOutcome, CommitManyError> {
        let target = |member| {
            let (writing, bytes) = Member::change(member)?;
            Some(Target {
                member,
                writing,
                bytes,
                asked: None,
            })
        };
        let mut targets: Targets<'_> = self.members.iter().filter_map(target).collect();
        let Some(&first) = targets.first() else {
            return Ok(ManyOutcome::Unchanged);
        };
        if !self.is_ours() {
            return Err(first.writing.forked().into());
        }
        let read = |member: &&Member<'_>| member.is_read_alone();
        let read: Checked<'_> = self.members.iter().filter(read).collect();
        if let ([target], []) = (&targets[..], &read[..]) {
            let base = target.member.base;
            return Ok(match target.writing.commit_slowly(base, target.bytes)? {
                Outcome::Committed { generation } => ManyOutcome::Committed {
                    generations: [generation].into_iter().collect(),
                },
                Outcome::Unchanged { .. } => ManyOutcome::Unchanged,
                Outcome::Conflict { base, found } => ManyOutcome::Conflict {
                    name: target.member.reader().name().clone(),
                    base,
                    found,
                },
            });
        }
        if !targets.is_sorted_by_key(Target::state_id) {
            targets.sort_unstable_by_key(Target::state_id);
        }
        Ok(match commit_all(&mut targets, &read)? {
            None => ManyOutcome::Committed {
                // Of those written, in the order they were added.
                generations: (self.members.iter().filter_map(target))
                    .map(|target| Generation(target.member.base.generation().0 + 1))
                    .collect(),
            },
            Some(member) => ManyOutcome::Conflict {
                name: member.reader().name().clone(),
                base: member.base.generation(),
                found: member.reader().generation(),
            },
        })
    }
}

/// Commits `targets`, in ascending order of states. `None`, or who was changed by others.
fn commit_all<'m>(
    targets: &mut [Target<'m>],
    read: &[&'m Member<'m>],
) -> Result<Option<&'m Member<'m>>, CommitManyError> {
    for target in &mut *targets {
        if target.member.is_deleted() {
            let name = target.member.reader().name().clone();
            return Err(CommitError::Deleted { name }.into());
        }
        target.writing.ensure_claimed()?;
        target.ensure_room()?;
    }
    let first = targets[0].member;
    let records = first.records();
    let mut record = records
        .take()
        .map_err(|source| CommitManyError::Record { source })?;
    let done = loop {
        match attempt(&mut record, targets, read) {
            Ok(()) => break Ok(None),
            Err(SeveralError::WriteConflict { index, found }) => {
                if found.has_intent() {
                    targets[index].writing.meet();
                }
                break Ok(Some(targets[index].member));
            }
            Err(SeveralError::CheckConflict { index, found }) => {
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
                if let Err(error) = targets[index].make_room(error) {
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
    match deleted {
        Some(member) => {
            let name = member.reader().name().clone();
            Err(CommitError::Deleted { name }.into())
        }
        None => done,
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

/// One attempt, with everybody's writer in hand.
fn attempt(
    record: &mut OwnRecord,
    targets: &[Target<'_>],
    read: &[&Member<'_>],
) -> Result<(), SeveralError> {
    let mut writes: SmallVec<[Write<'_, Region<'_>, Writer>; FEW]> = SmallVec::new();
    for target in targets {
        let Some(writer) = target.writing.writer.take() else {
            unreachable!("claimed above, and nobody else is in between");
        };
        writes.push(Write {
            memory: target.writing.reader().region(),
            state: target.state_id(),
            writer,
            base: target.member.base,
            bytes: target.bytes,
            time: target.writing.now(),
        });
    }
    let mut checks: SmallVec<[Check<Region<'_>>; FEW]> = SmallVec::new();
    checks.extend(read.iter().map(|member| Check {
        memory: member.reader().region(),
        base: member.base,
    }));
    let done = region::commit_several(&*record, record.last, &mut writes, &checks);
    if !matches!(done, Err(SeveralError::Killed)) {
        record.note_last();
    }
    for (target, write) in targets.iter().zip(writes) {
        target.writing.writer.set(Some(write.writer));
    }
    done
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
    #[inline]
    fn state_id(&self) -> u64 {
        self.member.reader().state_id()
    }

    /// Pays what the commit owes; `false` if the state was deleted.
    #[inline]
    fn pay(&self) -> bool {
        let notice = self.writing.reader().memory().header().notice();
        notice.is_none() || self.writing.settle_own(notice)
    }

    #[inline]
    fn ensure_room(&mut self) -> Result<(), CommitError> {
        match self.writing.has_room(self.bytes.len(), self.asked) {
            Ok(()) => Ok(()),
            Err(_) => self.grow(),
        }
    }

    /// After the slots were found too small or not mapped.
    fn make_room(&mut self, error: region::CommitError) -> Result<(), CommitError> {
        match error {
            region::CommitError::Exhausted => Err(CommitError::Exhausted {
                name: self.member.reader().name().clone(),
            }),
            _ => self.grow(),
        }
    }

    #[cold]
    fn grow(&mut self) -> Result<(), CommitError> {
        let name = || self.member.reader().name().clone();
        let length = self.bytes.len();
        match self.writing.make_room(length, self.asked) {
            Ok(Room::Made { capacity }) => {
                self.asked = Some(capacity);
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
