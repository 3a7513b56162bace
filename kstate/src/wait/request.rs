//! What a call waits for, and the waiting.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kstate_sys::futex::{Deadline, Woken};
use kstate_sys::region::{Generation, Head, Memory};

use super::{WaitError, Waited};
use crate::errno::{self, Refusal};
use crate::reader::{Reader, Untyped};
use crate::seat::{Place, Seat, Stay};
use crate::sleep::{self, Until};

/// Looks at `head` between two looks at the clock, of who spins.
const LOOKS: u32 = 32;

/// What a call waits for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'i> {
    pub(super) until: Until<'i>,
    pub(super) spin: Duration,
    pub(super) or_overdue: bool,
}

/// What a look at a state says.
enum Looked<'w> {
    Ended(Waited),
    /// Nothing new: sleep on this.
    Sleep(sleep::Expected<'w>),
}

impl Request<'_> {
    /// One that sleeps, no longer than `timeout`.
    pub(super) fn plain(timeout: Option<Duration>) -> Self {
        Self {
            until: Until {
                deadline: timeout.map(Deadline::after),
                interrupt: None,
            },
            spin: Duration::ZERO,
            or_overdue: false,
        }
    }

    /// Until another version than `since` is the newest.
    pub(super) fn behind(
        &self,
        reader: &Reader<Untyped>,
        since: Generation,
    ) -> Result<Waited, WaitError> {
        check_there(reader)?;
        if let Some((_, waited)) = self.look_at(&[(reader, since)]) {
            return Ok(waited);
        }
        if let Some(ended) = self.ended() {
            return Ok(ended);
        }
        if let Some((_, waited)) = self.spin(&[(reader, since)]) {
            return Ok(waited);
        }
        loop {
            let Some(seated) = Seated::at(reader, self.until)? else {
                return Ok(Waited::Interrupted);
            };
            loop {
                let word = match self.look(reader, since, seated.place())? {
                    Looked::Ended(waited) => return Ok(waited),
                    Looked::Sleep(word) => word,
                };
                // Behind the look: who has been woken for a change is not held up by it.
                if seated.is_over() {
                    if let Some(ended) = self.ended() {
                        return Ok(ended);
                    }
                    break;
                }
                let slice = self.until.slice(seated.slice());
                let woken = sleep::on(word, self.until, slice);
                let woken = woken.map_err(|source| cannot_wait(reader, source))?;
                if let Some(ended) = self.ended_by(woken) {
                    let found = self.look_at(&[(reader, since)]);
                    return Ok(found.map_or(ended, |(_, waited)| waited));
                }
                seated.distrust_if_late(since, woken);
            }
        }
    }

    /// As [`behind`](Self::behind), of one of several states, and which.
    pub(super) fn behind_any(
        &self,
        states: &[(&Reader<Untyped>, Generation)],
    ) -> Result<(usize, Waited), WaitError> {
        for (reader, _) in states {
            check_there(reader)?;
        }
        if let Some(found) = self.look_at(states) {
            return Ok(found);
        }
        if let Some(ended) = self.ended() {
            return Ok((0, ended));
        }
        if let Some(found) = self.spin(states) {
            return Ok(found);
        }
        let mut seated = Vec::with_capacity(states.len());
        loop {
            // Given back first, as a seat may be had again.
            seated.clear();
            for (reader, _) in states {
                match Seated::at(reader, self.until)? {
                    Some(place) => seated.push(place),
                    None => return Ok((0, Waited::Interrupted)),
                }
            }
            loop {
                if seated.iter().any(Seated::is_over) {
                    if let Some(ended) = self.ended() {
                        return Ok(self.look_at(states).unwrap_or((0, ended)));
                    }
                    break;
                }
                let mut words = Vec::with_capacity(states.len());
                for (at, ((reader, since), seated)) in states.iter().zip(&seated).enumerate() {
                    match self.look(reader, *since, seated.place())? {
                        Looked::Ended(waited) => return Ok((at, waited)),
                        Looked::Sleep(word) => words.push(word),
                    }
                }
                let shortest = seated.iter().map(Seated::slice).min();
                let slice = self.until.slice(shortest.unwrap_or_default());
                let woken = sleep::on_any(&words, self.until, slice);
                let woken = woken.map_err(|source| cannot_wait(states[0].0, source))?;
                if let Some(ended) = self.ended_by(woken) {
                    return Ok(self.look_at(states).unwrap_or((0, ended)));
                }
                for (seated, (_, since)) in seated.iter().zip(states) {
                    seated.distrust_if_late(*since, woken);
                }
            }
        }
    }

    /// Which of the states has something new, without a system call.
    fn look_at(&self, states: &[(&Reader<Untyped>, Generation)]) -> Option<(usize, Waited)> {
        states.iter().enumerate().find_map(|(at, (reader, since))| {
            let newest = reader.generation();
            if newest != *since {
                return Some((at, Waited::Changed(newest)));
            }
            let is_overdue = self.or_overdue && reader.memory().header().is_overdue(*since);
            is_overdue.then_some((at, Waited::Overdue(*since)))
        })
    }

    /// Whether it is over before it has begun.
    pub(super) fn ended(&self) -> Option<Waited> {
        if self.until.is_interrupted() {
            return Some(Waited::Interrupted);
        }
        self.until.has_passed().then_some(Waited::TimedOut)
    }

    /// Looks again and again, for as long as that was asked for.
    fn spin(&self, states: &[(&Reader<Untyped>, Generation)]) -> Option<(usize, Waited)> {
        if self.spin.is_zero() {
            return None;
        }
        let end = self.until.slice(self.spin);
        loop {
            for _ in 0..LOOKS {
                for (at, (reader, since)) in states.iter().enumerate() {
                    let newest = reader.generation();
                    if newest != *since {
                        return Some((at, Waited::Changed(newest)));
                    }
                }
                core::hint::spin_loop();
            }
            if let Some(found) = self.look_at(states) {
                return Some(found);
            }
            // First, as it is never behind the deadline: what has come to its end here has there, too.
            let is_over = end.has_passed();
            if let Some(ended) = self.ended() {
                return Some((0, ended));
            }
            if is_over {
                return None;
            }
        }
    }

    /// Looks at a state, of which commits wake at `place` from now on.
    fn look<'r>(
        &self,
        reader: &'r Reader<Untyped>,
        since: Generation,
        place: Place,
    ) -> Result<Looked<'r>, WaitError> {
        let header = reader.memory().header();
        let before = place.before(header);
        // ORDERING: SeqCst after the daemon's SeqCst raise of the mark, and after `before`: see
        // `Header::notice` and `Header::crowd_seen`.
        let head = Head::from_raw(header.head.load(Ordering::SeqCst));
        let newest = match head.has_intent() {
            false => head.generation(),
            true => reader.resolved_generation(head),
        };
        // Before all else: its versions cannot be read any more.
        check_there(reader)?;
        if newest != since {
            return Ok(Looked::Ended(Waited::Changed(newest)));
        }
        // The daemon marks it, wakes, and wakes again, for those who came between here and sleep.
        if self.or_overdue && header.is_overdue(since) {
            return Ok(Looked::Ended(Waited::Overdue(since)));
        }
        Ok(Looked::Sleep(place.word(header, before, head.futex_word())))
    }

    /// What ended, if anything did.
    fn ended_by(&self, woken: Woken) -> Option<Waited> {
        match woken {
            Woken::Interrupted => Some(Waited::Interrupted),
            Woken::LookAgain | Woken::TimedOut => self.ended(),
        }
    }
}

