//! A transaction on one state.

use std::sync::Arc;

use kstate::{Bytes, Outcome, Reader};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView, PyTuple};

use crate::durable;
use crate::error::{conflict, ended, not_yours_to_end, raised};
use crate::handles::Handles;
use crate::held::Held;
use crate::part::Part;

/// A change of a state that counts if nobody else has changed it meanwhile.
///
/// Made by :meth:`State.transaction`, or handed to a function by :meth:`State.transact`. It shows the state as it was at
/// the beginning, with what the transaction has written; others see nothing of that before the commit, and nothing ever
/// if it is aborted. Nobody is locked out: a transaction that somebody was faster than ends with :class:`Conflict`.
///
/// >>> state = kstate.subscribe("docs.transaction", write=True, format="<q")
/// >>> with state.transaction() as tx:
/// ...     tx.value = 41
/// >>> with state.transaction() as tx:
/// ...     tx.value += 1
/// >>> state.get(), tx.generation
/// (42, 2)
#[pyclass(module = "kstate", name = "Transaction", weakref)]
#[derive(Debug)]
pub(crate) struct PyTransaction {
    part: Part,
    stage: Stage,
    durable: bool,
    generation: Option<u64>,
}

/// How one has ended that was thrown away.
pub(crate) const ABORTED: &str = "aborted";

/// Whose it is to end.
#[derive(Debug)]
enum Stage {
    /// The program's.
    Own(Held, Arc<Handles>),
    /// That of what has begun it, and holds on to what it is of.
    Lent,
    /// It has ended so.
    Ended(&'static str),
}

impl PyTransaction {
    /// One that the program ends.
    pub(crate) fn own(part: Part, held: Held, handles: Arc<Handles>, durable: bool) -> Self {
        Self {
            part,
            stage: Stage::Own(held, handles),
            durable,
            generation: None,
        }
    }

    /// One that is ended by [`take`](Self::take).
    pub(crate) fn lent(part: Part) -> Self {
        Self {
            part,
            stage: Stage::Lent,
            durable: false,
            generation: None,
        }
    }

    /// Ends one that was lent: what is to be committed, if anything.
    pub(crate) fn take(&mut self, py: Python<'_>, how: &'static str) -> Option<Vec<u8>> {
        let value = self.part.end(py);
        match std::mem::replace(&mut self.stage, Stage::Ended(how)) {
            Stage::Ended(before) => {
                self.stage = Stage::Ended(before);
                None
            }
            Stage::Own(..) | Stage::Lent => value,
        }
    }

    /// Whether the program has thrown it away.
    pub(crate) fn was_aborted(&self) -> bool {
        matches!(self.stage, Stage::Ended(ABORTED))
    }

    /// Notes what a commit has made of it.
    pub(crate) fn note(&mut self, generation: u64) {
        self.generation = Some(generation);
    }

    pub(crate) fn reader(&self) -> &Reader<Bytes> {
        self.part.reader()
    }

    pub(crate) fn is_valid(&self) -> bool {
        self.going_on().is_ok_and(Part::is_valid)
    }

    fn what(&self) -> String {
        format!("state `{}`", self.part.reader().name())
    }

    /// # Errors
    ///
    /// `Closed` when it has ended.
    fn going_on(&self) -> PyResult<&Part> {
        match self.stage {
            Stage::Ended(how) => Err(ended(&self.what(), how)),
            Stage::Own(..) | Stage::Lent => Ok(&self.part),
        }
    }

    /// # Errors
    ///
    /// `Closed` when it has ended.
    fn going_on_to_write(&mut self) -> PyResult<&mut Part> {
        self.going_on()?;
        Ok(&mut self.part)
    }

    fn finish(&mut self, py: Python<'_>) -> PyResult<Option<u64>> {
        let value = self.part.end(py);
        let stage = std::mem::replace(&mut self.stage, Stage::Ended("committed"));
        let Stage::Own(mut held, handles) = stage else {
            self.stage = stage;
            return Ok(None);
        };
        if self.durable
            && value.is_some()
            && let Err(error) = durable::check(py, self.part.reader())
        {
            handles.give_back(held.abort());
            self.stage = Stage::Ended("refused");
            return Err(error);
        }
        let (outcome, handle) = match held.may_wait() {
            false => held.commit(value.as_deref()),
            true => py.detach(move || held.commit(value.as_deref())),
        };
        handles.give_back(handle);
        let outcome = outcome.inspect_err(|_| self.stage = Stage::Ended("refused"));
        match outcome.map_err(raised)? {
            Some(Outcome::Committed { generation }) => {
                self.generation = Some(generation.0);
                if self.durable {
                    durable::settle(py, self.part.reader(), generation)?;
                }
                Ok(self.generation)
            }
            Some(Outcome::Conflict { base, found }) => {
                self.stage = Stage::Ended("in conflict");
                let name = self.part.reader().name().as_str();
                Err(conflict(py, name, base.0, found.0))
            }
            Some(Outcome::Unchanged { .. }) | None => Ok(None),
        }
    }

