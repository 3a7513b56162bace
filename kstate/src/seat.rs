//! Where this process sleeps when it waits for a state, so that somebody wakes it.
//!
//! The daemon has committers wake: it sets the mark in the header, for as long as it was asked to. It
//! gives few processes a *seat*, to sleep on `head`, where committers wake; others sleep on `crowd`,
//! where the daemon does (`Header::stir_crowd`). One thread at a time has the process's seat.
//!
//! # Invariants
//!
//! 1. Who sleeps does so no longer than the mark was asked for, counted from before it was asked.

use std::cell::Cell;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use kstate_sys::abi::Class;
use kstate_sys::fork::{Lock, Process};
use kstate_sys::futex::Deadline;
use kstate_sys::ioctl::{self, call, place};
use kstate_sys::region::{Header, Memory, Notice};

use crate::errno;
use crate::sleep::LONGEST_SLEEP;
use crate::subscription::Subscription;

/// For how long the mark is asked. So long commits pay for a wait that was the last one.
const LEASE: Duration = Duration::from_secs(60);
/// It is asked again when less than this is left, so that no sleep is cut short by it.
const MARGIN: Duration = Duration::from_secs(6);
/// Who sleeps where the daemon wakes looks whether it does: first after so long, then less and less
/// often, but not more seldom than everybody looks.
pub(crate) const CROWD_SLEEP: Duration = Duration::from_secs(1);
/// A daemon that did not wake is not relied upon for so long.
const DISTRUST: Duration = Duration::from_secs(10);
/// How long an epoch lasts at least.
const EPOCH: Duration = Duration::from_millis(50);
/// Where no daemon is there to be asked, it is asked again so often: while commits wake, as the one before
/// has left the mark set, and while none does. Then that is also how late a commit is noticed, which grows
/// from the one to the other.
const ALONE_MARKED: Duration = Duration::from_secs(1);
const ALONE_FIRST: Duration = Duration::from_millis(10);
const ALONE_LAST: Duration = Duration::from_millis(200);
/// How often a seat is asked for again.
const PATIENCE: Duration = Duration::from_secs(1);

/// What this process has been given at a state, through one open file.
///
/// # Invariants
///
/// 2. `is_taken` is set under the lock, and cleared by the thread that sleeps there, or under the lock in
///    a forked child, which has no such thread.
#[derive(Debug, Default)]
pub(crate) struct Seats {
    given: Lock<Given>,
    /// Some thread sleeps in the seat. Apart, so that who is woken there need not take the lock.
    is_taken: AtomicBool,
}

#[derive(Debug, Default)]
struct Given {
    /// The process it was given to, and the epoch of the daemon that gave it.
    process: Option<Process>,
    epoch: u32,
    seat: Mark,
    crowd: Mark,
    /// When a seat may be asked for again that was not to be had.
    ask_again: Deadline,
    /// When all may be asked for again as of another daemon.
    begun_again: Deadline,
    distrust_until: Deadline,
    /// How long the last sleep was without a daemon, whose end nobody would have brought about.
    alone: Duration,
}

/// For how long commits wake at a place.
#[derive(Debug, Default)]
struct Mark {
    /// Counted from before it was asked for; never for waits that last.
    until: Deadline,
    /// How many of those there are.
    lasting: u32,
}

impl Mark {
    fn is_set(&self) -> bool {
        !self.until.has_passed()
    }

    /// Whether it serves a wait that begins now.
    fn serves(&self, stay: Stay) -> bool {
        let margin = stay.margin();
        self.until == Deadline::NEVER || margin.is_some_and(|margin| self.until.left() > margin)
    }
}

/// For how long a place is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stay {
    /// Until it is given back.
    Lasting,
    /// No longer than so.
    AtMost(Duration),
}

impl Stay {
    fn lasts(self) -> bool {
        self == Self::Lasting
    }

    /// A mark that stays for longer than this serves.
    fn margin(self) -> Option<Duration> {
        match self {
            Self::Lasting => None,
            Self::AtMost(most) => Some(most.min(MARGIN)),
        }
    }
}

