//! What was found, and how it is told.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

/// After so many faults there is no use in going on.
const HOPELESS: usize = 20;

/// All of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    pub(crate) seconds: f64,
    pub(crate) passthrough: bool,
    pub(crate) kills: BTreeMap<&'static str, u64>,
    /// Daemons killed while they took over.
    pub(crate) kills_in_takeover: u64,
    pub(crate) commits: BTreeMap<&'static str, u64>,
    pub(crate) durable: u64,
    pub(crate) reads: u64,
    /// Requests that found no daemon.
    pub(crate) alone: u64,
    /// Looks at all states.
    pub(crate) looks: u64,
    /// The longest time from the start of a daemon until its mount could be used.
    pub(crate) longest_takeover: Duration,
    /// The longest time until all processes went on after a kill.
    pub(crate) longest_standstill: Duration,
    pub(crate) lost: Vec<String>,
    pub(crate) torn: u64,
    pub(crate) backwards: u64,
    pub(crate) stuck: Vec<String>,
    pub(crate) leaks: Vec<String>,
    pub(crate) wrong: Vec<String>,
}

impl Findings {
    pub(crate) fn passed(&self) -> bool {
        let counts = self.torn + self.backwards;
        let lists = [&self.lost, &self.stuck, &self.leaks, &self.wrong];
        counts == 0 && lists.iter().all(|list| list.is_empty())
    }

    pub(crate) fn is_hopeless(&self) -> bool {
        let lists = [&self.lost, &self.stuck, &self.leaks, &self.wrong];
        lists.iter().map(|list| list.len()).sum::<usize>() >= HOPELESS
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "passed": self.passed(),
            "seconds": self.seconds,
            "passthrough": self.passthrough,
            "kills": self.kills,
            "kills_total": self.kills.values().sum::<u64>(),
            "kills_in_takeover": self.kills_in_takeover,
            "commits": self.commits,
            "durable": self.durable,
            "reads": self.reads,
            "alone": self.alone,
            "looks": self.looks,
            "longest_takeover_ms": self.longest_takeover.as_secs_f64() * 1e3,
            "longest_standstill_ms": self.longest_standstill.as_secs_f64() * 1e3,
            "faults": {
                "lost": self.lost.len(),
                "torn": self.torn,
                "backwards": self.backwards,
                "stuck": self.stuck.len(),
                "leaks": self.leaks.len(),
                "wrong": self.wrong.len(),
            },
            "said": self.said(),
        })
    }

    fn said(&self) -> Vec<&String> {
        let lists = [&self.lost, &self.stuck, &self.leaks, &self.wrong];
        lists.into_iter().flatten().collect()
    }

    pub(crate) fn print(&self) {
        let kills: u64 = self.kills.values().sum();
        println!("{:.1} s, {kills} killed: {:?}", self.seconds, self.kills);
        println!(
            "daemons killed while they took over: {}",
            self.kills_in_takeover
        );
        println!(
            "commits: {:?}, durable up to {}",
            self.commits, self.durable
        );
        println!("{} reads, {} looks at all states", self.reads, self.looks);
        println!(
            "longest takeover {:?}, longest standstill {:?}, requests without a daemon {}",
            self.longest_takeover, self.longest_standstill, self.alone
        );
        println!("torn {}, backwards {}", self.torn, self.backwards);
        for line in self.said() {
            println!("{line}");
        }
        println!("{}", if self.passed() { "passed" } else { "FAILED" });
    }
}
