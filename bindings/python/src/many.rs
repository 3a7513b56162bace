//! A transaction on several states.

use kstate::{ManyOutcome, TouchError};
use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::durable;
use crate::error::{conflict, ended, in_use, not_yours_to_end, raised};
use crate::held_many::HeldMany;
use crate::members::{Lenders, give_back, lend};
use crate::part::Part;
use crate::state::PyState;
use crate::transaction::{ABORTED, PyTransaction};

/// A change of several states: all of it becomes newest at once, if none of the states was changed by others meanwhile.
///
/// Made by :func:`kstate.transaction`. ``tx[state]`` is the :class:`Transaction` of one of them; those subscribed to for
/// reading are only compared.
///
/// >>> alice = kstate.subscribe("docs.alice", write=True, format="<q")
/// >>> bob = kstate.subscribe("docs.bob", write=True, format="<q")
/// >>> alice.set(100), bob.set(0)
/// (1, 1)
/// >>> with kstate.transaction(alice, bob) as tx:
/// ...     tx[alice].value -= 10
/// ...     tx[bob].value += 10
/// >>> alice.get(), bob.get()
/// (90, 10)
#[pyclass(module = "kstate", name = "Transactions", weakref)]
#[derive(Debug)]
pub(crate) struct PyMany {
    members: Members,
    stage: Stage,
    durable: bool,
}

#[derive(Debug)]
enum Stage {
    Own(Box<HeldMany>, Lenders),
    Lent,
    Ended(&'static str),
}

/// Each state and its part.
type Members = Vec<(Py<PyState>, Py<PyTransaction>)>;

/// The parts of the states, with the values that `get` gives of each.
///
/// # Errors
///
/// Those of `get`.
fn parts(
    states: &Bound<'_, PyTuple>,
    mut get: impl FnMut(usize) -> Result<(u64, Vec<u8>), TouchError>,
) -> PyResult<Members> {
    let mut members = Members::new();
    for (index, state) in states.iter().enumerate() {
        let state = state.cast_into::<PyState>()?;
        let (reader, codec) = {
            let borrowed = state.borrow();
            (borrowed.open()?.reader.clone(), borrowed.codec().clone())
        };
        let (base, value) = get(index).map_err(raised)?;
        let part = Part::new(reader, codec, base, false, value);
        let part = Py::new(states.py(), PyTransaction::lent(part))?;
        members.push((state.unbind(), part));
    }
    Ok(members)
}

impl PyMany {
    /// Begins one that the program ends.
    ///
    /// # Errors
    ///
    /// Why a state cannot be part of it, or not be read.
    pub(crate) fn own(states: &Bound<'_, PyTuple>, durable: bool) -> PyResult<Self> {
        let (members, lenders) = lend(states)?;
        let mut held = match HeldMany::begin(members) {
            Ok(held) => held,
            Err((error, members)) => {
                give_back(members, &lenders);
                return Err(raised(error));
            }
        };
        let begun = parts(states, |index| Ok((held.base(index).0, held.get(index)?)));
        match begun {
            Ok(members) => Ok(Self {
                members,
                stage: Stage::Own(Box::new(held), lenders),
                durable,
            }),
            Err(error) => {
                give_back(held.abort(), &lenders);
                Err(error)
            }
        }
    }

    /// One that is ended by [`take`](Self::take), over those values.
    ///
    /// # Errors
    ///
    /// `Closed`.
    pub(crate) fn lent(states: &Bound<'_, PyTuple>, values: Vec<(u64, Vec<u8>)>) -> PyResult<Self> {
        let mut values = values.into_iter();
        let members = parts(states, |_| Ok(values.next().unwrap_or_default()))?;
        Ok(Self {
            members,
            stage: Stage::Lent,
            durable: false,
        })
    }

    /// Ends the parts: what is to be committed to each, if anything; nothing at all if it or a part of it was aborted.
    ///
    /// # Errors
    ///
    /// `Busy`: another thread is in a part. Nothing has ended then.
    pub(crate) fn take(
        &mut self,
        py: Python<'_>,
        how: &'static str,
    ) -> PyResult<Vec<Option<Vec<u8>>>> {
        let mut was_ended = matches!(self.stage, Stage::Ended(_));
        let mut values = Vec::new();
        {
            let mut parts = self.borrow_parts(py)?;
            was_ended |= parts.iter().any(|part| part.was_aborted());
            for part in &mut parts {
                values.push(part.take(py, how).filter(|_| !was_ended));
            }
        }
        if !matches!(self.stage, Stage::Ended(_)) {
            self.stage = Stage::Ended(if was_ended { ABORTED } else { how });
        }
        Ok(values)
    }

