//! What is between two attempts: a pause, and at times a turn.

use std::fmt;
use std::time::{Duration, Instant};

use kstate_sys::clock::monotonic_ns;

use super::Retry;
use crate::content::Content;
use crate::state::State;
use crate::turn::Given;
use crate::writing::Writing;

/// Pauses up to this long are spun through, because a sleep takes longer than it says.
const LONGEST_SPIN: Duration = Duration::from_micros(20);

/// What a turn lasts at least.
const AT_LEAST: Duration = Duration::from_micros(500);

/// Pauses within a turn: others stand back, but for one that may have been stopped in the middle of
/// a commit of several states.
pub(crate) const WITHIN_TURN: Duration = Duration::from_micros(20);

/// The first pause is shorter than this: about the time a commit takes.
const FIRST_PAUSE: Duration = Duration::from_nanos(200);

/// Attempts at a transaction on one state, for who runs it again in a loop of his own;
/// [`State::transact_with`] is one.
///
/// ```no_run
/// use kstate::{Retry, State};
///
/// let table = kstate::subscribe("robot.table").write().bytes()?;
/// let retry = Retry::new();
/// let mut attempts = table.attempts(&retry);
/// loop {
///     let mut tx = table.begin_raw()?;
///     tx.bytes_mut()?[0] += 1;
///     if !tx.commit()?.is_conflict() {
///         break;
///     }
///     if !attempts.again() {
///         eprintln!("given up after {} attempts", attempts.made());
///         break;
///     }
/// }
/// # Ok::<(), kstate::Error>(())
/// ```
pub struct Attempts<'s> {
    most: u32,
    made: u32,
    backoff: Backoff,
    insist: Insist<'s>,
    writing: &'s Writing,
}

impl<T: Content> State<T> {
    /// The first of the attempts that `retry` allows is about to be made.
    #[inline]
    pub fn attempts(&self, retry: &Retry) -> Attempts<'_> {
        Attempts {
            most: retry.attempts,
            made: 1,
            backoff: Backoff::new(retry.longest_pause),
            insist: Insist::new(retry),
            writing: &self.writing,
        }
    }
}

impl Attempts<'_> {
    /// An attempt was in vain. Pauses before the next one; `false`, at once, if none is left.
    ///
    /// # Cost
    ///
    /// A pause that doubles from attempt to attempt, at random; after as many as [`Retry::turn_after`] says a FUSE
    /// request for a turn.
    #[cold]
    pub fn again(&mut self) -> bool {
        if self.made >= self.most {
            return false;
        }
        match self.insist.after(self.made, self.writing) {
            true => self.backoff.pause_for(WITHIN_TURN),
            false => self.backoff.pause(),
        }
        self.made += 1;
        true
    }

    /// How many were made, the current one included.
    pub fn made(&self) -> u32 {
        self.made
    }

    /// Time spent in pauses.
    pub fn delay(&self) -> Duration {
        self.backoff.delay()
    }
}

impl fmt::Debug for Attempts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempts")
            .field("made", &self.made)
            .field("delay", &self.delay())
            .finish_non_exhaustive()
    }
}

/// Asks for turns, after attempts in vain.
#[derive(Debug)]
pub(crate) struct Insist<'w> {
    every: u32,
    /// When the last attempt ended.
    last: Option<Instant>,
    /// The longest that an attempt took, pause included.
    longest: Duration,
    turns: Vec<Given<'w>>,
}

impl<'w> Insist<'w> {
    #[inline]
    pub(crate) const fn new(retry: &Retry) -> Self {
        Self {
            every: retry.turn_after,
            last: None,
            longest: Duration::ZERO,
            turns: Vec::new(),
        }
    }

    /// After so many attempts, `writing` being what the last one conflicted on: whether others
    /// stand back, so that the next attempt can begin at once.
    #[cold]
    pub(crate) fn after(&mut self, attempts: u32, writing: &'w Writing) -> bool {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            self.longest = self.longest.max(now - last);
        }
        self.turns.retain(Given::lasts);
        if self.turns.iter().any(|turn| turn.is_of(writing)) {
            return true;
        }
        if attempts.is_multiple_of(self.every.max(1)) || !self.turns.is_empty() {
            // One attempt may begin before the last of them has seen it.
            let given = writing.ask_turn(self.longest * 2 + AT_LEAST);
            self.turns.extend(given);
            // Asking takes longer than an attempt: not a part of one.
            self.last = None;
        }
        self.turns.iter().any(|turn| turn.is_of(writing))
    }
}

/// Randomised pauses from a range that doubles up to a bound.
#[derive(Debug)]
pub(crate) struct Backoff {
    range: Duration,
    longest: Duration,
    delay: Duration,
    random: Option<fastrand::Rng>,
}

impl Backoff {
    pub(crate) fn new(longest: Duration) -> Self {
        Self {
            range: FIRST_PAUSE,
            longest,
            delay: Duration::ZERO,
            random: None,
        }
    }

    /// Time spent in pauses so far.
    pub(crate) const fn delay(&self) -> Duration {
        self.delay
    }

    /// Seeded at the first pause, and not by the thread: a `fork` would copy that, and its children
    /// would go on meeting.
    fn random(&mut self) -> &mut fastrand::Rng {
        self.random.get_or_insert_with(|| {
            let seed = monotonic_ns() ^ u64::from(std::process::id()) << 32;
            fastrand::Rng::with_seed(seed ^ std::ptr::from_ref(&seed).addr() as u64)
        })
    }

    #[cold]
    pub(crate) fn pause(&mut self) {
        let range = u64::try_from(self.range.as_nanos())
            .unwrap_or(u64::MAX)
            .max(1);
        let pause = Duration::from_nanos(self.random().u64(..range));
        self.range = (self.range * 2).min(self.longest);
        self.pause_for(pause);
    }

    /// A pause of a given length, which is no step on the way to longer ones.
    #[cold]
    pub(crate) fn pause_for(&mut self, pause: Duration) {
        let start = Instant::now();
        if pause > LONGEST_SPIN {
            std::thread::sleep(pause);
        } else {
            while start.elapsed() < pause {
                core::hint::spin_loop();
            }
        }
        self.delay += start.elapsed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Region;

    #[test]
    fn as_many_attempts_are_made_as_are_allowed() {
        let region = Region::new(8);
        let state = region.state::<u64>(1);
        let retry = Retry::new().attempts(3).longest_pause(Duration::ZERO);
        let mut attempts = state.attempts(&retry);
        assert!(attempts.again() && attempts.again());
        assert_eq!(attempts.made(), 3);
        assert!(!attempts.again());
        assert_eq!(attempts.made(), 3);
        assert!(attempts.delay() > Duration::ZERO);
    }

    #[test]
    fn pauses_stay_within_their_bound_and_are_counted() {
        let mut backoff = Backoff::new(Duration::from_micros(10));
        let start = Instant::now();
        for _ in 0..100 {
            backoff.pause();
        }
        assert!(backoff.range == Duration::from_micros(10));
        assert!(backoff.delay() <= start.elapsed());
        assert!(backoff.delay() > Duration::ZERO);
    }
}
