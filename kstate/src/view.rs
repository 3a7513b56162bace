//! A state seen at a limited rate.

mod shown;

#[cfg(test)]
mod tests;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use kstate_sys::name::StateName;
use kstate_sys::region::Generation;

use crate::content::{Bytes, Content};
use crate::layout::Layout;
use crate::reader::Reader;
use crate::snapshot::{ReadError, Snapshot};
use crate::wait::{Wait, WaitError, Waited};
use crate::watch::Watch;
pub(crate) use shown::Shown;

/// A state that does not appear to change more often than once a period, as the file `name@4hz` does.
///
/// The first change is shown at once, a later one when the period has passed since the last one was
/// shown, and then the newest there is: the last one before a quiet time always comes. A change is
/// shown when something looks through the view and finds it: a [snapshot](View::snapshot), a question
/// for the [generation](View::generation), a [`Wait`], a [`Notifier`](crate::Notifier), a
/// [live page](View::live). What one of them has found all of them show, until the next one is
/// due, however many have been published since.
///
/// Threads can share it: then it shows all of them the same. A [clone](Clone::clone) shows what it shows,
/// and from then on goes its own pace. In a forked child it goes on at the child's own pace.
///
/// ```no_run
/// use std::time::Duration;
///
/// let gps = kstate::subscribe("robot.gps").typed::<[f64; 2]>()?;
/// let calm = gps.view(Duration::from_millis(250));
/// for _ in 0..1000 {
///     // At most four different ones a second.
///     println!("{:?}", calm.snapshot()?.value);
/// }
/// # Ok::<(), kstate::Error>(())
/// ```
///
/// A view is for looking. It has no transactions: these, and [`State::publish`](crate::State::publish), work on the
/// newest version whatever a view of the same state shows.
///
/// A view of no period, [`Duration::ZERO`], shows every change, as its [reader](View::reader) does.
pub struct View<T> {
    shown: Arc<Shown>,
    content: PhantomData<fn() -> T>,
}

impl<T> Reader<T> {
    /// The state as if it changed no more often than once each `period`. It has shown nothing yet, so
    /// the first look shows the newest version.
    ///
    /// # Cost
    ///
    /// An allocation, and room for two versions from the first look on.
    pub fn view(&self, period: Duration) -> View<T> {
        View::of(Arc::new(Shown::new(self.as_of().clone(), period)))
    }
}

impl<T> View<T> {
    /// A view of the content that `shown` was subscribed to as, or of bytes.
    pub(crate) fn of(shown: Arc<Shown>) -> Self {
        Self {
            shown,
            content: PhantomData,
        }
    }

    pub(crate) fn shown(&self) -> &Arc<Shown> {
        &self.shown
    }

    /// The shortest time between two changes of what it shows.
    pub fn period(&self) -> Duration {
        self.shown.period()
    }

    /// The handle it is a view of, which has no limit.
    pub fn reader(&self) -> &Reader<T> {
        self.shown.reader().as_of()
    }

    /// The state's name.
    pub fn name(&self) -> &StateName {
        self.shown.reader().name()
    }

    /// The generation it shows now; 0 if nobody had written by then.
    ///
    /// # Memory ordering
    ///
    /// What the writer did before committing it is visible after this.
    ///
    /// # Cost
    ///
    /// That of [`snapshot`](View::snapshot) without handing out the value: a lock and a load if nothing is newer.
    pub fn generation(&self) -> Generation {
        self.shown.look().generation
    }

    /// Whether it shows another version than `seen` now.
    ///
    /// # Cost
    ///
    /// That of [`generation`](View::generation).
    pub fn changed_since(&self, seen: Generation) -> bool {
        self.generation() != seen
    }

    /// Sleeps until it shows another version than `since`, no longer than `timeout`, for ever if there
    /// is none. [`Wait`] has more ways to.
    ///
    /// # Errors
    ///
    /// As [`Wait::for_change`].
    pub fn wait(&self, since: Generation, timeout: Option<Duration>) -> Result<Waited, WaitError> {
        let wait = match timeout {
            None => Wait::new(),
            Some(timeout) => Wait::new().timeout(timeout),
        };
        wait.for_change(self, since)
    }
}

impl<T: Content> View<T> {
    /// The version it shows now: the newest if the pace allows, else the one shown before. A state
    /// that nobody has written is all zeros, with generation and length 0, and its first version does
    /// not wait.
    ///
    /// [Length](Snapshot::length), [age](Snapshot::age) and [time](Snapshot::time) are those of the
    /// version shown, so that what is held back shows as age. [Overdue](Snapshot::is_overdue) it is, as of this call, if it is the newest
    /// and no other has followed in time: what is overdue does not wait for the pace, and a version whose
    /// successor is only held back is not.
    ///
    /// # Errors
    ///
    /// [`ReadError`]. What cannot be read is tried again at each call.
    ///
    /// # Memory ordering
    ///
    /// What the writer did before committing it is visible after this.
    ///
    /// # Cost
    ///
    /// A lock, a copy of what is shown, and another when something newer is. No system call.
    pub fn snapshot(&self) -> Result<Snapshot<T::Owned>, ReadError> {
        let reader = self.reader();
        self.shown.see(|bytes, version| {
            let value = T::of_version(reader, bytes, version)?;
            Ok(Snapshot::new(value, version, reader.clock()))
        })?
    }

    /// Follows the state at this rate, beginning with the version that is the newest at the first
    /// [`Watch::next`], if there is one. The watch has a pace of its own.
    pub fn watch(&self) -> Watch<T> {
        self.reader().watch().at_most_every(self.period())
    }
}

impl<T: Layout> View<T> {
    /// Copies the version it shows to `into`; the value of the snapshot is its length, 0 for a state
    /// never written.
    ///
    /// # Errors
    ///
    /// As [`View::snapshot`]; `into` is then as it was.
    ///
    /// # Cost
    ///
    /// That of [`View::snapshot`].
    pub fn snapshot_into(&self, into: &mut T) -> Result<Snapshot<usize>, ReadError> {
        let now = self.snapshot()?;
        *into = now.value;
        let length = now.length() as usize;
        Ok(now.map(|_| length))
    }
}

impl View<Bytes> {
    /// Copies the version it shows to the start of `into`; the value of the snapshot is its length.
    ///
    /// # Errors
    ///
    /// [`ReadError::TooLong`] when `into` is too short, and as [`View::snapshot`]; `into` is then as
    /// it was.
    ///
    /// # Cost
    ///
    /// That of [`View::snapshot`]; no allocation.
    pub fn snapshot_into(&self, into: &mut [u8]) -> Result<Snapshot<usize>, ReadError> {
        let room = into.len();
        self.shown.see(|bytes, version| {
            let Some(into) = into.get_mut(..bytes.len()) else {
                return Err(ReadError::TooLong {
                    name: self.name().clone(),
                    length: version.length,
                    room,
                });
            };
            into.copy_from_slice(bytes);
            let clock = self.shown.reader().clock();
            Ok(Snapshot::new(bytes.len(), version, clock))
        })?
    }
}

/// Shows the same now, and then goes its own pace.
impl<T> Clone for View<T> {
    fn clone(&self) -> Self {
        Self::of(Arc::new(self.shown.duplicate()))
    }
}

impl<T> fmt::Debug for View<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View")
            .field("name", &self.name().as_str())
            .field("period", &self.period())
            .finish_non_exhaustive()
    }
}
