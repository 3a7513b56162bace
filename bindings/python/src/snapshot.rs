#![expect(unsafe_code, reason = "exports a buffer")]
//! One consistent copy of a state, as a Python object with a buffer.

use std::ffi::{c_int, c_void};
use std::time::UNIX_EPOCH;

use kstate::{Bytes, Generation, Reader};
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::codec::{Coded, decode};

/// One consistent copy of a state: which version it is, and its bytes.
///
/// It never changes. It has a buffer, so ``memoryview(snapshot)``, ``numpy.frombuffer(snapshot, ...)``,
/// ``struct.unpack_from(format, snapshot)`` and files' ``write`` take it as it is, without another copy.
///
/// >>> state = kstate.subscribe("docs.snapshot", write=True)
/// >>> state.write(b"driving")
/// 1
/// >>> now = state.snapshot()
/// >>> now.generation, now.length, bytes(now), memoryview(now)[:5].tobytes()
/// (1, 7, b'driving', b'drivi')
/// >>> now.age < 60
/// True
#[pyclass(module = "kstate", name = "Snapshot", frozen, weakref)]
#[derive(Debug)]
pub(crate) struct PySnapshot {
    inner: kstate::Snapshot<Vec<u8>>,
    reader: Reader<Bytes>,
    codec: Coded,
}

impl PySnapshot {
    pub(crate) fn new(
        inner: kstate::Snapshot<Vec<u8>>,
        reader: &Reader<Bytes>,
        codec: &Coded,
    ) -> Self {
        Self {
            inner,
            reader: reader.clone(),
            codec: codec.clone(),
        }
    }

    pub(crate) fn version(&self) -> Generation {
        self.inner.generation()
    }
}

#[pymethods]
impl PySnapshot {
    /// How many versions had been published up to this one; 0 if nobody had written yet.
    #[getter]
    fn generation(&self) -> u64 {
        self.inner.generation().0
    }

    /// Bytes of the version; 0 if nobody had written yet.
    #[getter]
    fn length(&self) -> u32 {
        self.inner.length()
    }

    /// Seconds since it was committed; None if its writer did not say when.
    #[getter]
    fn age(&self) -> Option<f64> {
        self.inner.age().map(|age| age.as_secs_f64())
    }

    /// When it was committed, in seconds as of ``time.time()``; None if its writer did not say.
    #[getter]
    fn time(&self) -> Option<f64> {
        let since = self.inner.time()?.duration_since(UNIX_EPOCH).ok()?;
        Some(since.as_secs_f64())
    }

    /// Whether, when it was read, the next version was overdue: the state's deadline had passed without a commit, or its
    /// last writer had gone.
    #[getter]
    fn overdue(&self) -> bool {
        self.inner.is_overdue()
    }

    /// The name of the state.
    #[getter]
    fn name(&self) -> &str {
        self.reader.name().as_str()
    }

    /// The value, by the format, type or dtype of the handle it came from; None if nobody had written yet. Without any of
    /// them, its bytes.
    ///
    /// A numpy array looks at the bytes of this snapshot; other values are copies.
    ///
    /// >>> speed = kstate.subscribe("docs.value", write=True, format="<d")
    /// >>> speed.snapshot().value is None
    /// True
    /// >>> speed.set(2.5)
    /// 1
    /// >>> speed.snapshot().value
    /// 2.5
    #[getter]
    fn value<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let this = slf.get();
        let written = !this.inner.generation().is_never();
        let length = this.inner.value.len();
        decode(
            &this.codec,
            &this.reader,
            slf.clone().into_any(),
            length,
            written,
        )
    }

    /// A numpy array over its bytes, without a copy; it cannot be written to.
    ///
    /// >>> import numpy
    /// >>> state = kstate.subscribe("docs.array", write=True)
    /// >>> state.write(numpy.arange(3, dtype="<u2"))
    /// 1
    /// >>> state.snapshot().array("<u2").tolist()
    /// [0, 1, 2]
    fn array<'py>(
        slf: &Bound<'py, Self>,
        dtype: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let module = PyModule::import(slf.py(), "kstate._codec")?;
        module.getattr("array")?.call1((slf, dtype))
    }

    fn __bytes__<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.inner.value)
    }

    fn __repr__(&self) -> String {
        let age = self.inner.age().map_or_else(String::new, |age| {
            format!(", {:.6} s old", age.as_secs_f64())
        });
        let overdue = if self.inner.is_overdue() {
            ", overdue"
        } else {
            ""
        };
        format!(
            "<kstate.Snapshot of {} version {}, {} bytes{age}{overdue}>",
            self.name(),
            self.generation(),
            self.inner.value.len(),
        )
    }

    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let bytes = &slf.get().inner.value;
        let (start, length) = (bytes.as_ptr().cast_mut(), bytes.len());
        // SAFETY: the interpreter's `view`. The bytes live and stay as they are for as long as `slf`.
        unsafe { export(view, flags, slf.as_any(), start, length, false) }
    }
}

/// Fills `view` with `length` bytes at `start`, which may be written to if `writable`; the view keeps `owner`.
///
/// # Errors
///
/// `BufferError` for a view to be written to where that may not be.
///
/// # Safety
///
/// `view` is null or may be filled, and the memory is there for as long as `owner`.
pub(crate) unsafe fn export(
    view: *mut ffi::Py_buffer,
    flags: c_int,
    owner: &Bound<'_, PyAny>,
    start: *mut u8,
    length: usize,
    writable: bool,
) -> PyResult<()> {
    if view.is_null() {
        return Err(PyBufferError::new_err("there is no view to fill"));
    }
    let length = length.cast_signed();
    let start = start.cast::<c_void>();
    // SAFETY: the caller's promise; the call takes a reference to `owner` for the view.
    let filled = unsafe {
        ffi::PyBuffer_FillInfo(
            view,
            owner.as_ptr(),
            start,
            length,
            c_int::from(!writable),
            flags,
        )
    };
    match filled {
        0 => Ok(()),
        _ => Err(PyErr::fetch(owner.py())),
    }
}
