//! Commits that return when their version is in the state's file for good.

use std::convert::Infallible;

use kstate_sys::ioctl::{self, call, info_flags};
use kstate_sys::name::StateName;
use kstate_sys::region::Generation;

use super::sync::{SyncError, sync_to};
use crate::content::Content;
use crate::many::{CommitManyError, Many, ManyOutcome};
use crate::publish::PublishError;
use crate::reader::{Reader, Untyped};
use crate::state::State;
use crate::transaction::{CommitError, Outcome, RawTransaction, Transaction};

/// Why a version is not known to be in a file for good: [`NotDurable`](Self::NotDurable) if it was committed,
/// else one of the others.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DurableError<E: std::error::Error + 'static> {
    /// It was not committed, for a reason that has nothing to do with files.
    #[error(transparent)]
    Refused(#[from] E),
    /// It was not committed: there is no file.
    #[error(
        "nothing was committed: state `{name}` is not persistent; make it so with a file first"
    )]
    NotPersistent {
        /// The state's name.
        name: StateName,
    },
    /// It was not committed: it could not be asked whether there is a file.
    #[error("nothing was committed: {source}")]
    Unknown {
        /// Why.
        source: SyncError,
    },
    /// It was committed, and everybody sees it; a loss of power may take it back.
    #[error(
        "version {generation} of state `{name}` was committed, but is not known to be on the medium: {source}"
    )]
    NotDurable {
        /// The state's name.
        name: StateName,
        /// The version's generation.
        generation: Generation,
        /// Why.
        source: SyncError,
    },
}

impl<E: std::error::Error + 'static> DurableError<E> {
    /// What has nothing to do with files, or the rest.
    pub(crate) fn split(self) -> Result<E, DurableError<Infallible>> {
        Err(match self {
            Self::Refused(error) => return Ok(error),
            Self::NotPersistent { name } => DurableError::NotPersistent { name },
            Self::Unknown { source } => DurableError::Unknown { source },
            Self::NotDurable {
                name,
                generation,
                source,
            } => DurableError::NotDurable {
                name,
                generation,
                source,
            },
        })
    }

    /// Whether the version is there, for all to see.
    pub const fn is_committed(&self) -> bool {
        matches!(self, Self::NotDurable { .. })
    }
}

/// Whether a version of the state will come to be in a file.
fn check_persistent<E: std::error::Error + 'static>(
    reader: &Reader<Untyped>,
) -> Result<(), DurableError<E>> {
    let subscription = reader.subscription();
    if subscription.is_persistent() {
        return Ok(());
    }
    let name = || reader.name().clone();
    let mut info = ioctl::Info::default();
    let asked = subscription.request(|state| call::info(state, &mut info));
    asked.map_err(|source| DurableError::Unknown {
        source: SyncError::Io {
            name: name(),
            source,
        },
    })?;
    if info.flags & info_flags::PERSISTENT == 0 {
        return Err(DurableError::NotPersistent { name: name() });
    }
    subscription.note_persistent();
    Ok(())
}

/// Waits until what was committed is durable.
fn settle<E: std::error::Error + 'static>(
    reader: &Reader<Untyped>,
    generation: Generation,
) -> Result<(), DurableError<E>> {
    sync_to(reader, generation)
        .map(drop)
        .map_err(|source| DurableError::NotDurable {
            name: reader.name().clone(),
            generation,
            source,
        })
}

impl<T: Content> State<T> {
    /// As [`publish`](State::publish), and returns when the version, or a later one, is in the state's file for
    /// good.
    ///
    /// # Errors
    ///
    /// [`DurableError`], which says whether it was published.
    ///
    /// # Cost
    ///
    /// That of [`publish`](State::publish) and of [`sync_to`](Reader::sync_to); a FUSE request more the first time.
    pub fn publish_durable(
        &self,
        value: &T::Borrowed,
    ) -> Result<Generation, DurableError<PublishError>> {
        check_persistent(self.as_of())?;
        let generation = self.publish(value)?;
        settle(self.as_of(), generation)?;
        Ok(generation)
    }
}

/// Waits for what a commit has made newest, if it has.
fn settled(
    reader: &Reader<Untyped>,
    outcome: Outcome,
) -> Result<Outcome, DurableError<CommitError>> {
    if let Outcome::Committed { generation } = outcome {
        settle(reader, generation)?;
    }
    Ok(outcome)
}

impl<T: Content> Transaction<'_, T> {
    /// As [`commit`](Transaction::commit), and returns when the version, or a later one, is in the state's file
    /// for good.
    ///
    /// # Errors
    ///
    /// [`DurableError`], which says whether it was committed.
    ///
    /// # Cost
    ///
    /// As [`State::publish_durable`].
    pub fn commit_durable(self) -> Result<Outcome, DurableError<CommitError>> {
        let reader = self.state().as_of();
        check_persistent(reader)?;
        settled(reader, self.commit()?)
    }
}

impl<T: Content> RawTransaction<'_, T> {
    /// As [`commit`](RawTransaction::commit), and returns when the version, or a later one, is in the state's
    /// file for good.
    ///
    /// # Errors
    ///
    /// [`DurableError`], which says whether it was committed.
    pub fn commit_durable(self) -> Result<Outcome, DurableError<CommitError>> {
        let reader = self.state().as_of();
        check_persistent(reader)?;
        settled(reader, self.commit()?)
    }
}

impl Many<'_> {
    /// As [`commit`](Many::commit), and returns when the version of each state that was written, or a later one,
    /// is in its file for good.
    ///
    /// The states are written to their files one by one: after a loss of power before it returns, some of them
    /// may have their new value and others the old one.
    ///
    /// # Errors
    ///
    /// [`DurableError`], which says whether it was committed, and of the first state that failed why; the others
    /// were waited for all the same.
    ///
    /// # Cost
    ///
    /// That of [`commit`](Many::commit), and of [`sync_to`](Reader::sync_to) for each state.
    pub fn commit_durable(self) -> Result<ManyOutcome, DurableError<CommitManyError>> {
        for reader in self.written() {
            check_persistent(reader)?;
        }
        let outcome = self.try_commit()?;
        let mut first = Ok(());
        if let ManyOutcome::Committed { generations } = &outcome {
            for (reader, generation) in self.written().zip(generations.iter()) {
                first = first.and(settle(reader, *generation));
            }
        }
        first.map(|()| outcome)
    }
}
