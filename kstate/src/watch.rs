//! Following a state, change by change or no more often than wanted.

use std::time::Duration;

use kstate_sys::futex::Deadline;
use kstate_sys::region::Generation;

use crate::content::Content;
use crate::interrupt::Interrupt;
use crate::reader::Reader;
use crate::sleep;
use crate::snapshot::{ReadError, Snapshot};
use crate::wait::{Wait, WaitError, Waited};

/// A reader that remembers what it has delivered.
///
/// Versions that come and go between two calls of [`Watch::next`] are skipped; the newest is
/// never missed.
///
/// ```no_run
/// use std::time::Duration;
///
/// let gps = kstate::subscribe("robot.gps").typed::<[f64; 2]>()?;
/// let mut watch = gps.watch().at_most_every(Duration::from_millis(250));
/// while let Some(now) = watch.next(Some(Duration::from_secs(10)))? {
///     println!("{:?}", now.value);
/// }
/// # Ok::<(), kstate::Error>(())
/// ```
#[derive(Debug)]
pub struct Watch<T: Content> {
    reader: Reader<T>,
    seen: Generation,
    /// The generation that was delivered, or delivered again, as overdue.
    overdue: Option<Generation>,
    period: Duration,
    /// When the next one may be delivered.
    due: Option<Deadline>,
    interrupt: Option<Interrupt>,
}

/// Why a watch delivered nothing. It can go on where the cause is gone.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// The change could not be waited for.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// The changed state could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A signal handler ran, or another thread [interrupted](Interrupt) it; nothing is lost, ask
    /// again.
    #[error("the wait was interrupted")]
    Interrupted,
}

impl<T: Content> Reader<T> {
    /// Follows the state, beginning with the version that is the newest at the first
    /// [`Watch::next`], if there is one.
    pub fn watch(&self) -> Watch<T> {
        Watch {
            reader: self.clone(),
            seen: Generation::NEVER,
            overdue: None,
            period: Duration::ZERO,
            due: None,
            interrupt: None,
        }
    }
}

impl<T: Content> Watch<T> {
    /// Delivers at most one version each `period`: the first change at once, the last before a
    /// quiet time always.
    #[must_use]
    pub fn at_most_every(mut self, period: Duration) -> Self {
        self.period = period;
        self
    }

    /// Takes `generation` for delivered: only others count as changes.
    #[must_use]
    pub fn since(mut self, generation: Generation) -> Self {
        self.seen = generation;
        self
    }

    /// Ends waiting, as [`WatchError::Interrupted`], when `interrupt` is raised.
    #[must_use]
    pub fn interrupted_by(mut self, interrupt: &Interrupt) -> Self {
        self.interrupt = Some(interrupt.clone());
        self
    }

    /// The reader that is followed.
    pub fn reader(&self) -> &Reader<T> {
        &self.reader
    }

    /// The generation delivered last; 0 for none.
    pub fn seen(&self) -> Generation {
        self.seen
    }

    /// The newest version, as soon as it is another than the one delivered last and the rate
    /// allows; `None` after `timeout`. When the next one is [overdue](Snapshot::is_overdue), the one
    /// delivered last is delivered once more, with that mark.
    ///
    /// # Errors
    ///
    /// [`WatchError`]; in particular [`WatchError::Interrupted`] when a signal handler ran.
    ///
    /// # Cost
    ///
    /// That of [`Reader::wait`] and of [`Reader::snapshot`]; with a rate, one more sleep.
    pub fn next(
        &mut self,
        timeout: Option<Duration>,
    ) -> Result<Option<Snapshot<T::Owned>>, WatchError> {
        let deadline = timeout.map(Deadline::after);
        if let Some(due) = self.due.filter(|due| !due.has_passed()) {
            let until = deadline.map_or(due, |deadline| deadline.min(due));
            if !sleep::for_time(until, self.interrupt.as_ref()) {
                return Err(WatchError::Interrupted);
            }
            if until < due {
                return Ok(None);
            }
        }
        let left = deadline.map(Deadline::left);
        let mut wait = Wait::new();
        if let Some(left) = left {
            wait = wait.timeout(left);
        }
        if let Some(interrupt) = &self.interrupt {
            wait = wait.interrupted_by(interrupt);
        }
        if self.overdue != Some(self.seen) {
            wait = wait.or_overdue();
        }
        let waited = wait.for_change(&self.reader, self.seen)?;
        match waited {
            Waited::Changed(_) | Waited::Overdue(_) => {
                let snapshot = self.reader.snapshot()?;
                self.seen = snapshot.generation();
                let is_overdue = snapshot.is_overdue() || waited == Waited::Overdue(self.seen);
                self.overdue = is_overdue.then_some(self.seen);
                self.due = (!self.period.is_zero()).then(|| Deadline::after(self.period));
                Ok(Some(snapshot))
            }
            Waited::TimedOut => Ok(None),
            Waited::Interrupted => Err(WatchError::Interrupted),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use kstate_sys::abi::Class;

    use super::*;
    use crate::testing::Region;

    #[test]
    fn the_first_comes_at_once_and_the_next_not_before_its_time() {
        let region = Region::new(8);
        let state = region.state::<u64>(1);
        let period = Duration::from_millis(30);
        let mut watch = region
            .reader::<u64>(Class::B64)
            .watch()
            .at_most_every(period);
        let start = Instant::now();
        state.publish(&1).unwrap();
        assert_eq!(watch.next(None).unwrap().unwrap().value, 1);
        state.publish(&2).unwrap();
        state.publish(&3).unwrap();
        assert_eq!(watch.next(None).unwrap().unwrap().value, 3);
        assert!(start.elapsed() >= period);
    }

    #[test]
    fn a_wait_shorter_than_the_period_ends_without_a_value() {
        let region = Region::new(8);
        let state = region.state::<u64>(1);
        let watch = region.reader::<u64>(Class::B64).watch();
        let mut watch = watch.at_most_every(Duration::from_secs(3600));
        state.publish(&1).unwrap();
        assert_eq!(watch.next(None).unwrap().unwrap().value, 1);
        state.publish(&2).unwrap();
        let soon = Some(Duration::from_millis(1));
        assert!(watch.next(soon).unwrap().is_none());
    }

    #[test]
    fn only_what_differs_from_the_generation_given_is_delivered() {
        let region = Region::new(8);
        let state = region.state::<u64>(1);
        let first = state.publish(&1).unwrap();
        let mut watch = region.reader::<u64>(Class::B64).watch().since(first);
        assert!(watch.next(Some(Duration::ZERO)).unwrap().is_none());
        state.publish(&2).unwrap();
        assert_eq!(watch.next(Some(Duration::ZERO)).unwrap().unwrap().value, 2);
        assert_eq!(watch.seen(), Generation(2));
    }
}
