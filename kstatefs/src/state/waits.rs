//! Who waits by the library: wait marks, and who sleeps where.
//!
//! A committer that finds the mark wakes who sleeps on `head`. Waking costs it microseconds for each
//! of them, so only a few get a seat there; the others sleep on `crowd`, and whoever watches `head`
//! for the daemon moves that on and wakes them.
//!
//! A mark that nobody needs costs each commit a system call in vain. So it stays for the time that was
//! asked for, and who sleeps longer asks again before that is over.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kstate_sys::futex;
use kstate_sys::ioctl::{Wait, place};
use kstate_sys::region::{Head, Header, Memory, Notice};

use super::{Inner, State};
use crate::errno::Errno;
use crate::reaper::{Process, Reaper};

/// How many sleep on `head`, besides the daemon.
const SEATS: u32 = 4;

/// No mark is granted for longer, but for as long as a file is open.
const LONGEST: Duration = Duration::from_secs(60);

/// Nor for shorter: its end is a look of the thread that looks for all.
const SHORTEST: Duration = Duration::from_millis(100);

/// So many of a crowd are woken at once: some half a millisecond. What is left is another thread's.
const AT_ONCE: i32 = 64;

/// What processes wait for by the library.
#[derive(Debug, Default)]
pub(super) struct Waits {
    by: HashMap<(Process, u64), Waiter>,
    /// How many of them have a seat, and how many sleep on `crowd`.
    seated: u32,
    crowd: u32,
    /// The head that the crowd was stirred behind.
    stirred: Option<Head>,
    /// Until when those are counted in that waited when the daemon before this one ended.
    former: Option<Instant>,
}

/// What a process has been given through an open file.
#[derive(Clone, Copy, Debug, Default)]
struct Waiter {
    seat: Option<Lease>,
    crowd: Option<Lease>,
}

/// Until when; not given, as long as the file is open.
#[derive(Clone, Copy, Debug)]
struct Lease(Option<Instant>);

impl Lease {
    fn is_over(self, now: Instant) -> bool {
        self.0.is_some_and(|until| until <= now)
    }
}

impl Waiter {
    fn is_nobody(&self) -> bool {
        self.seat.is_none() && self.crowd.is_none()
    }
}

/// What a process is told that is going to wait, and what is to be done for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begun {
    pub(crate) wait: Wait,
    /// Whoever watches heads must be asked to watch this one.
    pub(crate) look: bool,
    /// When to look whether it still waits.
    pub(crate) expires: Option<Duration>,
}

impl Waits {
    pub(super) fn is_empty(&self) -> bool {
        self.by.is_empty() && self.former.is_none()
    }

    /// Counts those in, for a while, that were told to wait by the daemon before this one.
    pub(super) fn keep_former(&mut self) {
        self.former = Some(Instant::now() + LONGEST);
    }

    pub(super) fn len(&self) -> usize {
        self.by.len()
    }

    pub(super) fn has_crowd(&self) -> bool {
        self.crowd > 0
    }

    /// Whether `process` waits.
    pub(super) fn has(&self, process: Process) -> bool {
        self.by.keys().any(|(waiter, _)| *waiter == process)
    }

    fn begin(&mut self, key: (Process, u64), wanted: u32, lease: Lease) -> u32 {
        let free = self.seated < SEATS;
        let waiter = self.by.entry(key).or_default();
        if wanted == place::HEAD && (waiter.seat.is_some() || free) {
            self.seated += u32::from(waiter.seat.is_none());
            waiter.seat = Some(lease);
            return place::HEAD;
        }
        self.crowd += u32::from(waiter.crowd.is_none());
        waiter.crowd = Some(lease);
        place::CROWD
    }

    /// Takes places back for which `over` says so; returns the processes that have none any more.
    fn end(&mut self, over: impl Fn(Process, u64, Lease) -> bool) -> Vec<Process> {
        for ((process, file), waiter) in &mut self.by {
            let is_over = |lease: &mut Lease| over(*process, *file, *lease);
            self.seated -= u32::from(waiter.seat.take_if(is_over).is_some());
            self.crowd -= u32::from(waiter.crowd.take_if(is_over).is_some());
        }
        let nobody = self.by.extract_if(|_, waiter| waiter.is_nobody());
        nobody.map(|((process, _), _)| process).collect()
    }

    /// When the first of them is over.
    fn next(&self) -> Option<Instant> {
        let leases = self.by.values().flat_map(|w| [w.seat, w.crowd]);
        let leases = leases.flatten().filter_map(|lease| lease.0);
        leases.chain(self.former).min()
    }

    /// Moves the crowd on if `head` is another than the last time; whether it is to be woken.
    pub(super) fn stir(&mut self, header: &Header, head: Head) -> bool {
        let stirs = self.has_crowd() && self.stirred != Some(head);
        if stirs {
            self.stirred = Some(head);
            header.stir_crowd();
        }
        stirs
    }

