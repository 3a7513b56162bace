//! Replacing the value, whatever it was.

use std::io;
use std::time::Duration;

use kstate_sys::clock::Ticks;
use kstate_sys::name::StateName;
use kstate_sys::region::{self, Generation, Head, Memory, Notice};

use crate::claim::ClaimError;
use crate::content::Content;
use crate::retry::Backoff;
use crate::stamp::Stamp;
use crate::state::State;
use crate::writing::{Room, Writing, live_owner, wake};

/// How many commits of several states a publish meets before it stands back as from one that stays.
const MAX_MET: u32 = 1000;

/// How long a publish stands back for a commit of several states before it says so.
const PATIENCE: Duration = Duration::from_millis(100);

/// Why a value was not published. The state is unchanged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// This handle has no slots to write to.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The value has more bytes than the state has room for.
    #[error(
        "a value of {length} bytes was not published: state `{name}` has room for {capacity}; \
         subscribe with a bigger capacity or set it"
    )]
    TooLong {
        /// The state's name.
        name: StateName,
        /// Bytes of the value.
        length: usize,
        /// The capacity in force, in bytes.
        capacity: u32,
    },
    /// The state was deleted.
    #[error(
        "state `{name}` was deleted, so nobody will see what is published; subscribe again to \
         create it anew"
    )]
    Deleted {
        /// Its name.
        name: StateName,
    },
    /// A commit of several states has been undecided for too long.
    #[error("a commit of several states holds state `{name}` undecided; try again")]
    Undecided {
        /// The state's name.
        name: StateName,
    },
    /// Others published first a million times in a row.
    #[error("other writers of state `{name}` came first a million times; try again")]
    Contended {
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
    #[error("cannot publish to state `{name}`: {source}")]
    Io {
        /// The state's name.
        name: StateName,
        /// The operating system's error.
        source: io::Error,
    },
}

impl<T: Content> State<T> {
    /// Makes `value` the newest version, whatever was there.
    ///
    /// # Errors
    ///
    /// [`PublishError`]; a conflict cannot be: that takes a [transaction](State::begin).
    ///
    /// # Memory ordering
    ///
    /// What happened before this call is visible to whoever reads the version.
    ///
    /// # Cost
    ///
    /// One copy and one compare-and-swap; no system call unless somebody waits. While another handle has
    /// its [turn](crate::Retry::turn_after) it sleeps, up to 10 ms; see [`set_polite`](State::set_polite). The
    /// first one of a forked child claims slots by a FUSE request.
    #[inline(always)]
    pub fn publish(&self, value: &T::Borrowed) -> Result<Generation, PublishError> {
        self.publish_at(value, self.writing.now())
    }

    /// As [`publish`](State::publish), stamped with a time of the caller's, such as when the
    /// value was measured.
    ///
    /// # Errors
    ///
    /// As [`publish`](State::publish).
    pub fn publish_stamped(
        &self,
        value: &T::Borrowed,
        at: impl Into<Stamp>,
    ) -> Result<Generation, PublishError> {
        self.publish_at(value, self.writing.ticks_of(at.into()))
    }

    /// Takes the value and not its bytes, so that their number is a constant here. A call would
    /// cost half as much as all the rest.
    #[inline(always)]
    fn publish_at(&self, value: &T::Borrowed, time: Ticks) -> Result<Generation, PublishError> {
        let bytes = T::bytes(value);
        if let Some(mut writer) = self.writing.own_writer() {
            let memory = self.memory();
            if bytes.len() <= memory.header().announced_capacity() {
                let published = writer.publish(memory, bytes, time);
                self.writing.writer.set(Some(writer));
                if let Ok(head) = published {
                    let notice = memory.header().notice();
                    if notice.is_none() || self.settle_value(notice, head, value) {
                        return Ok(head.generation());
                    }
                    return Err(self.writing.publish_deleted());
                }
            } else {
                self.writing.writer.set(Some(writer));
            }
        }
        self.writing.publish_slowly(bytes, time)
    }

    /// Pays what the commit of `value` as `head` owes: the live page, a wake. `false` if the state
    /// was deleted. Takes the value, so that the number of its bytes is a constant here too.
    #[inline(never)]
    pub(crate) fn settle_value(&self, mut notice: Notice, head: Head, value: &T::Borrowed) -> bool {
        // By itself and first: somebody sleeps, and this is what it sleeps for.
        if notice == Notice::WAITERS {
            wake(self.memory().header());
            return true;
        }
        if notice.contains(Notice::ARMED)
            && region::show_live(self.memory(), live_owner(head), head, T::bytes(value))
        {
            notice = notice.without(Notice::ARMED);
            if notice.is_none() {
                return true;
            }
        }
        self.writing.settle(notice, head)
    }
}

impl Writing {
    /// With all that can come between: no group yet, a state that has grown, a commit of several
    /// states under way.
    #[cold]
    #[inline(never)]
    fn publish_slowly(&self, bytes: &[u8], time: Ticks) -> Result<Generation, PublishError> {
        let mut backoff = Backoff::new(Duration::from_millis(1));
        let (mut asked, mut met) = (None, 0);
        loop {
            if self.reader().is_deleted() {
                return Err(self.publish_deleted());
            }
            let mut writer = match self.kept_writer() {
                Some(writer) => writer,
                None => self.claim()?,
            };
            let published = match self.has_room(bytes.len(), asked) {
                Ok(()) => writer.publish(self.reader().memory(), bytes, time),
                Err(error) => Err(error),
            };
            self.writer.set(Some(writer));
            let name = || self.reader().name().clone();
            match published {
                Ok(head) => {
                    return match self.settle(self.reader().memory().header().notice(), head) {
                        true => Ok(head.generation()),
                        false => Err(self.publish_deleted()),
                    };
                }
                Err(region::CommitError::Conflict { .. }) => {
                    // Out of the way: again at once, but not for ever beside one who scribbles.
                    met += 1;
                    if self.meet() && met < MAX_MET {
                        continue;
                    }
                    if backoff.delay() > PATIENCE {
                        return Err(PublishError::Undecided { name: name() });
                    }
                    backoff.pause();
                }
                Err(region::CommitError::Exhausted) => {
                    return Err(PublishError::Exhausted { name: name() });
                }
                Err(region::CommitError::Contended) => {
                    return Err(PublishError::Contended { name: name() });
                }
                Err(_) => match self.make_room(bytes.len(), asked) {
                    Ok(Room::Made { capacity }) => asked = Some(capacity),
                    Ok(Room::Lacking { capacity }) => {
                        let length = bytes.len();
                        return Err(PublishError::TooLong {
                            name: name(),
                            length,
                            capacity,
                        });
                    }
                    Err(source) => {
                        return Err(PublishError::Io {
                            name: name(),
                            source,
                        });
                    }
                },
            }
        }
    }

    fn publish_deleted(&self) -> PublishError {
        PublishError::Deleted {
            name: self.reader().name().clone(),
        }
    }
}
