//! Changing the value that is there, unless somebody else changes it first.

mod begin;
mod commit;
mod raw;

#[cfg(test)]
mod tests;

use std::fmt;
use std::mem::ManuallyDrop;

use kstate_sys::fork::Process;
use kstate_sys::region::{self, Generation, Head};

pub use begin::BeginError;
pub use commit::CommitError;
pub(crate) use raw::RawPages;
pub use raw::RawTransaction;

use crate::content::{Content, Filled};
use crate::reader::Reader;
use crate::snapshot::ReadError;
use crate::state::State;

/// An optimistic transaction: a private page that becomes the newest version at commit, if the
/// version it began from is still the newest.
///
/// Beginning copies nothing. The first [`get`](Transaction::get) or
/// [`get_mut`](Transaction::get_mut) fills the page with the value as of the beginning; what is
/// never touched is never copied. Transactions are independent of each other, nested or not: an
/// inner one sees its own base, not what an outer one has written. Dropping one aborts it.
///
/// ```no_run
/// use kstate::Outcome;
///
/// let counter = kstate::subscribe("robot.counter").write().typed::<u64>()?;
/// let mut tx = counter.begin()?;
/// *tx.get_mut()? += 1;
/// match tx.commit()? {
///     Outcome::Committed { generation } => println!("version {generation}"),
///     Outcome::Conflict { base, found } => println!("began from {base}, found {found}"),
///     Outcome::Unchanged { .. } => unreachable!("it was written to"),
/// }
/// # Ok::<(), kstate::Error>(())
/// ```
pub struct Transaction<'s, T: Content> {
    state: &'s State<T>,
    base: Head,
    process: Process,
    page: Option<T::Page>,
    dirty: bool,
    doomed: bool,
}

/// What became of a commit. A conflict is no error: somebody was first, begin again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a conflict means that nothing was changed"]
pub enum Outcome {
    /// The page is the newest version.
    Committed {
        /// Its generation.
        generation: Generation,
    },
    /// Nothing was written, so nothing was committed, whatever others did meanwhile.
    Unchanged {
        /// The generation the transaction began from.
        base: Generation,
    },
    /// Another commit came first; this one changed nothing.
    Conflict {
        /// The generation the transaction began from.
        base: Generation,
        /// The newest generation at the attempt; the base itself if a commit of several states was
        /// under way, which was not decided yet.
        found: Generation,
    },
}

impl Outcome {
    /// Whether a new version came of it.
    pub const fn is_committed(self) -> bool {
        matches!(self, Self::Committed { .. })
    }

    /// Whether another commit came first.
    pub const fn is_conflict(self) -> bool {
        matches!(self, Self::Conflict { .. })
    }
}

impl<'s, T: Content> Transaction<'s, T> {
    /// The value as of the beginning, with what this transaction has written.
    ///
    /// # Errors
    ///
    /// [`ReadError`], at the first use.
    ///
    /// # Cost
    ///
    /// One copy at the first use; no system call.
    #[inline]
    pub fn get(&mut self) -> Result<&T::Owned, ReadError> {
        self.touched().map(|(page, _)| T::owned(page))
    }

    /// The same to write to. Counts as a write, even if the bytes stay the same.
    ///
    /// For [`Bytes`](crate::Bytes) it is a vector, whose length at commit is the version's.
    ///
    /// # Errors
    ///
    /// [`ReadError`], at the first use; it does not count as a write then.
    ///
    /// # Cost
    ///
    /// As [`get`](Transaction::get).
    #[inline]
    pub fn get_mut(&mut self) -> Result<&mut T::Owned, ReadError> {
        let (page, dirty) = self.touched()?;
        *dirty = true;
        Ok(T::owned_mut(page))
    }

    /// Replaces the whole value without reading it first.
    #[inline]
    pub fn set(&mut self, value: &T::Borrowed) {
        let state = self.state;
        T::replace(self.page.get_or_insert_with(|| state.page()), value);
        self.dirty = true;
    }

    /// The generation it began from.
    #[inline]
    pub fn base(&self) -> Generation {
        self.base.generation()
    }

    /// Whether it would still commit: nobody has committed since it began.
    ///
    /// # Cost
    ///
    /// One load.
    #[inline]
    pub fn validate(&self) -> bool {
        match region::newest(self.state.memory()) {
            Ok(newest) => newest == self.base,
            Err(_) => self.state.is_newest(self.base),
        }
    }

    /// Whether something was written.
    #[inline]
    pub fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Whether the value it shows is newer than its base, which was overwritten before the first
    /// use: a commit is going to conflict.
    #[inline]
    pub fn is_doomed(&self) -> bool {
        self.doomed
    }

    /// Makes the page the newest version, if the base still is.
    ///
    /// # Errors
    ///
    /// [`CommitError`]; a conflict is an [`Outcome`].
    ///
    /// # Memory ordering
    ///
    /// What happened before this call is visible to whoever reads the version.
    ///
    /// # Cost
    ///
    /// As [`State::publish`], turns included.
    #[inline(always)]
    pub fn commit(self) -> Result<Outcome, CommitError> {
        // Its parts, so that the compiler need not keep it together for the sake of `drop`.
        let mut this = ManuallyDrop::new(self);
        let (state, base) = (this.state, this.base);
        let Some(page) = this.page.take() else {
            return match this.process.is_current() {
                true => Ok(Outcome::Unchanged {
                    base: base.generation(),
                }),
                false => Err(state.writing.forked()),
            };
        };
        let done = match (this.process.is_current(), this.dirty) {
            (false, _) => Err(state.writing.forked()),
            (true, false) => Ok(Outcome::Unchanged {
                base: base.generation(),
            }),
            (true, true) => state.commit_page(base, &page),
        };
        state.recycle(page);
        done
    }

    pub(crate) fn state(&self) -> &'s State<T> {
        self.state
    }

    /// Throws away what was written.
    pub fn abort(self) {}

    /// The page, filled at first use, and whether it is dirty.
    #[inline(always)]
    fn touched(&mut self) -> Result<(&mut T::Page, &mut bool), ReadError> {
        if self.page.is_none() {
            if !self.process.is_current() {
                return Err(self.state.touched_by_child());
            }
            let mut page = self.state.page();
            if !T::fill_quickly(self.state, self.base, &mut page) {
                self.doomed = fill_slowly(self.state, self.base, &mut page)?;
            }
            self.page = Some(page);
        }
        let state = self.state;
        Ok((
            self.page.get_or_insert_with(|| state.page()),
            &mut self.dirty,
        ))
    }
}

impl<T: Content> State<T> {
    #[cold]
    fn is_newest(&self, base: Head) -> bool {
        self.look().is_ok_and(|standing| standing.head == base)
    }
}

/// Fills `page` with `base` or, if that is gone, with the newest version: then `true`.
#[cold]
#[inline(never)]
pub(crate) fn fill_slowly<T: Content>(
    reader: &Reader<T>,
    base: Head,
    page: &mut T::Page,
) -> Result<bool, ReadError> {
    match T::fill(reader, Some(base), page)? {
        Filled::Whole => Ok(false),
        Filled::Recycled => T::fill(reader, None, page).map(|_| true),
    }
}

impl<T: Content> Drop for Transaction<'_, T> {
    #[inline]
    fn drop(&mut self) {
        if let Some(page) = self.page.take() {
            self.state.recycle(page);
        }
    }
}

impl<T: Content> fmt::Debug for Transaction<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("state", &self.state.name().as_str())
            .field("base", &self.base())
            .field("dirty", &self.dirty)
            .field("doomed", &self.doomed)
            .finish_non_exhaustive()
    }
}
