//! Functions that run again until what they have changed is committed.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kstate::{
    AddError, Bytes, Generation, Many, ManyOutcome, Outcome, Retried, RetriedMany, Retry, State,
    TransactError, TransactManyError, Transaction, transact_many_with,
};
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::codec::Coded;
use crate::durable;
use crate::error::{exhausted, in_use, raised};
use crate::held_many::Member;
use crate::input::duration;
use crate::many::PyMany;
use crate::members::{give_back, lend};
use crate::part::Part;
use crate::state::{Open, PyState, raised_claim};
use crate::transaction::PyTransaction;

/// A function with its arguments, which gets a transaction in front of them.
pub(crate) struct Function<'a> {
    function: &'a Py<PyAny>,
    arguments: &'a Py<PyTuple>,
    keywords: &'a Option<Py<PyDict>>,
}

impl<'a> Function<'a> {
    pub(crate) fn new(
        function: &'a Py<PyAny>,
        arguments: &'a Py<PyTuple>,
        keywords: &'a Option<Py<PyDict>>,
    ) -> Self {
        Self {
            function,
            arguments,
            keywords,
        }
    }

    fn call(&self, py: Python<'_>, transaction: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let first = PyTuple::new(py, [transaction])?;
        let all = first
            .as_sequence()
            .concat(self.arguments.bind(py).as_sequence())?;
        let keywords = self.keywords.as_ref().map(|keywords| keywords.bind(py));
        let function = self.function.bind(py);
        Ok(function.call(all.to_tuple()?, keywords)?.unbind())
    }
}

/// How often to try.
///
/// # Errors
///
/// `ValueError` for a pause that is none.
pub(crate) fn policy(
    attempts: u32,
    longest_pause: f64,
    turn_after: Option<u32>,
) -> PyResult<Retry> {
    let pause = duration(longest_pause, "longest_pause")?.min(Duration::from_secs(60));
    let turn_after = turn_after.unwrap_or(u32::MAX);
    Ok(Retry::new()
        .attempts(attempts)
        .longest_pause(pause)
        .turn_after(turn_after))
}

/// Runs `function` on the state until it commits. The pauses between are without the interpreter's lock.
///
/// # Errors
///
/// What the function raises, which aborts; `Exhausted`, and those of the library.
pub(crate) fn run(
    py: Python<'_>,
    open: &Open,
    codec: &Coded,
    function: &Function<'_>,
    retry: &Retry,
    is_durable: bool,
) -> PyResult<Py<PyAny>> {
    if is_durable {
        durable::check(py, &open.reader)?;
    }
    let handle = open.handles.lend().map_err(raised_claim)?;
    let last = Mutex::new(None);
    let (done, handle) = py.detach(|| {
        let handle: Box<State<Bytes>> = handle;
        let done = handle.transact_with(retry, |transaction| {
            Python::attach(|py| attempt(py, transaction, open, codec, function, &last))
        });
        (done, handle)
    });
    open.handles.give_back(handle);
    match done {
        Ok(Retried { value, outcome, .. }) => {
            if let Outcome::Committed { generation } = outcome {
                let last = last.into_inner().unwrap_or_else(PoisonError::into_inner);
                note(py, last, generation);
                if is_durable {
                    durable::settle(py, &open.reader, generation)?;
                }
            }
            Ok(value)
        }
        Err(TransactError::Aborted(error)) => Err(error),
        Err(error) => Err(match &error {
            TransactError::Exhausted { attempts, .. } => {
                let attempts = *attempts;
                exhausted(py, error, attempts)
            }
            _ => raised(error),
        }),
    }
}

/// The transaction of the last attempt, which is the one that counts.
type Last = Mutex<Option<Py<PyTransaction>>>;

fn note(py: Python<'_>, last: Option<Py<PyTransaction>>, generation: Generation) {
    // One that another thread is in is not told; it has been committed all the same.
    if let Some(last) = last
        && let Ok(mut last) = last.try_borrow_mut(py)
    {
        last.note(generation.0);
    }
}

fn attempt(
    py: Python<'_>,
    transaction: &mut Transaction<'_, Bytes>,
    open: &Open,
    codec: &Coded,
    function: &Function<'_>,
    last: &Last,
) -> Result<Py<PyAny>, TransactError<PyErr>> {
    let base = transaction.base();
    let value = transaction.get()?.clone();
    let is_doomed = transaction.is_doomed();
    let part = Part::new(open.reader.clone(), codec.clone(), base.0, is_doomed, value);
    let object = Bound::new(py, PyTransaction::lent(part)).map_err(TransactError::Aborted)?;
    let returned = function.call(py, object.as_any());
    let taken = object.try_borrow_mut();
    let taken = taken.map(|mut object| object.take(py, "committed"));
    let returned = returned.map_err(TransactError::Aborted)?;
    // Unless the function has left a thread in it.
    let value = taken.map_err(|_| TransactError::Aborted(in_use("the transaction")))?;
    if let Some(value) = value {
        transaction.set(&value);
    }
    let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
    *last = Some(object.unbind());
    Ok(returned)
}

