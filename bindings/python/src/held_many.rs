#![expect(
    unsafe_code,
    reason = "keeps a transaction beside the handles that it borrows"
)]
//! A transaction on several states that outlives the call that began it, together with their handles.

use kstate::{AddError, Bytes, CommitManyError, Generation, Many, ManyOutcome, Reader, State};

use crate::pinned::Pinned;

/// One of the states of a transaction.
pub(crate) enum Member {
    /// To be written as well.
    Writing(Box<State<Bytes>>),
    /// To be read alone.
    Reading(Box<Reader<Bytes>>),
}

enum PinnedMember {
    Writing(Pinned<State<Bytes>>),
    Reading(Pinned<Reader<Bytes>>),
}

/// A transaction on several states, and the handles that it is of.
///
/// # Invariants
///
/// 1. `transaction` borrows what is in `members`, and is dropped first.
pub(crate) struct HeldMany {
    transaction: Option<Many<'static>>,
    members: Vec<PinnedMember>,
    bases: Vec<Generation>,
}

/// How often a transaction is begun anew because a state changed while it was added: which generation it was added with is
/// not told then, but for this.
const ATTEMPTS_TO_TELL_BASES: u32 = 100;

/// A state of a transaction as it is used.
#[derive(Clone, Copy)]
pub(crate) enum Borrowed<'m> {
    /// To be written as well.
    Writing(&'m State<Bytes>),
    /// To be read alone.
    Reading(&'m Reader<Bytes>),
}

impl<'m> Borrowed<'m> {
    pub(crate) fn reader(self) -> &'m Reader<Bytes> {
        match self {
            Self::Writing(handle) => handle,
            Self::Reading(reader) => reader,
        }
    }

    /// Adds it: with which generation, and whether that is sure.
    ///
    /// # Errors
    ///
    /// [`AddError`].
    pub(crate) fn add_to(self, transaction: &mut Many<'m>) -> Result<(Generation, bool), AddError> {
        let before = self.reader().generation();
        match self {
            Self::Writing(handle) => transaction.add(handle)?,
            Self::Reading(reader) => transaction.add_reading(reader)?,
        }
        let after = self.reader().generation();
        Ok((after, before == after))
    }
}

impl Member {
    pub(crate) fn borrowed(&self) -> Borrowed<'_> {
        match self {
            Self::Writing(handle) => Borrowed::Writing(handle),
            Self::Reading(reader) => Borrowed::Reading(reader),
        }
    }
}

impl PinnedMember {
    /// # Safety
    ///
    /// As for [`Pinned::borrow_long`].
    unsafe fn borrow_long<'a>(&self) -> Borrowed<'a> {
        match self {
            // SAFETY: the caller's promise.
            Self::Writing(handle) => Borrowed::Writing(unsafe { handle.borrow_long() }),
            // SAFETY: the caller's promise.
            Self::Reading(reader) => Borrowed::Reading(unsafe { reader.borrow_long() }),
        }
    }
}

// SAFETY: as for `Held`.
unsafe impl Send for HeldMany {}
// SAFETY: as for `Held`; generations alone can be looked at by who shares one.
unsafe impl Sync for HeldMany {}

impl HeldMany {
    /// Begins one over those states.
    ///
    /// # Errors
    ///
    /// [`AddError`], with the states.
    pub(crate) fn begin(members: Vec<Member>) -> Result<Self, (AddError, Vec<Member>)> {
        let members = members.into_iter().map(|member| match member {
            Member::Writing(handle) => PinnedMember::Writing(Pinned::new(handle)),
            Member::Reading(reader) => PinnedMember::Reading(Pinned::new(reader)),
        });
        let members: Vec<_> = members.collect();
        let mut this = Self {
            transaction: None,
            members,
            bases: Vec::new(),
        };
        match this.add_all() {
            Ok(()) => Ok(this),
            Err(error) => {
                this.transaction = None;
                Err((error, this.into_members()))
            }
        }
    }

    fn add_all(&mut self) -> Result<(), AddError> {
        for _ in 0..ATTEMPTS_TO_TELL_BASES {
            let mut transaction: Many<'static> = Many::new();
            self.bases.clear();
            let mut is_told = true;
            for member in &self.members {
                // SAFETY: the transaction is stored in front of the members and never leaves: invariant 1.
                let member = unsafe { member.borrow_long() };
                let (base, is_sure) = member.add_to(&mut transaction)?;
                self.bases.push(base);
                is_told &= is_sure;
            }
            self.transaction = Some(transaction);
            if is_told {
                break;
            }
        }
        Ok(())
    }

    /// The generation that the state at `index` had at the beginning.
    pub(crate) fn base(&self, index: usize) -> Generation {
        self.bases[index]
    }

    /// What is in the state at `index`, as of the beginning.
    ///
    /// # Errors
    ///
    /// Those of [`Many::get`].
    pub(crate) fn get(&mut self, index: usize) -> Result<Vec<u8>, kstate::TouchError> {
        let Some(transaction) = self.transaction.as_mut() else {
            return Ok(Vec::new());
        };
        // SAFETY: used within this call.
        let reader = unsafe { self.members[index].borrow_long() }.reader();
        transaction.get(reader).cloned()
    }

    /// Writes to the state at `index`, which is one to be written.
    ///
    /// # Errors
    ///
    /// Those of [`Many::set`].
    pub(crate) fn set(&mut self, index: usize, value: &[u8]) -> Result<(), kstate::TouchError> {
        match (self.transaction.as_mut(), &self.members[index]) {
            (Some(transaction), PinnedMember::Writing(handle)) => {
                // SAFETY: used within this call.
                transaction.set(unsafe { handle.borrow_long() }, value)
            }
            _ => Ok(()),
        }
    }

    /// Whether it would still commit.
    pub(crate) fn is_valid(&mut self) -> bool {
        self.transaction.as_ref().is_some_and(Many::validate)
    }

    /// Commits it, and gives the states back.
    pub(crate) fn commit(mut self) -> (Result<Option<ManyOutcome>, CommitManyError>, Vec<Member>) {
        let done = self.transaction.take().map(Many::commit).transpose();
        (done, self.into_members())
    }

    /// Ends it without, and gives the states back.
    pub(crate) fn abort(mut self) -> Vec<Member> {
        self.transaction = None;
        self.into_members()
    }

    fn into_members(self) -> Vec<Member> {
        let members = self.members.into_iter().map(|member| match member {
            PinnedMember::Writing(handle) => Member::Writing(handle.into_box()),
            PinnedMember::Reading(reader) => Member::Reading(reader.into_box()),
        });
        members.collect()
    }
}

impl std::fmt::Debug for HeldMany {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("HeldMany");
        shown.field("bases", &self.bases).finish_non_exhaustive()
    }
}
