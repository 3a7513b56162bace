//! What the demo's processes tell it, a line of JSON at a time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Message {
    /// It does its work from now on; a few words on how.
    Ready(String),
    /// How far it is.
    Progress(Report),
    /// It has ended as it was told to, and this is all it did.
    Done(Report),
    /// It cannot go on, and why.
    Failed(String),
}

/// What a process did so far. What does not concern its role is zero.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Report {
    /// Values published or committed.
    pub(super) commits: u64,
    /// Commits that found that somebody else had come first.
    pub(super) conflicts: u64,
    /// Values read.
    pub(super) reads: u64,
    /// Values among them that were not whole.
    pub(super) torn: u64,
    /// Values older than one read before.
    pub(super) went_back: u64,
    /// Newer values seen.
    pub(super) changes: u64,
    /// Values published in between and not seen.
    pub(super) passed_over: u64,
    /// The shortest time between two values seen, in nanoseconds.
    pub(super) shortest_gap_ns: u64,
    /// What the role measures.
    pub(super) latency: Latency,
    /// The number of the last value seen or published, for each state.
    pub(super) last: BTreeMap<String, u64>,
}

/// A distribution of times in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Latency {
    /// Half of them took no longer.
    pub(super) p50_ns: f64,
    /// All but one in a hundred took no longer.
    pub(super) p99_ns: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_pipe() {
        let mut report = Report {
            reads: 3,
            ..Report::default()
        };
        report.last.insert("cpu".into(), 7);
        for message in [
            Message::Ready("so".into()),
            Message::Done(report),
            Message::Failed("why".into()),
        ] {
            let line = serde_json::to_string(&message).unwrap();
            assert_eq!(
                serde_json::from_str::<Message>(&line).unwrap(),
                message,
                "{line}"
            );
        }
    }
}
