//! Turns: asking other writers to stand back for a moment, and standing back for them.

use std::fmt;
use std::time::{Duration, Instant};

use kstate_sys::clock::monotonic_ns;
use kstate_sys::futex::{self, Deadline};
use kstate_sys::ioctl::{self, call};
use kstate_sys::region::{Group, LONGEST_TURN, Memory};

use crate::errno;
use crate::writing::Writing;

/// A turn that was given; it ends with this.
pub(crate) struct Given<'w> {
    writing: &'w Writing,
    group: Group,
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
        let descriptor = self.writing.reader().subscription().descriptor();
        // A turn that is over already cannot be ended, which is as well.
        let _ = errno::uninterrupted(|| call::turn_end(descriptor, self.group.0.into()));
    }
}

impl Writing {
    /// Asks for a turn of some length; `None` if it is not to be had now, for whatever reason: it
    /// is a courtesy.
    ///
    /// # Cost
    ///
    /// A FUSE request, and another one at its end.
    #[cold]
    pub(crate) fn ask_turn(&self, length: Duration) -> Option<Given<'_>> {
        let writer = self.own_writer()?;
        let group = writer.group();
        self.writer.set(Some(writer));
        let length = length.min(LONGEST_TURN);
        let mut asked = ioctl::Turn {
            group: group.0.into(),
            microseconds: u32::try_from(length.as_micros()).unwrap_or(u32::MAX),
        };
        let descriptor = self.reader().subscription().descriptor();
        errno::uninterrupted(|| call::turn(descriptor, &mut asked)).ok()?;
        let given = Duration::from_micros(asked.microseconds.into());
        (!given.is_zero()).then(|| Given {
            writing: self,
            group,
            ends: Instant::now() + given,
        })
    }

    /// Waits for the end of another handle's turn, at most as long as a turn may last.
    #[cold]
    pub(crate) fn stand_back(&self, own: Group) {
        if !self.polite.get() {
            return;
        }
        let header = self.reader().memory().header();
        let turn = header.turn();
        let now = monotonic_ns();
        // A writer could have put any end there.
        let longest = u64::try_from(LONGEST_TURN.as_nanos()).unwrap_or(u64::MAX);
        let end = Deadline(turn.end_ns().min(now.saturating_add(longest)));
        while turn.group() != own && header.turn() == turn && !end.has_passed() {
            // Without a daemon nobody ends it before its time. Errors leave nothing to wait for.
            if futex::wait(&header.turn, turn.futex_word(), Some(end)).is_err() {
                return;
            }
        }
    }
}
