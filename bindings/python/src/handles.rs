//! The library's handles behind one Python handle.

use std::sync::{Mutex, MutexGuard, PoisonError};

use kstate::{Bytes, ClaimError, PublishError, State};
use pyo3::prelude::*;

use crate::error::raised;

/// Handles of one subscription. The library's belong to one thread at a time, and to one transaction where that is to be
/// committed while others go on; Python's are used from anywhere.
///
/// # Invariants
///
/// 1. Neither lock is held where the interpreter's is not, nor while Python code runs: so neither is ever waited for, and
///    none is held by a thread that a forked child lacks.
#[derive(Debug)]
pub(crate) struct Handles {
    /// What is written with as long as nothing has to be waited for, and others are made of.
    root: Mutex<State<Bytes>>,
    /// Those that nobody uses. Their slots stay claimed for the next who needs one.
    idle: Mutex<Idle>,
}

/// Lent as boxes, for transactions to borrow from.
type Idle = Vec<Box<State<Bytes>>>;

/// More idle handles than this give their slots back.
const MOST_IDLE: usize = 4;

impl Handles {
    pub(crate) fn new(root: State<Bytes>) -> Self {
        Self {
            root: Mutex::new(root),
            idle: Mutex::new(Vec::new()),
        }
    }

    /// The handle for what takes no time.
    pub(crate) fn root(&self) -> MutexGuard<'_, State<Bytes>> {
        self.root.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A handle that is the caller's until it is given back.
    ///
    /// # Errors
    ///
    /// [`ClaimError`].
    ///
    /// # Cost
    ///
    /// Nothing if one is idle; else a request to the daemon.
    pub(crate) fn lend(&self) -> Result<Box<State<Bytes>>, ClaimError> {
        if let Some(handle) = self.idle().pop() {
            return Ok(handle);
        }
        self.root().try_clone().map(Box::new)
    }

    /// Takes one back.
    pub(crate) fn give_back(&self, handle: Box<State<Bytes>>) {
        let mut idle = self.idle();
        if idle.len() < MOST_IDLE {
            idle.push(handle);
        }
    }

    /// Does something that takes time with a handle, without the interpreter's lock.
    ///
    /// # Errors
    ///
    /// Why there is no handle.
    pub(crate) fn detached<R: Send>(
        &self,
        py: Python<'_>,
        what: impl FnOnce(&State<Bytes>) -> R + Send,
    ) -> PyResult<R> {
        let handle = self
            .lend()
            .map_err(|error| raised(PublishError::from(error)))?;
        let (done, handle) = py.detach(move || (what(&handle), handle));
        self.give_back(handle);
        Ok(done)
    }

    /// Changes how all of them write; those that are lent are changed the next time.
    pub(crate) fn set(&self, change: impl FnOnce(&State<Bytes>)) {
        change(&self.root());
        self.idle().clear();
    }
}
