//! What becomes of a state: its room, its life, its file.

use std::path::PathBuf;

use kstate::{Durability, Sinks, Stamping};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::PyState;
use super::value::publish;
use crate::codec;
use crate::durable;
use crate::error::{raised, raised_io};
use crate::info::PyInfo;
use crate::input::{Input, duration};

/// A durability as Python says it: ``"each"``, or within so many seconds.
///
/// # Errors
///
/// `ValueError` and `TypeError`.
pub(crate) fn durability(wanted: &Bound<'_, PyAny>) -> PyResult<Durability> {
    if let Ok(text) = wanted.extract::<String>() {
        return match text.as_str() {
            "each" => Ok(Durability::Each),
            _ => Err(PyValueError::new_err(format!(
                "durability is \"each\" or a number of seconds, and not {text:?}"
            ))),
        };
    }
    Ok(Durability::Within(duration(
        wanted.extract()?,
        "durability",
    )?))
}

#[pymethods]
impl PyState {
    /// What the daemon knows of the state, as :class:`Info`. Two requests to the daemon.
    ///
    /// >>> state = kstate.subscribe("docs.info", write=True, capacity=64)
    /// >>> info = state.info()
    /// >>> info.capacity, info.subscribers, info.writers, info.linger
    /// (64, 1, 1, 0.0)
    fn info(slf: &Bound<'_, Self>) -> PyResult<PyInfo> {
        let reader = slf.borrow().open()?.reader.clone();
        let info = slf.py().detach(|| reader.info());
        info.map(PyInfo::new).map_err(|error| {
            raised_io(
                &format!("cannot ask about state `{}`", reader.name()),
                &error,
            )
        })
    }

    /// Deletes the state, with its value; the file of a persistent one stays. :class:`Busy` while another process is
    /// subscribed. Handles of it that are left raise :class:`Deleted`.
    ///
    /// >>> state = kstate.subscribe("docs.delete", write=True)
    /// >>> state.delete()
    /// >>> state.read()
    /// Traceback (most recent call last):
    ///   ...
    /// kstate.Deleted: state `docs.delete` was deleted; subscribe again to what may have taken its place
    fn delete(slf: &Bound<'_, Self>) -> PyResult<()> {
        let handles = slf.borrow().open()?.handles.clone();
        handles
            .detached(slf.py(), |handle| handle.delete())?
            .map_err(raised)
    }

    /// Sets how many bytes the state has room for, at most a page, and returns it. Free before the first write; afterwards
    /// it only grows.
    ///
    /// >>> state = kstate.subscribe("docs.capacity", write=True, capacity=8)
    /// >>> state.set_capacity(1000)
    /// 1000
    fn set_capacity(slf: &Bound<'_, Self>, bytes: u32) -> PyResult<u32> {
        let handles = slf.borrow().open()?.handles.clone();
        let set = handles.detached(slf.py(), |handle| handle.set_capacity(bytes))?;
        set.map_err(raised)
    }

    /// Keeps the state in the file at ``path`` from now on: its value outlives the daemon and the machine's power. See
    /// :func:`kstate.subscribe` for ``durability``.
    #[pyo3(signature = (path, durability=None))]
    fn set_persistent(
        slf: &Bound<'_, Self>,
        path: PathBuf,
        durability: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let reader = slf.borrow().open()?.reader.clone();
        let durability = durability.as_ref().map(self::durability).transpose()?;
        let set = || reader.set_persistent_so(&path, durability.unwrap_or_default());
        slf.py().detach(set).map_err(raised)
    }

    /// How soon behind a commit its version is in the file of this persistent state: ``"each"`` as soon as can be, or
    /// within so many seconds.
    fn set_durability(slf: &Bound<'_, Self>, durability: &Bound<'_, PyAny>) -> PyResult<()> {
        let reader = slf.borrow().open()?.reader.clone();
        let durability = self::durability(durability)?;
        let set = || reader.set_durability(durability);
        slf.py().detach(set).map_err(raised)
    }

    /// As :meth:`write`, and returns when the version, or a later one, is in the state's file for good.
    ///
    /// :class:`NotPersistent` says that nothing was published, :class:`NotDurable` that it was, and is not known to be in
    /// the file.
    fn write_durable(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<u64> {
        let (reader, _) = Self::seen(slf)?;
        let input = Input::of(data, &reader)?;
        durable::check(slf.py(), &reader)?;
        let generation = publish(slf, input, None)?;
        durable::settle(slf.py(), &reader, generation)?;
        Ok(generation.0)
    }

    /// As :meth:`set`, and returns when the version, or a later one, is in the state's file for good.
    fn set_durable(slf: &Bound<'_, Self>, value: &Bound<'_, PyAny>) -> PyResult<u64> {
        let (reader, codec) = Self::seen(slf)?;
        let value = codec::encode(&codec, &reader, value, |input| Ok(input.into_owned()))?;
        durable::check(slf.py(), &reader)?;
        let generation = publish(slf, Input::Owned(value), None)?;
        durable::settle(slf.py(), &reader, generation)?;
        Ok(generation.0)
    }

    /// Waits until the version that is the newest now, or a later one, is in the state's file for good, and returns which
    /// is.
    fn sync(slf: &Bound<'_, Self>) -> PyResult<u64> {
        let reader = slf.borrow().open()?.reader.clone();
        let synced = slf.py().detach(|| reader.sync()).map_err(raised)?;
        Ok(synced.0)
    }

    /// Has commits announced on ``kbus``, ``dbus``, both or neither, from now on. The owner of the state may.
    #[pyo3(signature = (*, kbus=false, dbus=false))]
    fn announce(slf: &Bound<'_, Self>, kbus: bool, dbus: bool) -> PyResult<()> {
        let reader = slf.borrow().open()?.reader.clone();
        let sinks = sinks(kbus, dbus);
        slf.py().detach(|| reader.announce(sinks)).map_err(raised)
    }

    /// Whether versions written through this handle say when they were committed, so that readers know their age.
    #[getter]
    fn stamping(&self) -> PyResult<bool> {
        let open = self.open()?;
        let stamping = open.handles.root().stamping();
        Ok(stamping == Stamping::CommitTime)
    }

    #[setter]
    fn set_stamping(&self, on: bool) -> PyResult<()> {
        let stamping = if on {
            Stamping::CommitTime
        } else {
            Stamping::Off
        };
        let open = self.open()?;
        open.handles.set(|handle| handle.set_stamping(stamping));
        Ok(())
    }

    /// Whether writing through this handle stands back, at most 10 ms, for a transaction that was tried in vain too often.
    /// Turn it off for a writer that must not be late.
    #[getter]
    fn polite(&self) -> PyResult<bool> {
        Ok(self.open()?.handles.root().is_polite())
    }

    #[setter]
    fn set_polite(&self, on: bool) -> PyResult<()> {
        let open = self.open()?;
        open.handles.set(|handle| handle.set_polite(on));
        Ok(())
    }
}

/// Where to announce.
fn sinks(kbus: bool, dbus: bool) -> Sinks {
    let kbus = if kbus { Sinks::KBUS } else { Sinks::NONE };
    let dbus = if dbus { Sinks::DBUS } else { Sinks::NONE };
    kbus | dbus
}
