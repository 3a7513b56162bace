//! Which version is known already, as Python says it.

use kstate::Generation;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::snapshot::PySnapshot;

/// A generation, or the snapshot that has it.
///
/// # Errors
///
/// `TypeError`, and `OverflowError` for a number that is no generation.
pub(crate) fn since(known: &Bound<'_, PyAny>) -> PyResult<Generation> {
    if let Ok(snapshot) = known.cast::<PySnapshot>() {
        return Ok(snapshot.get().version());
    }
    known.extract().map(Generation).map_err(|error| {
        match error.is_instance_of::<PyTypeError>(known.py()) {
            true => PyTypeError::new_err(format!(
                "`since` is a generation or a Snapshot, and not {}",
                known.get_type()
            )),
            false => error,
        }
    })
}