/// A place to sleep.
#[derive(Debug)]
pub(crate) struct Seat {
    /// Where to sleep.
    pub(crate) place: Place,
    /// Where the mark is that was asked for; none if that is another's.
    mark: Option<Place>,
    until: Deadline,
    /// No daemon was there to be asked for one.
    is_alone: bool,
    lasts: bool,
    crowd_sleep: Cell<Duration>,
    process: Option<Process>,
    epoch: u32,
}

/// What to sleep on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Head,
    Crowd,
}

/// What a place is to be compared with, loaded before `head` is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Before(u64);

impl Place {
    /// To be called before `head` is loaded.
    pub(crate) fn before(self, header: &Header) -> Before {
        Before(match self {
            Self::Head => 0,
            Self::Crowd => header.crowd_seen(),
        })
    }

    /// The word to sleep on.
    pub(crate) fn of(self, header: &Header) -> &AtomicU64 {
        match self {
            Self::Head => &header.head,
            Self::Crowd => &header.crowd,
        }
    }

    /// The word to sleep on, and what is expected there by who has found `head`.
    pub(crate) fn word(self, header: &Header, before: Before, head: u32) -> (&AtomicU64, u32) {
        #[expect(clippy::cast_possible_truncation, reason = "the low half is compared")]
        let expected = match self {
            Self::Head => head,
            Self::Crowd => before.0 as u32,
        };
        (self.of(header), expected)
    }
}

impl Seat {
    /// How long a sleep may be, from now on.
    pub(crate) fn slice(&self) -> Duration {
        let most = match self.place {
            Place::Head => LONGEST_SLEEP,
            Place::Crowd => self.crowd_sleep.get(),
        };
        // INVARIANT: 1.
        most.min(self.until.left())
    }

    /// Nothing has happened in a sleep: the next one may be twice as long.
    pub(crate) fn slept_in_vain(&self) {
        let twice = self.crowd_sleep.get() * 2;
        self.crowd_sleep.set(twice.min(LONGEST_SLEEP));
    }

    /// Whether it must be taken anew before the next sleep.
    pub(crate) fn is_over(&self, header: &Header) -> bool {
        self.until.has_passed() || self.is_outdated(header)
    }

    /// When it is to be taken anew where no daemon was there to give it.
    pub(crate) fn alone_until(&self) -> Option<Deadline> {
        self.is_alone.then_some(self.until)
    }

    /// The daemon's that gave it.
    pub(crate) fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Whether the daemon that gave it has been followed by another one.
    pub(crate) fn is_outdated(&self, header: &Header) -> bool {
        self.epoch != header.epoch.load(Ordering::Relaxed)
    }
}

impl Subscription {
    fn header(&self) -> io::Result<&Header> {
        Ok(self.map_for(Class::B64)?.mapped().header())
    }

    /// A place to sleep, whose mark is set; to be [given back](Self::stand_up). Where no daemon is there it is
    /// one for a moment, behind which there may be: who sleeps there looks at `head` in between, or is woken
    /// if the mark has been left set.
    ///
    /// # Errors
    ///
    /// What the daemon says, or that the one that is there now has not taken the state over; `EINTR` when a signal handler ran, for a stay that does not last.
    ///
    /// # Cost
    ///
    /// A lock; a FUSE request the first time, in a forked child, after a restart of the daemon, and
    /// about once a minute.
    pub(crate) fn sit_down(&self, stay: Stay) -> io::Result<Seat> {
        let header = self.header()?;
        let epoch = header.epoch.load(Ordering::Relaxed);
        let mut given = self.seats().given.lock();
        // A daemon does not restart so often; who may write the state could say that it does.
        let is_restart = given.epoch != epoch && given.begun_again.has_passed();
        if !given.is_ours() || is_restart {
            *given = Given {
                process: Process::current().ok(),
                epoch,
                begun_again: Deadline::after(EPOCH),
                ..Given::default()
            };
            // INVARIANT: 2: of another epoch there may be such a thread, and two that sleep there are
            // woken as well as one.
            self.seats().is_taken.store(false, Ordering::Relaxed);
        }
        // ORDERING: Relaxed: it is set under the lock, and tells of nothing else.
        let is_taken = self.seats().is_taken.load(Ordering::Relaxed);
        match self.place(&mut given, header, is_taken, stay) {
            Ok(place) => {
                if place == Place::Head {
                    // INVARIANT: 2.
                    self.seats().is_taken.store(true, Ordering::Relaxed);
                }
                given.alone = Duration::ZERO;
                Ok(given.sit(place, stay.lasts()))
            }
            // Nobody is there to lower the mark if it is set, nor to wake a crowd. A daemon that takes the state
            // over keeps it, and wakes everybody.
            Err(error) if errno::may_come_back(&error) => {
                let is_marked = header.notice().contains(Notice::WAITERS);
                Ok(given.sit_alone(is_marked, stay.lasts(), epoch))
            }
            Err(error) => Err(error),
        }
    }

