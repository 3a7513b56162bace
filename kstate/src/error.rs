//! Every error of the library in one enum, for programs that do not tell them apart.

use std::convert::Infallible;

use crate::{
    AddError, AnnounceError, BeginError, CapacityError, CommitError, CommitManyError, CutError,
    DurableError, HostError, InfoError, LiveError, MountError, NotifyError, PersistError,
    PublishError, ReadError, ReconnectError, RemoveError, SubscribeError, SyncError, TouchError,
    TransactError, TransactManyError, WaitError, WatchError,
};

/// Any error of this library. Each operation has an enum of its own, and all convert to this one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file system could not be used.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// No daemon could be started.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A state could not be subscribed to.
    #[error(transparent)]
    Subscribe(#[from] SubscribeError),
    /// A state could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A value could not be published.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// A transaction could not be begun.
    #[error(transparent)]
    Begin(#[from] BeginError),
    /// A transaction could not be committed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// A transaction was retried in vain, or given up.
    #[error(transparent)]
    Transact(TransactError<Box<dyn std::error::Error + Send + Sync>>),
    /// A state could not be added to a transaction over several.
    #[error(transparent)]
    Add(#[from] AddError),
    /// A value could not be had within a transaction over several states.
    #[error(transparent)]
    Touch(#[from] TouchError),
    /// Several states could not be committed.
    #[error(transparent)]
    CommitMany(#[from] CommitManyError),
    /// A transaction over several states was retried in vain, or given up.
    #[error(transparent)]
    TransactMany(TransactManyError<Box<dyn std::error::Error + Send + Sync>>),
    /// No cut of several states could be taken.
    #[error(transparent)]
    Cut(#[from] CutError),
    /// A wait could not be begun.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// A watch ended.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// States could not be watched.
    #[error(transparent)]
    Notify(#[from] NotifyError),
    /// A capacity could not be set.
    #[error(transparent)]
    Capacity(#[from] CapacityError),
    /// No live pointer could be had.
    #[error(transparent)]
    Live(#[from] LiveError),
    /// A state could not be deleted.
    #[error(transparent)]
    Remove(#[from] RemoveError),
    /// It could not be chosen where a state is announced.
    #[error(transparent)]
    Announce(#[from] AnnounceError),
    /// A state could not be kept in a file.
    #[error(transparent)]
    Persist(#[from] PersistError),
    /// It could not be waited for a version to be in its file.
    #[error(transparent)]
    Sync(#[from] SyncError),
    /// A commit may have come to be in no file; [`DurableError::is_committed`] says whether others see it.
    #[error(transparent)]
    Durable(DurableError<Infallible>),
    /// A handle could not go on through another daemon.
    #[error(transparent)]
    Reconnect(#[from] ReconnectError),
    /// Nothing could be learnt of a state.
    #[error(transparent)]
    Info(#[from] InfoError),
}

impl<E: std::error::Error + Into<Self> + 'static> From<DurableError<E>> for Error {
    fn from(error: DurableError<E>) -> Self {
        match error.split() {
            Ok(refused) => refused.into(),
            Err(error) => Self::Durable(error),
        }
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<TransactError<E>> for Error {
    fn from(error: TransactError<E>) -> Self {
        Self::Transact(
            error.map_aborted(|reason| -> Box<dyn std::error::Error + Send + Sync> {
                Box::new(reason)
            }),
        )
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<TransactManyError<E>> for Error {
    fn from(error: TransactManyError<E>) -> Self {
        Self::TransactMany(
            error.map_aborted(|reason| -> Box<dyn std::error::Error + Send + Sync> {
                Box::new(reason)
            }),
        )
    }
}
