//! Transactions on a state.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::{PyState, raised_claim};
use crate::error::raised;
use crate::held::Held;
use crate::part::Part;
use crate::retry::{Function, policy, run};
use crate::transaction::PyTransaction;

#[pymethods]
impl PyState {
    /// Begins a :class:`Transaction`: a change that counts if nobody else changes the state meanwhile.
    ///
    /// In a ``with`` block it is committed at the end, and aborted by an exception. With ``durable`` the commit returns
    /// when the version is in the state's file for good.
    ///
    /// >>> state = kstate.subscribe("docs.begin", write=True, format="<q")
    /// >>> with state.transaction() as tx:
    /// ...     tx.value = 1
    /// >>> with state.transaction() as tx:
    /// ...     other = state.set(10)  # somebody else is first
    /// ...     tx.value += 1
    /// Traceback (most recent call last):
    ///   ...
    /// kstate.Conflict: state `docs.begin` was changed by others first: ...
    #[pyo3(signature = (*, durable=false))]
    fn transaction(&self, durable: bool) -> PyResult<PyTransaction> {
        let open = self.open()?;
        if !open.reader.access().is_write() {
            let name = self.name().clone();
            return Err(raised(kstate::BeginError::ReadOnly { name }));
        }
        let handle = open.handles.lend().map_err(raised_claim)?;
        let mut held = Held::begin(handle).map_err(|(error, handle)| {
            open.handles.give_back(handle);
            raised(error)
        })?;
        let begun = held.with(|transaction| {
            let base = transaction.base().0;
            let value = transaction.get().cloned();
            value.map(|value| (base, transaction.is_doomed(), value))
        });
        match begun.transpose() {
            Ok(begun) => {
                let (base, is_doomed, value) = begun.unwrap_or_default();
                let reader = open.reader.clone();
                let part = Part::new(reader, self.codec().clone(), base, is_doomed, value);
                let handles = Arc::clone(&open.handles);
                Ok(PyTransaction::own(part, held, handles, durable))
            }
            Err(error) => {
                open.handles.give_back(held.abort());
                Err(raised(error))
            }
        }
    }

    /// Makes of a function one that changes the state: it gets a :class:`Transaction` as its first argument, and runs
    /// again on the newest value for as long as others commit first.
    ///
    /// Between attempts there are pauses of random length, which double up to ``longest_pause`` seconds. After
    /// ``turn_after`` attempts in vain others are asked to stand back for a moment; None never asks. :class:`Exhausted` is
    /// raised when ``attempts`` were in vain, and nothing was changed then. An exception aborts.
    ///
    /// >>> counter = kstate.subscribe("docs.transact", write=True, format="<q")
    /// >>> counter.set(0)
    /// 1
    /// >>> @counter.transact
    /// ... def add(tx, n):
    /// ...     tx.value += n
    /// ...     return tx.value
    /// >>> add(5), add(n=2)
    /// (5, 7)
    /// >>> @counter.transact(attempts=3)
    /// ... def double(tx):
    /// ...     tx.value *= 2
    /// >>> double()
    /// >>> counter.get()
    /// 14
    #[pyo3(signature = (function=None, /, *, attempts=1000, longest_pause=0.001, turn_after=Some(16), durable=false))]
    fn transact<'py>(
        slf: &Bound<'py, Self>,
        function: Option<Bound<'py, PyAny>>,
        attempts: u32,
        longest_pause: f64,
        turn_after: Option<u32>,
        durable: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        policy(attempts, longest_pause, turn_after)?;
        let module = PyModule::import(slf.py(), "kstate._transact")?;
        let options = (attempts, longest_pause, turn_after, durable);
        module.getattr("of_state")?.call1((slf, function, options))
    }

    /// Runs a function that [`transact`](Self::transact) was given.
    #[expect(clippy::too_many_arguments, reason = "as Python's side has them")]
    fn _transact(
        slf: &Bound<'_, Self>,
        function: Py<PyAny>,
        arguments: Py<PyTuple>,
        keywords: Option<Py<PyDict>>,
        attempts: u32,
        longest_pause: f64,
        turn_after: Option<u32>,
        durable: bool,
    ) -> PyResult<Py<PyAny>> {
        let (open, codec) = {
            let this = slf.borrow();
            (this.open()?.clone(), this.codec().clone())
        };
        let retry = policy(attempts, longest_pause, turn_after)?;
        let function = Function::new(&function, &arguments, &keywords);
        run(slf.py(), &open, &codec, &function, &retry, durable)
    }
}
