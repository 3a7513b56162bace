//! What is shown while the demo runs, on a terminal or as lines.

use std::time::Duration;

use super::crew::{Crew, Member, MemberState};
use super::observer::StateRow;
use super::report::Latency;
use super::role::Role;

/// A moment of the demo.
#[derive(Debug)]
pub(super) struct Board {
    /// How long it runs.
    pub(super) elapsed: Duration,
    /// How long it is to run.
    pub(super) length: Duration,
    /// How the file system is mounted, and how maps come about.
    pub(super) mounted: String,
    pub(super) states: Vec<StateRow>,
    pub(super) processes: Vec<ProcessRow>,
}

/// A process, as it is shown.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ProcessRow {
    pub(super) role: Role,
    pub(super) pid: u32,
    /// What it counts, such as `commits`.
    pub(super) unit: &'static str,
    pub(super) amount: u64,
    /// What it measures, such as `wake`; nothing where it measures nothing.
    pub(super) measure: &'static str,
    pub(super) latency: Latency,
    /// Values that were not whole.
    pub(super) torn: u64,
    /// How it is.
    pub(super) state: String,
}

impl ProcessRow {
    pub(super) fn of(member: &Member) -> Self {
        let (report, role) = (member.report(), member.role());
        let (unit, amount) = match role {
            Role::Daemon => ("", 0),
            Role::AtWill => ("reads", report.reads),
            role if role.is_writer() => ("commits", report.commits),
            _ => ("changes", report.changes),
        };
        let measure = match role {
            Role::AtWill => "read",
            Role::EachChange | Role::PlainFile => "wake",
            Role::FourASecond => "age",
            Role::FirstCounter | Role::SecondCounter => "commit",
            Role::Daemon | Role::Publisher => "",
        };
        let state = match (member.death(), member.state()) {
            (Some(death), _) => death.how,
            (None, MemberState::Starting) => "starts".to_owned(),
            (None, MemberState::Done) => "done".to_owned(),
            (None, _) => role.does().to_owned(),
        };
        Self {
            role,
            pid: member.pid(),
            unit,
            amount,
            measure,
            latency: report.latency,
            torn: report.torn,
            state,
        }
    }

    /// Every process, in order.
    pub(super) fn all(crew: &Crew) -> Vec<Self> {
        crew.members().iter().map(Self::of).collect()
    }
}

/// Nanoseconds as they are shown.
pub(super) fn show_ns(ns: f64) -> String {
    if ns < 100.0 {
        return format!("{ns:.1} ns");
    }
    crate::duration::show(Duration::try_from_secs_f64(ns * 1e-9).unwrap_or_default())
}

/// A number with its digits in groups of three.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_from_the_right() {
        for (number, shown) in [
            (0, "0"),
            (999, "999"),
            (1000, "1 000"),
            (1234567, "1 234 567"),
        ] {
            assert_eq!(grouped(number), shown);
        }
    }

    #[test]
    fn short_times_keep_a_decimal() {
        assert_eq!(show_ns(21.25), "21.2 ns");
        assert_eq!(show_ns(140.0), "140 ns");
        assert_eq!(show_ns(41_000.0), "41.0 µs");
    }
}
