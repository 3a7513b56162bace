//! Durations as they are shown; as they are written they are in `kstate_sys`.

use std::time::Duration;

pub(crate) use kstate_sys::duration::{DurationError, parse, parse_rate};

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