    /// Has the daemon set the mark for a place where a thread can sleep now.
    fn place(
        &self,
        given: &mut Given,
        header: &Header,
        is_taken: bool,
        stay: Stay,
    ) -> io::Result<Place> {
        if !is_taken && !given.seat.serves(stay) {
            let is_free = || header.seats.load(Ordering::Relaxed) > 0;
            let may_ask = given.seat.is_set()
                || !given.crowd.is_set()
                || is_free() && given.ask_again.has_passed();
            if may_ask {
                self.ask(given, Place::Head, stay.lasts())?;
            }
        }
        if !is_taken && given.seat.serves(stay) {
            return Ok(Place::Head);
        }
        if !given.crowd.serves(stay) {
            self.ask(given, Place::Crowd, stay.lasts())?;
        }
        Ok(Place::Crowd)
    }

    /// Asks for a mark, for a wait that lasts or for a while. Where there is no seat left it is one in
    /// the crowd.
    fn ask(&self, given: &mut Given, wanted: Place, lasts: bool) -> io::Result<()> {
        let milliseconds = match lasts {
            true => 0,
            false => u32::try_from(LEASE.as_millis()).unwrap_or(u32::MAX),
        };
        let place = match wanted {
            Place::Head => place::HEAD,
            Place::Crowd => place::CROWD,
        };
        let wanted = ioctl::Wait {
            place,
            milliseconds,
        };
        let (mut wait, mut now) = (wanted, Deadline::now());
        let mut ask = |descriptor: BorrowedFd<'_>| {
            (wait, now) = (wanted, Deadline::now());
            call::wait_begin(descriptor, &mut wait)
        };
        match lasts {
            true => self.request(&mut ask)?,
            // A signal ends the wait that this is for.
            false => self.link().request(&mut ask)?,
        }
        let granted = u64::from(wait.milliseconds).saturating_mul(1_000_000);
        let until = match wait.milliseconds {
            0 => Deadline::NEVER,
            _ => Deadline(now.0.saturating_add(granted)),
        };
        given.ask_again = Deadline::after(PATIENCE);
        match wait.place {
            place::HEAD => given.seat.until = until,
            _ => given.crowd.until = until,
        }
        Ok(())
    }

    /// Gives a place back.
    ///
    /// # Cost
    ///
    /// A store, or for one that lasts a lock and, if it was the last one there, a FUSE request.
    #[inline]
    pub(crate) fn stand_up(&self, seat: Seat) {
        if seat.lasts {
            self.end_lasting(seat);
        } else if seat.mark == Some(Place::Head) {
            // INVARIANT: 2.
            self.seats().is_taken.store(false, Ordering::Relaxed);
        }
    }

    fn end_lasting(&self, seat: Seat) {
        let mut given = self.seats().given.lock();
        // A parent's, or one of a daemon that has been followed by another, is not counted here.
        let is_counted = seat.process.is_some_and(|process| process.is_current())
            && given.is_ours()
            && seat.epoch == given.epoch;
        let Some(place) = seat.mark.filter(|_| is_counted) else {
            return;
        };
        if place == Place::Head {
            // INVARIANT: 2.
            self.seats().is_taken.store(false, Ordering::Relaxed);
        }
        let mark = given.mark(place);
        if mark.lasting > 0 {
            mark.lasting -= 1;
            if mark.lasting == 0 {
                // Other threads may be asleep: it stays for a while. If it cannot be asked for that it
                // stays for longer.
                let _ = self.ask(&mut given, place, false);
            }
        }
    }

    /// The daemon has not woken who sleeps where it should: what of it is dead or late is not waited
    /// for.
    pub(crate) fn distrust_daemon(&self) {
        self.seats().given.lock().distrust_until = Deadline::after(DISTRUST);
    }

    /// Whether there may be a seat for who has none, and it is time to ask.
    pub(crate) fn may_get_a_seat(&self, header: &Header) -> bool {
        header.seats.load(Ordering::Relaxed) > 0
            && !self.seats().is_taken.load(Ordering::Relaxed)
            && self.seats().given.lock().ask_again.has_passed()
    }

    /// Whether that was so a short while ago.
    pub(crate) fn distrusts_daemon(&self) -> bool {
        !self.seats().given.lock().distrust_until.has_passed()
    }

    /// Whether this process has the wait mark set.
    #[cfg(test)]
    pub(crate) fn is_waiting(&self) -> bool {
        let given = self.seats().given.lock();
        given.is_ours() && given.is_set()
    }

    /// Takes this process's part of the wait mark back, when no thread of it waits.
    pub(crate) fn end_waiting(&self) {
        let mut given = self.seats().given.lock();
        if given.is_ours() && given.is_set() {
            *given = Given::default();
            // One that has taken over from a dead daemon forgets by itself who has not come again; nothing else
            // can go wrong.
            let _ = errno::uninterrupted(|| call::wait_end(self.descriptor()));
        }
    }
}

