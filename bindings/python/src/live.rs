#![expect(unsafe_code, reason = "exports memory that other processes write")]
//! The live page, as memory.

use std::ffi::c_int;
use std::sync::atomic::{Ordering, fence};

use kstate::{Bytes, Live};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::snapshot::export;

/// Memory in which the newest value is, at an address that stays: made by :meth:`State.live` and :meth:`View.live`.
///
/// ``memoryview(live)`` is a whole page that cannot be written to, and changes under who looks at it: a value may be seen
/// half-written. So compare :attr:`generation` before and after a look, or use :meth:`read`, which does. To have one of a
/// state makes each of its commits cost another copy for as long as the state lives.
///
/// >>> state = kstate.subscribe("docs.live", write=True)
/// >>> live = state.live()
/// >>> state.write(b"moving")
/// 1
/// >>> memoryview(live)[:live.length].tobytes(), live.generation
/// (b'moving', 1)
#[pyclass(module = "kstate", name = "Live", frozen, weakref)]
#[derive(Debug)]
pub(crate) struct PyLive {
    live: Live<Bytes>,
}

/// How often a version is looked at that others follow at once.
const MOST_LOOKS: u32 = 1000;

impl PyLive {
    pub(crate) fn new(live: Live<Bytes>) -> Self {
        Self { live }
    }
}

#[pymethods]
impl PyLive {
    /// Which generation the page holds; None while it is being written.
    #[getter]
    fn generation(&self) -> Option<u64> {
        self.live.generation().map(|generation| generation.0)
    }

    /// Bytes of the version in the page; the rest is zeros.
    #[getter]
    fn length(&self) -> usize {
        self.live.len()
    }

    /// The version in the page, checked to be one: ``(generation, bytes)``; None when the page was being written at each of
    /// many looks, as it is when a writer was stopped in the middle.
    fn read<'py>(&self, py: Python<'py>) -> Option<(u64, Bound<'py, PyBytes>)> {
        let mut page = vec![0; self.live.page_len()];
        for _ in 0..MOST_LOOKS {
            let generation = self.live.load_into(&mut page)?;
            // The length is not copied with the rest: it belongs to the version if that is there still.
            let length = self.live.len().min(page.len());
            // ORDERING: Acquire: the length before the second look at the generation.
            fence(Ordering::Acquire);
            if self.live.generation() == Some(generation) {
                return Some((generation.0, PyBytes::new(py, &page[..length])));
            }
        }
        None
    }

    /// The state's name.
    #[getter]
    fn name(&self) -> &str {
        self.live.reader().name().as_str()
    }

    fn __repr__(&self) -> String {
        let generation = self.live.generation().map_or_else(
            || "being written".to_owned(),
            |now| format!("version {now}"),
        );
        format!("<kstate.Live of {}, {generation}>", self.name())
    }

    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let live = &slf.get().live;
        let (start, length) = (live.as_ptr().cast_mut(), live.page_len());
        // SAFETY: the interpreter's `view`. The page is mapped for as long as `live`, and so `slf`.
        unsafe { export(view, flags, slf.as_any(), start, length, false) }
    }
}
