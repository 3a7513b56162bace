//! What came of the demo.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

use super::board::{grouped, show_ns};
use super::crew::{Crew, Death, Member, MemberState};
use super::report::{Latency, Report};
use super::role::Role;
use super::states::{Count, Shown};

/// The result, as `--json` prints it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Summary {
    /// How long values were published, in seconds.
    pub(super) seconds: f64,
    /// How the file system was mounted.
    pub(super) mounted: String,
    /// Values published or committed, by all writers.
    pub(super) commits: u64,
    /// Values read, by all consumers.
    pub(super) reads: u64,
    /// Values among them that were not whole.
    pub(super) torn: u64,
    /// Values that were older than one read before.
    pub(super) went_back: u64,
    /// Consumers that did not end with the last value of what they follow.
    pub(super) missed_final: u64,
    /// Commits that found that somebody else had come first, and were tried again.
    pub(super) conflicts: u64,
    /// Commits that writers were told had succeeded and that are not in the states.
    pub(super) lost_updates: u64,
    /// Reads through the map, in nanoseconds.
    pub(super) read_ns_p50: f64,
    /// The same; all but one in a hundred.
    pub(super) read_ns_p99: f64,
    /// From a commit to the waiting consumer's running, in microseconds.
    pub(super) wake_us_p50: f64,
    /// The same; all but one in a hundred.
    pub(super) wake_us_p99: f64,
    /// From a commit to the return of `poll` on the plain file, in microseconds.
    pub(super) file_wake_us_p50: f64,
    /// The same; all but one in a hundred.
    pub(super) file_wake_us_p99: f64,
    /// The shortest time between two values of the consumer that takes 4 a second, in
    /// milliseconds.
    pub(super) paced_gap_ms: f64,
    /// Processes that died before their time.
    pub(super) died: Vec<Died>,
}

/// A process that died before its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Died {
    role: &'static str,
    pid: u32,
    how: String,
    /// Whether somebody killed it; otherwise it failed.
    killed: bool,
}

impl From<Death> for Died {
    fn from(death: Death) -> Self {
        let Death {
            role,
            pid,
            how,
            was_killed,
        } = death;
        Self {
            role: role.name(),
            pid,
            how,
            killed: was_killed,
        }
    }
}

impl Summary {
    /// Puts together what the processes reported; `newest` has the number of each state's last
    /// value, as the demo itself found it after the writers had ended.
    pub(super) fn of(crew: &Crew, newest: &BTreeMap<String, u64>, seconds: Duration) -> Self {
        let mut summary = Self {
            seconds: round(seconds.as_secs_f64(), 100.0),
            ..Self::default()
        };
        for member in crew.members() {
            let report = member.report();
            summary.conflicts += report.conflicts;
            summary.reads += report.reads;
            summary.torn += report.torn;
            summary.went_back += report.went_back;
            // Who was killed is told of under `died`.
            if *member.state() == MemberState::Done && misses_last(member.role(), report, newest) {
                summary.missed_final += 1;
            }
            let Latency { p50_ns, p99_ns } = report.latency;
            let us = |ns: f64| round(ns / 1e3, 10.0);
            match member.role() {
                Role::AtWill => (summary.read_ns_p50, summary.read_ns_p99) = (p50_ns, p99_ns),
                Role::EachChange => {
                    (summary.wake_us_p50, summary.wake_us_p99) = (us(p50_ns), us(p99_ns));
                }
                Role::PlainFile => {
                    (summary.file_wake_us_p50, summary.file_wake_us_p99) = (us(p50_ns), us(p99_ns));
                }
                Role::FourASecond => {
                    let gap = Duration::from_nanos(report.shortest_gap_ns);
                    summary.paced_gap_ms = round(gap.as_secs_f64() * 1e3, 10.0);
                }
                _ => {}
            }
            summary.died.extend(member.death().map(Died::from));
        }
        // Each commit counts the value up by one, so this is right even of a writer that was killed.
        summary.commits = newest.values().sum();
        summary.lost_updates = lost_updates(crew, newest);
        summary
    }

    /// Whether everything was as it must be. That somebody killed a process on purpose is no
    /// failure: it must not matter to the others.
    pub(super) fn is_good(&self) -> bool {
        let faults = self.torn + self.went_back + self.missed_final + self.lost_updates;
        faults == 0 && self.died.iter().all(|died| died.killed)
    }

