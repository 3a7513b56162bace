//! What was found, and how it is told.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::crew::Waiter;
use super::kind::Kind;
use super::note::STATES;

/// Sleeps of one waiter that are none for a version: while it asks the daemon for marks, and when it begins
/// or goes on.
const BEGINNING: u64 = 10;

/// What all waiters of one kind have done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Work {
    waiters: u64,
    wakes: u64,
    newer: u64,
    causeless: u64,
    /// Of one waiter, the most causeless wakes for each of the commits in its time.
    worst: f64,
    /// How long after the end of a burst they were at the last version, at most.
    latest: Duration,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    pub(crate) seconds: f64,
    pub(crate) passthrough: bool,
    pub(crate) commits: u64,
    pub(crate) pauses: u64,
    pub(crate) processes: u64,
    pub(crate) kills: u64,
    pub(crate) ends: u64,
    pub(crate) stops: u64,
    /// How often one was looked at in a pause.
    pub(crate) looks: u64,
    pub(crate) by_kind: BTreeMap<Kind, Work>,
    /// Waiters that were not at the last version in time.
    pub(crate) missed: Vec<String>,
    /// Those that were woken more often without cause than there were commits.
    pub(crate) restless: Vec<String>,
    pub(crate) backwards: u64,
    pub(crate) wrong: Vec<String>,
    pub(crate) leaks: Vec<String>,
    pub(crate) errors: Vec<String>,
    pub(crate) daemon_died: bool,
}

impl Findings {
    /// Takes the notes of one that has ended, with the generations that were the newest by then, or
    /// later.
    pub(crate) fn add(&mut self, waiter: &Waiter, newest: [u64; STATES]) {
        let note = waiter.note;
        let Some(commits) = note.commits(waiter.kind.follows(), newest) else {
            return;
        };
        let work = self.by_kind.entry(waiter.kind).or_default();
        work.waiters += 1;
        work.wakes += note.wakes();
        work.newer += note.newer();
        work.causeless += note.causeless();
        let causeless = note.causeless();
        let rate = causeless.saturating_sub(BEGINNING) as f64 / commits.max(1) as f64;
        work.worst = work.worst.max(rate);
        if rate > 1.0 {
            let name = waiter.kind.name();
            let what = format!("{name} was woken {causeless} times in vain in {commits} commits");
            self.restless.push(what);
        }
        self.backwards += note.backwards();
    }

    /// Notes that one was at the last version so long after the burst.
    pub(crate) fn caught_up(&mut self, kind: Kind, after: Duration) {
        let work = self.by_kind.entry(kind).or_default();
        work.latest = work.latest.max(after);
    }

    /// What must be nothing, with how much of it there is.
    fn faults(&self) -> [(&'static str, u64); 7] {
        [
            ("missed", self.missed.len() as u64),
            ("restless", self.restless.len() as u64),
            ("backwards", self.backwards),
            ("wrong", self.wrong.len() as u64),
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
        let mut counted = BTreeMap::<&String, u64>::new();
        let all = self.missed.iter().chain(&self.restless).chain(&self.wrong);
        for detail in all.chain(&self.leaks).chain(&self.errors) {
            *counted.entry(detail).or_default() += 1;
        }
        let shown = counted.into_iter();
        shown
            .map(|(detail, count)| format!("{count} times: {detail}"))
            .collect()
    }

    pub(crate) fn json(&self) -> Value {
        let kinds: Map<_, _> = (self.by_kind.iter())
            .map(|(kind, work)| {
                let figures = json!({
                    "waiters": work.waiters,
                    "wakes": work.wakes,
                    "newer": work.newer,
                    "causeless": work.causeless,
                    "worst_causeless_a_commit": (work.worst * 1e3).round() / 1e3,
                    "latest_ms": millis(work.latest),
                });
                (kind.name(), figures)
            })
            .collect();
        let faults: Map<_, _> = (self.faults().iter())
            .map(|(name, count)| ((*name).to_owned(), json!(count)))
            .collect();
        json!({
            "passed": self.passed(),
            "seconds": self.seconds,
            "passthrough": self.passthrough,
            "commits": self.commits,
            "pauses": self.pauses,
            "processes": self.processes,
            "kills": self.kills,
            "ends": self.ends,
            "stops": self.stops,
            "looks": self.looks,
            "kinds": kinds,
            "faults": faults,
            "details": self.details(),
        })
    }

    pub(crate) fn print(&self) {
        let way = match self.passthrough {
            true => "passthrough",
            false => "the daemon's socket",
        };
        println!(
            "{:.1} s by {way}: {} commits with {} pauses; {} processes, {} killed, {} ended, {} stops",
            self.seconds,
            self.commits,
            self.pauses,
            self.processes,
            self.kills,
            self.ends,
            self.stops
        );
        println!(
            "{} times a waiter was looked for at the last version",
            self.looks
        );
        for (kind, work) in &self.by_kind {
            println!(
                "  {:<12} {:>5} waiters {:>10} wakes {:>10} newer {:>8} causeless, \
                 {:>6.3} a commit at worst, last version after {:>8.3} ms at most",
                kind.name(),
                work.waiters,
                work.wakes,
                work.newer,
                work.causeless,
                work.worst,
                millis(work.latest)
            );
        }
        let faults = self.faults().map(|(name, count)| format!("{name} {count}"));
        println!("{}", faults.join(", "));
        for detail in self.details() {
            println!("  {detail}");
        }
        println!("{}", if self.passed() { "passed" } else { "FAILED" });
    }
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
