//! Views: other ways to look at a state, as files of their own, `name@4hz` or `name@wait`.

use std::str;
use std::time::{Duration, Instant};

use kstate_sys::duration;
use kstate_sys::name::{StateName, VIEW_SEPARATOR};

use crate::errno::Errno;

/// How a view shows its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct View {
    period: Period,
    /// Whether a read waits for a version that has not been read yet.
    pub(crate) waits: bool,
}

/// How often what a view shows may change: once in so many microseconds, 0 for always.
///
/// Sixteen bits and an exponent, so that a view is no more than its inode number and needs no memory
/// of the daemon's. What does not fit is rounded up, by less than 1/32768.
///
/// # Invariants
///
/// 1. `exponent` is below 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
struct Period {
    mantissa: u16,
    exponent: u8,
}

impl Period {
    fn new(period: Duration) -> Option<Self> {
        let mut micros = period.as_nanos().div_ceil(1000);
        let mut exponent = 0;
        while micros > u128::from(u16::MAX) {
            micros = micros.div_ceil(2);
            exponent += 1;
        }
        let mantissa = u16::try_from(micros).ok().filter(|micros| *micros > 0)?;
        // INVARIANT: 1.
        (exponent < 32).then_some(Self { mantissa, exponent })
    }

    fn duration(self) -> Duration {
        Duration::from_micros(u64::from(self.mantissa) << self.exponent)
    }
}

impl View {
    /// Bits of a [`View::code`].
    pub(crate) const CODE_BITS: u32 = 22;

    /// Takes the name of a view apart; `None` for one without a suffix.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a suffix that says nothing, or the same twice.
    pub(crate) fn split(name: &[u8]) -> Result<Option<(StateName, Self)>, Errno> {
        let mut parts = name.splitn(2, |byte| *byte == VIEW_SEPARATOR as u8);
        let (Some(name), Some(suffix)) = (parts.next(), parts.next()) else {
            return Ok(None);
        };
        let mut view = Self::default();
        for word in suffix.split(|byte| *byte == b',') {
            let word = str::from_utf8(word).map_err(|_| Errno::EINVAL)?;
            if word == "wait" && !view.waits {
                view.waits = true;
            } else if view.period == Period::default() {
                let period = duration::parse_rate(word).map_err(|_| Errno::EINVAL)?;
                view.period = Period::new(period).ok_or(Errno::EINVAL)?;
            } else {
                return Err(Errno::EINVAL);
            }
        }
        Ok(Some((StateName::new(name)?, view)))
    }

    /// The shortest time between two changes of what it shows.
    pub(crate) fn period(self) -> Duration {
        self.period.duration()
    }

    /// The view as a number.
    pub(crate) fn code(self) -> u64 {
        u64::from(self.waits) << 21
            | u64::from(self.period.exponent) << 16
            | u64::from(self.period.mantissa)
    }

    /// The view a number stands for.
    pub(crate) fn from_code(code: u64) -> Self {
        let [low, high, top, ..] = code.to_le_bytes();
        // INVARIANT: 1: of five bits.
        Self {
            waits: top & 1 << 5 != 0,
            period: Period {
                mantissa: u16::from_le_bytes([low, high]),
                exponent: top & 31,
            },
        }
    }
}

/// Keeps the rate of a view: the first change at once, later ones no sooner than a period after the
/// last one shown.
#[derive(Debug)]
pub(crate) struct Pace {
    period: Duration,
    shown: Option<Instant>,
}

impl Pace {
    pub(crate) fn new(period: Duration) -> Self {
        let shown = None;
        Self { period, shown }
    }

    /// When something newer may be shown; `None` for now.
    pub(crate) fn not_before(&self) -> Option<Instant> {
        let next = self.shown?.checked_add(self.period)?;
        (next > Instant::now()).then_some(next)
    }

    /// Notes that something newer is shown now.
    pub(crate) fn show(&mut self) {
        if !self.period.is_zero() {
            self.shown = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(name: &str) -> Result<Option<(String, Duration, bool)>, Errno> {
        let split = View::split(name.as_bytes())?;
        Ok(split.map(|(name, view)| (name.as_str().to_owned(), view.period(), view.waits)))
    }

    #[test]
    fn a_suffix_says_how_often_and_whether_reads_wait() {
        let ms = Duration::from_millis;
        for (name, period, waits) in [
            ("a.b@250ms", ms(250), false),
            ("a.b@4hz", ms(250), false),
            ("a.b@0.5hz", ms(2000), false),
            ("a.b@wait", ms(0), true),
            ("a.b@4hz,wait", ms(250), true),
            ("a.b@wait,1.5s", ms(1500), true),
        ] {
            let expected = Some(("a.b".to_owned(), period, waits));
            assert_eq!(split(name), Ok(expected), "{name}");
        }
        assert_eq!(split("a.b"), Ok(None));
    }

    #[test]
    fn a_bad_suffix_or_name_is_einval() {
        for name in [
            "a@",
            "a@,",
            "a@wait,",
            "a@wait,wait",
            "a@4hz,4hz",
            "a@4",
            "a@0hz",
            "a@0s",
            "a@-1s",
            "a@fast",
            "a@4hz@wait",
            "@4hz",
            "a.@4hz",
            "a@4hz,250ms",
            "a@99999999h",
            "a@Wait",
        ] {
            assert_eq!(split(name), Err(Errno::EINVAL), "{name}");
        }
        let long = format!("{}@4hz", "a".repeat(248));
        assert_eq!(split(&long).unwrap_err().code(), libc::ENAMETOOLONG);
    }

    #[test]
    fn the_first_change_is_shown_at_once_and_the_next_a_period_later() {
        let period = Duration::from_secs(3600);
        let mut pace = Pace::new(period);
        assert_eq!(pace.not_before(), None);
        let before = Instant::now();
        pace.show();
        let next = pace.not_before().unwrap();
        assert!(next >= before + period && next <= Instant::now() + period);
        let mut plain = Pace::new(Duration::ZERO);
        plain.show();
        assert_eq!(plain.not_before(), None);
    }

    #[test]
    fn a_view_is_its_code_and_never_shows_more_often_than_said() {
        for micros in [1, 65_535, 65_536, 65_537, 123_456_789, 3_600_000_000] {
            let wanted = Duration::from_micros(micros);
            let period = Period::new(wanted).unwrap();
            for waits in [false, true] {
                let view = View { period, waits };
                assert!(view.code() < 1 << View::CODE_BITS);
                assert_eq!(View::from_code(view.code()), view);
            }
            assert!(period.duration() >= wanted);
            assert!(period.duration() <= wanted + wanted / 32_768);
        }
        assert_eq!(Period::new(Duration::MAX), None);
    }
}