impl Given {
    /// Whether it was given to this process, not to a parent.
    fn is_ours(&self) -> bool {
        self.process.is_some_and(|process| process.is_current())
    }

    fn is_set(&self) -> bool {
        self.seat.is_set() || self.crowd.is_set()
    }

    fn mark(&mut self, place: Place) -> &mut Mark {
        match place {
            Place::Head => &mut self.seat,
            Place::Crowd => &mut self.crowd,
        }
    }

    /// A place for a moment, where no daemon is there.
    fn sit_alone(&mut self, is_marked: bool, lasts: bool, epoch: u32) -> Seat {
        let moment = match is_marked {
            true => ALONE_MARKED,
            false => {
                self.alone = (self.alone * 2).clamp(ALONE_FIRST, ALONE_LAST);
                self.alone
            }
        };
        Seat {
            place: Place::Head,
            mark: None,
            until: Deadline::after(moment),
            is_alone: true,
            lasts,
            crowd_sleep: Cell::new(CROWD_SLEEP),
            process: self.process,
            epoch,
        }
    }

    /// Notes that a thread sleeps there.
    fn sit(&mut self, place: Place, lasts: bool) -> Seat {
        let mark = self.mark(place);
        mark.lasting += u32::from(lasts);
        let until = match mark.until {
            // Those that last leave it set for so long when they end.
            Deadline::NEVER if !lasts => Deadline::after(LEASE),
            until => until,
        };
        Seat {
            place: match self.distrust_until.has_passed() {
                true => place,
                false => Place::Head,
            },
            mark: Some(place),
            until,
            is_alone: false,
            lasts,
            crowd_sleep: Cell::new(CROWD_SLEEP),
            process: self.process,
            epoch: self.epoch,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Region;

    #[test]
    fn a_seat_of_a_parent_or_of_another_daemon_is_not_counted_here() {
        let region = Region::new(8);
        let reader = region.reader::<u64>(Class::B64);
        let subscription = reader.subscription();
        let process = Process::current().ok();
        {
            let mut given = subscription.seats().given.lock();
            given.process = process;
            given.epoch = 5;
            given.seat = Mark {
                until: Deadline::NEVER,
                lasting: 1,
            };
        }
        let seat = |process, epoch| {
            subscription.stand_up(Seat {
                place: Place::Head,
                mark: Some(Place::Head),
                until: Deadline::NEVER,
                is_alone: false,
                lasts: true,
                crowd_sleep: Cell::new(CROWD_SLEEP),
                process,
                epoch,
            });
            subscription.seats().given.lock().seat.lasting
        };
        assert_eq!(seat(process, 4), 1);
        assert_eq!(seat(None, 5), 1);
        assert_eq!(seat(process, 5), 0);
    }
}
