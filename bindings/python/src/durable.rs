//! Commits that are known to be in the state's file.

use kstate::{Bytes, DurableError, Error, Generation, Reader, SyncError};
use pyo3::prelude::*;

use crate::error::raised;

/// Whether versions of the state come to be in a file. Asked before a commit, so that none is made in vain.
///
/// # Errors
///
/// `NotPersistent`, and what the daemon says.
pub(crate) fn check(py: Python<'_>, reader: &Reader<Bytes>) -> PyResult<()> {
    let name = || reader.name().clone();
    let asked = py.detach(|| reader.info());
    let info = asked.map_err(|source| {
        let name = name();
        raised(Error::Durable(DurableError::Unknown {
            source: SyncError::Io { name, source },
        }))
    })?;
    match info.persistent {
        Some(_) => Ok(()),
        None => Err(raised(Error::Durable(DurableError::NotPersistent {
            name: name(),
        }))),
    }
}

/// Waits until the version of `generation`, or a later one, is there for good.
///
/// # Errors
///
/// `NotDurable`: it is committed all the same.
pub(crate) fn settle(
    py: Python<'_>,
    reader: &Reader<Bytes>,
    generation: Generation,
) -> PyResult<()> {
    let synced = py.detach(|| reader.sync_to(generation));
    synced.map(drop).map_err(|source| {
        raised(Error::Durable(DurableError::NotDurable {
            name: reader.name().clone(),
            generation,
            source,
        }))
    })
}
