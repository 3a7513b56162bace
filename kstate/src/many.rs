//! Changing several states at once, unless somebody else changes one of them first.

mod commit;
mod member;
mod retry;

use std::fmt;
use std::io;
use std::ops::Deref;

use kstate_sys::fork::Process;
use kstate_sys::name::StateName;
use kstate_sys::region::{Generation, MAX_WRITTEN};
use smallvec::SmallVec;

pub use commit::CommitManyError;
pub use retry::{RetriedMany, TransactManyError, transact_many, transact_many_with};

use crate::content::Content;
use crate::reader::{Reader, Untyped};
use crate::snapshot::ReadError;
use crate::state::State;
use crate::transaction::BeginError;
use crate::writing::Writing;
use member::Member;

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
/// # Ok::<(), kstate::Error>(())
/// ```
pub struct Many<'s> {
    members: SmallVec<[Member<'s>; FEW]>,
    /// Of the states' numbers, the last six bits of each: most of those that are added are new.
    seen: u64,
    /// Where the next one is looked for first: mostly they are touched in the order they were added.
    next: usize,
    process: io::Result<Process>,
}

/// Up to so many states are dealt with without an allocation.
const FEW: usize = 8;

/// What became of a commit of several states. A conflict is no error: somebody was first.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a conflict means that nothing was changed"]
pub enum ManyOutcome {
    /// All that was written is newest.
    Committed {
        /// The generations of the states that were written, in the order they were added.
        generations: Generations,
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

/// A generation for each of several states.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generations(SmallVec<[Generation; FEW]>);

impl Deref for Generations {
    type Target = [Generation];

    fn deref(&self) -> &[Generation] {
        &self.0
    }
}

impl FromIterator<Generation> for Generations {
    fn from_iter<I: IntoIterator<Item = Generation>>(generations: I) -> Self {
        Self(generations.into_iter().collect())
    }
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
#[inline]
pub fn begin_many<'s>() -> Many<'s> {
    Many::new()
}

impl<'s> Many<'s> {
    /// A transaction over no state yet.
    #[inline]
    pub fn new() -> Self {
        Self {
            members: SmallVec::new(),
            seen: 0,
            next: 0,
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
    /// Two loads; nothing is copied. An allocation beyond eight states.
    #[inline]
    pub fn add<T: Content>(&mut self, state: &'s State<T>) -> Result<(), AddError> {
        self.check_new(state.as_of())?;
        let base = state.writing.base()?;
        if self.members.len() == FEW {
            self.make_room();
        }
        self.members.push(Member::to_write::<T>(state, base));
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
        self.check_new(reader.as_of())?;
        let name = || reader.name().clone();
        if reader.is_deleted() {
            return Err(BeginError::Deleted { name: name() }.into());
        }
        let looked = reader.look();
        let base = looked
            .map_err(|_| BeginError::Undecided { name: name() })?
            .head;
        self.members.push(Member::to_read::<T>(reader, base));
        Ok(())
    }

    /// For all there can be, rather than little by little.
    #[cold]
    fn make_room(&mut self) {
        self.members.reserve(MAX_WRITTEN - FEW);
    }

    #[inline]
    fn check_new(&mut self, reader: &Reader<Untyped>) -> Result<(), AddError> {
        let bit = 1 << (reader.state_id() % 64);
        let fits = match self.members.first() {
            Some(first) => self.members.len() < MAX_WRITTEN && first.is_of_mount_of(reader),
            None => true,
        };
        if !fits || self.seen & bit != 0 {
            self.check_closely(reader)?;
        }
        self.seen |= bit;
        Ok(())
    }

    #[cold]
    fn check_closely(&self, reader: &Reader<Untyped>) -> Result<(), AddError> {
        let name = || reader.name().clone();
        if self.members.len() >= MAX_WRITTEN {
            return Err(AddError::TooMany { name: name() });
        }
        let of_mount = |member: &Member<'_>| member.is_of_mount_of(reader);
        if !self.members.iter().all(of_mount) {
            return Err(AddError::OtherMount { name: name() });
        }
        match self.members.iter().any(|member| member.is_of(reader)) {
            true => Err(AddError::Twice { name: name() }),
            false => Ok(()),
        }
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
    #[inline]
    pub fn get<T: Content>(&mut self, state: &Reader<T>) -> Result<&T::Owned, TouchError> {
        let ours = self.is_ours();
        let member = self.member(state, false)?;
        let page = member.filled::<T>(ours)?;
        Ok(page)
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
    #[inline]
    pub fn get_mut<T: Content>(&mut self, state: &State<T>) -> Result<&mut T::Owned, TouchError> {
        let ours = self.is_ours();
        let member = self.member(state, true)?;
        let page = member.filled_to_write::<T>(ours)?;
        Ok(page)
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
        self.member(state, true)?.set::<T>(value);
        Ok(())
    }

    /// Whether it would still commit: nobody has committed to a state that was touched since that
    /// was added.
    ///
    /// # Cost
    ///
    /// A load a state.
    pub fn validate(&self) -> bool {
        let mut touched = self.members.iter().filter(|member| member.is_touched());
        touched.all(|member| member.is_current())
    }

    /// Whether a value it shows is newer than its base, which was overwritten before the first
    /// use: a commit is going to conflict.
    pub fn is_doomed(&self) -> bool {
        self.members.iter().any(Member::is_doomed)
    }

    /// Throws away what was written.
    pub fn abort(self) {}

    /// A state that was touched and has changed since it was added, and what it is to be written with.
    #[cold]
    fn changed(&self) -> Option<(StateName, Option<&'s Writing>)> {
        let mut touched = self.members.iter().filter(|member| member.is_touched());
        let changed = touched.find(|member| !member.is_current())?;
        Some((changed.reader().name().clone(), changed.writing()))
    }

    /// What the state of this name is to be written with.
    #[cold]
    fn writing_of(&self, name: &StateName) -> Option<&'s Writing> {
        let mut members = self.members.iter();
        let member = members.find(|member| member.reader().name() == name)?;
        member.writing()
    }

    #[inline]
    fn is_ours(&self) -> bool {
        self.process.as_ref().is_ok_and(Process::is_current)
    }

    #[inline]
    fn member<T: Content>(
        &mut self,
        reader: &Reader<T>,
        writing: bool,
    ) -> Result<&mut Member<'s>, TouchError> {
        let at = self.next;
        let first = self.members.get(at);
        let at = match first.is_some_and(|member| member.serves::<T>(reader, writing)) {
            true => at,
            false => self.search(reader, writing)?,
        };
        self.next = at + 1;
        Ok(&mut self.members[at])
    }

    #[cold]
    #[inline(never)]
    fn search<T: Content>(&self, reader: &Reader<T>, writing: bool) -> Result<usize, TouchError> {
        let serves = |member: &Member<'_>| member.serves::<T>(reader, writing);
        let found = self.members.iter().position(serves);
        found.ok_or_else(|| TouchError::NotAdded {
            name: reader.name().clone(),
            writing,
        })
    }
}

impl Drop for Many<'_> {
    #[inline]
    fn drop(&mut self) {
        self.members.iter_mut().for_each(Member::recycle);
    }
}

impl Default for Many<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Many<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.members.iter()).finish()
    }
}
