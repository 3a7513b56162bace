//! Turns: for a bounded time one handle may commit and polite ones stand back.
//!
//! Optimistic transactions promise nothing to a long one beside writers that leave it no time: at
//! each attempt somebody else comes first. Such a one asks the daemon for a *turn*. The daemon
//! names the handle and an end in the header's `turn` word and raises [`Notice::TURN`]; writers see
//! that where they look anyway, after their next commit, and pause until the turn ends.
//!
//! It is a courtesy and no lock: nothing depends on it. A commit that comes all the same is as good
//! as any, and whoever has the turn conflicts once more.

use core::time::Duration;

use super::{Group, Header, Notice};
use crate::sync::Ordering;

/// The longest a turn lasts.
pub const LONGEST_TURN: Duration = Duration::from_millis(10);

const GROUP_BITS: u32 = 8;

/// Who has the turn, and until when: group in the low eight bits, above it the end in nanoseconds of
/// `CLOCK_MONOTONIC`. When nobody has it group 0, and the time when the last one was left, or 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn(u64);

impl Turn {
    /// Nobody's.
    pub const NOBODYS: Self = Self(0);

    /// That of `group` until `end_ns`, which is cut to 56 bits: two years after the machine's start.
    pub const fn new(group: Group, end_ns: u64) -> Self {
        Self(end_ns << GROUP_BITS | group.0 as u64)
    }

    /// Whose it is.
    pub const fn group(self) -> Group {
        Group(self.0.to_le_bytes()[0])
    }

    /// When it ends, in nanoseconds of `CLOCK_MONOTONIC`.
    pub const fn end_ns(self) -> u64 {
        self.0 >> GROUP_BITS
    }

    /// The 32 bits that a futex waits on.
    pub const fn futex_word(self) -> u32 {
        let [a, b, c, d, ..] = self.0.to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }
}

impl Header {
    /// Whose turn it is. A writer may have put anything there: a wait for its end is bounded.
    pub fn turn(&self) -> Turn {
        // ORDERING: Acquire with the Release in `give_turn`.
        Turn(self.turn.load(Ordering::Acquire))
    }

    /// Says whose turn it is, and has writers see it. The daemon's alone.
    pub fn give_turn(&self, turn: Turn) {
        // ORDERING: Release: who finds the bit raised finds the turn.
        self.turn.store(turn.0, Ordering::Release);
        self.raise(Notice::TURN);
    }

    /// Ends the holder's own `turn`, at the time `now_ns`, which the word says from then on; `false` if it
    /// is over. Who does it wakes those that wait on the word. The bit stays until the daemon comes by.
    pub fn leave_turn(&self, turn: Turn, now_ns: u64) -> bool {
        let left = Turn::new(Group::DAEMON, now_ns);
        // ORDERING: Release: what the holder committed comes before.
        self.turn
            .compare_exchange(turn.0, left.0, Ordering::Release, Ordering::Relaxed)
            .is_ok()
    }

    /// Ends it. The daemon's alone, who wakes those that wait on the word afterwards.
    pub fn end_turn(&self) {
        self.lower(Notice::TURN);
        self.turn.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_and_end_share_a_word() {
        for (group, end) in [(1, 0), (255, 1), (7, (1 << 56) - 1)] {
            let turn = Turn::new(Group(group), end);
            assert_eq!((turn.group(), turn.end_ns()), (Group(group), end));
        }
        let near = Turn::new(Group(1), 1 << 30).futex_word();
        assert_ne!(near, Turn::new(Group(1), (1 << 30) + 1).futex_word());
    }
}
