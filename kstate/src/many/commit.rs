//! Committing what was written to several states, if all that was touched still stands.

use std::io;

use kstate_sys::name::StateName;
use kstate_sys::region::{self, Check, Head, SeveralError, Write, Writer};

use super::member::{Member, Written};
use super::{Many, ManyOutcome};
use crate::claim::ClaimError;
use crate::errno;
use crate::publish::Room;
use crate::records::{OwnRecord, Records};
use crate::transaction::{CommitError, Outcome};

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

/// A state that is going to be written.
struct Target<'t> {
    state: &'t dyn Written,
    member: &'t Member<'t>,
    bytes: &'t [u8],
    asked: Option<u32>,
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
    /// waits. The first of a process asks the daemon for a record, 1 ms.
    pub fn commit(self) -> Result<ManyOutcome, CommitManyError> {
        let mut dirty: Vec<&Member<'_>> = self.members.iter().filter(|m| m.dirty).collect();
        let Some(&first) = dirty.first() else {
            return Ok(ManyOutcome::Unchanged);
        };
        let read: Vec<_> = (self.members.iter())
            .filter(|member| member.read && !member.dirty)
            .collect();
        if let Some(state) = first.written().filter(|_| !self.is_ours()) {
            return Err(state.forked().into());
        }
        if let (Some(state), Some(page), [_], []) =
            (first.written(), first.taken_page(), &dirty[..], &read[..])
        {
            return match state.commit_alone(first.base, page)? {
                Outcome::Committed { generation } => Ok(ManyOutcome::Committed {
                    generations: vec![generation],
                }),
                Outcome::Unchanged { .. } => Ok(ManyOutcome::Unchanged),
                Outcome::Conflict { base, found } => Ok(ManyOutcome::Conflict {
                    name: first.name().clone(),
                    base,
                    found,
                }),
            };
        }
        let order: Vec<u64> = dirty.iter().map(|member| member.state_id()).collect();
        dirty.sort_unstable_by_key(|member| member.state_id());
        let outcome = commit_all(&dirty, &read)?;
        Ok(match outcome {
            Ok(heads) => {
                let generation = |id: &u64| {
                    let index = dirty.binary_search_by_key(id, |member| member.state_id());
                    heads[index.unwrap_or(0)].generation()
                };
                ManyOutcome::Committed {
                    generations: order.iter().map(generation).collect(),
                }
            }
            Err(member) => ManyOutcome::Conflict {
                name: member.name().clone(),
                base: member.base.generation(),
                found: member.reader().generation(),
            },
        })
    }
}

/// Commits `dirty`, in ascending order of states. The heads, or who was changed by others.
fn commit_all<'m>(
    dirty: &[&'m Member<'m>],
    read: &[&'m Member<'m>],
) -> Result<Result<Vec<Head>, &'m Member<'m>>, CommitManyError> {
    let mut targets = Vec::with_capacity(dirty.len());
    for member in dirty {
        let (Some(state), Some(page)) = (member.written(), member.taken_page()) else {
            unreachable!("what is dirty was added for writing and has a page");
        };
        if member.is_deleted() {
            let name = member.name().clone();
            return Err(CommitError::Deleted { name }.into());
        }
        state.claim().map_err(CommitError::from)?;
        targets.push(Target {
            state,
            member,
            bytes: state.bytes(page),
            asked: None,
        });
    }
    let records: &Records = dirty[0].records();
    let mut record = records
        .take()
        .map_err(|source| CommitManyError::Record { source })?;
    let done = loop {
        if let Some(error) = targets
            .iter_mut()
            .find_map(|target| target.ensure_room().err())
        {
            break Err(error.into());
        }
        match attempt(&mut record, &targets, read) {
            Ok(heads) => break Ok(Ok(heads)),
            Err(SeveralError::WriteConflict { index, found }) => {
                if found.has_intent() {
                    targets[index].state.meet();
                }
                break Ok(Err(targets[index].member));
            }
            Err(SeveralError::CheckConflict { index, found }) => {
                if found.has_intent() {
                    meet_reading(read[index]);
                }
                break Ok(Err(read[index]));
            }
            Err(SeveralError::Killed) => match settle(&mut record, dirty[0]) {
                Ok(()) => break Ok(Err(dirty[0])),
                // The record is not given back: nobody knows what became of its heads.
                Err(source) => {
                    let name = dirty[0].name().clone();
                    return Err(CommitManyError::Settle { name, source });
                }
            },
            Err(SeveralError::Refused { index, error }) => {
                if let Err(error) = targets[index].make_room(error) {
                    break Err(error.into());
                }
            }
            Err(_) => break Err(lost(dirty[0])),
        }
    };
    if let Ok(Ok(heads)) = &done {
        // All are owed something, also when one of them turns out to be deleted.
        let mut deleted = None;
        for (target, head) in targets.iter().zip(heads) {
            if !target.state.settle(*head) {
                deleted.get_or_insert(target.member);
            }
        }
        if let Some(member) = deleted {
            records.put_back(record);
            let name = member.name().clone();
            return Err(CommitError::Deleted { name }.into());
        }
    }
    records.put_back(record);
    done
}

