//! Whether a daemon that shall not outlive its use has been without any for long enough.

use std::time::{Duration, Instant};

use nix::poll::PollTimeout;

/// The longest time between two looks. A use that comes and goes between two of them is not seen; it counts as
/// none, and whoever comes back finds another daemon started.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long nothing was seen in use.
#[derive(Debug)]
pub(crate) struct Unused {
    limit: Duration,
    since: Instant,
}

impl Unused {
    /// To end after `limit` without use, which begins now.
    pub(crate) fn for_so_long(limit: Duration) -> Self {
        Self {
            limit,
            since: Instant::now(),
        }
    }

    /// How long to sleep before the next look.
    pub(crate) fn pause(&self) -> PollTimeout {
        let left = self.limit.saturating_sub(self.since.elapsed());
        // Never no time at all: with a limit of 0 something in use would be looked at all the time.
        let pause = left.clamp(Duration::from_millis(10), LONGEST_PAUSE);
        PollTimeout::try_from(pause).unwrap_or(PollTimeout::NONE)
    }

    /// Looks whether it is needed; `true` once it was not for so long.
    pub(crate) fn look(&mut self, is_needed: impl FnOnce() -> bool) -> bool {
        if is_needed() {
            self.begin_anew();
            return false;
        }
        self.since.elapsed() >= self.limit
    }

    /// It has been used just now.
    pub(crate) fn begin_anew(&mut self) {
        self.since = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn use_begins_the_time_anew() {
        let mut unused = Unused::for_so_long(Duration::ZERO);
        assert!(unused.look(|| false) && !unused.look(|| true));
        let mut unused = Unused::for_so_long(Duration::from_secs(3600));
        unused.since -= Duration::from_secs(1800);
        assert!(!unused.look(|| false));
        assert!(!unused.look(|| true));
        assert!(unused.since.elapsed() < Duration::from_secs(1000));
        unused.since -= Duration::from_secs(3600);
        assert!(unused.look(|| false));
    }

    #[test]
    fn a_look_comes_in_time_and_not_at_once_again() {
        let pause = |limit| Unused::for_so_long(limit).pause();
        assert_eq!(pause(Duration::ZERO), PollTimeout::from(10u8));
        assert_eq!(pause(Duration::from_secs(9)), PollTimeout::from(1000u16));
    }
}
