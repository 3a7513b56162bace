//! Counters, in the text form that Prometheus collects.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::fs::Shared;
use crate::rights::Credentials;
use crate::state::{Counts, State, Totals};

/// Requests of the kernel that are counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Lookup,
    Getattr,
    Open,
    Read,
    Write,
    Poll,
    Ioctl,
    Release,
    Other,
}

/// Every one with its name.
const REQUESTS: [(Request, &str); 9] = [
    (Request::Lookup, "lookup"),
    (Request::Getattr, "getattr"),
    (Request::Open, "open"),
    (Request::Read, "read"),
    (Request::Write, "write"),
    (Request::Poll, "poll"),
    (Request::Ioctl, "ioctl"),
    (Request::Release, "release"),
    (Request::Other, "other"),
];

/// How many there were.
#[derive(Debug, Default)]
pub(crate) struct Requests([AtomicU64; REQUESTS.len()]);

impl Requests {
    pub(crate) fn count(&self, request: Request) {
        self.0[request as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self, request: Request) -> u64 {
        self.0[request as usize].load(Ordering::Relaxed)
    }
}

/// A figure of a state.
struct Figure {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    of: fn(&Totals, &Counts) -> u64,
}

const FIGURES: [Figure; 10] = [
    Figure {
        name: "commits_total",
        kind: "counter",
        help: "Versions committed.",
        of: |totals, _| totals.commits,
    },
    Figure {
        name: "conflicts_total",
        kind: "counter",
        help: "Commits that another one came before, as the writers count them.",
        of: |totals, _| totals.conflicts,
    },
    Figure {
        name: "reads_total",
        kind: "counter",
        help: "Reads through files; those of mapped memory leave no trace.",
        of: |totals, _| totals.reads,
    },
    Figure {
        name: "wakes_total",
        kind: "counter",
        help: "Commits that woke whoever waited, as the writers count them.",
        of: |totals, _| totals.wakes,
    },
    Figure {
        name: "flushes_total",
        kind: "counter",
        help: "Versions written to files of persistent states, each of which is then on the medium.",
        of: |totals, _| totals.flushed.flushes,
    },
    Figure {
        name: "flushed_bytes_total",
        kind: "counter",
        help: "Bytes written to files of persistent states.",
        of: |totals, _| totals.flushed.bytes,
    },
    Figure {
        name: "flush_errors_total",
        kind: "counter",
        help: "Times that a version could not be written to its state's file.",
        of: |totals, _| totals.flushed.errors,
    },
    Figure {
        name: "subscribers",
        kind: "gauge",
        help: "Open files.",
        of: |_, counts| counts.subscribers.into(),
    },
    Figure {
        name: "writers",
        kind: "gauge",
        help: "Handles that can commit.",
        of: |_, counts| counts.writers.into(),
    },
    Figure {
        name: "waiters",
        kind: "gauge",
        help: "Processes and files that wait for the next version.",
        of: |_, counts| counts.waiters.into(),
    },
];

/// What there is to say of the mount, and of each state that `reader` may read.
pub(crate) fn write(shared: &Shared, reader: &Credentials) -> Vec<u8> {
    let (states, past) = shared.states_and_past();
    let figures: Vec<(&State, Totals, Counts)> = states
        .iter()
        .map(|state| (&**state, state.totals(), state.counts()))
        .collect();
    let mut text = String::new();
    family(&mut text, "kstate_states", "gauge", "States there are.");
    line(&mut text, "kstate_states", None, states.len() as u64);
    family(
        &mut text,
        "kstate_requests_total",
        "counter",
        "Requests of the kernel, but for those that are always refused.",
    );
    for (request, name) in REQUESTS {
        let label = Some(("request", name));
        let count = shared.requests.get(request);
        line(&mut text, "kstate_requests_total", label, count);
    }
    let help = "Persistent states that did not come back when it was mounted.";
    family(&mut text, "kstate_states_not_restored", "gauge", help);
    line(
        &mut text,
        "kstate_states_not_restored",
        None,
        shared.not_restored(),
    );
    announcements(&mut text, shared);
    let past = (past, Counts::default());
    for figure in &FIGURES {
        let name = format!("kstate_{}", figure.name);
        family(&mut text, &name, figure.kind, &in_all(figure));
        let each = figures.iter().map(|(_, totals, counts)| (*totals, *counts));
        let all = each
            .chain([past])
            .map(|(totals, counts)| (figure.of)(&totals, &counts))
            .fold(0, u64::saturating_add);
        line(&mut text, &name, None, all);
    }
    for figure in &FIGURES {
        let name = format!("kstate_state_{}", figure.name);
        family(&mut text, &name, figure.kind, figure.help);
        for (state, totals, counts) in &figures {
            if reader.may_read(&state.attributes()) {
                let label = Some(("state", state.name().as_str()));
                line(&mut text, &name, label, (figure.of)(totals, counts));
            }
        }
    }
    text.into_bytes()
}

/// Of each sink that the mount has.
fn announcements(text: &mut String, shared: &Shared) {
    let counters: Vec<_> = shared.announcer.counters().collect();
    if counters.is_empty() {
        return;
    }
    let name = "kstate_announcements_total";
    family(text, name, "counter", "Messages that a sink took.");
    for counter in &counters {
        line(text, name, Some(("sink", counter.sink)), counter.sent());
    }
    let name = "kstate_announcements_dropped_total";
    let help = "Messages that a sink did not take, or will not get, by what was the matter.";
    family(text, name, "counter", help);
    for counter in &counters {
        for (cause, count) in counter.dropped() {
            let sink = counter.sink;
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name}{{sink=\"{sink}\",cause=\"{cause}\"}} {count}");
        }
    }
}

fn in_all(figure: &Figure) -> String {
    let gone = match figure.kind {
        "counter" => ", those that have gone included",
        _ => "",
    };
    format!("{} Of all states{gone}.", figure.help)
}

fn family(text: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// Names of states and requests need no escaping.
fn line(text: &mut String, name: &str, label: Option<(&str, &str)>, value: u64) {
    let _ = match label {
        Some((key, of)) => writeln!(text, "{name}{{{key}=\"{of}\"}} {value}"),
        None => writeln!(text, "{name} {value}"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_their_names() {
        let requests = Requests::default();
        for (index, (request, _)) in REQUESTS.iter().enumerate() {
            assert_eq!(*request as usize, index);
            requests.count(*request);
            assert_eq!(requests.get(*request), 1);
        }
    }
}