fn lost(member: &Member<'_>) -> CommitManyError {
    CommitManyError::Record {
        source: io::Error::other(format!(
            "the commit to state `{}` failed in an unknown way",
            member.name()
        )),
    }
}

/// One attempt, with everybody's writer in hand.
fn attempt(
    record: &mut OwnRecord,
    targets: &[Target<'_>],
    read: &[&Member<'_>],
) -> Result<Vec<Head>, SeveralError> {
    let mut writers: Vec<Writer> = Vec::with_capacity(targets.len());
    for target in targets {
        match target.state.writer().take() {
            Some(writer) => writers.push(writer),
            None => unreachable!("claimed above, and nobody else is in between"),
        }
    }
    let regions: Vec<_> = targets.iter().map(|target| target.state.region()).collect();
    let read: Vec<_> = read.iter().map(|m| (m.reader().region(), m.base)).collect();
    let mut writes: Vec<_> = (targets.iter().zip(&regions).zip(&mut writers))
        .map(|((target, memory), writer)| Write {
            memory,
            state: target.member.state_id(),
            writer,
            base: target.member.base,
            bytes: target.bytes,
            time: target.state.now(),
        })
        .collect();
    let checks: Vec<_> = (read.iter())
        .map(|(memory, base)| Check {
            memory,
            base: *base,
        })
        .collect();
    let done = region::commit_several(&*record, record.last, &mut writes, &checks);
    let done = done.map(|()| writes.iter().map(Write::committed).collect());
    if !matches!(done, Err(SeveralError::Killed)) {
        record.note_last();
    }
    for (target, writer) in targets.iter().zip(writers) {
        target.state.writer().set(Some(writer));
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
    match member.written() {
        Some(state) => state.meet(),
        None => {
            let standing = region::look(&member.reader().region());
            if let Ok(Some((commit, _))) = standing.map(|standing| standing.intent) {
                member.reader().subscription().urge(commit);
            }
        }
    }
}

impl Target<'_> {
    fn ensure_room(&mut self) -> Result<(), CommitError> {
        match self.state.has_room(self.bytes.len(), self.asked) {
            true => Ok(()),
            false => self.grow(),
        }
    }

    /// After the slots were found too small or not mapped.
    fn make_room(&mut self, error: region::CommitError) -> Result<(), CommitError> {
        match error {
            region::CommitError::Exhausted => Err(CommitError::Exhausted {
                name: self.member.name().clone(),
            }),
            _ => self.grow(),
        }
    }

    fn grow(&mut self) -> Result<(), CommitError> {
        let name = || self.member.name().clone();
        let length = self.bytes.len();
        match self.state.make_room(length, self.asked) {
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
