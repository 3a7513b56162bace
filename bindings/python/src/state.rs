//! A state as Python programs read and write it.

mod changing;
mod keeping;
mod waiting;

pub(crate) use keeping::durability;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use kstate::{Bytes, Generation, Interrupt, Reader, Stamp, StateName};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use crate::codec::{self, Coded};
use crate::error::{closed, raised};
use crate::handles::Handles;
use crate::input::Input;
use crate::snapshot::PySnapshot;

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

/// What `_bare` gives.
pub(crate) static BARE: [u8; 64] = [7; 64];

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

/// Publishes `value`; where that has to wait for others, without the interpreter's lock. The handle is not borrowed
/// meanwhile, so that other threads can close it.
///
/// # Errors
///
/// `Closed`, and those of the library.
pub(crate) fn publish(
    of: &Bound<'_, PyState>,
    value: Input<'_>,
    stamp: Option<Stamp>,
) -> PyResult<Generation> {
    let handles = {
        let this = of.borrow();
        let handles = &this.open()?.handles;
        let root = handles.root();
        if !root.is_to_stand_back() {
            let done = match stamp {
                None => root.publish(&value),
                Some(stamp) => root.publish_stamped(&value, stamp),
            };
            return done.map_err(raised);
        }
        drop(root);
        Arc::clone(handles)
    };
    let value = value.into_owned();
    let done = handles.detached(of.py(), |handle| match stamp {
        None => handle.publish(&value),
        Some(stamp) => handle.publish_stamped(&value, stamp),
    })?;
    done.map_err(raised)
}

/// No slots to write to, as the exception that writing has for it.
#[cold]
pub(crate) fn raised_claim(error: kstate::ClaimError) -> PyErr {
    raised(kstate::PublishError::from(error))
}

/// The newest version of `reader` as `bytes`; of `length` bytes it is copied straight to where it stays.
#[inline]
pub(crate) fn read<'py>(
    py: Python<'py>,
    reader: &Reader<Bytes>,
    length: &AtomicUsize,
) -> PyResult<Bound<'py, PyBytes>> {
    let room = length.load(Ordering::Relaxed);
    let mut found = None;
    let bytes = PyBytes::new_with(py, room, |into| {
        found = reader.snapshot_into(into).ok().map(|read| read.value);
        Ok(())
    })?;
    match found == Some(room) {
        true => Ok(bytes),
        false => read_another_length(py, reader, length),
    }
}

#[cold]
fn read_another_length<'py>(
    py: Python<'py>,
    reader: &Reader<Bytes>,
    length: &AtomicUsize,
) -> PyResult<Bound<'py, PyBytes>> {
    let snapshot = reader.snapshot().map_err(raised)?;
    length.store(snapshot.value.len(), Ordering::Relaxed);
    Ok(PyBytes::new(py, &snapshot.value))
}

/// A time of the caller's own, in seconds as of `time.time()`.
fn stamp(time: f64) -> PyResult<Stamp> {
    let since = Duration::try_from_secs_f64(time).ok();
    let at = since.and_then(|since| UNIX_EPOCH.checked_add(since));
    let text = || format!("time is in seconds as of time.time(), and not {time}");
    at.map(Stamp::from)
        .ok_or_else(|| PyValueError::new_err(text()))
}

#[pymethods]
impl PyState {
    /// The newest version, as bytes; ``b""`` if nobody has written yet.
    ///
    /// Never blocked by writers, and never half of a version. One copy and no system call.
    ///
    /// >>> state = kstate.subscribe("docs.read", write=True)
    /// >>> state.read()
    /// b''
    /// >>> state.write(b"driving")
    /// 1
    /// >>> state.read()
    /// b'driving'
    fn read<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        read(py, &self.open()?.reader, &self.length)
    }

    /// The same call with nothing to do: what reading is measured beside.
    fn _bare<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &BARE)
    }

    /// The newest version as a :class:`Snapshot`: its bytes, without another copy, and which version it is.
    ///
    /// >>> state = kstate.subscribe("docs.snap", write=True)
    /// >>> state.write(b"one")
    /// 1
    /// >>> state.snapshot().generation
    /// 1
    pub(crate) fn snapshot(&self) -> PyResult<PySnapshot> {
        let reader = &self.open()?.reader;
        let snapshot = reader.snapshot().map_err(raised)?;
        Ok(PySnapshot::new(snapshot, reader, &self.codec))
    }

    /// The newest value, by the format, type or dtype subscribed with; None if nobody has written yet. Without any of
    /// them as :meth:`read`.
    ///
    /// A struct format of one field gives that, of several a tuple. A numpy array cannot be written to.
    ///
    /// >>> gps = kstate.subscribe("docs.get", write=True, format="<dd")
    /// >>> gps.get() is None
    /// True
    /// >>> gps.set((52.2, 0.12))
    /// 1
    /// >>> gps.get()
    /// (52.2, 0.12)
    fn get<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let (bytes, reader, codec) = {
            let this = slf.borrow();
            let reader = &this.open()?.reader;
            let bytes = read(slf.py(), reader, &this.length)?;
            // Python code runs next, which may close the handle.
            (bytes, reader.clone(), this.codec.clone())
        };
        let length = bytes.as_bytes().len();
        let written = length > 0 || !reader.generation().is_never();
        codec::decode(&codec, &reader, bytes.into_any(), length, written)
    }

    /// Publishes ``data`` as the newest version, whatever was there, and returns its generation.
    ///
    /// ``data`` is bytes or anything with a contiguous buffer. ``time`` says when it was measured, in seconds as of
    /// ``time.time()``; now unless said. One copy; a system call only if somebody waits.
    ///
    /// >>> state = kstate.subscribe("docs.write", write=True, capacity=16)
    /// >>> state.write(bytearray(b"moving"))
    /// 1
    /// >>> state.write(b"x" * 17)  # doctest: +ELLIPSIS
    /// Traceback (most recent call last):
    ///   ...
    /// kstate.TooLong: a value of 17 bytes was not published: state `docs.write` has room for 16; ...
    #[pyo3(signature = (data, *, time=None))]
    fn write(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>, time: Option<f64>) -> PyResult<u64> {
        let stamp = time.map(stamp).transpose()?;
        let input = match Input::unchanging(data) {
            Some(input) => input,
            None => {
                let reader = slf.borrow().open()?.reader.clone();
                Input::of(data, &reader)?
            }
        };
        publish(slf, input, stamp).map(|generation| generation.0)
    }

    /// Publishes ``value``, by the format, type or dtype subscribed with, and returns its generation.
    ///
    /// >>> import ctypes
    /// >>> class Gps(ctypes.Structure):
    /// ...     _fields_ = [("lat", ctypes.c_double), ("lon", ctypes.c_double), ("fix", ctypes.c_uint32)]
    /// >>> gps = kstate.subscribe("docs.set", write=True, type=Gps)
    /// >>> gps.set(Gps(52.2, 0.12, 3))
    /// 1
    /// >>> gps.get().fix
    /// 3
    #[pyo3(signature = (value, *, time=None))]
    fn set(slf: &Bound<'_, Self>, value: &Bound<'_, PyAny>, time: Option<f64>) -> PyResult<u64> {
        let stamp = time.map(stamp).transpose()?;
        let (reader, codec) = Self::seen(slf)?;
        let published = codec::encode(&codec, &reader, value, |input| publish(slf, input, stamp));
        published.map(|generation| generation.0)
    }

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
