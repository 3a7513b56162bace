//! Changing several states at once, unless somebody else changes one of them first.

mod commit;
mod member;
mod retry;

use std::fmt;
use std::io;

use kstate_sys::fork::Process;
use kstate_sys::name::StateName;
use kstate_sys::region::{Generation, MAX_WRITTEN, Memory, Notice};

pub use commit::CommitManyError;
pub use retry::{RetriedMany, TransactManyError, transact_many, transact_many_with};

use crate::content::Content;
use crate::reader::Reader;
use crate::snapshot::ReadError;
use crate::state::State;
use crate::transaction::BeginError;
use member::{Handle, Member};

/// An optimistic transaction over several states of one mount: all that it wrote becomes newest at
/// once at commit, if all that it read or wrote is as it was when it was added.
///
/// Each state is added first, and is seen as of then. What was not touched is not compared.
/// Dropping the transaction aborts it. Before it is committed, values of different states need not
/// belong together: those of one moment are what a [`cut`](crate::cut()) gives, and a commit checks.
///
/// ```no_run
/// let alice = kstate::subscribe("bank.alice").write().typed::<i64>()?;
/// let bob = kstate::subscribe("bank.bob").write().typed::<i64>()?;
/// let mut tx = kstate::begin_many();
/// tx.add(&alice)?;
/// tx.add(&bob)?;
/// *tx.get_mut(&alice)? -= 10;
/// *tx.get_mut(&bob)? += 10;
/// if tx.commit()?.is_conflict() {
///     println!("somebody was first");
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Many<'s> {
    members: Vec<Member<'s>>,
    process: io::Result<Process>,
}

/// What became of a commit of several states. A conflict is no error: somebody was first.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a conflict means that nothing was changed"]
pub enum ManyOutcome {
    /// All that was written is newest.
    Committed {
        /// The generations of the states that were written, in the order they were added.
        generations: Vec<Generation>,
    },
    /// Nothing was written, so nothing was committed, whatever others did meanwhile.
    Unchanged,
    /// Another commit came first; this one changed nothing.
    Conflict {
        /// The state that was changed, or is just being changed.
        name: StateName,
        /// Its generation when it was added.
        base: Generation,
        /// Its newest generation at the attempt; the base itself if a commit of several states is
        /// under way, or this one took so long that it was given up for others.
        found: Generation,
    },
}

impl ManyOutcome {
    /// Whether new versions came of it.
    pub const fn is_committed(&self) -> bool {
        matches!(self, Self::Committed { .. })
    }

    /// Whether another commit came first.
    pub const fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }
}

/// Why a state was not added: a commit with it could never succeed. The transaction is as before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddError {
    /// It may not be written, was deleted, or cannot be looked at.
    #[error(transparent)]
    Begin(#[from] BeginError),
    /// It was added before, perhaps through another handle.
    #[error("state `{name}` is in the transaction already")]
    Twice {
        /// The state's name.
        name: StateName,
    },
    /// There are as many as there can be.
    #[error("a transaction has at most {MAX_WRITTEN} states; `{name}` is one too many")]
    TooMany {
        /// The state's name.
        name: StateName,
    },
    /// It is of another file system than those before it.
    #[error("state `{name}` is of another mount than the other states of the transaction")]
    OtherMount {
        /// The state's name.
        name: StateName,
    },
}

/// Why a state's value could not be had within a transaction.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TouchError {
    /// It is not in the transaction, or only for reading.
    #[error("state `{name}` was not added to the transaction{what}", what = if *.writing { " for writing" } else { "" })]
    NotAdded {
        /// The state's name.
        name: StateName,
        /// Whether it was to be written.
        writing: bool,
    },
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Begins a transaction over several states, none of which is in it yet.
pub fn begin_many<'s>() -> Many<'s> {
    Many::new()
}

impl<'s> Many<'s> {
    /// A transaction over no state yet.
    pub fn new() -> Self {
        Self {
            members: Vec::new(),
            process: Process::current(),
        }
    }

    /// Adds a state to be read and written.
    ///
    /// # Errors
    ///
    /// [`AddError`]; contention is no reason.
    ///
    /// # Cost
    ///
    /// Two loads and an allocation; nothing is copied.
    pub fn add<T: Content>(&mut self, state: &'s State<T>) -> Result<(), AddError> {
        self.check_new(state)?;
        let base = state.base_slowly()?;
        self.members.push(Member::new(Handle::Writing(state), base));
        Ok(())
    }

