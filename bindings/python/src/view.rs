//! A state at a limited rate.

use std::path::PathBuf;

use kstate::{Bytes, Generation, Interrupt, View};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::codec::{self, Coded};
use crate::error::raised;
use crate::input;
use crate::live::PyLive;
use crate::since;
use crate::snapshot::PySnapshot;
use crate::wait;
use crate::watch::PyWatch;

/// A state that does not appear to change more often than once a period: made by :meth:`State.view`.
///
/// The first change is shown at once, a later one when the period has passed, and then the newest there is: the last one
/// before a quiet time always comes. For looking alone: what is written goes to the state itself.
///
/// >>> state = kstate.subscribe("docs.view", write=True, format="<i")
/// >>> calm = state.view(hz=4)
/// >>> state.set(1)
/// 1
/// >>> calm.get()
/// 1
/// >>> state.set(2)
/// 2
/// >>> calm.get()  # not within a quarter of a second
/// 1
/// >>> calm.wait(since=1, timeout=5)
/// 2
#[pyclass(module = "kstate", name = "View", frozen, weakref)]
#[derive(Debug)]
pub(crate) struct PyView {
    view: View<Bytes>,
    codec: Coded,
    mount: PathBuf,
    interrupt: Interrupt,
}

impl PyView {
    pub(crate) fn new(
        view: View<Bytes>,
        codec: Coded,
        mount: PathBuf,
        interrupt: Interrupt,
    ) -> Self {
        Self {
            view,
            codec,
            mount,
            interrupt,
        }
    }

    pub(crate) fn view(&self) -> &View<Bytes> {
        &self.view
    }
}

/// The arguments by which a view is made again.
type Viewed<'py> = (String, Bound<'py, PyDict>, f64);

#[pymethods]
impl PyView {
    /// The version it shows, as bytes.
    fn read<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let snapshot = self.view.snapshot().map_err(raised)?;
        Ok(PyBytes::new(py, &snapshot.value))
    }

    /// The version it shows, as a :class:`Snapshot`.
    fn snapshot(&self) -> PyResult<PySnapshot> {
        let snapshot = self.view.snapshot().map_err(raised)?;
        Ok(PySnapshot::new(snapshot, self.view.reader(), &self.codec))
    }

    /// The value it shows, by the format, type or dtype of the state's handle; None if nobody has written yet.
    fn get<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let snapshot = self.view.snapshot().map_err(raised)?;
        let bytes = PyBytes::new(py, &snapshot.value).into_any();
        let written = !snapshot.generation().is_never();
        let length = snapshot.value.len();
        codec::decode(&self.codec, self.view.reader(), bytes, length, written)
    }

    /// Sleeps until it shows another version than ``since``, a generation or snapshot, by default the one it shows now.
    /// Returns its generation, None after ``timeout`` seconds.
    #[pyo3(name = "wait", signature = (since=None, timeout=None, *, or_overdue=false))]
    fn py_wait(
        &self,
        py: Python<'_>,
        since: Option<Bound<'_, PyAny>>,
        timeout: Option<f64>,
        or_overdue: bool,
    ) -> PyResult<Option<u64>> {
        let since = match &since {
            Some(known) => since::since(known)?,
            None => self.view.generation(),
        };
        let timeout = input::timeout(timeout)?;
        let (view, interrupt) = (&self.view, &self.interrupt);
        let found = wait::for_change(py, view, since, timeout, or_overdue, interrupt)?;
        Ok(found.map(|generation| generation.0))
    }

    /// Sleeps until ``predicate`` is true of a snapshot that it shows, and returns that; None after ``timeout`` seconds.
    #[pyo3(name = "wait_for", signature = (predicate, timeout=None))]
    fn py_wait_for<'py>(
        slf: &Bound<'py, Self>,
        predicate: &Bound<'py, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<Option<Bound<'py, PySnapshot>>> {
        let timeout = input::timeout(timeout)?;
        let this = slf.get();
        wait::for_value(
            slf.py(),
            &this.view,
            timeout,
            &this.interrupt,
            || Bound::new(slf.py(), this.snapshot()?),
            predicate,
        )
    }

    /// An iterator over the versions as they come, at this rate: see :meth:`State.watch`.
    #[pyo3(signature = (*, timeout=None, since=None))]
    fn watch(&self, timeout: Option<f64>, since: Option<Bound<'_, PyAny>>) -> PyResult<PyWatch> {
        let known = since.as_ref().map(since::since).transpose()?;
        Ok(PyWatch::new(
            self.view.reader(),
            &self.codec,
            known.unwrap_or(Generation::NEVER),
            self.view.period(),
            input::timeout(timeout)?,
            &self.interrupt,
        ))
    }

    /// An asynchronous iterator over the versions as they come, at this rate: see :meth:`State.changes`.
    fn changes<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let module = PyModule::import(slf.py(), "kstate._aio")?;
        module.getattr("Changes")?.call1((slf,))
    }

    /// Memory that a thread of this process refreshes at this rate: see :meth:`State.live`.
    fn live(&self, py: Python<'_>) -> PyResult<PyLive> {
        let live = py.detach(|| self.view.live()).map_err(raised)?;
        Ok(PyLive::new(live))
    }

    /// The generation it shows.
    #[getter]
    fn generation(&self) -> u64 {
        self.view.generation().0
    }

    /// The shortest time between two changes of what it shows, in seconds.
    #[getter]
    fn period(&self) -> f64 {
        self.view.period().as_secs_f64()
    }

    /// The state's name.
    #[getter]
    fn name(&self) -> &str {
        self.view.name().as_str()
    }

    fn __repr__(&self) -> String {
        format!(
            "<kstate.View of {} every {} s>",
            self.view.name(),
            self.view.period().as_secs_f64()
        )
    }

    /// Made again where it is unpickled, of the state that is there by then.
    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Viewed<'py>)> {
        let rebuild = PyModule::import(py, "kstate._pickle")?.getattr("view")?;
        let arguments = codec::arguments(py, &self.codec)?;
        arguments.set_item("mount", &self.mount)?;
        Ok((rebuild, (self.name().to_owned(), arguments, self.period())))
    }
}
