#![expect(
    unsafe_code,
    reason = "keeps a transaction beside the handle that it borrows"
)]
//! A transaction of the library that outlives the call that began it, together with its handle.

use kstate::{BeginError, Bytes, CommitError, Outcome, State, Transaction};

use crate::pinned::Pinned;

/// A transaction on one state, and the handle that it is of.
///
/// # Invariants
///
/// 1. `transaction` borrows `handle`, and is dropped first.
pub(crate) struct Held {
    transaction: Option<Transaction<'static, Bytes>>,
    handle: Pinned<State<Bytes>>,
}

// SAFETY: a transaction is not `Send` because it borrows a handle, which is one thread's at a time. Here the two go
// together, and nothing else borrows that handle: invariant 1.
unsafe impl Send for Held {}
// SAFETY: who shares one can do nothing with it: all that looks at the transaction takes it `&mut`, or itself.
unsafe impl Sync for Held {}

impl Held {
    /// Begins one.
    ///
    /// # Errors
    ///
    /// [`BeginError`], with the handle.
    pub(crate) fn begin(
        handle: Box<State<Bytes>>,
    ) -> Result<Self, (BeginError, Box<State<Bytes>>)> {
        let handle = Pinned::new(handle);
        // SAFETY: the transaction is stored in front of the handle and never leaves: invariant 1.
        match unsafe { handle.borrow_long() }.begin() {
            Ok(transaction) => Ok(Self {
                transaction: Some(transaction),
                handle,
            }),
            Err(error) => Err((error, handle.into_box())),
        }
    }

    /// The transaction, for as long as the call.
    pub(crate) fn with<R>(
        &mut self,
        what: impl FnOnce(&mut Transaction<'_, Bytes>) -> R,
    ) -> Option<R> {
        self.transaction.as_mut().map(what)
    }

    /// Whether committing may have to wait for others.
    pub(crate) fn may_wait(&mut self) -> bool {
        // SAFETY: used within this call.
        unsafe { self.handle.borrow_long() }.is_to_stand_back()
    }

    /// Commits what `value` is, or nothing if it is none, and gives the handle back.
    pub(crate) fn commit(
        mut self,
        value: Option<&[u8]>,
    ) -> (Result<Option<Outcome>, CommitError>, Box<State<Bytes>>) {
        let done = self.transaction.take().map(|mut transaction| {
            if let Some(value) = value {
                transaction.set(value);
            }
            transaction.commit()
        });
        (done.transpose(), self.handle.into_box())
    }

    /// Ends it without, and gives the handle back.
    pub(crate) fn abort(mut self) -> Box<State<Bytes>> {
        self.transaction = None;
        self.handle.into_box()
    }
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held").finish_non_exhaustive()
    }
}