    fn give_up(&mut self, py: Python<'_>) {
        if let Stage::Ended(_) = self.stage {
            return;
        }
        self.part.end(py);
        if let Stage::Own(held, handles) = std::mem::replace(&mut self.stage, Stage::Ended(ABORTED))
        {
            handles.give_back(held.abort());
        }
    }
}

/// One that is forgotten is aborted.
impl Drop for PyTransaction {
    fn drop(&mut self) {
        if let Stage::Own(held, handles) = std::mem::replace(&mut self.stage, Stage::Ended(ABORTED))
        {
            handles.give_back(held.abort());
        }
    }
}

#[pymethods]
impl PyTransaction {
    /// The bytes as of the beginning, with what was written.
    fn read<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(self.going_on()?.bytes(py))
    }

    /// The value, by the format, type or dtype subscribed with; None if nobody has written yet. Setting it replaces it.
    #[getter]
    fn value<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.going_on()?.value(py)
    }

    #[setter]
    fn set_value(&mut self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.set(value)
    }

    /// Replaces the bytes. Views and values in place of before are no longer part of the transaction.
    fn write(&mut self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        self.going_on_to_write()?.write(data)
    }

    /// Replaces the value, by the format, type or dtype subscribed with.
    fn set(&mut self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.going_on_to_write()?.set(value)
    }

    /// Sets how many bytes there are; those that are added are zeros.
    fn resize(&mut self, py: Python<'_>, length: usize) -> PyResult<()> {
        self.going_on_to_write()?.resize(py, length)
    }

    /// The value to be changed in place: a ctypes object or numpy array over the transaction's own memory where the state
    /// was subscribed to with a type or dtype, else a memoryview. Counts as a write.
    ///
    /// >>> import ctypes
    /// >>> class Gps(ctypes.Structure):
    /// ...     _fields_ = [("lat", ctypes.c_double), ("lon", ctypes.c_double)]
    /// >>> state = kstate.subscribe("docs.edit", write=True, type=Gps)
    /// >>> with state.transaction() as tx:
    /// ...     tx.edit().lat = 52.2
    /// >>> state.get().lat
    /// 52.2
    ///
    /// What it gives is private: behind the end of the transaction, writing to it changes no state.
    fn edit<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.going_on_to_write()?.edit(py)
    }

    /// A memoryview of the bytes, to be written to; released at the end of the transaction. Counts as a write.
    ///
    /// >>> state = kstate.subscribe("docs.buffer", write=True)
    /// >>> state.write(b"abc")
    /// 1
    /// >>> with state.transaction() as tx:
    /// ...     tx.buffer[1] = ord("X")
    /// >>> state.read()
    /// b'aXc'
    #[getter]
    fn buffer<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyMemoryView>> {
        self.going_on_to_write()?.view(py)
    }

    /// A numpy array over the bytes, to be written to. Counts as a write.
    fn array<'py>(
        &mut self,
        py: Python<'py>,
        dtype: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.going_on_to_write()?.array(py, dtype)
    }

    /// Commits: returns the generation of the new version, None if nothing was written.
    ///
    /// At the end of a ``with`` block that is done by itself.
    fn commit(&mut self, py: Python<'_>) -> PyResult<Option<u64>> {
        self.going_on()?;
        match self.stage {
            Stage::Lent => Err(not_yours_to_end(&self.what())),
            Stage::Own(..) | Stage::Ended(_) => self.finish(py),
        }
    }

    /// Throws away what was written. Aborting what has ended is no error.
    fn abort(&mut self, py: Python<'_>) {
        self.give_up(py);
    }

    /// The generation that it began from.
    #[getter]
    fn base(&self) -> u64 {
        self.part.base()
    }

    /// The generation that it was committed as; None before that, and if nothing was.
    #[getter]
    fn generation(&self) -> Option<u64> {
        self.generation
    }

    /// How many bytes there are.
    #[getter]
    fn length(&self) -> PyResult<usize> {
        self.going_on().map(Part::length)
    }

    /// Whether it would still commit: nobody has committed since it began.
    #[getter]
    fn valid(&self) -> bool {
        self.going_on().is_ok_and(Part::is_valid)
    }

    /// Whether something was written.
    #[getter]
    fn dirty(&self) -> bool {
        self.part.is_dirty()
    }

    /// Whether what it shows is newer than what it began from, which was gone: a commit is going to conflict.
    #[getter]
    fn doomed(&self) -> bool {
        self.part.is_doomed()
    }

    /// The state's name.
    #[getter]
    fn name(&self) -> &str {
        self.part.reader().name().as_str()
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyResult<PyRef<'_, Self>> {
        slf.going_on()?;
        Ok(slf)
    }

    #[pyo3(signature = (kind, *_error))]
    fn __exit__(
        &mut self,
        py: Python<'_>,
        kind: &Bound<'_, PyAny>,
        _error: &Bound<'_, PyTuple>,
    ) -> PyResult<()> {
        match (&self.stage, kind.is_none()) {
            // Ended within the block, or not by it.
            (Stage::Ended(_), _) | (Stage::Lent, true) => Ok(()),
            (Stage::Own(..), true) => self.finish(py).map(drop),
            (Stage::Own(..) | Stage::Lent, false) => {
                self.give_up(py);
                Ok(())
            }
        }
    }

    fn __repr__(&self) -> String {
        let how = match self.stage {
            Stage::Own(..) | Stage::Lent => "going on",
            Stage::Ended(how) => how,
        };
        let name = self.part.reader().name();
        format!(
            "<kstate.Transaction on {name} from version {}, {how}>",
            self.part.base()
        )
    }
}