    /// Writes it for a person.
    ///
    /// # Errors
    ///
    /// `output` fails.
    pub(super) fn write(&self, mut output: impl Write) -> io::Result<()> {
        let us = |us: f64| show_ns(us * 1e3);
        writeln!(
            output,
            "kstate demo: {} s, {}\n\
             \x20 {:>12} commits by 3 processes, {} reads by 4\n\
             \x20 {:>12} torn values, {} out of order: each was checked\n\
             \x20 {:>12} consumers without the last value\n\
             \x20 {:>12} conflicts between two writers, tried again; {} updates lost\n\
             \x20 {:>12} to read a value through the map, 99 % within {}\n\
             \x20 {:>12} from commit to the waiting consumer, 99 % within {}\n\
             \x20 {:>12} from commit to poll on the plain file, 99 % within {}\n\
             \x20 {:>12} at least between two values of the consumer that takes 4 a second",
            self.seconds,
            self.mounted,
            grouped(self.commits),
            grouped(self.reads),
            self.torn,
            self.went_back,
            self.missed_final,
            grouped(self.conflicts),
            self.lost_updates,
            show_ns(self.read_ns_p50),
            show_ns(self.read_ns_p99),
            us(self.wake_us_p50),
            us(self.wake_us_p99),
            us(self.file_wake_us_p50),
            us(self.file_wake_us_p99),
            us(self.paced_gap_ms * 1e3),
        )?;
        for Died { role, pid, how, .. } in &self.died {
            writeln!(
                output,
                "  {role} (process {pid}) died: {how}; the others went on"
            )?;
        }
        if !self.is_good() {
            writeln!(output, "  This is not as it must be.")?;
        }
        output.flush()
    }
}

fn misses_last(role: Role, report: &Report, newest: &BTreeMap<String, u64>) -> bool {
    role.is_consumer()
        && (report.last.is_empty()
            || report
                .last
                .iter()
                .any(|(state, last)| newest.get(state) != Some(last)))
}

/// By how many the states differ from what the writers committed to them. Nothing can be said of a
/// state one of whose writers was killed between its commit and its report.
fn lost_updates(crew: &Crew, newest: &BTreeMap<String, u64>) -> u64 {
    let done = |role| {
        let member = crew
            .member(role)
            .filter(|member| *member.state() == MemberState::Done);
        member.map(Member::report)
    };
    let published = done(Role::Publisher)
        .map(|report| report.last.clone())
        .unwrap_or_default();
    let counted = match (done(Role::FirstCounter), done(Role::SecondCounter)) {
        (Some(first), Some(second)) => {
            Some((Count::STATE.to_owned(), first.commits + second.commits))
        }
        _ => None,
    };
    let lost = |(state, committed): (String, u64)| {
        newest
            .get(&state)
            .map_or(committed, |newest| newest.abs_diff(committed))
    };
    published.into_iter().chain(counted).map(lost).sum()
}

fn round(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_must_end_with_the_last_value_of_each_of_its_states() {
        let newest: BTreeMap<_, _> = [("cpu".to_owned(), 7), ("load".to_owned(), 9)].into();
        let mut report = Report::default();
        assert!(misses_last(Role::AtWill, &report, &newest));
        assert!(!misses_last(Role::Publisher, &report, &newest));
        report.last.insert("cpu".into(), 7);
        assert!(!misses_last(Role::EachChange, &report, &newest));
        report.last.insert("load".into(), 8);
        assert!(misses_last(Role::AtWill, &report, &newest));
    }

    #[test]
    fn every_fault_makes_it_bad_and_a_kill_does_not() {
        let died = |killed| Died {
            role: "publisher",
            pid: 1,
            how: String::new(),
            killed,
        };
        let good = Summary {
            died: vec![died(true)],
            ..Summary::default()
        };
        assert!(good.is_good());
        for bad in [
            Summary {
                torn: 1,
                ..good.clone()
            },
            Summary {
                missed_final: 1,
                ..good.clone()
            },
            Summary {
                lost_updates: 1,
                ..good.clone()
            },
            Summary {
                went_back: 1,
                ..good.clone()
            },
            Summary {
                died: vec![died(false)],
                ..good.clone()
            },
        ] {
            assert!(!bad.is_good());
        }
    }

    #[test]
    fn the_keys_that_scripts_rely_on_are_there() {
        let json = serde_json::to_value(Summary::default()).unwrap();
        for key in [
            "commits",
            "reads",
            "torn",
            "missed_final",
            "conflicts",
            "read_ns_p50",
            "read_ns_p99",
            "wake_us_p50",
            "wake_us_p99",
            "file_wake_us_p50",
        ] {
            assert!(json[key].is_number(), "{key}");
        }
    }
}
