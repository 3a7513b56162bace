//! Waiting for what a view shows.
//!
//! Where nothing is newer than what it shows, it is waited for as for any state. Where something
//! is, its time is waited for, and then it counts: the writer need not commit again.

use kstate_sys::futex::Deadline;
use kstate_sys::region::Generation;

use super::request::{Request, check_there};
use super::waitable::{Waitable, shown, untyped};
use super::{WaitError, Waited};
use crate::sleep::{self, Until};
use crate::view::Shown;

impl Request<'_> {
    /// Until another version than `since` is the newest, or the one that a view shows.
    #[inline]
    pub(super) fn behind_what_shows<W: Waitable + ?Sized>(
        &self,
        of: &W,
        since: Generation,
    ) -> Result<Waited, WaitError> {
        match shown(of) {
            None => self.behind(untyped(of), since),
            Some(shown) => self.behind_shown(shown, since),
        }
    }

    /// Until a view shows another version than `since`.
    fn behind_shown(&self, shown: &Shown, since: Generation) -> Result<Waited, WaitError> {
        loop {
            check_there(shown.reader().as_of())?;
            let showing = shown.look();
            if showing.generation != since {
                return Ok(Waited::Changed(showing.generation));
            }
            let ended = match showing.next {
                Some((_, due)) => self.pause(due),
                None => match self.behind(shown.reader().as_of(), since)? {
                    // Shown when looked at again. Who moves `head` back and forth does not keep us
                    // beyond the end.
                    Waited::Changed(_) => self.ended(),
                    ended => return Ok(ended),
                },
            };
            if let Some(ended) = ended {
                return Ok(match shown.look().generation {
                    now if now != since => Waited::Changed(now),
                    _ => ended,
                });
            }
        }
    }

    /// As [`behind_what_shows`](Self::behind_what_shows), of one of several, and which.
    pub(super) fn behind_any_shown(
        &self,
        of: &[(&dyn Waitable, Generation)],
    ) -> Result<(usize, Waited), WaitError> {
        loop {
            let mut soonest = None;
            let mut states = Vec::with_capacity(of.len());
            let mut places = Vec::with_capacity(of.len());
            for (at, (of, since)) in of.iter().enumerate() {
                check_there(untyped(*of))?;
                let (generation, next) = match shown(*of) {
                    None => (untyped(*of).generation(), None),
                    Some(shown) => {
                        let showing = shown.look();
                        (showing.generation, showing.next)
                    }
                };
                if generation != *since {
                    return Ok((at, Waited::Changed(generation)));
                }
                match next {
                    Some((_, due)) => soonest = Some(soonest.map_or(due, |soon| due.min(soon))),
                    None => {
                        states.push((untyped(*of), *since));
                        places.push(at);
                    }
                }
            }
            let ended = match (states.is_empty(), soonest) {
                (true, Some(due)) => self.pause(due),
                _ => match self.before(soonest).behind_any(&states)? {
                    (at, Waited::Changed(now)) => match shown(of[places[at]].0) {
                        None => return Ok((places[at], Waited::Changed(now))),
                        // As in `behind_shown`.
                        Some(_) => self.ended(),
                    },
                    (_, Waited::TimedOut) => self.ended(),
                    (at, ended) => return Ok((places[at], ended)),
                },
            };
            if let Some(ended) = ended {
                let found = of.iter().enumerate().find_map(|(at, (of, since))| {
                    let now = super::waitable::generation(*of);
                    (now != *since).then_some((at, Waited::Changed(now)))
                });
                return Ok(found.unwrap_or((0, ended)));
            }
        }
    }

    /// The same, ending at `due` at the latest.
    fn before(&self, due: Option<Deadline>) -> Self {
        let deadline = match (self.until.deadline, due) {
            (Some(deadline), Some(due)) => Some(deadline.min(due)),
            (deadline, due) => deadline.or(due),
        };
        Self {
            until: Until {
                deadline,
                ..self.until
            },
            ..*self
        }
    }

    /// Sleeps until `due`, or says what ended that.
    fn pause(&self, due: Deadline) -> Option<Waited> {
        let before = self.before(Some(due)).until;
        let end = before.deadline.unwrap_or(due);
        match sleep::for_time(end, before.interrupt) {
            false => Some(Waited::Interrupted),
            true => (end < due).then_some(Waited::TimedOut),
        }
    }
}
