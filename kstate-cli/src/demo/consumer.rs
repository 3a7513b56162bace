//! The demo's consumers, and what they have in common: every value is checked, and after being
//! told to stop each goes on, in its own way, until nothing changes any more.

pub(super) mod at_will;
pub(super) mod each_change;
pub(super) mod four_a_second;
pub(super) mod plain_file;

use std::time::{Duration, Instant};

use super::part::Part;
use super::report::Report;
use super::sample::Checked;

/// How long a wait lasts at most, so that being told to stop is noticed.
const WAIT: Duration = Duration::from_millis(50);

/// Values of one state as they are seen.
#[derive(Debug)]
struct Follower {
    state: &'static str,
    last: u64,
    report: Report,
}

impl Follower {
    fn new(state: &'static str) -> Self {
        Self {
            state,
            last: 0,
            report: Report::default(),
        }
    }

    /// Checks a value. Returns whether it is newer than the last.
    fn see(&mut self, value: &impl Checked) -> bool {
        self.report.reads += 1;
        if !value.is_whole() {
            self.report.torn += 1;
            return false;
        }
        let sequence = value.sequence();
        if sequence < self.last {
            self.report.went_back += 1;
        }
        if sequence <= self.last {
            return false;
        }
        // What was published before the first look was not passed over.
        if self.last > 0 {
            self.report.passed_over += sequence - self.last - 1;
        }
        self.report.changes += 1;
        self.last = sequence;
        true
    }

    /// A read that gave something else than a value.
    fn see_torn(&mut self) {
        self.report.reads += 1;
        self.report.torn += 1;
    }

    /// What was seen so far.
    fn report(&self) -> Report {
        let mut report = self.report.clone();
        report.last.insert(self.state.to_owned(), self.last);
        report
    }
}

/// Finds the end: told to stop, and then nothing new for a while.
///
/// The last value is not asked for in any other way than all before it: a consumer that would miss
/// it ends without it.
#[derive(Debug)]
struct Quiet {
    patience: Duration,
    since: Option<Instant>,
}

impl Quiet {
    fn after(patience: Duration) -> Self {
        Self {
            patience,
            since: None,
        }
    }

    /// Whether it is time to end.
    fn has_come(&mut self, part: &Part, saw_change: bool) -> bool {
        if !part.is_stopping() {
            return false;
        }
        let now = Instant::now();
        if saw_change {
            self.since = Some(now);
        }
        now.duration_since(*self.since.get_or_insert(now)) >= self.patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::states::Count;

    fn sealed(sequence: u64) -> Count {
        let mut count = Count::default();
        count.seal(1, sequence);
        count
    }

    #[test]
    fn a_follower_finds_torn_old_and_passed_over_values() {
        let mut follower = Follower::new("count");
        assert!(follower.see(&sealed(5)));
        assert!(!follower.see(&sealed(5)));
        assert!(follower.see(&sealed(8)));
        assert!(!follower.see(&sealed(7)));
        assert!(!follower.see(&Count {
            value: 1,
            ..sealed(9)
        }));
        let report = follower.report();
        assert_eq!(
            (report.reads, report.changes, report.passed_over),
            (5, 2, 2)
        );
        assert_eq!((report.torn, report.went_back), (1, 1));
        assert_eq!(report.last["count"], 8);
    }
}