    /// All parts at once, none of which another thread or a call further up is in.
    fn borrow_parts<'py>(
        &'py self,
        py: Python<'py>,
    ) -> PyResult<Vec<PyRefMut<'py, PyTransaction>>> {
        let parts = self.members.iter();
        let parts = parts.map(|(_, part)| part.bind(py).try_borrow_mut());
        parts
            .collect::<Result<_, _>>()
            .map_err(|_| in_use("the transaction"))
    }

    fn names(&self, py: Python<'_>) -> String {
        let names = self
            .members
            .iter()
            .filter_map(|(_, part)| part.try_borrow(py).ok())
            .map(|part| format!("`{}`", part.reader().name()));
        format!("states {}", names.collect::<Vec<_>>().join(", "))
    }

    fn finish(&mut self, py: Python<'_>) -> PyResult<()> {
        if !matches!(self.stage, Stage::Own(..)) {
            return Ok(());
        }
        let (is_aborted, values) = {
            let mut parts = self.borrow_parts(py)?;
            let is_aborted = parts.iter().any(|part| part.was_aborted());
            let how = if is_aborted { ABORTED } else { "committed" };
            let values = parts.iter_mut().map(|part| part.take(py, how));
            (is_aborted, values.collect::<Vec<_>>())
        };
        let Stage::Own(mut held, lenders) =
            std::mem::replace(&mut self.stage, Stage::Ended("committed"))
        else {
            return Ok(());
        };
        if is_aborted {
            // All of it or nothing.
            give_back(held.abort(), &lenders);
            self.stage = Stage::Ended(ABORTED);
            return Err(ended(&self.names(py), ABORTED));
        }
        let mut written = Vec::new();
        let mut ready = Ok(());
        for (index, value) in values.iter().enumerate() {
            let Some(value) = value else { continue };
            let Ok(part) = self.members[index].1.try_borrow(py) else {
                ready = ready.and(Err(in_use("the transaction")));
                continue;
            };
            if lenders[index].is_none() {
                let name = part.reader().name().clone();
                ready = ready.and(Err(raised(kstate::BeginError::ReadOnly { name })));
            } else if self.durable {
                ready = ready.and_then(|()| durable::check(py, part.reader()));
            }
            ready = ready.and_then(|()| held.set(index, value).map_err(raised));
            written.push(index);
        }
        if let Err(error) = ready {
            give_back(held.abort(), &lenders);
            self.stage = Stage::Ended("refused");
            return Err(error);
        }
        let (outcome, members) = py.detach(move || held.commit());
        give_back(members, &lenders);
        let outcome = outcome.inspect_err(|_| self.stage = Stage::Ended("refused"));
        match outcome.map_err(raised)? {
            Some(ManyOutcome::Committed { generations }) => {
                let mut settled = Ok(());
                for (index, generation) in written.into_iter().zip(generations.iter()) {
                    // Another thread may be in it since; it is committed all the same.
                    let part = self.members[index].1.bind(py);
                    if let Ok(mut part) = part.try_borrow_mut() {
                        part.note(generation.0);
                    }
                    if self.durable
                        && let Ok(part) = part.try_borrow()
                    {
                        settled = settled.and(durable::settle(py, part.reader(), *generation));
                    }
                }
                settled
            }
            Some(ManyOutcome::Conflict { name, base, found }) => {
                self.stage = Stage::Ended("in conflict");
                Err(conflict(py, name.as_str(), base.0, found.0))
            }
            Some(ManyOutcome::Unchanged) | None => Ok(()),
        }
    }

    fn give_up(&mut self, py: Python<'_>) {
        if matches!(self.stage, Stage::Ended(_)) {
            return;
        }
        for (_, part) in &self.members {
            // Who is in one finds out by the next call.
            if let Ok(mut part) = part.try_borrow_mut(py) {
                part.take(py, ABORTED);
            }
        }
        if let Stage::Own(held, lenders) = std::mem::replace(&mut self.stage, Stage::Ended(ABORTED))
        {
            give_back(held.abort(), &lenders);
        }
    }
}

/// One that is forgotten is aborted.
impl Drop for PyMany {
    fn drop(&mut self) {
        if let Stage::Own(held, lenders) = std::mem::replace(&mut self.stage, Stage::Ended(ABORTED))
        {
            give_back(held.abort(), &lenders);
        }
    }
}

#[pymethods]
impl PyMany {
    fn __getitem__<'py>(&self, state: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyTransaction>> {
        let member = self.members.iter().find(|(member, _)| member.is(state));
        match member {
            Some((_, part)) => Ok(part.bind(state.py()).clone()),
            None => Err(PyKeyError::new_err(format!(
                "{} is not in the transaction",
                state.repr()?
            ))),
        }
    }

    fn __contains__(&self, state: &Bound<'_, PyAny>) -> bool {
        self.members.iter().any(|(member, _)| member.is(state))
    }

    fn __len__(&self) -> usize {
        self.members.len()
    }

    /// Commits all that was written. At the end of a ``with`` block that is done by itself.
    fn commit(&mut self, py: Python<'_>) -> PyResult<()> {
        match self.stage {
            Stage::Lent => Err(not_yours_to_end(&self.names(py))),
            Stage::Ended(how) => Err(ended(&self.names(py), how)),
            Stage::Own(..) => self.finish(py),
        }
    }

    /// Throws away what was written. Aborting what has ended is no error.
    fn abort(&mut self, py: Python<'_>) {
        self.give_up(py);
    }

    /// Whether it would still commit: nobody has committed to any of the states since it began.
    #[getter]
    fn valid(&mut self) -> bool {
        match &mut self.stage {
            Stage::Own(held, _) => held.is_valid(),
            Stage::Lent => Python::attach(|py| {
                let mut parts = self.members.iter();
                parts.all(|(_, part)| part.try_borrow(py).is_ok_and(|part| part.is_valid()))
            }),
            Stage::Ended(_) => false,
        }
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyResult<PyRef<'_, Self>> {
        match slf.stage {
            Stage::Ended(how) => Err(ended(&slf.names(slf.py()), how)),
            Stage::Own(..) | Stage::Lent => Ok(slf),
        }
    }

    #[pyo3(signature = (kind, *_error))]
    fn __exit__(
        &mut self,
        py: Python<'_>,
        kind: &Bound<'_, PyAny>,
        _error: &Bound<'_, PyTuple>,
    ) -> PyResult<()> {
        match kind.is_none() {
            true => self.finish(py),
            false => {
                self.give_up(py);
                Ok(())
            }
        }
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let how = match self.stage {
            Stage::Own(..) | Stage::Lent => "going on",
            Stage::Ended(how) => how,
        };
        format!("<kstate.Transactions on {}, {how}>", self.names(py))
    }
}
