//! A handle for reading and writing.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::ops::Deref;
use std::os::fd::BorrowedFd;

use kstate_sys::ioctl::call;
use kstate_sys::name::StateName;
use kstate_sys::region::{Memory, Notice};

use crate::claim::ClaimError;
use crate::content::Content;
use crate::errno::{self, Refusal};
use crate::reader::Reader;
use crate::stamp::Stamping;
use crate::transaction::RawPages;
use crate::writing::Writing;

/// A state as one thread at a time writes it; dereferences to its [`Reader`].
///
/// A handle that may write has slots of its own from the start; dropping it gives them back. After
/// a `fork` the child's first write claims slots for the child, and the parent's go on being the
/// parent's.
///
/// What does not depend on the content is in `writing.rs`.
pub struct State<T: Content> {
    pub(crate) writing: Writing,
    /// The private page of an earlier transaction, to be used again.
    spare: Cell<Option<T::Page>>,
    /// More of them, where transactions were nested.
    spares: RefCell<Vec<T::Page>>,
    pub(crate) raw: RawPages<T>,
}

/// Why the capacity is what it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CapacityError {
    /// The subscription is for reading.
    #[error("state `{name}` was subscribed to for reading; subscribe with `.write()`")]
    ReadOnly {
        /// The state's name.
        name: StateName,
    },
    /// More than a page.
    #[error("state `{name}` was asked to hold {wanted} bytes; a state holds at most {page}")]
    TooBig {
        /// The state's name.
        name: StateName,
        /// Bytes wanted.
        wanted: u32,
        /// The machine's page, in bytes.
        page: u32,
    },
    /// Less than it has, after the first write; or nothing.
    #[error(
        "state `{name}` cannot be cut to {wanted} bytes: its capacity is at least 1 and only \
         grows after the first write"
    )]
    Shrinks {
        /// The state's name.
        name: StateName,
        /// Bytes wanted.
        wanted: u32,
    },
    /// The daemon's memory is used up.
    #[error("no memory is left to let state `{name}` grow")]
    NoSpace {
        /// The state's name.
        name: StateName,
    },
    /// What the kernel or the daemon said.
    #[error("cannot set the capacity of state `{name}`: {source}")]
    Io {
        /// The state's name.
        name: StateName,
        /// The operating system's error.
        source: io::Error,
    },
}

impl<T: Content> State<T> {
    /// A handle that can do at once what the subscription allows: its slots are claimed.
    pub(crate) fn new(reader: Reader<T>) -> Result<Self, ClaimError> {
        let name = reader.name().clone();
        let state = Self::unclaimed(reader).map_err(|source| ClaimError::Io { name, source })?;
        if state.writing.is_writable() {
            let writer = state.writing.claim()?;
            state.writing.writer.set(Some(writer));
        }
        Ok(state)
    }

    /// A handle whose first write, if it may write, claims its slots.
    pub(crate) fn unclaimed(reader: Reader<T>) -> io::Result<Self> {
        Ok(Self {
            writing: Writing::new(reader.as_of().clone())?,
            spare: Cell::new(None),
            spares: RefCell::new(Vec::new()),
            raw: RawPages::default(),
        })
    }

    /// A handle for reading alone, which other threads can share.
    pub fn reader(&self) -> Reader<T> {
        (**self).clone()
    }

    /// Another handle of the same subscription, for another thread, with slots of its own if it
    /// may write.
    ///
    /// # Errors
    ///
    /// [`ClaimError`]: there are no slots left, or no memory.
    ///
    /// # Cost
    ///
    /// One FUSE request if it may write.
    pub fn try_clone(&self) -> Result<Self, ClaimError> {
        let clone = Self::new(self.reader())?;
        clone.set_stamping(self.stamping());
        clone.set_polite(self.is_polite());
        Ok(clone)
    }

    /// What versions written through this handle are stamped with from now on.
    pub fn set_stamping(&self, stamping: Stamping) {
        self.writing.stamping.set(stamping);
    }

    /// What versions written through this handle are stamped with.
    pub fn stamping(&self) -> Stamping {
        self.writing.stamping.get()
    }

    /// Whether publishing and committing through this handle stands back while another one has its
    /// [turn](crate::Retry::turn_after), for at most 10 ms after a commit; on unless turned off. For a
    /// writer that must not be late.
    pub fn set_polite(&self, polite: bool) {
        self.writing.polite.set(polite);
    }

    /// Whether this handle honours others' turns.
    pub fn is_polite(&self) -> bool {
        self.writing.polite.get()
    }

