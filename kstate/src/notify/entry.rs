//! A state that a notifier watches: what is new of it, and where to sleep for more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kstate_sys::futex::Deadline;
use kstate_sys::region::{Generation, Head, Memory, Notice};

use super::{Change, NotifyError};
use crate::reader::{Reader, Untyped};
use crate::seat::{Place, Seat, Stay};
use crate::view::Shown;
use crate::wait::{Waitable, cannot_wait, shown, untyped};

/// One state of a notifier.
#[derive(Debug)]
pub(super) struct Entry {
    known: Known,
    /// Where somebody wakes for it; none where the state's file is polled.
    seat: Option<Seat>,
}

/// What has been told of a state; enough to see whether there is more.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) reader: Reader<Untyped>,
    /// What the view shows, if it is one: what is told is what is shown.
    shown: Option<Arc<Shown>>,
    /// The newest version told of.
    pub(super) seen: Generation,
    /// That it is overdue has been told.
    is_told_overdue: bool,
    /// The next version is not told before.
    due: Deadline,
    place: Place,
    /// Where it sleeps is to be asked for again then, as no daemon was there.
    alone_until: Option<Deadline>,
    /// That of the daemon that was asked; none where the state's file is polled.
    epoch: Option<u32>,
}

/// What a look at a state found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    news: Option<Change>,
    /// They are not told before.
    pub(super) due: Deadline,
    pub(super) place: Place,
    /// What is expected where it sleeps, as of this look.
    pub(super) expected: u32,
    /// Something has been told by it.
    pub(super) has_told: bool,
    /// When it is to be looked at again though nobody wakes, as no daemon was there.
    pub(super) alone_until: Option<Deadline>,
}

impl Look {
    /// Whether there is something to tell now.
    pub(super) fn is_news(&self) -> bool {
        self.news.is_some() && self.is_due()
    }

    /// Whether news are told at once. Those of which that is always so do not need the clock.
    pub(super) fn is_due(&self) -> bool {
        self.due == Deadline::default() || self.due.has_passed()
    }

    /// Whether there is something to tell, now or when its time has come.
    pub(super) fn has_news(&self) -> bool {
        self.news.is_some()
    }
}

impl Known {
    pub(super) fn is_told_overdue(&self) -> bool {
        self.is_told_overdue
    }

    pub(super) fn look(&self) -> Look {
        let header = self.reader.memory().header();
        let before = self.place.before(header);
        // ORDERING: SeqCst after the daemon's SeqCst raise of the mark, and after `before`: see
        // `Header::notice` and `Header::crowd_seen`.
        let head = Head::from_raw(header.head.load(Ordering::SeqCst));
        let newest = match head.has_intent() {
            false => head.generation(),
            true => self.reader.resolved_generation(head),
        };
        let (_, expected) = self.place.word(header, before, head.futex_word());
        let at_once = Deadline::default();
        // Looked at behind `expected`: what comes in between ends the sleep.
        let (newest, due) = match &self.shown {
            None => (newest, self.due),
            Some(shown) => self.look_at_view(shown),
        };
        let (news, due) = if newest != self.seen {
            (Some(Change::To(newest)), due)
        } else if header.notice().contains(Notice::DELETED) {
            (Some(Change::Deleted), at_once)
        } else if header.is_overdue(newest) && !self.is_told_overdue {
            (Some(Change::Overdue(newest)), at_once)
        } else {
            (None, due)
        };
        Look {
            news,
            due,
            place: self.place,
            expected,
            has_told: false,
            alone_until: self.alone_until,
        }
    }

    /// Whether it is the daemon that wakes it.
    pub(super) fn is_in_crowd(&self) -> bool {
        self.place == Place::Crowd
    }

    /// Whether where it sleeps is to be asked for again: another daemon is there, or may be.
    pub(super) fn is_outdated(&self) -> bool {
        let epoch = || {
            let header = self.reader.memory().header();
            header.epoch.load(Ordering::Relaxed)
        };
        let is_another = self.epoch.is_some_and(|known| known != epoch());
        is_another || self.alone_until.is_some_and(Deadline::has_passed)
    }

