//! What the daemon knows of a state.

use std::path::PathBuf;

use kstate::{Durability, Info, Sinks};
use pyo3::prelude::*;

/// A state as the daemon sees it: had from :meth:`State.info` and :meth:`Mount.info`.
///
/// ``age``, ``linger`` and ``deadline`` are in seconds; ``age`` is None if nobody has written or the writer did not say
/// when, ``deadline`` if there is none. ``layout`` is what typed programs see in it. ``file`` to ``flush_errors`` are of
/// persistent states, and None for others.
#[pyclass(module = "kstate", name = "Info", frozen, get_all)]
#[derive(Debug)]
pub(crate) struct PyInfo {
    state_id: u64,
    generation: u64,
    age: Option<f64>,
    length: u32,
    capacity: u32,
    layout: Option<String>,
    subscribers: u32,
    writers: u32,
    waiters: u32,
    linger: f64,
    deadline: Option<f64>,
    overdue: bool,
    kept: bool,
    armed: bool,
    announced: (bool, bool),
    persistent: bool,
    file: Option<PathBuf>,
    durability: Option<f64>,
    durable: Option<u64>,
    flushed_bytes: Option<u64>,
    flush_errors: Option<u64>,
}

impl PyInfo {
    pub(crate) fn new(info: Info) -> Self {
        let file = info.persistent;
        Self {
            state_id: info.state_id,
            generation: info.generation.0,
            age: info.age.map(|age| age.as_secs_f64()),
            length: info.length,
            capacity: info.capacity,
            layout: info.layout.map(|layout| layout.text),
            subscribers: info.subscribers,
            writers: info.writers,
            waiters: info.waiters,
            linger: info.linger.as_secs_f64(),
            deadline: info.deadline.map(|deadline| deadline.as_secs_f64()),
            overdue: info.overdue,
            kept: info.kept,
            armed: info.armed,
            announced: (
                info.announced.contains(Sinks::KBUS),
                info.announced.contains(Sinks::DBUS),
            ),
            persistent: file.is_some(),
            durability: file
                .as_ref()
                .and_then(|file| file.durability)
                .map(|durability| match durability {
                    Durability::Within(time) => time.as_secs_f64(),
                    _ => 0.0,
                }),
            durable: file.as_ref().map(|file| file.durable.0),
            flushed_bytes: file.as_ref().and_then(|file| file.written),
            flush_errors: file.as_ref().and_then(|file| file.failures),
            file: file.and_then(|file| file.file),
        }
    }
}

#[pymethods]
impl PyInfo {
    fn __repr__(&self) -> String {
        format!(
            "<kstate.Info: version {}, {} of {} bytes, {} subscribers, {} writers>",
            self.generation, self.length, self.capacity, self.subscribers, self.writers
        )
    }
}
