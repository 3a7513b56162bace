//! Reading and writing values.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use kstate::{Bytes, Generation, Reader, Stamp};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::PyState;
use crate::codec;
use crate::error::raised;
use crate::input::Input;
use crate::snapshot::PySnapshot;

/// What `_bare` gives.
pub(crate) static BARE: [u8; 64] = [7; 64];

/// Publishes `value`; where that has to wait for others, without the interpreter's lock. The handle is not borrowed
/// meanwhile, so that other threads can close it.
///
/// # Errors
///
/// `Closed`, and those of the library.
pub(super) fn publish(
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

/// The newest version of `reader` as `bytes`; of `length` bytes it is copied straight to where it stays.
#[inline]
fn read<'py>(
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
            if bytes.as_bytes().is_empty() {
                // Whether that was written is told by the same look.
                let now = reader.snapshot().map_err(raised)?;
                let bytes = PyBytes::new(slf.py(), &now.value);
                let (length, written) = (now.value.len(), !now.generation().is_never());
                let (reader, codec) = (reader.clone(), this.codec.clone());
                drop(this);
                return codec::decode(&codec, &reader, bytes.into_any(), length, written);
            }
            // Python code runs next, which may close the handle.
            (bytes, reader.clone(), this.codec.clone())
        };
        let length = bytes.as_bytes().len();
        codec::decode(&codec, &reader, bytes.into_any(), length, true)
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
}
