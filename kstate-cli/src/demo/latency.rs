//! Percentiles of many short times.

use std::time::Duration;

use hdrhistogram::{CreationError, Histogram};

use super::report::Latency;
use crate::duration;

/// The longest time told apart from longer ones.
const LONGEST_NS: u64 = 10_000_000_000;

/// Times, kept as counts in three significant digits.
#[derive(Debug)]
pub(super) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(super) fn new() -> Result<Self, CreationError> {
        Ok(Self(Histogram::new_with_bounds(1, LONGEST_NS, 3)?))
    }

    /// Counts one.
    pub(super) fn record(&mut self, time: Duration) {
        self.0.saturating_record(duration::nanoseconds(time));
    }

    /// Of the times recorded, each divided by `parts`: how long one of several things done in a row
    /// took.
    pub(super) fn per(&self, parts: u32) -> Latency {
        #[expect(clippy::cast_precision_loss, reason = "three digits are significant")]
        let percentile = |percent| {
            let ns = self.0.value_at_percentile(percent) as f64 / f64::from(parts);
            (ns * 10.0).round() / 10.0
        };
        Latency {
            p50_ns: percentile(50.0),
            p99_ns: percentile(99.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_recorded() {
        let mut latencies = Latencies::new().unwrap();
        assert_eq!(latencies.per(1), Latency::default());
        for us in 1..=100 {
            latencies.record(Duration::from_micros(us));
        }
        latencies.record(Duration::from_secs(60));
        let latency = latencies.per(10);
        assert!((latency.p50_ns - 5100.0).abs() < 10.0, "{latency:?}");
        assert!((latency.p99_ns - 10_000.0).abs() < 20.0, "{latency:?}");
    }
}