    /// Whether writing a version through this handle now may have to stand back for another handle's
    /// [turn](crate::Retry::turn_after), and so sleep for at most 10 ms. What holds a lock that others need
    /// meanwhile asks this first. Also so for a while behind a turn, and during one of its own.
    ///
    /// # Cost
    ///
    /// One load.
    #[inline]
    pub fn is_to_stand_back(&self) -> bool {
        let header = self.memory().header();
        self.is_polite() && header.notice().contains(Notice::TURN)
    }

    /// Sets how many bytes the state has room for, and returns it: free before the first write,
    /// growing only afterwards. A first write under way at the same time may still be as long as
    /// was allowed before.
    ///
    /// # Errors
    ///
    /// [`CapacityError`]; the capacity is then as it was.
    ///
    /// # Cost
    ///
    /// One FUSE request, and an `mmap` if the state grows into bigger slots.
    pub fn set_capacity(&self, bytes: u32) -> Result<u32, CapacityError> {
        let name = || self.name().clone();
        let mut capacity = bytes;
        let ask = |descriptor: BorrowedFd<'_>| {
            capacity = bytes;
            call::set_capacity(descriptor, &mut capacity)
        };
        let set = self.subscription().request(ask);
        let set = set.and_then(|()| self.writing.take_capacity(capacity));
        match set {
            Ok(()) => Ok(capacity),
            Err(source) => Err(match errno::refusal(&source) {
                Refusal::WrongMode => CapacityError::ReadOnly { name: name() },
                Refusal::TooBig => {
                    let page = self.geometry().page();
                    CapacityError::TooBig {
                        name: name(),
                        wanted: bytes,
                        page,
                    }
                }
                Refusal::Invalid => CapacityError::Shrinks {
                    name: name(),
                    wanted: bytes,
                },
                Refusal::NoSpace => CapacityError::NoSpace { name: name() },
                _ => CapacityError::Io {
                    name: name(),
                    source,
                },
            }),
        }
    }

    /// A private page for a transaction; what it holds is arbitrary.
    #[inline]
    pub(crate) fn page(&self) -> T::Page {
        self.spare.take().unwrap_or_else(|| self.another_page())
    }

    #[cold]
    fn another_page(&self) -> T::Page {
        let page = self
            .spares
            .try_borrow_mut()
            .ok()
            .and_then(|mut spares| spares.pop());
        page.unwrap_or_else(|| T::page(self.capacity()))
    }

    /// Takes a page back.
    #[inline]
    pub(crate) fn recycle(&self, page: T::Page) {
        if let Some(other) = self.spare.replace(Some(page)) {
            self.keep_spare(other);
        }
    }

    #[cold]
    fn keep_spare(&self, page: T::Page) {
        if let Ok(mut spares) = self.spares.try_borrow_mut() {
            spares.push(page);
        }
    }
}

impl<T: Content> Deref for State<T> {
    type Target = Reader<T>;

    #[inline]
    fn deref(&self) -> &Reader<T> {
        self.writing.reader().as_of()
    }
}

impl<T: Content> fmt::Debug for State<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("reader", &**self)
            .field("stamping", &self.stamping())
            .finish_non_exhaustive()
    }
}

/// As the [`Reader`]'s.
impl<T: Content> std::os::fd::AsFd for State<T> {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        (**self).as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Region;

    #[test]
    fn handles_go_to_other_threads_and_readers_are_shared_by_them() {
        fn sent<T: Send>() {}
        fn shared<T: Sync>() {}
        sent::<State<u64>>();
        sent::<Reader<u64>>();
        shared::<Reader<u64>>();
    }

    #[test]
    fn a_forked_child_reads_but_cannot_commit_what_its_parent_began() {
        let region = Region::new(8);
        let state = region.state::<u64>(1);
        state.publish(&1).unwrap();
        let mut begun = state.begin().unwrap();
        begun.set(&2);
        let in_child = |begun: crate::Transaction<'_, u64>| {
            let refused = matches!(begun.commit(), Err(crate::CommitError::Forked { .. }));
            let reads = state.snapshot().is_ok_and(|now| now.value == 1);
            // The memfd has no daemon to claim from, and the parent's slots are not its own.
            let claims = matches!(state.publish(&3), Err(crate::PublishError::Claim(_)));
            refused && reads && claims
        };
        #[expect(unsafe_code, reason = "forks, which has no safe wrapper here")]
        // SAFETY: the child touches memory, asks by ioctl and leaves by `_exit`. What it
        // allocates is safe after a fork with glibc, whose allocator resets itself.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let right = in_child(begun);
            #[expect(unsafe_code, reason = "ends the child without unwinding")]
            // SAFETY: ends the process at once.
            unsafe {
                libc::_exit(i32::from(!right))
            }
        }
        let mut status = 0;
        #[expect(unsafe_code, reason = "waits for the child")]
        // SAFETY: `status` is a valid place; the child is ours.
        let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!((waited, status), (child, 0));
        assert!(begun.commit().unwrap().is_committed());
    }
}
