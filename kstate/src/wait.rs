//! Sleeping until a state changes.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kstate_sys::futex::{self, Deadline, Woken};
use kstate_sys::name::StateName;
use kstate_sys::region::{Generation, Head, Memory, Notice};

use crate::errno::{self, Refusal};
use crate::reader::Reader;

/// No sleep is longer. A process of another user that has a read-only map can move our place in
/// the futex queue elsewhere, so that a wake misses us; then this is how late we look.
pub(crate) const LONGEST_SLEEP: Duration = Duration::from_secs(4);

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Waited {
    /// The newest generation is now this one.
    Changed(Generation),
    /// This generation is still the newest, and the next one is overdue.
    Overdue(Generation),
    /// Nothing changed for as long as was allowed.
    TimedOut,
    /// A signal handler ran.
    Interrupted,
}

/// Why a wait could not be begun, or not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The state was deleted: it never changes again.
    #[error("state `{name}` was deleted; subscribe again to what may have taken its place")]
    Deleted {
        /// Its name.
        name: StateName,
    },
    /// Nobody is there to have the writers wake us.
    #[error(
        "the daemon of state `{name}` has died; what is mapped goes on, but waiting begins with \
         a daemon: run `kstate mount` and subscribe again"
    )]
    DaemonDied {
        /// Its name.
        name: StateName,
    },
    /// What the kernel or the daemon said.
    #[error("cannot wait for state `{name}`: {source}")]
    Io {
        /// Its name.
        name: StateName,
        /// The operating system's error.
        source: io::Error,
    },
}

impl<T> Reader<T> {
    /// Sleeps until another version than `since` is the newest, no longer than `timeout`, for
    /// ever if there is none.
    ///
    /// From the first wait on each commit of the state costs its writer a system call, until the
    /// last clone of this handle is dropped.
    ///
    /// # Errors
    ///
    /// [`WaitError`]; a timeout and a signal are outcomes, not errors.
    ///
    /// # Memory ordering
    ///
    /// What the writer did before committing is visible after [`Waited::Changed`].
    ///
    /// # Cost
    ///
    /// One load if it has changed already. Else one system call, another every four seconds; and
    /// a FUSE request the first time.
    pub fn wait(&self, since: Generation, timeout: Option<Duration>) -> Result<Waited, WaitError> {
        self.sleep(since, timeout, false)
    }

    /// As [`wait`](Reader::wait), and at once when the version after `since` is
    /// [overdue](crate::Snapshot::is_overdue), or as soon as it is. Who knows that and waits on uses
    /// `wait`.
    ///
    /// # Errors
    ///
    /// As [`wait`](Reader::wait).
    pub fn wait_or_overdue(
        &self,
        since: Generation,
        timeout: Option<Duration>,
    ) -> Result<Waited, WaitError> {
        self.sleep(since, timeout, true)
    }

    fn sleep(
        &self,
        since: Generation,
        timeout: Option<Duration>,
        or_overdue: bool,
    ) -> Result<Waited, WaitError> {
        let newest = self.generation();
        if newest != since {
            return Ok(Waited::Changed(newest));
        }
        let header = self.memory().header();
        let is_overdue = || or_overdue && header.is_overdue(since);
        if is_overdue() {
            return Ok(Waited::Overdue(since));
        }
        if timeout == Some(Duration::ZERO) {
            return Ok(Waited::TimedOut);
        }
        let deadline = timeout.map(Deadline::after);
        loop {
            self.subscribe_to_wakes()?;
            // ORDERING: SeqCst after the daemon's SeqCst raise of the mark: see `Header::notice`.
            let head = Head::from_raw(header.head.load(Ordering::SeqCst));
            let newest = match head.has_intent() {
                false => head.generation(),
                true => self.resolved_generation(head),
            };
            if newest != since {
                return Ok(Waited::Changed(newest));
            }
            // The daemon marks it, wakes, and wakes again, for those who came between here and sleep.
            if is_overdue() {
                return Ok(Waited::Overdue(since));
            }
            if header.notice().contains(Notice::DELETED) {
                return Err(WaitError::Deleted {
                    name: self.name().clone(),
                });
            }
            let slice = Deadline::after(LONGEST_SLEEP);
            let until = deadline.map_or(slice, |deadline| deadline.min(slice));
            match futex::wait(&header.head, head.futex_word(), Some(until)) {
                Ok(Woken::LookAgain) => {}
                Ok(Woken::TimedOut) => {
                    if deadline.is_some_and(Deadline::has_passed) {
                        let newest = self.generation();
                        return Ok(match newest == since {
                            true => Waited::TimedOut,
                            false => Waited::Changed(newest),
                        });
                    }
                }
                Ok(Woken::Interrupted) => return Ok(Waited::Interrupted),
                Err(source) => return Err(self.cannot_wait(source)),
            }
        }
    }

    fn subscribe_to_wakes(&self) -> Result<(), WaitError> {
        let subscription = self.subscription();
        match subscription.begin_waiting() {
            // A restarted daemon keeps the marks it finds; there is no descriptor to ask it by.
            Err(error)
                if errno::refusal(&error) == Refusal::DaemonDied && subscription.is_waiting() =>
            {
                Ok(())
            }
            begun => begun.map_err(|source| self.cannot_wait(source)),
        }
    }

    fn cannot_wait(&self, source: io::Error) -> WaitError {
        let name = self.name().clone();
        match errno::refusal(&source) {
            Refusal::DaemonDied => WaitError::DaemonDied { name },
            Refusal::Deleted => WaitError::Deleted { name },
            _ => WaitError::Io { name, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use kstate_sys::abi::Class;

    use super::*;
    use crate::testing::Region;

    #[test]
    fn what_has_changed_is_not_waited_for() {
        let region = Region::new(8);
        let state = region.state::<u64>(1);
        let reader = region.reader::<u64>(Class::B64);
        let asleep = reader
            .wait(Generation::NEVER, Some(Duration::ZERO))
            .unwrap();
        assert_eq!(asleep, Waited::TimedOut);
        state.publish(&1).unwrap();
        let awake = reader.wait(Generation::NEVER, None).unwrap();
        assert_eq!(awake, Waited::Changed(Generation(1)));
        assert!(!reader.subscription().is_waiting());
    }
}
