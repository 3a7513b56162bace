//! A state as Python programs read and write it.

mod changing;
mod keeping;
mod value;
mod waiting;

pub(crate) use keeping::durability;
pub(crate) use value::BARE;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use kstate::{Bytes, Interrupt, Reader, StateName};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::codec::{self, Coded};
use crate::error::{closed, raised};
use crate::handles::Handles;

/// A state: a named, versioned value of at most a page that other processes see as well.
///
/// Made by :func:`kstate.subscribe`. Reading copies out of shared memory, writing into it: no system call, no server on
/// the way. Threads can share it. A forked child goes on with it; pickled, it is subscribed to again where it arrives.
///
/// As a context manager it is closed at the end of the block; the state stays as long as somebody is subscribed.
///
/// >>> with kstate.subscribe("docs.state", write=True) as state:
/// ...     state.write(b"hello")
/// ...     state.read()
/// 1
/// b'hello'
#[pyclass(module = "kstate", name = "State", weakref)]
#[derive(Debug)]
pub(crate) struct PyState {
    open: Option<Open>,
    name: StateName,
    mount: PathBuf,
    codec: Coded,
    /// Bytes of the version read last: most often the next has as many.
    length: AtomicUsize,
}

/// What a handle has until it is closed.
#[derive(Clone, Debug)]
pub(crate) struct Open {
    pub(crate) reader: Reader<Bytes>,
    pub(crate) handles: Arc<Handles>,
    /// Raised when it is closed, for who waits.
    pub(crate) interrupt: Interrupt,
}

impl PyState {
    pub(crate) fn new(state: kstate::State<Bytes>, mount: PathBuf, codec: Coded) -> Self {
        Self {
            name: state.name().clone(),
            mount,
            codec,
            length: AtomicUsize::new(0),
            open: Some(Open {
                reader: state.reader(),
                handles: Arc::new(Handles::new(state)),
                interrupt: Interrupt::new(),
            }),
        }
    }

    /// What it has.
    ///
    /// # Errors
    ///
    /// `Closed`.
    #[inline]
    pub(crate) fn open(&self) -> PyResult<&Open> {
        match &self.open {
            Some(open) => Ok(open),
            None => Err(closed(&format!("the handle of state `{}`", self.name))),
        }
    }

    pub(crate) fn codec(&self) -> &Coded {
        &self.codec
    }

    pub(crate) fn name(&self) -> &StateName {
        &self.name
    }
}

/// No slots to write to, as the exception that writing has for it.
#[cold]
pub(crate) fn raised_claim(error: kstate::ClaimError) -> PyErr {
    raised(kstate::PublishError::from(error))
}

#[pymethods]
impl PyState {
    /// The state's name.
    #[getter(name)]
    fn py_name(&self) -> &str {
        self.name.as_str()
    }

    /// Where the file system is mounted that the state is of.
    #[getter]
    fn mount(&self) -> PathBuf {
        self.mount.clone()
    }

    /// The newest generation: how many versions were published; 0 if nobody has written yet. One load.
    #[getter]
    fn generation(&self) -> PyResult<u64> {
        Ok(self.open()?.reader.generation().0)
    }

    /// Bytes the state has room for.
    #[getter]
    fn capacity(&self) -> PyResult<u32> {
        Ok(self.open()?.reader.capacity())
    }

    /// Its number, which no later state of the same mount has.
    #[getter]
    fn state_id(&self) -> PyResult<u64> {
        Ok(self.open()?.reader.state_id())
    }

    /// What this handle may do: ``"read"`` or ``"write"``.
    #[getter]
    fn access(&self) -> PyResult<&'static str> {
        Ok(match self.open()?.reader.access().is_write() {
            true => "write",
            false => "read",
        })
    }

    /// Whether it was closed.
    #[getter]
    fn closed(&self) -> bool {
        self.open.is_none()
    }

    /// Unsubscribes. What waits through the handle ends with :class:`Closed`, as any use of it does from then on;
    /// snapshots stay, and what was begun goes on: views, transactions and live pages keep the state until they go. Closing
    /// twice is no error.
    ///
    /// >>> state = kstate.subscribe("docs.close")
    /// >>> state.close()
    /// >>> state.close()
    /// >>> state.read()
    /// Traceback (most recent call last):
    ///   ...
    /// kstate.Closed: the handle of state `docs.close` was closed
    fn close(&mut self) {
        if let Some(open) = self.open.take() {
            open.interrupt.raise();
        }
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyResult<PyRef<'_, Self>> {
        slf.open()?;
        Ok(slf)
    }

    #[pyo3(signature = (*_error))]
    fn __exit__(&mut self, _error: &Bound<'_, PyTuple>) {
        self.close();
    }

    fn __repr__(&self) -> String {
        let Self { name, codec, .. } = self;
        let by = codec
            .as_ref()
            .map_or_else(String::new, |codec| format!(" by {}", codec.text()));
        match &self.open {
            None => format!("<kstate.State {name}{by}, closed>"),
            Some(open) => {
                let access = if open.reader.access().is_write() {
                    "to write"
                } else {
                    "to read"
                };
                let generation = open.reader.generation();
                format!("<kstate.State {name} {access}{by}, version {generation}>")
            }
        }
    }

    /// Subscribes again where it is unpickled, to the state that is there by then.
    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Resubscribed<'py>)> {
        let arguments = slf.borrow().resubscribed(slf.py())?;
        let module = PyModule::import(slf.py(), "kstate._pickle")?;
        Ok((module.getattr("state")?, arguments))
    }
}

/// What is needed to see its bytes as values.
type Seen = (Reader<Bytes>, Coded);

/// The arguments by which a handle is made again.
type Resubscribed<'py> = (String, Bound<'py, PyDict>);

impl PyState {
    /// # Errors
    ///
    /// `Closed`.
    fn seen(slf: &Bound<'_, Self>) -> PyResult<Seen> {
        let this = slf.borrow();
        Ok((this.open()?.reader.clone(), this.codec.clone()))
    }

    pub(crate) fn resubscribed<'py>(&self, py: Python<'py>) -> PyResult<Resubscribed<'py>> {
        let arguments = codec::arguments(py, &self.codec)?;
        arguments.set_item("mount", &self.mount)?;
        arguments.set_item("write", self.open()?.reader.access().is_write())?;
        Ok((self.name.as_str().to_owned(), arguments))
    }
}
