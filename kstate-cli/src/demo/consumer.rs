//! The demo's consumers, and what they have in common: every value is checked, and after being
//! told to stop each goes on, in its own way, until nothing changes any more.

pub(super) mod at_will;
pub(super) mod each_change;
pub(super) mod four_a_second;
pub(super) mod plain_file;

use std::time::Duration;

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

/// Finds the end: told to stop, and then so many rounds in a row without anything new.
///
/// The last value is not asked for in any other way than all before it: a consumer that would miss
/// it ends without it. Rounds are counted rather than time, since a consumer that did not get to
/// run has not looked.
#[derive(Debug)]
struct Quiet {
    rounds: u32,
    left: u32,
}

impl Quiet {
    fn after(rounds: u32) -> Self {
        Self {
            rounds,
            left: rounds,
        }
    }

    /// Whether it is time to end, after a round that `saw_change` or did not.
    fn has_come(&mut self, is_stopping: bool, saw_change: bool) -> bool {
        if saw_change || !is_stopping {
            self.left = self.rounds;
            return false;
        }
        self.left = self.left.saturating_sub(1);
        self.left == 0
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
    fn the_end_is_quiet_behind_the_last_change() {
        let mut quiet = Quiet::after(2);
        let rounds = [
            (false, false),
            (false, true),
            (true, false),
            (true, true),
            (true, false),
            (true, false),
        ];
        let ends = rounds.map(|(stopping, changed)| quiet.has_come(stopping, changed));
        assert_eq!(ends, [false, false, false, false, false, true]);
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
