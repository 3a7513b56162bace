//! One thread at a time in an object, and who comes second is told so rather than kept waiting.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;

use crate::error::in_use;

/// What one thread at a time uses, for as long as a call takes, also without the interpreter's lock.
///
/// A child that was forked from one thread while another was in here finds it in use for ever: nobody waits for that.
#[derive(Debug)]
pub(crate) struct OneAtATime<T> {
    is_taken: AtomicBool,
    /// Only ever locked by who has taken it, so never waited for.
    inner: Mutex<T>,
}

impl<T> OneAtATime<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self {
            is_taken: AtomicBool::new(false),
            inner: Mutex::new(inner),
        }
    }

    /// Takes it until the guard is dropped.
    ///
    /// # Errors
    ///
    /// `Busy`, about `what`.
    pub(crate) fn take(&self, what: &str) -> PyResult<Taken<'_, T>> {
        // ORDERING: the mutex orders what is inside; this says only whose turn it is.
        match self.is_taken.swap(true, Ordering::Relaxed) {
            false => Ok(Taken(self)),
            true => Err(in_use(what)),
        }
    }
}

/// The right to use it.
#[derive(Debug)]
pub(crate) struct Taken<'a, T>(&'a OneAtATime<T>);

impl<T> Taken<'_, T> {
    /// Uses it.
    pub(crate) fn with<R>(&self, what: impl FnOnce(&mut T) -> R) -> R {
        let mut inner = self.0.inner.lock().unwrap_or_else(PoisonError::into_inner);
        what(&mut inner)
    }
}

impl<T> Drop for Taken<'_, T> {
    fn drop(&mut self) {
        self.0.is_taken.store(false, Ordering::Relaxed);
    }
}
