//! Sleeping until a state changes.

mod paced;
mod request;
mod waitable;

use std::io;
use std::time::{Duration, Instant};

use kstate_sys::futex::{self, Deadline};
use kstate_sys::name::StateName;
use kstate_sys::region::Generation;

use crate::content::Content;
use crate::interrupt::Interrupt;
use crate::reader::Reader;
use crate::sleep::Until;
use crate::snapshot::Snapshot;
use crate::watch::WatchError;
use request::Request;
pub(crate) use request::cannot_wait;
pub use waitable::{Readable, Waitable};
pub(crate) use waitable::{shown, untyped};

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
    /// A signal handler ran, or another thread [interrupted](crate::Interrupt) it.
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
    /// The daemon has been followed by one that has not taken its states over: nobody has the writers wake us.
    #[error(
        "the daemon of state `{name}` has died, and the one that is there now has not taken its \
         states over; what is mapped goes on, but nobody wakes who waits: subscribe again"
    )]
    DaemonDied {
        /// Its name.
        name: StateName,
    },
    /// More states than the kernel can sleep on.
    #[error(
        "{wanted} states cannot be waited for in one call, only {}; use a `Notifier`",
        Wait::MOST
    )]
    TooMany {
        /// How many were given.
        wanted: usize,
    },
    /// A forked child's, of what belongs to its parent.
    #[error("waiting for state `{name}` so belongs to the process that began it; begin again")]
    Forked {
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

/// How to wait, and for how long.
///
/// ```no_run
/// use std::time::Duration;
/// use kstate::{Generation, Wait, Waited};
///
/// let gps = kstate::subscribe("robot.gps").typed::<[f64; 2]>()?;
/// let wait = Wait::new().timeout(Duration::from_secs(1)).spin(Duration::from_micros(20));
/// if let Waited::Changed(generation) = wait.for_change(&gps, Generation::NEVER)? {
///     println!("version {generation}");
/// }
/// let fixed = wait.for_value(&gps, |[north, _]| *north > 50.0)?;
/// # Ok::<(), kstate::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "it waits when it is told what for"]
pub struct Wait {
    timeout: Option<Duration>,
    deadline: Option<Deadline>,
    spin: Duration,
    interrupt: Option<Interrupt>,
    or_overdue: bool,
}

impl Wait {
    /// For ever, asleep from the start.
    pub fn new() -> Self {
        Self::default()
    }

    /// No longer than so, counted from each call that waits.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Not beyond this.
    pub fn deadline(mut self, deadline: Instant) -> Self {
        let left = deadline.saturating_duration_since(Instant::now());
        self.deadline = Some(Deadline::after(left));
        self
    }

    /// Looks again and again for so long before it sleeps. That takes all of a processor as long as it
    /// lasts, and is in vain where the writer has no other one; what comes meanwhile is seen within a
    /// tenth of a microsecond instead of some ten, and costs its writer no system call.
    pub fn spin(mut self, spin: Duration) -> Self {
        self.spin = spin;
        self
    }

    /// Ends, as [`Waited::Interrupted`], when `interrupt` is raised.
    pub fn interrupted_by(mut self, interrupt: &Interrupt) -> Self {
        self.interrupt = Some(interrupt.clone());
        self
    }

    /// Ends as well when the version waited behind is [overdue](crate::Snapshot::is_overdue). Who knows
    /// that and waits on does not ask for this.
    pub fn or_overdue(mut self) -> Self {
        self.or_overdue = true;
        self
    }

    /// Until another version than `since` is the newest; of a [`View`](crate::View), is what it shows.
    ///
    /// While no daemon is there it goes on, and looks by itself where nobody wakes, some times a second; a daemon that
    /// takes the states over is asked again.
    ///
    /// For some minute after it each commit of the state costs its writer a system call, so
    /// that who waits again soon need not ask the daemon for it.
    ///
    /// # Errors
    ///
    /// [`WaitError`]; a timeout and an interruption are outcomes, not errors.
    ///
    /// # Memory ordering
    ///
    /// What the writer did before committing is visible after [`Waited::Changed`].
    ///
    /// # Cost
    ///
    /// One load if it has changed already. Else one system call, another every four seconds; and a
    /// FUSE request the first time and about once a minute. Of a view that of [`View::snapshot`](crate::View::snapshot), and a
    /// sleep until what is newer may be shown, if it is there; that one does not spin.
    pub fn for_change<W: Waitable + ?Sized>(
        &self,
        of: &W,
        since: Generation,
    ) -> Result<Waited, WaitError> {
        self.request().behind_what_shows(of, since)
    }

    /// Until the newest version, or the one a view shows, is `generation` or a later one.
    ///
    /// # Errors
    ///
    /// As [`for_change`](Self::for_change).
    pub fn for_generation<W: Waitable + ?Sized>(
        &self,
        of: &W,
        generation: Generation,
    ) -> Result<Waited, WaitError> {
        let request = self.request();
        let mut newest = waitable::generation(of);
        while newest < generation {
            match request.behind_what_shows(of, newest)? {
                Waited::Changed(now) => newest = now,
                ended => return Ok(ended),
            }
        }
        Ok(Waited::Changed(newest))
    }

    /// Until `holds` says so of a version: the newest, if somebody has written one, and those that
    /// come, but for those that others follow too soon to be seen. `None` if that takes too long; being
    /// overdue does not end it.
    ///
    /// # Errors
    ///
    /// [`WatchError`]; in particular [`WatchError::Interrupted`].
    ///
    /// # Cost
    ///
    /// That of [`for_change`](Self::for_change), and a snapshot a version.
    pub fn for_value<R: Readable + ?Sized>(
        &self,
        of: &R,
        mut holds: impl FnMut(&<R::Content as Content>::Owned) -> bool,
    ) -> Result<Option<Snapshot<<R::Content as Content>::Owned>>, WatchError> {
        let mut request = self.request();
        request.or_overdue = false;
        let mut seen = Generation::NEVER;
        loop {
            match request.behind_what_shows(of, seen)? {
                Waited::Changed(_) | Waited::Overdue(_) => {}
                Waited::TimedOut => return Ok(None),
                Waited::Interrupted => return Err(WatchError::Interrupted),
            }
            let snapshot = of.now()?;
            seen = snapshot.generation();
            if holds(&snapshot.value) {
                return Ok(Some(snapshot));
            }
            // Where versions come faster than `holds` looks at them, no wait is there to end.
            match request.ended() {
                None => {}
                Some(Waited::Interrupted) => return Err(WatchError::Interrupted),
                Some(_) => return Ok(None),
            }
        }
    }

    /// Until one of several states and views, at most [`Wait::MOST`], has or shows another version than the
    /// one given with it; says which, the first of them if there are several (and 0, which says nothing, if the
    /// wait ended otherwise). For more of them, or the same
    /// again and again, there is the [`Notifier`](crate::Notifier).
    ///
    /// # Errors
    ///
    /// [`WaitError`]; [`TooMany`](WaitError::TooMany) and [`Deleted`](WaitError::Deleted) if one of them was deleted.
    ///
    /// # Panics
    ///
    /// Without a state.
    ///
    /// # Cost
    ///
    /// A load a state if one has changed already; else a lock and 50 ns each and one system call
    /// (`futex_waitv`, Linux 5.16). Where the kernel refuses that it looks every 5 ms.
    pub fn for_any(
        &self,
        of: &[(&dyn Waitable, Generation)],
    ) -> Result<(usize, Waited), WaitError> {
        assert!(!of.is_empty(), "a state is waited for");
        if of.len() > Self::MOST {
            return Err(WaitError::TooMany { wanted: of.len() });
        }
        if of.iter().any(|(of, _)| shown(*of).is_some()) {
            return self.request().behind_any_shown(of);
        }
        let states: Vec<_> = of
            .iter()
            .map(|(of, since)| (untyped(*of), *since))
            .collect();
        self.request().behind_any(&states)
    }

    /// How many states [`for_any`](Self::for_any) takes.
    pub const MOST: usize = futex::MOST_WORDS - 1;

    /// When it ends whatever happens, counted from now.
    pub(crate) fn until(&self) -> Until<'_> {
        let timeout = self.timeout.map(Deadline::after);
        Until {
            deadline: match (timeout, self.deadline) {
                (Some(timeout), Some(deadline)) => Some(timeout.min(deadline)),
                (timeout, deadline) => timeout.or(deadline),
            },
            interrupt: self.interrupt.as_ref(),
        }
    }

    fn request(&self) -> Request<'_> {
        Request {
            until: self.until(),
            spin: self.spin,
            or_overdue: self.or_overdue,
        }
    }
}

impl<T> Reader<T> {
    /// Sleeps until another version than `since` is the newest, no longer than `timeout`, for
    /// ever if there is none. [`Wait`] has more ways to.
    ///
    /// # Errors
    ///
    /// As [`Wait::for_change`].
    pub fn wait(&self, since: Generation, timeout: Option<Duration>) -> Result<Waited, WaitError> {
        Request::plain(timeout).behind(self.as_of(), since)
    }

    /// As [`wait`](Reader::wait), and at once when the version after `since` is
    /// [overdue](crate::Snapshot::is_overdue), or as soon as it is. Who knows that and waits on uses
    /// `wait`.
    ///
    /// # Errors
    ///
    /// As [`Wait::for_change`].
    pub fn wait_or_overdue(
        &self,
        since: Generation,
        timeout: Option<Duration>,
    ) -> Result<Waited, WaitError> {
        let mut request = Request::plain(timeout);
        request.or_overdue = true;
        request.behind(self.as_of(), since)
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
