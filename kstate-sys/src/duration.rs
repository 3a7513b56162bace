//! Durations and rates as people write them: on the command line, in attributes, in the names of
//! views.

use std::time::Duration;

/// A text that is not a duration or a rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DurationError {
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
pub fn parse(text: &str) -> Result<Duration, DurationError> {
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
pub fn parse_rate(text: &str) -> Result<Duration, DurationError> {
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
}
