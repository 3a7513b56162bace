//! Beginning a transaction: remembering which version is the newest.

use std::io;

use kstate_sys::name::StateName;
use kstate_sys::region::Head;

use super::Transaction;
use crate::content::Content;
use crate::fault::TrapError;
use crate::state::State;
use crate::writing::Writing;

/// Why a transaction was not begun: it could never be committed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BeginError {
    /// The subscription is for reading.
    #[error("state `{name}` was subscribed to for reading; subscribe with `.write()`")]
    ReadOnly {
        /// The state's name.
        name: StateName,
    },
    /// The state was deleted.
    #[error("state `{name}` was deleted; subscribe again to create it anew")]
    Deleted {
        /// Its name.
        name: StateName,
    },
    /// A commit of several states is under way, and what decides it cannot be looked at.
    #[error("a commit of several states holds state `{name}` undecided; try again")]
    Undecided {
        /// The state's name.
        name: StateName,
    },
    /// The way chosen to trap a raw page's first touch is not to be had.
    #[error("cannot begin a transaction by pointer on state `{name}`: {source}")]
    Trap {
        /// The state's name.
        name: StateName,
        /// Why.
        source: TrapError,
    },
    /// A forked child could not make itself known, or there is no memory for a raw page.
    #[error("cannot begin a transaction on state `{name}`: {source}")]
    Io {
        /// The state's name.
        name: StateName,
        /// The operating system's error.
        source: io::Error,
    },
}

impl<T: Content> State<T> {
    /// Begins a transaction from the newest version.
    ///
    /// # Errors
    ///
    /// [`BeginError`], for what could never be committed; contention is no reason.
    ///
    /// # Cost
    ///
    /// Two loads; nothing is copied.
    #[inline]
    pub fn begin(&self) -> Result<Transaction<'_, T>, BeginError> {
        let base = self.writing.base()?;
        let process = self.writing.process.get();
        Ok(Transaction {
            state: self,
            base,
            process,
            page: None,
            dirty: false,
            doomed: false,
        })
    }
}

impl Writing {
    /// The newest head, which a transaction begins from.
    #[inline]
    pub(crate) fn base(&self) -> Result<Head, BeginError> {
        match self.base_quickly() {
            Some(base) => Ok(base),
            None => self.base_slowly(),
        }
    }

    /// The newest head, if a transaction can begin from it just so.
    #[inline]
    fn base_quickly(&self) -> Option<Head> {
        let base = self.reader().newest()?;
        let deleted = self.reader().is_deleted();
        let ours = self.process.get().is_current() && self.is_writable();
        (ours && !deleted).then_some(base)
    }

    #[cold]
    #[inline(never)]
    fn base_slowly(&self) -> Result<Head, BeginError> {
        let name = || self.reader().name().clone();
        if !self.is_writable() {
            return Err(BeginError::ReadOnly { name: name() });
        }
        if self.reader().is_deleted() {
            return Err(BeginError::Deleted { name: name() });
        }
        if !self.process.get().is_current() {
            self.leave_parents().map_err(|source| BeginError::Io {
                name: name(),
                source,
            })?;
        }
        match self.reader().look() {
            Ok(standing) => Ok(standing.head),
            Err(_) => Err(BeginError::Undecided { name: name() }),
        }
    }
}
