#![expect(unsafe_code, reason = "copies out of the buffers of other objects")]
//! What Python hands over: bytes, times and durations.

use std::time::Duration;

use kstate::{Bytes, PublishError, Reader};
use pyo3::exceptions::{PyBufferError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error::raised;

/// No state has room for more, on a machine of whatever page.
const MOST_BYTES: usize = 1 << 16;

/// Bytes to be published, as they were at one moment.
pub(crate) enum Input<'a> {
    /// Of an object that nobody can change.
    Borrowed(&'a [u8]),
    /// A copy.
    Owned(Vec<u8>),
}

impl Input<'_> {
    /// The bytes of `data`, which has to have a contiguous buffer. They are borrowed of `bytes` alone: what others hold
    /// may change at any time, also by code that does not hold the interpreter's lock.
    ///
    /// # Errors
    ///
    /// `TypeError` for what has no buffer, `BufferError` for one in pieces, `TooLong` for more than `of` can have.
    pub(crate) fn of<'a>(data: &'a Bound<'_, PyAny>, of: &Reader<Bytes>) -> PyResult<Input<'a>> {
        if let Some(input) = Self::unchanging(data) {
            return Ok(input);
        }
        let buffer = Buffer::of(data)?;
        let length = buffer.length();
        if length > MOST_BYTES {
            return Err(raised(PublishError::TooLong {
                name: of.name().clone(),
                length,
                capacity: of.capacity(),
            }));
        }
        // SAFETY: so many bytes are there for as long as `buffer`: its invariant 1.
        Ok(Input::Owned(unsafe { copied(buffer.start(), length) }))
    }

    /// The bytes of what can never change, which is `bytes` alone.
    #[inline]
    pub(crate) fn unchanging<'a>(data: &'a Bound<'_, PyAny>) -> Option<Input<'a>> {
        let bytes = data.cast::<PyBytes>().ok()?;
        Some(Input::Borrowed(bytes.as_bytes()))
    }

    /// As a copy that can outlive the object.
    pub(crate) fn into_owned(self) -> Vec<u8> {
        match self {
            Self::Borrowed(bytes) => bytes.to_vec(),
            Self::Owned(bytes) => bytes,
        }
    }
}

impl std::ops::Deref for Input<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// The contiguous buffer of an object, as bytes whatever they are to it.
///
/// # Invariants
///
/// 1. `view` was filled by the interpreter, and is released once, with this. What it points at is there until then.
struct Buffer<'py> {
    view: Box<ffi::Py_buffer>,
    /// Buffers are released by who may use the interpreter.
    _py: Python<'py>,
}

impl<'py> Buffer<'py> {
    /// # Errors
    ///
    /// `TypeError` for what has none, `BufferError` for one in pieces.
    fn of(data: &Bound<'py, PyAny>) -> PyResult<Self> {
        let mut view = Box::new(ffi::Py_buffer::new());
        // SAFETY: an object, and a place for a view which stays where it is. Plain bytes are asked for: the least that an
        // object can have, ctypes' without a shape, too.
        let got =
            unsafe { ffi::PyObject_GetBuffer(data.as_ptr(), &raw mut *view, ffi::PyBUF_SIMPLE) };
        let py = data.py();
        if got == 0 {
            // INVARIANT: 1.
            return Ok(Self { view, _py: py });
        }
        let error = PyErr::fetch(py);
        // SAFETY: an object.
        let has_buffer = unsafe { ffi::PyObject_CheckBuffer(data.as_ptr()) } != 0;
        Err(
            match (has_buffer, error.is_instance_of::<PyTypeError>(py)) {
                (false, true) => PyTypeError::new_err(format!(
                    "a value is bytes or has a buffer, such as bytearray, memoryview, array, a ctypes structure or a \
                 numpy array, and not {}; a handle with a format, type or dtype takes other values by `set`",
                    data.get_type()
                )),
                (true, _) => {
                    let text = "the buffer of a value is to be contiguous; make a copy of it";
                    let refused = PyBufferError::new_err(text);
                    refused.set_cause(py, Some(error));
                    refused
                }
                _ => error,
            },
        )
    }

    fn start(&self) -> *const u8 {
        self.view.buf.cast_const().cast()
    }

    fn length(&self) -> usize {
        usize::try_from(self.view.len).unwrap_or(0)
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        // SAFETY: invariant 1; `_py` shows that the interpreter can be used.
        unsafe { ffi::PyBuffer_Release(&raw mut *self.view) };
    }
}

/// A copy of memory that others may be writing to: never borrowed, so that what it holds is looked at once.
///
/// # Safety
///
/// `length` bytes can be read at `start` during the call.
pub(crate) unsafe fn copied(start: *const u8, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length);
    if length > 0 {
        // SAFETY: the caller's promise; `bytes` has that much room, and nobody else has it.
        unsafe { std::ptr::copy_nonoverlapping(start, bytes.as_mut_ptr(), length) };
        // SAFETY: filled just now.
        unsafe { bytes.set_len(length) };
    }
    bytes
}

/// A duration of so many seconds.
///
/// # Errors
///
/// `ValueError` for a negative one and for what is no number.
pub(crate) fn duration(seconds: f64, what: &str) -> PyResult<Duration> {
    if seconds.is_nan() || seconds < 0.0 {
        let text = format!("{what} is a number of seconds, at least 0, and not {seconds}");
        return Err(PyValueError::new_err(text));
    }
    Ok(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

/// How long to wait; for ever if `None`, or longer than a clock can tell.
///
/// # Errors
///
/// As [`duration`].
pub(crate) fn timeout(seconds: Option<f64>) -> PyResult<Option<Duration>> {
    const LONGEST: Duration = Duration::from_secs(1 << 32);
    let seconds = seconds.map(|seconds| duration(seconds, "timeout"));
    Ok(seconds.transpose()?.filter(|timeout| *timeout < LONGEST))
}

/// A period, from its length or from how often it is a second.
///
/// # Errors
///
/// `ValueError` for what is no such number, or for both at once.
pub(crate) fn period(every: Option<f64>, hz: Option<f64>) -> PyResult<Duration> {
    match (every, hz) {
        (None, None) => Ok(Duration::ZERO),
        (Some(every), None) => duration(every, "every"),
        (None, Some(hz)) if hz > 0.0 => duration(hz.recip(), "1/hz"),
        (None, Some(hz)) => {
            let text = format!("hz is a number of times a second, more than 0, and not {hz}");
            Err(PyValueError::new_err(text))
        }
        (Some(_), Some(_)) => Err(PyValueError::new_err(
            "either `every` or `hz` says how often, not both",
        )),
    }
}