    /// Tells no more for a `period`; until when that is.
    fn told(&mut self, period: Duration) -> Deadline {
        if !period.is_zero() {
            self.due = Deadline::after(period);
        }
        self.due
    }

    /// What a view shows and when it may be told; or what it will show, and when that is.
    fn look_at_view(&self, shown: &Shown) -> (Generation, Deadline) {
        let showing = shown.look();
        match showing.next {
            _ if showing.generation != self.seen => (showing.generation, self.due),
            Some((next, due)) => (next, self.due.max(due)),
            None => (showing.generation, self.due.max(showing.due)),
        }
    }

    /// The word to sleep on.
    pub(super) fn word(&self, look: &Look) -> &AtomicU64 {
        look.place.of(self.reader.memory().header())
    }
}

impl Entry {
    /// One that is told of what is behind `since`; it `sleeps` if its file is not polled.
    pub(super) fn new<W: Waitable + ?Sized>(
        of: &W,
        since: Generation,
        sleeps: bool,
    ) -> Result<Self, NotifyError> {
        let mut entry = Self {
            known: Known {
                reader: untyped(of).clone(),
                shown: shown(of).cloned(),
                seen: since,
                is_told_overdue: false,
                due: Deadline::default(),
                place: Place::Head,
                alone_until: None,
                epoch: None,
            },
            seat: None,
        };
        entry.renew(sleeps)?;
        Ok(entry)
    }

    pub(super) fn known(&self) -> &Known {
        &self.known
    }

    pub(super) fn reader(&self) -> &Reader<Untyped> {
        &self.known.reader
    }

    /// Has it woken, if it `sleeps`, in this process and epoch.
    pub(super) fn renew(&mut self, sleeps: bool) -> Result<(), NotifyError> {
        self.stand_up();
        if sleeps {
            let seat = self.reader().subscription().sit_down(Stay::Lasting);
            let seat = seat.map_err(|source| cannot_wait(self.reader(), source))?;
            self.sit(seat);
        }
        Ok(())
    }

    fn sit(&mut self, seat: Seat) {
        self.known.place = seat.place;
        self.known.alone_until = seat.alone_until();
        self.known.epoch = Some(seat.epoch());
        self.seat = Some(seat);
    }

    fn stand_up(&mut self) {
        if let Some(seat) = self.seat.take() {
            self.reader().subscription().stand_up(seat);
        }
    }

    /// The daemon does not wake: sleeps where committers do.
    pub(super) fn distrust_daemon(&mut self) {
        self.reader().subscription().distrust_daemon();
        self.known.place = Place::Head;
    }

    /// What is new of it. Where it sleeps is asked for again after a restart of the daemon, and in the
    /// crowd when a seat is free.
    pub(super) fn look(&mut self) -> Result<Look, NotifyError> {
        let subscription = self.reader().subscription();
        let header = self.reader().memory().header();
        let in_crowd = self.known.place == Place::Crowd;
        if self.known.is_outdated() {
            self.renew(true)?;
        } else if in_crowd && subscription.distrusts_daemon() {
            self.known.place = Place::Head;
        } else if in_crowd && subscription.may_get_a_seat(header) {
            // What it has is given back behind it: no commit is missed in between.
            if let Ok(seat) = subscription.sit_down(Stay::Lasting) {
                let old = self.seat.take();
                self.sit(seat);
                if let Some(old) = old {
                    self.reader().subscription().stand_up(old);
                }
            }
        }
        Ok(self.known.look())
    }

    /// What of it is to be told; that is known from now on.
    pub(super) fn tell(&mut self, look: &mut Look) -> Option<Change> {
        if !look.is_news() {
            return None;
        }
        let mut change = look.news.take()?;
        match &mut change {
            Change::To(generation) => {
                if let Some(shown) = &self.known.shown {
                    // Its time has come: shown from now on, if it was not before.
                    *generation = shown.look().generation;
                    if *generation == self.known.seen {
                        return None;
                    }
                    look.due = self.known.told(shown.period());
                }
                self.known.seen = *generation;
                self.known.is_told_overdue = false;
            }
            Change::Overdue(_) => self.known.is_told_overdue = true,
            Change::Deleted | Change::Failed => {}
        }
        look.has_told = true;
        Some(change)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.stand_up();
    }
}
