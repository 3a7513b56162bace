//! A mounted kstate file system.

use std::path::{Path, PathBuf};

use kstate::Mount;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::error::{raised, raised_io};
use crate::info::PyInfo;

/// A mounted kstate file system: the one at ``path``, else the one that ``$KSTATE_MOUNT`` names, else the usual one.
///
/// >>> mount = kstate.Mount()
/// >>> state = mount.subscribe("docs.mount", write=True)
/// >>> "docs.mount" in mount.names()
/// True
/// >>> mount.info("docs.mount").subscribers  # asking counts as one
/// 2
/// >>> mount.remove("docs.mount")
#[pyclass(module = "kstate", name = "Mount", frozen)]
#[derive(Debug)]
pub(crate) struct PyMount {
    mount: Mount,
}

/// The file system at `path`, or the one that is found.
///
/// # Errors
///
/// Those of the library.
pub(crate) fn find(py: Python<'_>, path: Option<&Path>) -> PyResult<Mount> {
    let found = py.detach(|| match path {
        None => Mount::find(),
        Some(path) => Mount::at(path),
    });
    found.map_err(raised)
}

/// A `Mount`, or where one is.
///
/// # Errors
///
/// `TypeError`, and those of [`find`].
pub(crate) fn given(py: Python<'_>, mount: Option<&Bound<'_, PyAny>>) -> PyResult<Mount> {
    let Some(mount) = mount else {
        return find(py, None);
    };
    match mount.cast::<PyMount>() {
        Ok(mount) => Ok(mount.get().mount.clone()),
        Err(_) => find(py, Some(&mount.extract::<PathBuf>()?)),
    }
}

impl PyMount {
    pub(crate) fn of(mount: Mount) -> Self {
        Self { mount }
    }
}

#[pymethods]
impl PyMount {
    #[new]
    #[pyo3(signature = (path=None))]
    fn new(py: Python<'_>, path: Option<PathBuf>) -> PyResult<Self> {
        let mount = find(py, path.as_deref())?;
        Ok(Self { mount })
    }

    /// Where it is mounted.
    #[getter]
    fn path(&self) -> PathBuf {
        self.mount.path().to_owned()
    }

    /// The names of the states there are, sorted.
    fn names(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        let names = py.detach(|| self.mount.names());
        let what = || format!("cannot list the states at {}", self.mount.path().display());
        let names = names.map_err(|error| raised_io(&what(), &error))?;
        Ok(names.iter().map(|name| name.as_str().to_owned()).collect())
    }

    /// What the daemon knows of a state. Asking counts as one more subscriber for as long as it takes.
    fn info(&self, py: Python<'_>, name: &str) -> PyResult<PyInfo> {
        let info = py.detach(|| self.mount.info(name));
        info.map(PyInfo::new).map_err(raised)
    }

    /// Deletes a state, with its value. :class:`Busy` while another process is subscribed.
    fn remove(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        py.detach(|| self.mount.remove(name)).map_err(raised)
    }

    /// Subscribes to a state of this file system; options as for :func:`kstate.subscribe`.
    #[pyo3(signature = (name, **options))]
    fn subscribe<'py>(
        slf: &Bound<'py, Self>,
        name: &Bound<'py, PyAny>,
        options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let options = match options {
            None => PyDict::new(slf.py()),
            Some(options) => options.copy()?,
        };
        options.set_item("mount", slf)?;
        let module = PyModule::import(slf.py(), "kstate._kstate")?;
        module.getattr("subscribe")?.call((name,), Some(&options))
    }

    fn __repr__(&self) -> String {
        format!("<kstate.Mount at {}>", self.mount.path().display())
    }

    /// Found again where it is unpickled.
    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, (PathBuf,))> {
        let path = std::path::absolute(self.mount.path())?;
        Ok((py.get_type::<Self>().into_any(), (path,)))
    }
}