/// Whether the state was deleted.
pub(super) fn check_there(reader: &Reader<Untyped>) -> Result<(), WaitError> {
    match reader.is_deleted() {
        false => Ok(()),
        true => Err(WaitError::Deleted {
            name: reader.name().clone(),
        }),
    }
}

/// A thread with a place to sleep, which it gives back at the end.
struct Seated<'r> {
    reader: &'r Reader<Untyped>,
    seat: Option<Seat>,
}

impl<'r> Seated<'r> {
    /// None when a signal handler ran.
    fn at(reader: &'r Reader<Untyped>, until: Until<'_>) -> Result<Option<Self>, WaitError> {
        let most = until.deadline.map_or(Duration::MAX, Deadline::left);
        match reader.subscription().sit_down(Stay::AtMost(most)) {
            Ok(seat) => Ok(Some(Self {
                reader,
                seat: Some(seat),
            })),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(source) => Err(cannot_wait(reader, source)),
        }
    }

    fn place(&self) -> Place {
        self.seat.as_ref().map_or(Place::Head, |seat| seat.place)
    }

    fn slice(&self) -> Duration {
        self.seat.as_ref().map(Seat::slice).unwrap_or_default()
    }

    fn is_over(&self) -> bool {
        let seat = self.seat.as_ref();
        seat.is_none_or(|seat| seat.is_over(self.reader.memory().header()))
    }

    /// Who slept in the crowd to the end of its time, beside a change, was not woken by the daemon.
    fn distrust_if_late(&self, since: Generation, woken: Woken) {
        let Some(seat) = &self.seat else { return };
        if woken != Woken::TimedOut || seat.place != Place::Crowd {
            return;
        }
        match self.reader.changed_since(since) {
            true => self.reader.subscription().distrust_daemon(),
            false => seat.slept_in_vain(),
        }
    }
}

impl Drop for Seated<'_> {
    fn drop(&mut self) {
        if let Some(seat) = self.seat.take() {
            self.reader.subscription().stand_up(seat);
        }
    }
}

/// Says which state an error is about.
pub(crate) fn cannot_wait(reader: &Reader<Untyped>, source: io::Error) -> WaitError {
    let name = reader.name().clone();
    match errno::refusal(&source) {
        Refusal::DaemonDied => WaitError::DaemonDied { name },
        Refusal::Deleted => WaitError::Deleted { name },
        _ => WaitError::Io { name, source },
    }
}
