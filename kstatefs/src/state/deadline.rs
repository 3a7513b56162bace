//! Whether a state is committed to in time, and by anybody.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use kstate_sys::region::{self, Generation, Memory};

use super::{Inner, State};
use crate::errno::Errno;
use crate::ledger::Event;
use crate::timer::Look;

/// When to look at a deadline again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextLook {
    /// After that time.
    In(Duration),
    /// When there is a version behind this one, which is overdue.
    Behind(Generation),
}

/// How long after a commit the next one is expected.
#[derive(Debug, Default)]
pub(super) struct Deadline {
    after: Option<Duration>,
    last: Option<LastCommit>,
}

impl Deadline {
    pub(super) fn after(&self) -> Option<Duration> {
        self.after
    }
}

/// The word that programs sleep on does not change when a state is overdue: whoever was about to sleep
/// when it was marked is woken by this.
const SECOND_WAKE: Duration = Duration::from_millis(5);

/// The newest version at the last look.
#[derive(Clone, Copy, Debug)]
struct LastCommit {
    generation: Generation,
    at: Instant,
}

impl Deadline {
    /// Of a state that was taken over: how old the newest version is, that says itself.
    pub(super) fn adopted(after: Option<Duration>) -> Self {
        Self { after, last: None }
    }
}

impl State {
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.lock().deadline.after
    }

    /// Expects a commit at least so often, from now on; or not, any more.
    ///
    /// # Errors
    ///
    /// `ENOSPC`; nothing was changed then.
    pub(crate) fn set_deadline(&self, after: Option<Duration>) -> Result<(), Errno> {
        let mut inner = self.lock();
        self.note(&inner, Event::Deadline(self.ino, after))?;
        let generation = self.newest().unwrap_or(Generation::NEVER);
        let at = Instant::now();
        inner.deadline = Deadline {
            after,
            last: Some(LastCommit { generation, at }),
        };
        self.mark_overdue(&inner, None);
        inner.note_change();
        Ok(())
    }

    /// The newest generation, if the next one is overdue.
    pub(crate) fn overdue(&self) -> Option<Generation> {
        let marked = self.overdue.load(Ordering::Acquire).checked_sub(1)?;
        (self.newest() == Ok(Generation(marked))).then_some(Generation(marked))
    }

    /// Tells whom it concerns if the deadline has passed. Says when to look again, if that is not to be
    /// done already.
    pub(crate) fn look_at_deadline(&self) -> Option<NextLook> {
        let mut inner = self.lock();
        let after = inner.deadline.after.filter(|_| !inner.gone)?;
        // One that is damaged is looked at again.
        let Ok((generation, age)) = self.newest_and_age(&mut inner) else {
            return Some(NextLook::In(after));
        };
        let now = Instant::now();
        let last = match inner.deadline.last {
            Some(last) if last.generation == generation => last,
            // Committed since the last look. A writer that stamps otherwise, or not at all, is given
            // the time until this one.
            last => {
                let since = last.map(|last| now - last.at);
                let age = age.filter(|age| since.is_none_or(|since| *age <= since));
                let at = now.checked_sub(age.unwrap_or_default()).unwrap_or(now);
                LastCommit { generation, at }
            }
        };
        inner.deadline.last = Some(last);
        let left = after.saturating_sub(now - last.at);
        if !left.is_zero() {
            drop(inner);
            // For want of a writer.
            if self.overdue() == Some(generation) {
                self.wake_all();
            }
            return Some(NextLook::In(left));
        }
        let is_news = self.mark_overdue(&inner, Some(generation));
        drop(inner);
        if is_news {
            self.tell_overdue();
            return None;
        }
        self.wake_all();
        Some(NextLook::Behind(generation))
    }

    fn newest_and_age(&self, inner: &mut Inner) -> Result<(Generation, Option<Duration>), Errno> {
        let mapping = self.map_reach(inner)?;
        let version = region::describe(&mapping.mapped())?;
        Ok((version.generation(), self.age(&version)))
    }

    /// Changes who writes, and tells whom it concerns if there are fewer then. `change` says whether
    /// who goes is missed: who wrote on and on, or has died.
    pub(super) fn losing_writers<R>(&self, change: impl FnOnce(&mut Inner) -> (bool, R)) -> R {
        let mut inner = self.lock();
        let before = inner.writers();
        let (missed, result) = change(&mut inner);
        let left = inner.writers();
        let is_loss = missed && left < before;
        let is_overdue = is_loss
            && left == 0
            && inner.deadline.after.is_some()
            && !inner.gone
            && self
                .newest()
                .is_ok_and(|newest| self.mark_overdue(&inner, Some(newest)));
        drop(inner);
        if is_loss {
            self.common.streams.publisher_gone(self.ino);
        }
        if is_overdue {
            self.tell_overdue();
        }
        result
    }

    /// Marks a generation as the last one in time; returns whether that is news. The argument shows
    /// that the lock is held.
    fn mark_overdue(&self, _inner: &Inner, generation: Option<Generation>) -> bool {
        let mark = generation.map_or(0, |generation| generation.0.saturating_add(1));
        if self.overdue.swap(mark, Ordering::AcqRel) == mark {
            return false;
        }
        let mapping = self.mapping();
        let mapped = mapping.mapped();
        mapped.header().mark_overdue(mark);
        true
    }

    /// Tells everybody who waits. No lock may be held.
    pub(crate) fn tell_overdue(&self) {
        self.wake_all();
        self.stir();
        self.common.streams.overdue(self.ino);
        let look = Look::Overdue(self.ino);
        self.common.timer.schedule(look, SECOND_WAKE);
    }
}
