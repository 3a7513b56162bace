//! When a version was committed, as its writer says.

use std::time::{Duration, Instant, SystemTime};

use kstate_sys::clock::{Clock, Ticks};

/// What a handle stamps its versions with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Stamping {
    /// The time of the commit: 3 ns on a machine with an invariant time stamp counter, 25 ns on
    /// others.
    #[default]
    CommitTime,
    /// Nothing: readers cannot tell the age.
    Off,
}

/// A point in time of the caller's own, such as when a measurement was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    ago: Duration,
}

impl Stamp {
    /// That long before now.
    pub const fn ago(ago: Duration) -> Self {
        Self { ago }
    }

    /// In the unit of `clock`.
    pub(crate) fn ticks(self, clock: &Clock) -> Ticks {
        clock.before(clock.now(), self.ago)
    }
}

/// A time in the future counts as now.
impl From<SystemTime> for Stamp {
    fn from(at: SystemTime) -> Self {
        Self {
            ago: at.elapsed().unwrap_or(Duration::ZERO),
        }
    }
}

/// A time in the future counts as now.
impl From<Instant> for Stamp {
    fn from(at: Instant) -> Self {
        Self { ago: at.elapsed() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_of_the_past_comes_back_as_its_age() {
        let clock = Clock::MONOTONIC;
        let hour = Duration::from_secs(3600);
        for stamp in [Stamp::from(SystemTime::now() - hour), Stamp::ago(hour)] {
            let age = clock.between(stamp.ticks(&clock), clock.now());
            assert!(age.abs_diff(hour) < Duration::from_millis(100), "{age:?}");
        }
    }

    #[test]
    fn the_future_counts_as_now() {
        let clock = Clock::MONOTONIC;
        let stamp = Stamp::from(SystemTime::now() + Duration::from_secs(3600));
        assert!(clock.between(stamp.ticks(&clock), clock.now()) < Duration::from_secs(1));
    }
}
