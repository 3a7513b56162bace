//! Running a transaction over several states again until it commits.

use std::convert::Infallible;
use std::time::Duration;

use kstate_sys::name::StateName;

use super::{AddError, CommitManyError, Many, ManyOutcome, TouchError};
use crate::retry::{Backoff, Insist, Retry, WITHIN_TURN};
use crate::transaction::BeginError;

/// What a closure returned, and what it took to commit what it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetriedMany<R> {
    /// What the closure returned at the attempt that counted.
    pub value: R,
    /// Committed, or unchanged if the closure wrote nothing; never a conflict.
    pub outcome: ManyOutcome,
    /// How often the closure ran.
    pub attempts: u32,
    /// Time spent in pauses.
    pub delay: Duration,
}

/// Why a transaction over several states was not committed. Nothing was changed, except as
/// [`CommitError::Deleted`](crate::CommitError::Deleted) says: if one of them was deleted at the same
/// moment, the others are committed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransactManyError<E = Infallible> {
    /// A state could not be added.
    #[error(transparent)]
    Add(#[from] AddError),
    /// A state's value could not be had.
    #[error(transparent)]
    Touch(#[from] TouchError),
    /// It could not be committed, apart from conflicts.
    #[error(transparent)]
    Commit(#[from] CommitManyError),
    /// Others committed first at each attempt.
    #[error(
        "others changed a state first at each of {attempts} attempts, `{name}` at the last, \
         {delay:?} of pauses included; try later, allow more attempts, or do less within the \
         transaction"
    )]
    Exhausted {
        /// The state that was changed at the last attempt.
        name: StateName,
        /// How often the closure ran.
        attempts: u32,
        /// Time spent in pauses.
        delay: Duration,
    },
    /// The closure gave up.
    #[error("the transaction was aborted: {0}")]
    Aborted(E),
}

impl<E> TransactManyError<E> {
    /// The same error with another reason to abort.
    pub fn map_aborted<F>(self, change: impl FnOnce(E) -> F) -> TransactManyError<F> {
        match self {
            Self::Add(error) => TransactManyError::Add(error),
            Self::Touch(error) => TransactManyError::Touch(error),
            Self::Commit(error) => TransactManyError::Commit(error),
            Self::Exhausted {
                name,
                attempts,
                delay,
            } => TransactManyError::Exhausted {
                name,
                attempts,
                delay,
            },
            Self::Aborted(reason) => TransactManyError::Aborted(change(reason)),
        }
    }
}

/// Runs `work` on a transaction over several states and commits it; again, on the newest values,
/// for as long as others commit first, with the pauses of [`Retry::new`]. `work` adds its states
/// each time. If it aborts, that counts when what it has touched is as it was; else it may have seen
/// values that do not belong together, and runs again.
///
/// A state that was added for reading alone gets no [turn](Retry::turn_after).
///
/// ```no_run
/// let alice = kstate::subscribe("bank.alice").write().typed::<i64>()?;
/// let bob = kstate::subscribe("bank.bob").write().typed::<i64>()?;
/// kstate::transact_many(|tx| {
///     tx.add(&alice)?;
///     tx.add(&bob)?;
///     *tx.get_mut(&alice)? -= 10;
///     *tx.get_mut(&bob)? += 10;
///     Ok::<_, kstate::TransactManyError>(())
/// })?;
/// # Ok::<(), kstate::Error>(())
/// ```
///
/// # Errors
///
/// [`TransactManyError`], and whatever the closure returns; nothing was changed then.
///
/// # Panics
///
/// When `work` does; the transaction is aborted.
pub fn transact_many<'s, R, E>(
    work: impl FnMut(&mut Many<'s>) -> Result<R, TransactManyError<E>>,
) -> Result<RetriedMany<R>, TransactManyError<E>> {
    transact_many_with(&Retry::new(), work)
}

/// As [`transact_many`], with a policy.
///
/// # Errors
///
/// As [`transact_many`].
pub fn transact_many_with<'s, R, E>(
    retry: &Retry,
    mut work: impl FnMut(&mut Many<'s>) -> Result<R, TransactManyError<E>>,
) -> Result<RetriedMany<R>, TransactManyError<E>> {
    let mut backoff = Backoff::new(retry.longest());
    let mut attempts = 0;
    let mut insist = Insist::new(retry);
    loop {
        attempts += 1;
        let mut tx = Many::new();
        let (name, changed) = match work(&mut tx) {
            Ok(value) => match tx.try_commit()? {
                ManyOutcome::Conflict { name, .. } => {
                    let changed = tx.writing_of(&name);
                    (name, changed)
                }
                outcome => {
                    return Ok(RetriedMany {
                        value,
                        outcome,
                        attempts,
                        delay: backoff.delay(),
                    });
                }
            },
            // As for a single state: contention is no reason to give up.
            Err(TransactManyError::Add(AddError::Begin(BeginError::Undecided { name }))) => {
                (name, None)
            }
            // It may have seen values that do not belong together: then it does not count.
            Err(TransactManyError::Aborted(reason)) => match tx.changed() {
                Some(changed) if attempts < retry.most_attempts() => changed,
                _ => return Err(TransactManyError::Aborted(reason)),
            },
            Err(error) => return Err(error),
        };
        if attempts >= retry.most_attempts() {
            return Err(TransactManyError::Exhausted {
                name,
                attempts,
                delay: backoff.delay(),
            });
        }
        drop(tx);
        match changed.is_some_and(|changed| insist.after(attempts, changed)) {
            true => backoff.pause_for(WITHIN_TURN),
            false => backoff.pause(),
        }
    }
}
