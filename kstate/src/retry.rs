//! Running a transaction again until it commits.

mod attempts;

use std::convert::Infallible;
use std::time::Duration;

use kstate_sys::name::StateName;

pub use attempts::Attempts;
pub(crate) use attempts::{Backoff, Insist, WITHIN_TURN};

use crate::content::Content;
use crate::snapshot::ReadError;
use crate::state::State;
use crate::transaction::{BeginError, CommitError, Outcome, Transaction};

/// How often a transaction is tried, and how long the pauses between may be.
///
/// After each conflict the pause is drawn at random from a range that doubles, so that two
/// writers that keep meeting part.
///
/// # Eventual success
///
/// A closure that is short beside the time between foreign commits gets through after a few
/// attempts. One that takes as long as others leave between their commits might never. So after some
/// attempts a [turn](Retry::turn_after) is asked for: a while of at most 10 ms in which other handles of
/// this library stand back after their next commit. Then a closure of up to some 4 ms gets
/// through, at the first attempt that begins after each of them has seen it.
///
/// A turn is asked for by a request to the daemon: one that is stopped holds that up, and
/// [`turn_after`](Retry::turn_after)`(u32::MAX)` does without.
///
/// What cannot be guaranteed: a closure that takes longer; success beside writers that are not
/// [polite](State::set_polite), or write the file; and a turn itself, of which a state gives one at a time and
/// none in half of the time. Then it is given up after the attempts allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    attempts: u32,
    longest_pause: Duration,
    turn_after: u32,
}

/// What a closure returned, and what it took to commit what it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retried<R> {
    /// What the closure returned at the attempt that counted.
    pub value: R,
    /// Committed, or unchanged if the closure wrote nothing; never a conflict.
    pub outcome: Outcome,
    /// How often the closure ran.
    pub attempts: u32,
    /// Time spent in pauses.
    pub delay: Duration,
}