    pub(super) fn announce(&self, header: &Header) {
        let free = SEATS.saturating_sub(self.seated);
        // ORDERING: Relaxed: a hint.
        header
            .seats
            .store(free, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Wakes the first of a crowd that has been moved on; whether there may be more.
pub(super) fn wake_crowd(header: &Header) -> bool {
    futex::wake(&header.crowd, AT_ONCE) >= AT_ONCE.unsigned_abs() as usize
}

impl State {
    /// Notes that the process of thread `tid` is going to wait: from now on each commit wakes, for
    /// the time it says or as long as it has `file` open.
    ///
    /// # Errors
    ///
    /// `ESRCH` for a process that the daemon cannot see, `EINVAL` for a place that is none, `ESTALE`
    /// for a state that has gone.
    pub(crate) fn wait_begin(
        self: &Arc<Self>,
        reaper: &Reaper,
        tid: u32,
        file: u64,
        asked: Wait,
    ) -> Result<Begun, Errno> {
        if ![place::HEAD, place::CROWD].contains(&asked.place) {
            return Err(Errno::EINVAL);
        }
        let mut inner = self.lock();
        if inner.gone {
            return Err(Errno::ESTALE);
        }
        let process = reaper.hold(tid, self)?;
        let lease = match asked.milliseconds {
            0 => Duration::ZERO,
            asked => Duration::from_millis(asked.into()).clamp(SHORTEST, LONGEST),
        };
        let expires = (!lease.is_zero()).then_some(lease);
        let until = Lease(expires.map(|lease| Instant::now() + lease));
        let given = inner.waits.begin((process, file), asked.place, until);
        let mapping = self.mapping();
        let mapped = mapping.mapped();
        inner.waits.announce(mapped.header());
        mapped.header().raise(Notice::WAITERS);
        Ok(Begun {
            wait: Wait {
                place: given,
                milliseconds: u32::try_from(lease.as_millis()).unwrap_or(u32::MAX),
            },
            look: given == place::CROWD && !inner.watched,
            expires,
        })
    }

    /// The end of it.
    ///
    /// # Errors
    ///
    /// `EINVAL` without a beginning.
    pub(crate) fn wait_end(&self, reaper: &Reaper, tid: u32, file: u64) -> Result<(), Errno> {
        let mut inner = self.lock();
        let process = reaper.find(tid).ok_or(Errno::EINVAL)?;
        match self.end_waits(&mut inner, Some(reaper), |p, f, _| {
            (p, f) == (process, file)
        }) {
            true => Ok(()),
            false => Err(Errno::EINVAL),
        }
    }

    /// Ends those whose time is over; says when to look again.
    pub(crate) fn end_waits_in_time(&self, reaper: &Reaper) -> Option<Duration> {
        let now = Instant::now();
        let mut inner = self.lock();
        inner.waits.former.take_if(|until| *until <= now);
        self.end_waits(&mut inner, Some(reaper), |_, _, lease| lease.is_over(now));
        let next = inner.waits.next()?.saturating_duration_since(now);
        Some(next.max(Duration::from_millis(1)))
    }

    /// Ends those through `file`.
    pub(super) fn end_waits_of_file(&self, inner: &mut Inner, reaper: &Reaper, file: u64) {
        self.end_waits(inner, Some(reaper), |_, f, _| f == file);
    }

    /// Ends those of a dead process, of which the reaper knows.
    pub(super) fn end_waits_of_dead(&self, inner: &mut Inner, process: Process) {
        self.end_waits(inner, None, |p, _, _| p == process);
    }

    /// Returns whether a process waits no more.
    fn end_waits(
        &self,
        inner: &mut Inner,
        reaper: Option<&Reaper>,
        over: impl Fn(Process, u64, Lease) -> bool,
    ) -> bool {
        let ended = inner.waits.end(over);
        inner.waits.announce(self.mapping().mapped().header());
        self.lower_mark_if_unused(inner);
        for process in &ended {
            if let Some(reaper) = reaper {
                self.let_go_if_free(inner, reaper, *process);
            }
        }
        !ended.is_empty()
    }

    /// Has everybody look who sleeps on a word of this state: something else than `head` has changed,
    /// or whose part it was to wake has died.
    pub(super) fn wake_all(&self) {
        let mapping = self.mapping();
        let mapped = mapping.mapped();
        let header = mapped.header();
        header.stir_crowd();
        futex::wake_all(&header.head);
        futex::wake_all(&header.crowd);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LASTS: Lease = Lease(None);

    #[test]
    fn the_first_have_seats_and_the_rest_are_a_crowd() {
        let mut waits = Waits::default();
        let process = Process::for_tests(1);
        let mut begin = |file| waits.begin((process, file), place::HEAD, LASTS);
        for file in 0..u64::from(SEATS) {
            assert_eq!(begin(file), place::HEAD);
        }
        assert_eq!(begin(10), place::CROWD);
        assert_eq!(begin(10), place::CROWD);
        // A seat is kept, and given once.
        assert_eq!(begin(0), place::HEAD);
        assert_eq!((waits.seated, waits.crowd), (SEATS, 1));
        assert_eq!(waits.end(|_, file, _| file == 0).len(), 1);
        assert_eq!(waits.begin((process, 10), place::HEAD, LASTS), place::HEAD);
        assert_eq!((waits.seated, waits.crowd), (SEATS, 1));
        assert_eq!(waits.end(|_, _, _| true).len(), SEATS as usize);
        assert_eq!((waits.seated, waits.crowd), (0, 0));
    }

    #[test]
    fn a_seat_and_a_place_in_the_crowd_end_each_at_its_time() {
        let mut waits = Waits::default();
        let key = (Process::for_tests(1), 1);
        let now = Instant::now();
        let in_seconds = |seconds| Lease(Some(now + Duration::from_secs(seconds)));
        assert_eq!(waits.begin(key, place::HEAD, in_seconds(1)), place::HEAD);
        assert_eq!(waits.begin(key, place::CROWD, in_seconds(2)), place::CROWD);
        assert_eq!(waits.next(), in_seconds(1).0);
        let mut end_at = |seconds| {
            let now = now + Duration::from_secs(seconds);
            waits.end(|_, _, lease| lease.is_over(now)).len()
        };
        assert_eq!(end_at(0), 0);
        assert_eq!(end_at(1), 0);
        assert_eq!(end_at(2), 1);
        assert_eq!((waits.seated, waits.crowd, waits.len()), (0, 0, 0));
        assert_eq!(waits.begin(key, place::HEAD, LASTS), place::HEAD);
        assert_eq!(waits.next(), None);
    }
}
