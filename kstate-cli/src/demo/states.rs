//! The demo's states.

use std::fmt::Write;

use super::sample::{CpuSample, LoadSample, MemorySample, NetworkSample, Sample};
use crate::demo::sample::Checked;

kstate::layout! {
    /// A count to which two processes add.
    #[derive(Default, Eq)]
    pub(crate) struct Count {
        /// How far they are.
        pub(crate) value: u64,
        /// Who was last: a process id.
        pub(crate) by: u64,
        /// When it was committed, in nanoseconds of `CLOCK_MONOTONIC`.
        pub(crate) published_ns: u64,
        /// How often it was committed.
        pub(crate) sequence: u64,
        /// The check over all words above.
        pub(crate) check: u64,
    }
}

impl Sample for Count {}

/// A value of the demo: the state it is in, and what it says to a person.
pub(super) trait Shown: Sample + Checked {
    /// The state's name.
    const STATE: &str;

    /// In a few words; what is a rate is taken from an `earlier` value.
    fn words(&self, earlier: Option<&Self>) -> String;
}

impl Shown for CpuSample {
    const STATE: &str = "cpu";

    fn words(&self, earlier: Option<&Self>) -> String {
        let busy = |s: &Self| s.user + s.nice + s.system + s.irq + s.softirq + s.steal;
        let all = |s: &Self| busy(s) + s.idle + s.iowait;
        let mut words = format!("{} running", self.running);
        if let Some(earlier) = earlier {
            let ticks = all(self).saturating_sub(all(earlier));
            if let Some(percent) =
                (100 * busy(self).saturating_sub(busy(earlier))).checked_div(ticks)
            {
                words = format!("{percent} % busy, {words}");
            }
            if let Some(rate) = rate(
                self.context_switches,
                earlier.context_switches,
                self.published_ns,
                earlier.published_ns,
            ) {
                let _ = write!(words, ", {rate} switches/s");
            }
        }
        words
    }
}

impl Shown for MemorySample {
    const STATE: &str = "memory";

    fn words(&self, _earlier: Option<&Self>) -> String {
        let used = self.total_kib.saturating_sub(self.available_kib);
        format!("{} MiB used of {}", used / 1024, self.total_kib / 1024)
    }
}

impl Shown for NetworkSample {
    const STATE: &str = "network";

    fn words(&self, earlier: Option<&Self>) -> String {
        let rate = |of: fn(&Self) -> u64| {
            let earlier = earlier?;
            rate(
                of(self),
                of(earlier),
                self.published_ns,
                earlier.published_ns,
            )
        };
        match (rate(|s| s.received_bytes), rate(|s| s.sent_bytes)) {
            (Some(received), Some(sent)) => {
                format!("{} kB/s in, {} kB/s out", received / 1000, sent / 1000)
            }
            _ => format!("{} packets in", self.received_packets),
        }
    }
}

impl Shown for LoadSample {
    const STATE: &str = "load";

    fn words(&self, _earlier: Option<&Self>) -> String {
        let Self {
            one_minute,
            five_minutes,
            threads,
            ..
        } = self;
        format!("{one_minute:.2} over 1 min, {five_minutes:.2} over 5, {threads} threads")
    }
}

impl Shown for Count {
    const STATE: &str = "count";

    fn words(&self, _earlier: Option<&Self>) -> String {
        format!("{}, last by process {}", self.value, self.by)
    }
}

/// Growth a second.
fn rate(now: u64, earlier: u64, now_ns: u64, earlier_ns: u64) -> Option<u64> {
    let growth = u128::from(now.saturating_sub(earlier)) * 1_000_000_000;
    let rate = growth.checked_div(u128::from(now_ns.saturating_sub(earlier_ns)))?;
    u64::try_from(rate).ok()
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    #[test]
    fn what_is_said_of_the_processors_is_a_difference() {
        let mut earlier = CpuSample::new_zeroed();
        let mut now = CpuSample {
            running: 2,
            ..earlier
        };
        assert_eq!(now.words(None), "2 running");
        assert_eq!(now.words(Some(&earlier)), "2 running");
        earlier.published_ns = 1_000_000_000;
        now = CpuSample {
            user: 1,
            idle: 3,
            context_switches: 500,
            running: 2,
            ..earlier
        };
        now.published_ns = 1_500_000_000;
        assert_eq!(
            now.words(Some(&earlier)),
            "25 % busy, 2 running, 1000 switches/s"
        );
    }
}