    /// Adds a state to be read alone.
    ///
    /// # Errors
    ///
    /// [`AddError`].
    ///
    /// # Cost
    ///
    /// As [`add`](Many::add).
    pub fn add_reading<T: Content>(&mut self, reader: &'s Reader<T>) -> Result<(), AddError> {
        self.check_new(reader)?;
        let name = || reader.name().clone();
        if reader.memory().header().notice().contains(Notice::DELETED) {
            return Err(BeginError::Deleted { name: name() }.into());
        }
        let looked = reader.look();
        let base = looked
            .map_err(|_| BeginError::Undecided { name: name() })?
            .head;
        self.members
            .push(Member::new(Handle::Reading(reader), base));
        Ok(())
    }

    fn check_new<T>(&self, reader: &Reader<T>) -> Result<(), AddError> {
        let name = || reader.name().clone();
        if self.members.len() >= MAX_WRITTEN {
            return Err(AddError::TooMany { name: name() });
        }
        for member in &self.members {
            let records = reader.subscription().records();
            if !member.records().are_of_the_mount_of(records) {
                return Err(AddError::OtherMount { name: name() });
            }
            if member.state_id() == reader.state_id() {
                return Err(AddError::Twice { name: name() });
            }
        }
        Ok(())
    }

    /// The value of a state as of when it was added, with what this transaction has written.
    ///
    /// # Errors
    ///
    /// [`TouchError`].
    ///
    /// # Cost
    ///
    /// One copy at the first use; no system call.
    pub fn get<T: Content>(&mut self, state: &Reader<T>) -> Result<&T::Owned, TouchError> {
        let ours = self.is_ours();
        let member = self.member(state, false)?;
        member.fill(state, ours)?;
        member.read = true;
        Ok(T::owned(member.page::<T>(state)))
    }

    /// The same to write to. Counts as a write, even if the bytes stay the same.
    ///
    /// # Errors
    ///
    /// [`TouchError`]; it does not count as a write then.
    ///
    /// # Cost
    ///
    /// As [`get`](Many::get).
    pub fn get_mut<T: Content>(&mut self, state: &State<T>) -> Result<&mut T::Owned, TouchError> {
        let ours = self.is_ours();
        let member = self.member(state, true)?;
        member.fill(state, ours)?;
        member.dirty = true;
        Ok(T::owned_mut(member.page::<T>(state)))
    }

    /// Replaces the whole value of a state without reading it first.
    ///
    /// # Errors
    ///
    /// [`TouchError::NotAdded`].
    pub fn set<T: Content>(
        &mut self,
        state: &State<T>,
        value: &T::Borrowed,
    ) -> Result<(), TouchError> {
        let member = self.member(state, true)?;
        T::replace(member.page::<T>(state), value);
        member.dirty = true;
        Ok(())
    }

    /// Whether it would still commit: nobody has committed to a state that was touched since that
    /// was added.
    ///
    /// # Cost
    ///
    /// A load a state.
    pub fn validate(&self) -> bool {
        let mut touched = self.members.iter().filter(|m| m.read || m.dirty);
        touched.all(|member| member.is_current())
    }

    /// Whether a value it shows is newer than its base, which was overwritten before the first
    /// use: a commit is going to conflict.
    pub fn is_doomed(&self) -> bool {
        self.members.iter().any(|member| member.doomed)
    }

    /// Throws away what was written.
    pub fn abort(self) {}

    fn is_ours(&self) -> bool {
        self.process.as_ref().is_ok_and(Process::is_current)
    }

    fn member<T: Content>(
        &mut self,
        reader: &Reader<T>,
        writing: bool,
    ) -> Result<&mut Member<'s>, TouchError> {
        let records = reader.subscription().records();
        let found = self.members.iter_mut().find(|member| {
            member.state_id() == reader.state_id()
                && member.records().are_of_the_mount_of(records)
                && (!writing || member.is_writable())
                && member.is_of::<T>()
        });
        found.ok_or_else(|| TouchError::NotAdded {
            name: reader.name().clone(),
            writing,
        })
    }
}

impl Default for Many<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Many<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.members).finish()
    }
}
