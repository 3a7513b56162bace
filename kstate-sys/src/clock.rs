#![expect(
    unsafe_code,
    reason = "reads the time stamp counter and the CPU's identification"
)]
//! How a commit is stamped without a system call.
//!
//! A slot carries *ticks*. Where the processor has an invariant time stamp counter they are that
//! counter's, about 3 ns to read; elsewhere nanoseconds of `CLOCK_MONOTONIC`, about 25 ns. The
//! daemon calibrates once and every process converts with the same factor, handed out when it
//! subscribes.

use core::time::Duration;

/// A point in time in the unit of the mount's [`Clock`]; [`Ticks::NONE`] for "not stamped".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticks(pub u64);

impl Ticks {
    /// What a version carries whose writer chose no commit time.
    pub const NONE: Self = Self(0);
}

/// Where ticks come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ClockKind {
    /// The processor's invariant time stamp counter.
    TimeStampCounter = 1,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    Monotonic = 2,
}

/// A clock all processes of a mount agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    kind: ClockKind,
    /// Nanoseconds per tick, in units of 2^-32 ns.
    ns_per_tick_32: u64,
}

impl Clock {
    /// Nanoseconds of `CLOCK_MONOTONIC`: needs no calibration.
    pub const MONOTONIC: Self = Self {
        kind: ClockKind::Monotonic,
        ns_per_tick_32: 1 << 32,
    };

    /// The best clock of this machine, calibrated against `CLOCK_MONOTONIC` for 20 ms.
    ///
    /// # Cost
    ///
    /// 20 ms; the rate is then known to some 5 parts in a million, so that an age of a minute is
    /// right to 0.3 ms.
    pub fn calibrate() -> Self {
        if !has_invariant_counter() {
            return Self::MONOTONIC;
        }
        let start = paired_reading();
        std::thread::sleep(Duration::from_millis(20));
        let end = paired_reading();
        let ticks = end.1.wrapping_sub(start.1);
        let ns = end.0.saturating_sub(start.0);
        match u64::try_from((u128::from(ns) << 32) / u128::from(ticks.max(1))) {
            Ok(ns_per_tick_32) if ns_per_tick_32 > 0 => Self {
                kind: ClockKind::TimeStampCounter,
                ns_per_tick_32,
            },
            _ => Self::MONOTONIC,
        }
    }

    /// The clock whose raw parts the daemon handed out; `None` for an unknown kind or rate zero,
    /// and for a counter that this build cannot read.
    pub fn from_raw(kind: u32, ns_per_tick_32: u64) -> Option<Self> {
        let kind = match kind {
            1 if cfg!(target_arch = "x86_64") => ClockKind::TimeStampCounter,
            2 => ClockKind::Monotonic,
            _ => return None,
        };
        (ns_per_tick_32 > 0).then_some(Self {
            kind,
            ns_per_tick_32,
        })
    }

    /// Where ticks come from.
    pub const fn kind(&self) -> ClockKind {
        self.kind
    }

    /// Nanoseconds per tick in units of 2^-32 ns.
    pub const fn ns_per_tick_32(&self) -> u64 {
        self.ns_per_tick_32
    }

    /// Now.
    ///
    /// # Cost
    ///
    /// 3 ns with the counter, 25 ns without; no system call.
    #[inline]
    pub fn now(&self) -> Ticks {
        match self.kind {
            ClockKind::TimeStampCounter => Ticks(read_counter()),
            ClockKind::Monotonic => Ticks(monotonic_ns()),
        }
    }

    /// The time from `earlier` to `later`; zero when they are the other way round, as two cores'
    /// readings may be by some nanoseconds.
    pub fn between(&self, earlier: Ticks, later: Ticks) -> Duration {
        let ticks = later.0.saturating_sub(earlier.0);
        let ns = (u128::from(ticks) * u128::from(self.ns_per_tick_32)) >> 32;
        Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
    }

    /// The tick that lies `ago` before `now`: how a caller's own stamp becomes one of this clock.
    pub fn before(&self, now: Ticks, ago: Duration) -> Ticks {
        let ticks = (ago.as_nanos() << 32) / u128::from(self.ns_per_tick_32);
        Ticks(
            now.0
                .saturating_sub(u64::try_from(ticks).unwrap_or(u64::MAX))
                .max(1),
        )
    }
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is a valid place for a timespec. The call cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    // A monotonic clock is never negative.
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn read_counter() -> u64 {
    // SAFETY: every x86-64 processor has the instruction; Linux leaves it to user mode.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
fn read_counter() -> u64 {
    // `from_raw` and `calibrate` never choose the counter here.
    monotonic_ns()
}

#[cfg(target_arch = "x86_64")]
/// Whether the counter ticks at one rate through frequency changes and idle states.
///
/// Bit 8 of EDX of leaf 0x8000_0007 ("InvariantTSC", AMD64 manual volume 3; Intel SDM 18.17.1).
pub fn has_invariant_counter() -> bool {
    use core::arch::x86_64::__cpuid;
    __cpuid(0x8000_0000).eax >= 0x8000_0007 && __cpuid(0x8000_0007).edx & (1 << 8) != 0
}

#[cfg(not(target_arch = "x86_64"))]
/// Whether the processor has a counter this build can read: only x86-64 builds can.
pub fn has_invariant_counter() -> bool {
    false
}

/// Both clocks read as close together as eight tries allow: (nanoseconds, counter).
fn paired_reading() -> (u64, u64) {
    let mut best = (u64::MAX, 0, 0);
    for _ in 0..8 {
        let before = read_counter();
        let ns = monotonic_ns();
        let after = read_counter();
        let width = after.wrapping_sub(before);
        if width < best.0 {
            best = (width, ns, before.wrapping_add(width / 2));
        }
    }
    (best.1, best.2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calibrated_clock_keeps_pace_with_the_kernels() {
        let clock = Clock::calibrate();
        let (ticks, ns) = (clock.now(), monotonic_ns());
        std::thread::sleep(Duration::from_millis(50));
        let measured = clock.between(ticks, clock.now());
        let real = Duration::from_nanos(monotonic_ns() - ns);
        let error = measured.abs_diff(real);
        assert!(
            error < Duration::from_millis(1),
            "{measured:?} beside {real:?}"
        );
    }

    #[test]
    fn a_stamp_of_ones_own_comes_back_as_its_age() {
        let clock = Clock::calibrate();
        let now = clock.now();
        let age = clock.between(clock.before(now, Duration::from_millis(250)), now);
        assert!(
            age.abs_diff(Duration::from_millis(250)) < Duration::from_micros(1),
            "{age:?}"
        );
    }

    #[test]
    fn raw_parts_round_trip_and_nonsense_is_refused() {
        let clock = Clock::MONOTONIC;
        assert_eq!(
            Clock::from_raw(clock.kind() as u32, clock.ns_per_tick_32()),
            Some(clock)
        );
        assert_eq!(Clock::from_raw(0, 1), None);
        assert_eq!(Clock::from_raw(3, 1), None);
        assert_eq!(Clock::from_raw(2, 0), None);
    }
}
