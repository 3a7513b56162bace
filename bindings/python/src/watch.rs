//! Following a state in a loop.

use std::time::Duration;

use kstate::{Bytes, Generation, Interrupt, Reader};
use pyo3::prelude::*;

use crate::codec::Coded;
use crate::snapshot::PySnapshot;
use crate::turn::OneAtATime;
use crate::wait;

/// An iterator over the versions of a state as they come: made by ``watch``.
///
/// Versions that others follow too soon are skipped, the newest is never missed. When the next one is overdue the last one
/// comes once more, with that mark. It ends when nothing has come for ``timeout`` seconds, and goes on if it is asked
/// again.
#[pyclass(module = "kstate", name = "Watch", frozen, weakref)]
#[derive(Debug)]
pub(crate) struct PyWatch {
    watch: OneAtATime<kstate::Watch<Bytes>>,
    reader: Reader<Bytes>,
    codec: Coded,
    timeout: Option<Duration>,
    interrupt: Interrupt,
}

impl PyWatch {
    pub(crate) fn new(
        reader: &Reader<Bytes>,
        codec: &Coded,
        since: Generation,
        period: Duration,
        timeout: Option<Duration>,
        interrupt: &Interrupt,
    ) -> Self {
        let watch = reader.watch().at_most_every(period).since(since);
        Self {
            watch: OneAtATime::new(watch.interrupted_by(interrupt)),
            reader: reader.clone(),
            codec: codec.clone(),
            timeout,
            interrupt: interrupt.clone(),
        }
    }
}

#[pymethods]
impl PyWatch {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<PySnapshot>> {
        let taken = self.watch.take("the watch")?;
        let found = wait::until(py, self.timeout, |slice| {
            taken.with(|watch| wait::next(watch, slice, &self.interrupt))
        })?;
        Ok(found.map(|snapshot| PySnapshot::new(snapshot, &self.reader, &self.codec)))
    }

    fn __repr__(&self) -> String {
        format!("<kstate.Watch of {}>", self.reader.name())
    }
}
