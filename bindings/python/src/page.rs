#![expect(unsafe_code, reason = "memory that Python writes to through buffers")]
//! Private memory that a transaction is changed in.

use std::ffi::c_int;
use std::ptr::NonNull;

use pyo3::ffi;
use pyo3::prelude::*;

use crate::input::copied;
use crate::snapshot::export;

/// The bytes of one transaction, to be written to through their buffer. They live as long as any view of them, whatever
/// becomes of the transaction, and mean nothing behind its end.
///
/// # Invariants
///
/// 1. `bytes` came from a box, and is freed with this. No reference points into it: views are written to at any time.
#[pyclass(module = "kstate._kstate", name = "_Page", frozen)]
#[derive(Debug)]
pub(crate) struct Page {
    bytes: NonNull<[u8]>,
}

// SAFETY: it owns its bytes, as a box does: invariant 1.
unsafe impl Send for Page {}
// SAFETY: they are looked at by copying alone, as invariant 1 has it.
unsafe impl Sync for Page {}

impl Page {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        // INVARIANT: 1.
        Self {
            bytes: NonNull::from(Box::leak(bytes.into_boxed_slice())),
        }
    }

    /// What is in it now.
    pub(crate) fn copy(&self) -> Vec<u8> {
        // SAFETY: invariant 1: so many bytes are there.
        unsafe { copied(self.bytes.as_ptr().cast(), self.bytes.len()) }
    }

    pub(crate) fn length(&self) -> usize {
        self.bytes.len()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: invariant 1; each view keeps the object, so there is none.
        drop(unsafe { Box::from_raw(self.bytes.as_ptr()) });
    }
}

#[pymethods]
impl Page {
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let bytes = slf.get().bytes;
        let start = bytes.as_ptr().cast();
        // SAFETY: the interpreter's `view`; invariant 1.
        unsafe { export(view, flags, slf.as_any(), start, bytes.len(), true) }
    }
}
