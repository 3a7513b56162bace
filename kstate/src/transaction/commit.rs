//! Committing a page, if its base is still the newest version.

use std::borrow::Borrow;
use std::io;

use kstate_sys::name::StateName;
use kstate_sys::region::{self, Head, Memory};

use super::Outcome;
use crate::claim::ClaimError;
use crate::content::Content;
use crate::snapshot::ReadError;
use crate::state::State;
use crate::writing::{Room, Writing};

/// Why a commit could not even be tried. The state is unchanged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// This handle has no slots to write to.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The page has more bytes than the state has room for.
    #[error(
        "a value of {length} bytes was not committed: state `{name}` has room for {capacity}; \
         subscribe with a bigger capacity or set it"
    )]
    TooLong {
        /// The state's name.
        name: StateName,
        /// Bytes of the page.
        length: usize,
        /// The capacity in force, in bytes.
        capacity: u32,
    },
    /// The state was deleted.
    #[error(
        "state `{name}` was deleted, so nobody will see what is committed; subscribe again to \
         create it anew"
    )]
    Deleted {
        /// Its name.
        name: StateName,
    },
    /// The page of a transaction by pointer could not be filled when it was touched.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The transaction was begun by the parent of this process.
    #[error(
        "the transaction on state `{name}` belongs to the process that began it; begin one in \
         the forked child"
    )]
    Forked {
        /// The state's name.
        name: StateName,
    },
    /// The last generation has been reached.
    #[error("state `{name}` has used up its generations; delete it and let it be created again")]
    Exhausted {
        /// The state's name.
        name: StateName,
    },
    /// The state has grown and what it grew by could not be used.
    #[error("cannot commit to state `{name}`: {source}")]
    Io {
        /// The state's name.
        name: StateName,
        /// The operating system's error.
        source: io::Error,
    },
}

impl<T: Content> State<T> {
    /// Makes `page` the version after `base`. The caller's process is the one of `self.process`.
    #[inline]
    pub(crate) fn commit_page(&self, base: Head, page: &T::Page) -> Result<Outcome, CommitError> {
        let value = T::owned(page).borrow();
        let bytes = T::bytes(value);
        if let Some(mut writer) = self.writing.writer.take() {
            let memory = self.memory();
            let fits = bytes.len() <= memory.header().announced_capacity();
            let committed = match fits {
                true => writer.commit(memory, base, bytes, self.writing.now()),
                false => Err(region::CommitError::Contended),
            };
            self.writing.writer.set(Some(writer));
            match committed {
                Ok(head) => {
                    let notice = memory.header().notice();
                    if notice.is_none() || self.settle_value(notice, head, value) {
                        return Ok(Outcome::Committed {
                            generation: head.generation(),
                        });
                    }
                    return Err(CommitError::Deleted {
                        name: self.name().clone(),
                    });
                }
                Err(region::CommitError::Conflict { found }) => {
                    return self.writing.conflict(base, found);
                }
                Err(_) => {}
            }
        }
        self.writing.commit_slowly(base, bytes)
    }
}

impl Writing {
    /// With all that can come between: no group yet, a state that has grown.
    #[cold]
    #[inline(never)]
    pub(crate) fn commit_slowly(&self, base: Head, bytes: &[u8]) -> Result<Outcome, CommitError> {
        let name = || self.reader().name().clone();
        let mut asked = None;
        loop {
            if self.reader().is_deleted() {
                return Err(CommitError::Deleted { name: name() });
            }
            let mut writer = match self.kept_writer() {
                Some(writer) => writer,
                None => self.claim()?,
            };
            let committed = match self.has_room(bytes.len(), asked) {
                Ok(()) => writer.commit(self.reader().memory(), base, bytes, self.now()),
                Err(error) => Err(error),
            };
            self.writer.set(Some(writer));
            return match committed {
                Ok(head) => {
                    let notice = self.reader().memory().header().notice();
                    match notice.is_none() || self.settle(notice, head) {
                        true => Ok(Outcome::Committed {
                            generation: head.generation(),
                        }),
                        false => Err(CommitError::Deleted { name: name() }),
                    }
                }
                Err(region::CommitError::Conflict { found }) => self.conflict(base, found),
                Err(region::CommitError::Exhausted) => Err(CommitError::Exhausted { name: name() }),
                Err(_) => match self.make_room(bytes.len(), asked) {
                    Ok(Room::Made { capacity }) => {
                        asked = Some(capacity);
                        continue;
                    }
                    Ok(Room::Lacking { capacity }) => Err(CommitError::TooLong {
                        name: name(),
                        length: bytes.len(),
                        capacity,
                    }),
                    Err(source) => Err(CommitError::Io {
                        name: name(),
                        source,
                    }),
                },
            };
        }
    }

    #[cold]
    #[inline(never)]
    fn conflict(&self, base: Head, found: Head) -> Result<Outcome, CommitError> {
        if self.reader().is_deleted() {
            let name = self.reader().name().clone();
            return Err(CommitError::Deleted { name });
        }
        self.reader().memory().header().count_conflict();
        let mut generation = found.generation();
        if found.has_intent() {
            generation = self.reader().resolved_generation(found);
            // Done about it what can be done, for the next attempt.
            self.meet();
        }
        Ok(Outcome::Conflict {
            base: base.generation(),
            found: generation,
        })
    }

    #[cold]
    pub(crate) fn forked(&self) -> CommitError {
        CommitError::Forked {
            name: self.reader().name().clone(),
        }
    }
}
