//! What `.kstate/version` and `.kstate/states` say.

use std::time::{Duration, UNIX_EPOCH};

use kstate_sys::abi::{ABI_VERSION, page_size};
use serde_json::{Value, json};

use crate::backing::Transport;
use crate::fs::Shared;
use crate::inode::Report;
use crate::metrics;
use crate::poll::Way;
use crate::rights::Credentials;
use crate::state::State;

/// The text of a report for somebody who opened it with these rights.
pub(crate) fn write(shared: &Shared, report: Report, reader: &Credentials) -> Vec<u8> {
    match report {
        Report::Version => version(shared),
        Report::States => states(shared, reader),
        Report::Metrics => metrics::write(shared, reader),
    }
}

/// A word and its value a line.
fn version(shared: &Shared) -> Vec<u8> {
    let transport = match shared.transport() {
        Transport::Passthrough => "passthrough",
        Transport::Socket => "socket",
    };
    let notify = match shared.hub.way() {
        Way::Uring => "io_uring",
        Way::Waitv => "futex_waitv",
    };
    format!(
        "version {}\nabi {ABI_VERSION}\npage {}\ntransport {transport}\nnotify {notify}\n",
        env!("CARGO_PKG_VERSION"),
        page_size(),
    )
    .into_bytes()
}

/// A JSON object a line, for each state that may be read.
fn states(shared: &Shared, reader: &Credentials) -> Vec<u8> {
    let mut text = Vec::new();
    for state in shared.states() {
        if reader.may_read(&state.attributes()) {
            text.extend_from_slice(describe(&state).to_string().as_bytes());
            text.push(b'\n');
        }
    }
    text
}

fn describe(state: &State) -> Value {
    let (attributes, counts) = (state.attributes(), state.counts());
    let version = state.describe().ok();
    let age = version.and_then(|version| state.age(&version));
    let modified = version.map(|version| state.modified(&version));
    let modified = modified.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let layout = state.layout();
    let store = state.store();
    json!({
        "state": state.name().as_str(),
        "id": state.ino(),
        // Null for one that is damaged.
        "generation": version.map(|version| version.generation().0),
        "length": version.map(|version| version.length),
        "capacity": state.capacity(),
        "age_ns": age.map(nanos),
        "modified_ns": modified.map(nanos),
        "layout": layout.as_ref().map(|layout| &layout.text),
        // As text: many programs round numbers of 64 bits.
        "layout_id": layout.as_ref().map(|layout| format!("{:016x}", layout.id)),
        "mode": format!("{:04o}", attributes.mode),
        "uid": attributes.uid,
        "gid": attributes.gid,
        "subscribers": counts.subscribers,
        "writers": counts.writers,
        "waiters": counts.waiters,
        "linger_ns": nanos(attributes.linger),
        "kept": attributes.is_kept(),
        "file": store.as_ref().map(|store| store.path().to_string_lossy()),
        "durable_generation": store.as_ref().map(|store| store.durable().0),
        "within_ns": store.as_ref().map(|store| nanos(store.within())),
        "flushed_bytes": store.as_ref().map(|store| store.figures().bytes),
        "flush_errors": store.as_ref().map(|store| store.figures().errors),
        "deadline_ns": state.deadline().map(nanos),
        "overdue": state.overdue().is_some(),
        "announce": state.sinks().to_string(),
    })
}
