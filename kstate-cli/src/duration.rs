//! Durations and rates as they are written on the command line, and ages as they are shown.

use std::time::Duration;

/// A text that is not a duration or a rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum DurationError {
    /// A number without its unit.
    #[error("`{found}` has no unit; write for example `{found}s` or `{found}ms`")]
    NoUnit {
        /// What was found.
        found: String,
    },
    /// Not a number with a unit.
    #[error("`{found}` is not a duration; expected for example 250ms, 2s, 1.5s, 10m or 1h")]
    NotADuration {
        /// What was found.
        found: String,
    },
    /// Beyond what a duration can be.
    #[error("`{found}` is longer than can be counted; leave it out to have no limit")]
    TooLong {
        /// What was found.
        found: String,
    },
    /// Neither a rate nor an interval.
    #[error(
        "`{found}` is not a rate; expected times a second such as 4hz, or an interval such as 250ms"
    )]
    NotARate {
        /// What was found.
        found: String,
    },
}

/// Units and their length in seconds; a unit comes before those it ends with.
const UNITS: [(&str, f64); 8] = [
    ("ns", 1e-9),
    ("us", 1e-6),
    ("µs", 1e-6),
    ("ms", 1e-3),
    ("min", 60.0),
    ("s", 1.0),
    ("m", 60.0),
    ("h", 3600.0),
];

/// Reads a duration such as `250ms`, `2s` or `1.5h`.
///
/// # Errors
///
/// The text is not a number with a unit of time; the message shows examples.
pub(crate) fn parse(text: &str) -> Result<Duration, DurationError> {
    let found = || text.to_owned();
    let unit = UNITS
        .iter()
        .find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)));
    let Some((number, unit_seconds)) = unit else {
        return Err(match number(text) {
            Some(0.0) => return Ok(Duration::ZERO),
            Some(_) => DurationError::NoUnit { found: found() },
            None => DurationError::NotADuration { found: found() },
        });
    };
    let number =
        self::number(number).ok_or_else(|| DurationError::NotADuration { found: found() })?;
    Duration::try_from_secs_f64(number * unit_seconds)
        .map_err(|_| DurationError::TooLong { found: found() })
}

/// Reads `4hz` or `250ms`, and returns the interval.
///
/// # Errors
///
/// The text is neither, or the rate is zero.
pub(crate) fn parse_rate(text: &str) -> Result<Duration, DurationError> {
    let not_a_rate = || DurationError::NotARate {
        found: text.to_owned(),
    };
    let lower = text.to_ascii_lowercase();
    match lower.strip_suffix("hz") {
        Some(rate) => {
            let (rate, factor) = match rate.strip_suffix('k') {
                Some(rate) => (rate, 1e3),
                None => (rate, 1.0),
            };
            let rate = number(rate)
                .filter(|rate| *rate > 0.0)
                .ok_or_else(not_a_rate)?;
            Duration::try_from_secs_f64(1.0 / (rate * factor)).map_err(|_| not_a_rate())
        }
        None => parse(text).map_err(|_| not_a_rate()),
    }
}

/// A plain decimal number: no sign, no exponent, no infinity.
fn number(text: &str) -> Option<f64> {
    let is_plain = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    text.parse().ok().filter(|_| is_plain)
}

/// A duration in three significant digits and the unit that suits it, such as `1.25 ms`.
pub(crate) fn show(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    let (value, unit) = match seconds {
        s if s < 0.999_5e-6 => (s * 1e9, "ns"),
        s if s < 0.999_5e-3 => (s * 1e6, "µs"),
        s if s < 0.999_5 => (s * 1e3, "ms"),
        s if s < 119.5 => (s, "s"),
        s if s < 7199.5 => (s / 60.0, "min"),
        s => (s / 3600.0, "h"),
    };
    let decimals = match value {
        _ if unit == "ns" => 0,
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {unit}")
}

/// A duration in nanoseconds, for `--json`: as many as fit.
pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, ns) in [
            ("250ms", 250_000_000),
            ("2s", 2_000_000_000),
            ("1.5s", 1_500_000_000),
            ("10us", 10_000),
            ("10µs", 10_000),
            ("7ns", 7),
            ("2m", 120_000_000_000),
            ("2min", 120_000_000_000),
            ("1h", 3_600_000_000_000),
            ("0", 0),
            ("0s", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_nanos(ns)), "{text}");
        }
        let refusal = parse("2").unwrap_err().to_string();
        assert_eq!(refusal, "`2` has no unit; write for example `2s` or `2ms`");
        for text in [
            "",
            "s",
            "-1s",
            "1e3s",
            "infs",
            "nans",
            "two seconds",
            "1..2s",
            ".s",
        ] {
            assert!(
                matches!(parse(text), Err(DurationError::NotADuration { .. })),
                "{text}"
            );
        }
        assert!(matches!(
            parse("99999999999999999999h"),
            Err(DurationError::TooLong { .. })
        ));
    }

    #[test]
    fn a_rate_is_times_a_second_or_an_interval() {
        for (text, ms) in [
            ("4hz", 250),
            ("4Hz", 250),
            ("0.5hz", 2000),
            ("1khz", 1),
            ("250ms", 250),
        ] {
            assert_eq!(parse_rate(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "4", "0hz", "-1hz", "hz", "fast"] {
            let refusal = parse_rate(text).unwrap_err().to_string();
            assert!(refusal.contains("4hz"), "{refusal}");
        }
    }

    #[test]
    fn durations_are_shown_in_three_digits() {
        for (ns, shown) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1000, "1.00 µs"),
            (999_999, "1.00 ms"),
            (41_234, "41.2 µs"),
            (1_250_000, "1.25 ms"),
            (100_000_000, "100 ms"),
            (1_500_000_000, "1.50 s"),
            (90_000_000_000, "90.0 s"),
            (600_000_000_000, "10.0 min"),
            (7_200_000_000_000, "2.00 h"),
        ] {
            assert_eq!(show(Duration::from_nanos(ns)), shown);
        }
    }
}
