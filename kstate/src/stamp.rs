//! When a version was committed, as its writer says.

use std::time::{Duration, Instant, SystemTime};

use core::num::NonZeroU64;

use kstate_sys::clock::{Clock, ClockKind, Ticks};

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

/// A [`Clock`] in one word, which every snapshot carries: its rate, and the top bit for the
/// kernel's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClockWord(NonZeroU64);

impl ClockWord {
    const MONOTONIC_BIT: u64 = 1 << 63;

    pub(crate) fn of(clock: Clock) -> Self {
        // A rate of 2^31 ns a tick is no clock's.
        let rate = clock.ns_per_tick_32() & !Self::MONOTONIC_BIT;
        let kind = match clock.kind() {
            ClockKind::TimeStampCounter => 0,
            ClockKind::Monotonic => Self::MONOTONIC_BIT,
        };
        Self(NonZeroU64::new(rate | kind).unwrap_or(NonZeroU64::MAX))
    }

    #[inline]
    pub(crate) fn clock(self) -> Clock {
        let kind = match self.0.get() & Self::MONOTONIC_BIT {
            0 => ClockKind::TimeStampCounter,
            _ => ClockKind::Monotonic,
        };
        let clock = Clock::from_raw(kind as u32, self.0.get() & !Self::MONOTONIC_BIT);
        clock.unwrap_or(Clock::MONOTONIC)
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
    use kstate_sys::clock::monotonic_ns;

    use super::*;

    #[test]
    fn a_stamp_of_the_past_comes_back_as_its_age() {
        let clock = Clock::MONOTONIC;
        // A clock that began with the machine knows no time before that.
        let ago = Duration::from_nanos(monotonic_ns()) / 2;
        for stamp in [Stamp::from(SystemTime::now() - ago), Stamp::ago(ago)] {
            let age = clock.between(stamp.ticks(&clock), clock.now());
            assert!(age.abs_diff(ago) < Duration::from_secs(60), "{age:?}");
        }
        let born = Stamp::ago(Duration::from_hours(24 * 365 * 100)).ticks(&clock);
        assert_eq!(born, Ticks(1), "as old as can be said, and still a stamp");
    }

    #[test]
    fn a_clock_survives_its_word() {
        for clock in [
            Clock::MONOTONIC,
            Clock::from_raw(2, 1 << 40).unwrap(),
            Clock::calibrate(),
        ] {
            assert_eq!(ClockWord::of(clock).clock(), clock);
        }
    }

    #[test]
    fn the_future_counts_as_now() {
        let clock = Clock::MONOTONIC;
        let stamp = Stamp::from(SystemTime::now() + Duration::from_secs(3600));
        assert!(clock.between(stamp.ticks(&clock), clock.now()) < Duration::from_secs(1));
    }
}