/// Runs `function` on several states until it commits.
///
/// # Errors
///
/// As [`run`].
pub(crate) fn run_many(
    states: &Bound<'_, PyTuple>,
    function: &Function<'_>,
    retry: &Retry,
    is_durable: bool,
) -> PyResult<Py<PyAny>> {
    let py = states.py();
    if is_durable {
        for state in states {
            let state = state.cast_into::<PyState>()?;
            let reader = state.borrow().open()?.reader.clone();
            if reader.access().is_write() {
                durable::check(py, &reader)?;
            }
        }
    }
    let (members, lenders) = lend(states)?;
    let unbound = states.clone().unbind();
    let ended = Mutex::new(None);
    let (done, members) = py.detach(|| {
        let members = members;
        let done = transact_many_with(retry, |transaction| {
            let values = begin(&members, transaction)?;
            let attempted = Python::attach(|py| attempt_many(unbound.bind(py), values, function));
            match attempted {
                Ok((value, written)) => {
                    for (member, value) in members.iter().zip(&written) {
                        if let (Member::Writing(handle), Some(value)) = (member, value) {
                            transaction.set(handle, value)?;
                        }
                    }
                    Ok((value, written))
                }
                Err(error) => Err(give_up(&ended, error)),
            }
        });
        (done, members)
    });
    give_back(members, &lenders);
    if let Some(error) = ended.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    match done {
        Ok(RetriedMany { value, outcome, .. }) => {
            let (value, written) = value;
            if let (true, ManyOutcome::Committed { generations }) = (is_durable, outcome) {
                let written = states.iter().zip(&written);
                let written = written.filter(|(_, value)| value.is_some());
                for ((state, _), generation) in written.zip(generations.iter()) {
                    let state = state.cast_into::<PyState>()?;
                    let reader = state.borrow().open()?.reader.clone();
                    durable::settle(py, &reader, *generation)?;
                }
            }
            Ok(value)
        }
        Err(TransactManyError::Aborted(error)) => Err(error),
        Err(error) => Err(match &error {
            TransactManyError::Exhausted { attempts, .. } => {
                let attempts = *attempts;
                exhausted(py, error, attempts)
            }
            _ => raised(error),
        }),
    }
}

/// What was returned, and what was written to each of the states.
type Attempted = (Py<PyAny>, Vec<Option<Vec<u8>>>);

/// Adds the states: generation and value of each.
fn begin<'m>(
    members: &'m [Member],
    transaction: &mut Many<'m>,
) -> Result<Vec<(u64, Vec<u8>)>, TransactManyError<PyErr>> {
    let added = members
        .iter()
        .map(|member| member.borrowed().add_to(transaction));
    let bases: Vec<_> = added.collect::<Result<_, AddError>>()?;
    let mut values = Vec::new();
    for (member, (base, _)) in members.iter().zip(bases) {
        let value = transaction.get(member.borrowed().reader())?;
        values.push((base.0, value.clone()));
    }
    Ok(values)
}

fn attempt_many(
    states: &Bound<'_, PyTuple>,
    values: Vec<(u64, Vec<u8>)>,
    function: &Function<'_>,
) -> PyResult<Attempted> {
    let py = states.py();
    let object = Bound::new(py, PyMany::lent(states, values)?)?;
    let returned = function.call(py, object.as_any());
    let taken = object.try_borrow_mut();
    let taken = taken.map(|mut object| object.take(py, "committed"));
    let returned = returned?;
    // Unless the function has left a thread in it.
    let written = taken.map_err(|_| in_use("the transaction"))??;
    Ok((returned, written))
}

/// An exception aborts, and runs the function again if it had seen values that do not belong together. Not so what ends
/// a program, such as `KeyboardInterrupt`: that is kept in `ended`.
fn give_up(ended: &Mutex<Option<PyErr>>, error: PyErr) -> TransactManyError<PyErr> {
    let is_ordinary = Python::attach(|py| error.is_instance_of::<PyException>(py));
    if is_ordinary {
        return TransactManyError::Aborted(error);
    }
    let name = kstate::StateName::new("interrupted");
    *ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    match name {
        // Any error but an abort ends it; which one is not looked at.
        Ok(name) => TransactManyError::Exhausted {
            name,
            attempts: 0,
            delay: Duration::ZERO,
        },
        Err(_) => unreachable!("it is a name"),
    }
}
