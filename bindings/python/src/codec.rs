//! How the bytes of a state are a Python value: by a struct format, a ctypes type or a numpy dtype.

use std::sync::Arc;

use kstate::{Bytes, Reader};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::error::wrong_length;
use crate::input::Input;

/// The two directions, and what a pickled handle needs to have them again. Made by `kstate._codec`.
#[derive(Debug)]
pub(crate) struct Codec {
    decode: Py<PyAny>,
    encode: Py<PyAny>,
    edit: Py<PyAny>,
    /// The arguments of `subscribe` that it came from.
    arguments: Py<PyDict>,
    /// Bytes of each version; none if they may differ.
    size: Option<usize>,
    /// What the versions must be a multiple of, in bytes.
    unit: usize,
    text: String,
}

/// What a handle has: most have none, and their values are bytes.
pub(crate) type Coded = Option<Arc<Codec>>;

impl Codec {
    /// The codec that those arguments of `subscribe` ask for, if any does.
    ///
    /// # Errors
    ///
    /// What Python says of a format, type or dtype that is none, and `ValueError` for two of them.
    pub(crate) fn of(
        py: Python<'_>,
        format: Option<Bound<'_, PyAny>>,
        ctype: Option<Bound<'_, PyAny>>,
        dtype: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Coded> {
        if format.is_none() && ctype.is_none() && dtype.is_none() {
            return Ok(None);
        }
        let arguments = PyDict::new(py);
        for (name, value) in [("format", format), ("type", ctype), ("dtype", dtype)] {
            if let Some(value) = value {
                arguments.set_item(name, value)?;
            }
        }
        let module = PyModule::import(py, "kstate._codec")?;
        let codec = module.getattr("of")?.call((), Some(&arguments))?;
        Ok(Some(Arc::new(Self {
            decode: codec.getattr("decode")?.unbind(),
            encode: codec.getattr("encode")?.unbind(),
            edit: codec.getattr("edit")?.unbind(),
            arguments: codec.getattr("arguments")?.cast_into::<PyDict>()?.unbind(),
            size: codec.getattr("size")?.extract()?,
            unit: codec.getattr("unit")?.extract()?,
            text: codec.getattr("text")?.extract()?,
        })))
    }

    /// Bytes of each version; none if they may differ.
    pub(crate) fn size(&self) -> Option<usize> {
        self.size
    }

    /// What it is, for people.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    fn check(&self, of: &Reader<Bytes>, length: usize) -> PyResult<()> {
        let wanted = self.size.unwrap_or(self.unit);
        let fits = match self.size {
            Some(size) => length == size,
            None => length.is_multiple_of(self.unit.max(1)),
        };
        match fits {
            true => Ok(()),
            false => Err(wrong_length(of.name().as_str(), length, &self.text, wanted)),
        }
    }
}

/// The value in `bytes`, an object with the buffer of a version of `length` bytes; as bytes without a codec. `None` if
/// nobody `wrote` it.
///
/// # Errors
///
/// `WrongLayout`, and what the codec says.
pub(crate) fn decode<'py>(
    codec: &Coded,
    of: &Reader<Bytes>,
    bytes: Bound<'py, PyAny>,
    length: usize,
    written: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let py = bytes.py();
    let Some(codec) = codec else {
        return match bytes.cast::<PyBytes>() {
            Ok(_) => Ok(bytes),
            Err(_) => bytes.call_method0("__bytes__"),
        };
    };
    if !written {
        return Ok(py.None().into_bound(py));
    }
    codec.check(of, length)?;
    codec.decode.bind(py).call1((bytes,))
}

/// Runs `done` with the bytes of `value`.
///
/// # Errors
///
/// What the codec says of a value that is none of its, `WrongLayout`, and those of [`Input::of`].
pub(crate) fn encode<R>(
    codec: &Coded,
    of: &Reader<Bytes>,
    value: &Bound<'_, PyAny>,
    done: impl FnOnce(Input<'_>) -> PyResult<R>,
) -> PyResult<R> {
    let Some(codec) = codec else {
        return done(Input::of(value, of)?);
    };
    let encoded = codec.encode.bind(value.py()).call1((value,))?;
    let input = Input::of(&encoded, of)?;
    codec.check(of, input.len())?;
    done(input)
}

/// A value in place over `buffer`, an object whose buffer can be written to; a memoryview without a codec.
///
/// # Errors
///
/// As [`decode`].
pub(crate) fn edit<'py>(
    codec: &Coded,
    of: &Reader<Bytes>,
    buffer: Bound<'py, PyAny>,
    length: usize,
) -> PyResult<Bound<'py, PyAny>> {
    let Some(codec) = codec else {
        return Ok(buffer);
    };
    codec.check(of, length)?;
    codec.edit.bind(buffer.py()).call1((buffer,))
}

/// The arguments of `subscribe` that have a handle of the same codec again.
pub(crate) fn arguments<'py>(py: Python<'py>, codec: &Coded) -> PyResult<Bound<'py, PyDict>> {
    match codec {
        None => Ok(PyDict::new(py)),
        Some(codec) => codec.arguments.bind(py).copy(),
    }
}
