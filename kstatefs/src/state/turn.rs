//! Turns of a state's writers: given for a bounded time, and taken back.

use std::time::{Duration, Instant};

use kstate_sys::clock::monotonic_ns;
use kstate_sys::futex;
use kstate_sys::region::{Group, LONGEST_TURN, Memory, Turn};

use super::{Inner, State};
use crate::errno::Errno;
use crate::reaper::Reaper;

/// Whose turn it is, and when the next one may begin.
#[derive(Debug, Default)]
pub(super) struct Turns {
    held: Option<Held>,
    /// Others have as long in between as a turn has lasted: half of the time is theirs.
    rest_until: Option<Instant>,
}

#[derive(Debug)]
struct Held {
    group: u8,
    turn: Turn,
    began: Instant,
    /// The same by the clock that the word is in.
    began_ns: u64,
    ends: Instant,
}

impl State {
    /// Gives the group, which the process of thread `tid` has claimed, its turn, for as long as is
    /// `wanted` but no longer than [`LONGEST_TURN`]; how long that is, or `None` if it is not to be had
    /// now.
    ///
    /// # Errors
    ///
    /// `EINVAL` when the group is not that process's, `ESTALE`.
    pub(crate) fn give_turn(
        &self,
        reaper: &Reaper,
        tid: u32,
        group: u32,
        wanted: Duration,
    ) -> Result<Option<Duration>, Errno> {
        let mut inner = self.lock();
        if inner.gone {
            return Err(Errno::ESTALE);
        }
        let group = inner.group_of(reaper, tid, group)?;
        let now = Instant::now();
        self.end_if_over(&mut inner, now);
        let rests = inner.turn.rest_until.is_some_and(|until| now < until);
        if inner.turn.held.is_some() || rests {
            return Ok(None);
        }
        let given = wanted.min(LONGEST_TURN);
        let ns = u64::try_from(given.as_nanos()).unwrap_or(u64::MAX);
        let began_ns = monotonic_ns();
        let turn = Turn::new(Group(group), began_ns.saturating_add(ns));
        self.mapping().mapped().header().give_turn(turn);
        let (began, ends) = (now, now + given);
        inner.turn.held = Some(Held {
            group,
            turn,
            began,
            began_ns,
            ends,
        });
        Ok(Some(given))
    }

    /// Ends the turn of a group of the process of thread `tid`.
    ///
    /// # Errors
    ///
    /// `EINVAL` when it is not that group's, or is over.
    pub(crate) fn end_turn(&self, reaper: &Reaper, tid: u32, group: u32) -> Result<(), Errno> {
        let mut inner = self.lock();
        let group = inner.group_of(reaper, tid, group)?;
        match inner.turn.held {
            Some(ref held) if held.group == group => {
                self.take_turn_back(&mut inner);
                Ok(())
            }
            _ => Err(Errno::EINVAL),
        }
    }

    /// Ends a turn whose time has passed; how long it still has, if it has not.
    pub(crate) fn end_turn_in_time(&self) -> Option<Duration> {
        let mut inner = self.lock();
        let now = Instant::now();
        self.end_if_over(&mut inner, now);
        inner.turn.held.as_ref().map(|held| held.ends - now)
    }

    /// Ends the turn of a group that is given back, or whose owner is dead.
    pub(super) fn end_turn_of(&self, inner: &mut Inner, group: u8) {
        if inner
            .turn
            .held
            .as_ref()
            .is_some_and(|held| held.group == group)
        {
            self.take_turn_back(inner);
        }
    }

    /// Its time has passed, or its holder has left it.
    fn end_if_over(&self, inner: &mut Inner, now: Instant) {
        let said = self.mapping().mapped().header().turn();
        let over = |held: &Held| held.ends <= now || held.turn != said;
        if inner.turn.held.as_ref().is_some_and(over) {
            self.take_turn_back(inner);
        }
    }

    fn take_turn_back(&self, inner: &mut Inner) {
        let Some(held) = inner.turn.held.take() else {
            return;
        };
        let mapping = self.mapping();
        let mapped = mapping.mapped();
        let header = mapped.header();
        let mut lasted = held.began.elapsed().min(held.ends - held.began);
        let said = header.turn();
        if said.group() == Group::DAEMON {
            // Left in between. Whoever may write could say so, and have turns follow each other.
            let left = said.end_ns().saturating_sub(held.began_ns);
            lasted = lasted.min(Duration::from_nanos(left));
        }
        inner.turn.rest_until = Some(held.began + 2 * lasted);
        header.end_turn();
        futex::wake_all(&header.turn);
    }
}

impl Inner {
    /// The group, if the process of thread `tid` has claimed it.
    fn group_of(&self, reaper: &Reaper, tid: u32, group: u32) -> Result<u8, Errno> {
        let group = u8::try_from(group).map_err(|_| Errno::EINVAL)?;
        let process = reaper.find(tid).ok_or(Errno::EINVAL)?;
        let owner = self.groups.get(&group);
        match owner.is_some_and(|owner| owner.is_process(process)) {
            true => Ok(group),
            false => Err(Errno::EINVAL),
        }
    }
}