/// Why a transaction was not committed. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransactError<E = Infallible> {
    /// It could not be begun.
    #[error(transparent)]
    Begin(#[from] BeginError),
    /// Its page could not be filled.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It could not be committed, apart from conflicts.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// Others committed first at each attempt.
    #[error(
        "others changed state `{name}` first at each of {attempts} attempts, {delay:?} of pauses \
         included; try later, allow more attempts, or do less within the transaction"
    )]
    Exhausted {
        /// The state's name.
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

impl Retry {
    /// 1000 attempts, pauses of up to a millisecond, a turn after 16 attempts.
    pub const fn new() -> Self {
        Self {
            attempts: 1000,
            longest_pause: Duration::from_millis(1),
            turn_after: 16,
        }
    }

    /// With at most this many attempts; at least one is made.
    #[must_use]
    pub const fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// With pauses no longer than this.
    #[must_use]
    pub const fn longest_pause(mut self, pause: Duration) -> Self {
        self.longest_pause = pause;
        self
    }

    /// Asking for a turn after so many attempts in vain, and again after as many; `u32::MAX` for
    /// never.
    #[must_use]
    pub const fn turn_after(mut self, attempts: u32) -> Self {
        self.turn_after = attempts;
        self
    }

    pub(crate) const fn longest(&self) -> Duration {
        self.longest_pause
    }

    pub(crate) const fn most_attempts(&self) -> u32 {
        self.attempts
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self::new()
    }
}

impl<E> TransactError<E> {
    /// The same error with another reason to abort.
    pub fn map_aborted<F>(self, change: impl FnOnce(E) -> F) -> TransactError<F> {
        match self {
            Self::Begin(error) => TransactError::Begin(error),
            Self::Read(error) => TransactError::Read(error),
            Self::Commit(error) => TransactError::Commit(error),
            Self::Exhausted {
                name,
                attempts,
                delay,
            } => TransactError::Exhausted {
                name,
                attempts,
                delay,
            },
            Self::Aborted(reason) => TransactError::Aborted(change(reason)),
        }
    }
}

impl<T: Content> State<T> {
    /// Changes the value by `change`, which runs again on the newest value for as long as others
    /// commit first.
    ///
    /// ```no_run
    /// let counter = kstate::subscribe("robot.counter").write().typed::<u64>()?;
    /// let done = counter.transact(|count| *count += 1)?;
    /// println!("took {} attempts", done.attempts);
    /// # Ok::<(), kstate::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`TransactError`]; nothing was changed then.
    ///
    /// # Panics
    ///
    /// When `change` does; the transaction is aborted.
    ///
    /// # Nesting
    ///
    /// Transactions are independent, so one that `change` commits on the same state is a foreign
    /// commit to the outer one, which then conflicts at every attempt: the inner change is made as
    /// often as the outer is tried. Read and write through what `change` is given instead.
    ///
    /// # Cost
    ///
    /// Two copies and one compare-and-swap an attempt; no system call unless somebody waits, a pause is
    /// long, or it is another handle's turn. After 16 attempts in vain, and again after as many, a FUSE
    /// request, which takes as long as the daemon does.
    #[inline]
    pub fn transact<R>(
        &self,
        mut change: impl FnMut(&mut T::Owned) -> R,
    ) -> Result<Retried<R>, TransactError> {
        self.transact_with(&Retry::new(), |tx| Ok(change(tx.get_mut()?)))
    }

    /// As [`transact`](State::transact), with a closure that can give up: an error aborts.
    ///
    /// # Errors
    ///
    /// [`TransactError`]; [`TransactError::Aborted`] with what the closure returned.
    #[inline]
    pub fn try_transact<R, E>(
        &self,
        mut change: impl FnMut(&mut T::Owned) -> Result<R, E>,
    ) -> Result<Retried<R>, TransactError<E>> {
        self.transact_with(&Retry::new(), |tx| {
            change(tx.get_mut()?).map_err(TransactError::Aborted)
        })
    }

    /// As [`transact`](State::transact), with a policy and the transaction itself: a closure
    /// that only reads commits nothing.
    ///
    /// # Errors
    ///
    /// [`TransactError`], and whatever the closure returns.
    #[inline]
    pub fn transact_with<R, E>(
        &self,
        retry: &Retry,
        mut work: impl FnMut(&mut Transaction<'_, T>) -> Result<R, TransactError<E>>,
    ) -> Result<Retried<R>, TransactError<E>> {
        let mut attempts = self.attempts(retry);
        loop {
            match self.begin() {
                Ok(mut tx) => {
                    let value = work(&mut tx)?;
                    let outcome = tx.commit()?;
                    if !outcome.is_conflict() {
                        return Ok(Retried {
                            value,
                            outcome,
                            attempts: attempts.made(),
                            delay: attempts.delay(),
                        });
                    }
                }
                Err(BeginError::Undecided { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            if !attempts.again() {
                return Err(self.given_up(&attempts));
            }
        }
    }

    #[cold]
    fn given_up<E>(&self, attempts: &Attempts<'_>) -> TransactError<E> {
        TransactError::Exhausted {
            name: self.name().clone(),
            attempts: attempts.made(),
            delay: attempts.delay(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Region;

    #[test]
    fn a_transaction_is_run_again_until_nobody_comes_first() {
        let region = Region::new(8);
        let (ours, theirs) = (region.state::<u64>(1), region.state::<u64>(2));
        let mut disturbances = 3;
        let done = ours
            .transact(|value| {
                if disturbances > 0 {
                    disturbances -= 1;
                    theirs.publish(&100).unwrap();
                }
                *value += 1;
                *value
            })
            .unwrap();
        assert_eq!((done.value, done.attempts), (101, 4));
        assert!(done.outcome.is_committed() && done.delay > Duration::ZERO);
    }

    #[test]
    fn giving_up_reports_the_attempts_and_changes_nothing() {
        let region = Region::new(8);
        let (ours, theirs) = (region.state::<u64>(1), region.state::<u64>(2));
        let retry = Retry::new()
            .attempts(5)
            .longest_pause(Duration::from_micros(1));
        let error = ours
            .transact_with(&retry, |tx| -> Result<(), TransactError> {
                theirs.publish(&7).unwrap();
                *tx.get_mut()? += 1;
                Ok(())
            })
            .unwrap_err();
        assert!(
            matches!(error, TransactError::Exhausted { attempts: 5, .. }),
            "{error:?}"
        );
        assert_eq!(ours.snapshot().unwrap().value, 7);
    }

    #[test]
    fn a_closure_that_fails_or_panics_aborts() {
        let region = Region::new(8);
        let state = region.state::<u64>(1);
        let error = state
            .try_transact(|value| {
                *value = 5;
                Err::<(), _>("no")
            })
            .unwrap_err();
        assert!(matches!(error, TransactError::Aborted("no")), "{error:?}");
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            state.transact(|value| {
                *value = 5;
                panic!("on purpose")
            })
        }));
        assert!(panicked.is_err());
        assert!(state.generation().is_never());
        assert_eq!(state.transact(|value| *value).unwrap().value, 0);
    }
}
