//! What a soak has found, and how it is told.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::crew::{Placement, Work, Wrong};
use super::part::Role;

/// The work of the time in which the processes were placed in one way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Share {
    pub(crate) time: Duration,
    pub(crate) by_role: BTreeMap<Role, Work>,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    pub(crate) seconds: f64,
    pub(crate) passthrough: bool,
    pub(crate) hostile: bool,
    pub(crate) kills: u64,
    pub(crate) stops: u64,
    pub(crate) processes: usize,
    pub(crate) shares: BTreeMap<Placement, Share>,
    /// What came of calls beside the hostile writer.
    pub(crate) outcomes: Vec<(&'static str, u64)>,
    pub(crate) reads: u64,
    pub(crate) commits: u64,
    pub(crate) conflicts: u64,
    pub(crate) torn: u64,
    pub(crate) backwards: u64,
    pub(crate) lost_updates: u64,
    pub(crate) surplus_updates: u64,
    /// Commits of killed processes that may have been made.
    pub(crate) in_flight: u64,
    pub(crate) half_applied: u64,
    pub(crate) wrong: Wrong,
    /// What is still held though nobody is there.
    pub(crate) leaks: Vec<String>,
    /// What processes said of errors that should not be.
    pub(crate) errors: Vec<String>,
    pub(crate) daemon_died: bool,
}

impl Findings {
    /// What must be nothing, with how much of it there is.
    fn faults(&self) -> [(&'static str, u64); 11] {
        [
            ("torn", self.torn),
            ("backwards", self.backwards),
            ("lost_updates", self.lost_updates),
            ("surplus_updates", self.surplus_updates),
            ("half_applied", self.half_applied),
            ("stuck", self.wrong.stuck.len() as u64),
            ("hung", self.wrong.hung.len() as u64),
            ("ended", self.wrong.ended.len() as u64),
            ("leaked", self.leaks.len() as u64),
            ("errors", self.errors.len() as u64),
            ("daemon_died", u64::from(self.daemon_died)),
        ]
    }

    pub(crate) fn passed(&self) -> bool {
        self.faults().iter().all(|(_, count)| *count == 0)
    }

    /// What was wrong, each thing once.
    fn details(&self) -> Vec<String> {
        let wrong = &self.wrong;
        let all = wrong.stuck.iter().chain(&wrong.hung).chain(&wrong.ended);
        let mut counted = BTreeMap::<&String, u64>::new();
        for detail in all.chain(&self.leaks).chain(&self.errors) {
            *counted.entry(detail).or_default() += 1;
        }
        let shown = counted.into_iter();
        shown
            .map(|(detail, count)| format!("{count} times: {detail}"))
            .collect()
    }

    pub(crate) fn json(&self) -> Value {
        let share = |share: &Share| {
            let mut roles = Map::new();
            for (role, work) in &share.by_role {
                let figures = json!({
                    "done": work.done,
                    "conflicts": work.conflicts,
                    "longest_us": micros(work.longest),
                });
                roles.insert(role.name(), figures);
            }
            json!({ "seconds": share.time.as_secs_f64(), "roles": roles })
        };
        let shares: Map<_, _> = (self.shares.iter())
            .map(|(placement, figures)| (name_of(*placement).into(), share(figures)))
            .collect();
        let pairs = |pairs: &[(&str, u64)]| -> Map<String, Value> {
            let pairs = pairs.iter();
            pairs
                .map(|(name, count)| ((*name).into(), json!(count)))
                .collect()
        };
        json!({
            "passed": self.passed(),
            "seconds": self.seconds,
            "passthrough": self.passthrough,
            "hostile": self.hostile,
            "processes": self.processes,
            "kills": self.kills,
            "stops": self.stops,
            "reads": self.reads,
            "commits": self.commits,
            "conflicts": self.conflicts,
            "in_flight": self.in_flight,
            "placements": shares,
            "outcomes": pairs(&self.outcomes),
            "faults": pairs(&self.faults()),
            "details": self.details(),
        })
    }

    pub(crate) fn print(&self) {
        let way = match self.passthrough {
            true => "passthrough",
            false => "the daemon's socket",
        };
        println!(
            "{:.1} s by {way}: {} processes, {} kills, {} stops",
            self.seconds, self.processes, self.kills, self.stops
        );
        println!(
            "{} checked reads, {} commits, {} conflicts; {} commits of killed processes unknown",
            self.reads, self.commits, self.conflicts, self.in_flight
        );
        for (placement, share) in &self.shares {
            println!(
                "{} for {:.1} s:",
                name_of(*placement),
                share.time.as_secs_f64()
            );
            for (role, work) in &share.by_role {
                println!(
                    "  {:<12} {:>12} done {:>10} conflicts, longest {:>9.3} ms",
                    role.name(),
                    work.done,
                    work.conflicts,
                    micros(work.longest) / 1e3
                );
            }
        }
        if !self.outcomes.is_empty() {
            println!("beside the hostile writer:");
        }
        for (name, count) in &self.outcomes {
            println!("  {name:<20} {count:>12}");
        }
        let faults = self.faults().map(|(name, count)| format!("{name} {count}"));
        println!("{}", faults.join(", "));
        for detail in self.details() {
            println!("  {detail}");
        }
        println!("{}", if self.passed() { "passed" } else { "FAILED" });
    }
}

fn name_of(placement: Placement) -> &'static str {
    match placement {
        Placement::Across => "across_cores",
        Placement::OneCore => "one_core",
    }
}

fn micros(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e7).round() / 10.0
}
