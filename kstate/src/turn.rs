//! Turns: asking other writers to stand back for a moment, and standing back for them.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use kstate_sys::clock::monotonic_ns;
use kstate_sys::futex::{self, Deadline};
use kstate_sys::ioctl::{self, call};
use kstate_sys::region::{Group, LONGEST_TURN, Memory, Turn};

use crate::writing::Writing;

/// A turn that was given; it ends with this.
pub(crate) struct Given<'w> {
    writing: &'w Writing,
    turn: Turn,
    ends: Instant,
}

impl Given<'_> {
    /// Whether others still stand back.
    pub(crate) fn lasts(&self) -> bool {
        Instant::now() < self.ends
    }

    /// Whether it is of that handle.
    pub(crate) fn is_of(&self, writing: &Writing) -> bool {
        std::ptr::eq(self.writing, writing)
    }
}

impl fmt::Debug for Given<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Given")
            .field("state", &self.writing.reader().name().as_str())
            .field("ends", &self.ends)
            .finish_non_exhaustive()
    }
}

impl Drop for Given<'_> {
    fn drop(&mut self) {
        // Not by the daemon, which may be slow: it sees this when it is asked for the next one, or at
        // the turn's end, and only then lowers the bit.
        let header = self.writing.reader().memory().header();
        if header.leave_turn(self.turn, monotonic_ns()) {
            futex::wake_all(&header.turn);
        }
    }
}

impl Writing {
    /// Asks for a turn of some length; `None` if it is not to be had now, for whatever reason: it
    /// is a courtesy.
    ///
    /// # Cost
    ///
    /// A FUSE request.
    #[cold]
    pub(crate) fn ask_turn(&self, length: Duration) -> Option<Given<'_>> {
        let writer = self.kept_writer()?;
        let group = writer.group();
        self.writer.set(Some(writer));
        let length = length.min(LONGEST_TURN);
        let mut asked = ioctl::Turn {
            group: group.0.into(),
            microseconds: u32::try_from(length.as_micros()).unwrap_or(u32::MAX),
        };
        let wanted = asked;
        let ask = |descriptor: BorrowedFd<'_>| {
            asked = wanted;
            call::turn(descriptor, &mut asked)
        };
        self.reader().subscription().request(ask).ok()?;
        let given = Duration::from_micros(asked.microseconds.into());
        let turn = self.reader().memory().header().turn();
        (!given.is_zero() && turn.group() == group).then(|| Given {
            writing: self,
            turn,
            ends: Instant::now() + given,
        })
    }

    /// Waits for the end of another handle's turn, at most until `latest`.
    #[cold]
    pub(crate) fn stand_back(&self, own: Group, latest: Deadline) {
        let header = self.reader().memory().header();
        let turn = header.turn();
        // A writer could have put any turn there, and once is enough for each.
        if !self.polite.get() || self.waited_for.replace(turn) == turn {
            return;
        }
        let end = latest.min(Deadline(turn.end_ns()));
        while turn.group() != own && header.turn() == turn && !end.has_passed() {
            // Errors leave nothing to wait for.
            if futex::wait(&header.turn, turn.futex_word(), Some(end)).is_err() {
                return;
            }
        }
    }

    /// The same of this handle's own, if it has slots.
    #[cold]
    pub(crate) fn stand_back_own(&self, latest: Deadline) {
        if let Some(writer) = self.own_writer() {
            let group = writer.group();
            self.writer.set(Some(writer));
            self.stand_back(group, latest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Region;

    #[test]
    fn a_turn_that_nobody_gave_and_nobody_takes_back_delays_each_handle_once() {
        let region = Region::new(8);
        let state = region.state::<u64>(1);
        let header = state.memory().header();
        header.give_turn(Turn::new(Group(200), (1 << 56) - 1));
        let start = Instant::now();
        state.publish(&0).unwrap();
        assert!(start.elapsed() >= LONGEST_TURN);
        let before = (0..5).map(|_| {
            let start = Instant::now();
            for value in 0..50 {
                state.publish(&value).unwrap();
            }
            start.elapsed()
        });
        // A busy machine may put the process aside.
        assert!(before.min().unwrap() < LONGEST_TURN);
    }

    #[test]
    fn ones_own_turn_and_one_that_was_left_are_nothing_to_wait_for() {
        let region = Region::new(8);
        let state = region.state::<u64>(1);
        let header = state.memory().header();
        let quickest = |publish: &dyn Fn()| {
            let times = (0..5).map(|_| {
                let start = Instant::now();
                publish();
                start.elapsed()
            });
            times.min().unwrap()
        };
        let publish = || assert!(state.publish(&1).is_ok());
        let own = Turn::new(Group(1), (1 << 56) - 1);
        header.give_turn(own);
        assert!(quickest(&publish) < LONGEST_TURN);
        let others = Turn::new(Group(2), (1 << 56) - 1);
        header.give_turn(others);
        assert!(header.leave_turn(others, 1) && !header.leave_turn(others, 1));
        assert!(quickest(&publish) < LONGEST_TURN);
        state.set_polite(false);
        header.give_turn(Turn::new(Group(3), (1 << 56) - 1));
        assert!(quickest(&publish) < LONGEST_TURN);
    }
}
