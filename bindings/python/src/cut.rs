//! Functions over several states.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use crate::error::raised;
use crate::many::PyMany;
use crate::retry::{Function, policy, run_many};
use crate::snapshot::PySnapshot;
use crate::state::{BARE, PyState};

/// The newest versions of several states as of one moment, each a :class:`Snapshot`.
///
/// Of commits of several states it shows all or nothing. Where states keep changing for a second it raises
/// :class:`Error`.
///
/// >>> a = kstate.subscribe("docs.cut.a", write=True)
/// >>> b = kstate.subscribe("docs.cut.b", write=True)
/// >>> a.write(b"1"), b.write(b"2")
/// (1, 1)
/// >>> [bytes(now) for now in kstate.cut(a, b)]
/// [b'1', b'2']
#[pyfunction]
#[pyo3(signature = (*states))]
pub(crate) fn cut<'py>(states: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyTuple>> {
    let py = states.py();
    let (mut readers, mut codecs) = (Vec::new(), Vec::new());
    for state in states {
        let state = state.cast_into::<PyState>()?;
        let state = state.borrow();
        readers.push(state.open()?.reader.clone());
        codecs.push(state.codec().clone());
    }
    let values = py.detach(|| kstate::cut(&readers[..])).map_err(raised)?;
    let snapshots = values.into_iter().zip(&readers).zip(&codecs);
    let snapshots = snapshots.map(|((value, reader), codec)| PySnapshot::new(value, reader, codec));
    PyTuple::new(py, snapshots.collect::<Vec<_>>())
}

/// Begins a change of several states, all or nothing: see :class:`Transactions`.
///
/// Those subscribed to for reading are compared alone. All are of one mount, at most 64. With ``durable`` the commit
/// returns when all that was written is in the states' files for good.
#[pyfunction]
#[pyo3(signature = (*states, durable=false))]
pub(crate) fn transaction(states: &Bound<'_, PyTuple>, durable: bool) -> PyResult<PyMany> {
    if states.is_empty() {
        return Err(PyTypeError::new_err(
            "transaction() takes the states to be changed; there is none",
        ));
    }
    PyMany::own(states, durable)
}

/// Runs a function that `kstate.transact` was given.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "as Python's side has them")]
pub(crate) fn _transact_many(
    states: &Bound<'_, PyTuple>,
    function: Py<PyAny>,
    arguments: Py<PyTuple>,
    keywords: Option<Py<PyDict>>,
    attempts: u32,
    longest_pause: f64,
    turn_after: Option<u32>,
    durable: bool,
) -> PyResult<Py<PyAny>> {
    let retry = policy(attempts, longest_pause, turn_after)?;
    let function = Function::new(&function, &arguments, &keywords);
    run_many(states, &function, &retry, durable)
}

/// Refuses a policy that is none, before there is anything to run.
#[pyfunction]
pub(crate) fn _check_policy(
    attempts: u32,
    longest_pause: f64,
    turn_after: Option<u32>,
) -> PyResult<()> {
    policy(attempts, longest_pause, turn_after).map(drop)
}

/// A function with nothing to do, beside the method `_bare` of a state.
#[pyfunction(name = "_bare")]
pub(crate) fn bare(py: Python<'_>) -> Bound<'_, PyBytes> {
    PyBytes::new(py, &BARE)
}
