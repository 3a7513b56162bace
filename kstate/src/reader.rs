#![expect(unsafe_code, reason = "keeps a pointer to the mapping that is current")]
//! A handle for reading.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::Duration;

use kstate_sys::abi::{Class, Geometry};
use kstate_sys::access::Access;
use kstate_sys::ioctl::call;
use kstate_sys::name::StateName;
use kstate_sys::region::{self, Generation, Head, Mapped, Memory, Notice};

use crate::content::Content;
use crate::errno::{self, Refusal};
use crate::info::{self, Info};
use crate::intent::Region;
use crate::mapping::Map;
use crate::retry::Backoff;
use crate::snapshot::{ReadError, Snapshot};
use crate::stamp::ClockWord;
use crate::subscription::Subscription;

/// Records that are mapped for one reading. Two are rare; who names more of them forges them.
const MAX_RECORDS: u32 = 100;

/// How long a commit of several states may be undecided for who cannot map its record.
const PATIENCE: Duration = Duration::from_millis(20);

/// A state as a reader sees it: shared between threads, cloned at the price of a counter.
///
/// Had from [`State::reader`](crate::State::reader), or used through a
/// [`State`](crate::State), which dereferences to it. The state stays subscribed to until the
/// last clone is dropped.
///
/// ```no_run
/// let gps = kstate::subscribe("robot.gps").typed::<[f64; 2]>()?.reader();
/// let mut seen = kstate::Generation::NEVER;
/// if gps.changed_since(seen) {
///     let now = gps.snapshot()?;
///     seen = now.generation();
///     println!("{:?}, {:?} old", now.value, now.age());
/// }
/// # Ok::<(), kstate::Error>(())
/// ```
///
/// # Invariants
///
/// 1. `map` points at one of the mappings of `subscription`, which never drops one before itself.
/// 2. Its layout does not depend on `T`.
#[repr(C)]
pub struct Reader<T> {
    map: AtomicPtr<Map>,
    clock: ClockWord,
    state_id: u64,
    subscription: Arc<Subscription>,
    content: PhantomData<fn() -> T>,
}

/// The content of a reader that is used for what all have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Untyped {}

impl<T> Reader<T> {
    /// The same reader as one of another content. Who asks for one of a type knows that it was
    /// subscribed to as that.
    #[inline]
    pub(crate) fn as_of<U>(&self) -> &Reader<U> {
        // SAFETY: invariant 2: the two differ in a `PhantomData` alone.
        unsafe { &*core::ptr::from_ref(self).cast() }
    }

    /// A reader of `subscription`, which has a mapping.
    pub(crate) fn new(subscription: Arc<Subscription>) -> io::Result<Self> {
        // INVARIANT: 1.
        let map = std::ptr::from_ref(subscription.map_for(Class::B64)?).cast_mut();
        let clock = ClockWord::of(subscription.clock());
        Ok(Self {
            map: AtomicPtr::new(map),
            clock,
            state_id: subscription.state_id(),
            subscription,
            content: PhantomData,
        })
    }

    pub(crate) fn subscription(&self) -> &Subscription {
        &self.subscription
    }

    /// The region as far as this handle has mapped it.
    #[inline]
    pub(crate) fn memory(&self) -> &Mapped<'_> {
        self.current().mapped()
    }

    /// The same by value: what an access needs of it is then fetched once, whatever the compiler
    /// must assume that atomic accesses change.
    #[inline]
    pub(crate) fn memory_copied(&self) -> Mapped<'_> {
        *self.memory()
    }

    #[inline]
    pub(crate) fn clock(&self) -> ClockWord {
        self.clock
    }

    pub(crate) fn geometry(&self) -> &Geometry {
        self.subscription.geometry()
    }

    /// Makes present what reading the newest version touches.
    pub(crate) fn populate(&self) {
        self.current().populate_newest();
    }

    #[inline]
    pub(crate) fn current(&self) -> &Map {
        // ORDERING: Acquire with the Release in `grow`: the mapping's description is complete.
        let map = self.map.load(Ordering::Acquire);
        // SAFETY: invariant 1: it lives as long as `subscription`, which `self` holds; it is
        // only ever borrowed shared.
        unsafe { &*map }
    }

    /// Maps as far as slots of `class` reach, for this handle from now on.
    ///
    /// # Errors
    ///
    /// What the daemon or `mmap` says.
    #[cold]
    pub(crate) fn grow(&self, class: Class) -> io::Result<()> {
        let map = std::ptr::from_ref(self.subscription.map_for(class)?).cast_mut();
        // INVARIANT: 1.
        // ORDERING: Release with the Acquire in `current`.
        self.map.store(map, Ordering::Release);
        Ok(())
    }

    /// Runs `read`, again with a longer mapping if the state has grown, or with the record that
    /// decides a commit of several states, and says of an error which state it is about.
    #[cold]
    pub(crate) fn retry_grown<R>(
        &self,
        mut read: impl FnMut(&Region<'_>) -> Result<R, region::ReadError>,
    ) -> Result<R, ReadError> {
        let mut records = 0;
        let mut backoff = Backoff::new(Duration::from_millis(1));
        loop {
            return Err(match read(&self.region()) {
                Ok(done) => return Ok(done),
                Err(region::ReadError::Unmapped { class }) => match self.grow(class) {
                    // At most once a class: the new mapping reaches this one.
                    Ok(()) => continue,
                    Err(source) => ReadError::Map {
                        name: self.name().clone(),
                        source,
                    },
                },
                Err(region::ReadError::UnmappedRecord { record }) if records < MAX_RECORDS => {
                    match self.subscription.records().map(record) {
                        Ok(()) => {
                            records += 1;
                            continue;
                        }
                        // Who commits decides in a moment, if it lives; nobody else can until there is a
                        // daemon again.
                        Err(error)
                            if errno::refusal(&error) == Refusal::DaemonDied
                                && backoff.delay() < PATIENCE =>
                        {
                            backoff.pause();
                            continue;
                        }
                        Err(source) => ReadError::Undecided {
                            name: self.name().clone(),
                            source,
                        },
                    }
                }
                Err(error) => self.named(error),
            });
        }
    }

    /// Says which state an error is about.
    #[cold]
    pub(crate) fn named(&self, error: region::ReadError) -> ReadError {
        let name = self.name().clone();
        match error {
            region::ReadError::TooLong { length, room } => {
                ReadError::TooLong { name, length, room }
            }
            region::ReadError::Deleted => ReadError::Deleted { name },
            region::ReadError::Corrupt(corruption) => ReadError::Damaged { name, corruption },
            _ => ReadError::Unstable { name },
        }
    }

    /// Whether the state was deleted, as far as its header says.
    #[inline]
    pub(crate) fn is_deleted(&self) -> bool {
        let header = self.memory().header();
        header.notice().contains(Notice::DELETED)
    }

    /// What a forked child gets that touches its parent's transaction.
    #[cold]
    pub(crate) fn touched_by_child(&self) -> ReadError {
        ReadError::Forked {
            name: self.name().clone(),
        }
    }

    /// The state's name.
    pub fn name(&self) -> &StateName {
        self.subscription.name()
    }

    /// What this subscription may do.
    pub fn access(&self) -> Access {
        self.subscription.access()
    }

    /// The state's inode number, which no later state of the same mount has.
    #[inline]
    pub fn state_id(&self) -> u64 {
        self.state_id
    }

    /// How many bytes the state has room for, as the daemon has announced it last.
    ///
    /// # Cost
    ///
    /// One load.
    #[inline]
    pub fn capacity(&self) -> u32 {
        let memory = self.memory();
        // A writer could have scribbled over it: at most a page whatever it says.
        memory
            .header()
            .capacity
            .load(Ordering::Relaxed)
            .min(memory.geometry().page())
    }

    /// The newest generation; 0 if nobody has written yet.
    ///
    /// # Memory ordering
    ///
    /// What the writer did before committing it is visible after this.
    ///
    /// # Cost
    ///
    /// One load.
    #[inline]
    pub fn generation(&self) -> Generation {
        // ORDERING: Acquire with the committer's SeqCst swap.
        let head = Head::from_raw(self.memory().header().head.load(Ordering::Acquire));
        match head.has_intent() {
            false => head.generation(),
            true => self.resolved_generation(head),
        }
    }

    /// Whether another version than `seen` is the newest.
    ///
    /// # Cost
    ///
    /// One load.
    #[inline]
    pub fn changed_since(&self, seen: Generation) -> bool {
        self.generation() != seen
    }

    /// What the daemon knows of the state.
    ///
    /// # Errors
    ///
    /// What the daemon says.
    ///
    /// # Cost
    ///
    /// Two FUSE requests; four more of a persistent state.
    pub fn info(&self) -> io::Result<Info> {
        self.subscription.request(info::ask)
    }

    /// Tells the daemon that `generation` has been seen, so that `poll` on this subscription's
    /// descriptor reports readable only for a newer one.
    ///
    /// # Errors
    ///
    /// What the daemon says.
    ///
    /// # Cost
    ///
    /// One FUSE request.
    pub fn acknowledge(&self, generation: Generation) -> io::Result<()> {
        self.subscription
            .request(|descriptor| call::seen(descriptor, generation.0))
    }
}

impl<T: Content> Reader<T> {
    /// One consistent copy of the newest version. A state that nobody has written is all zeros,
    /// with generation and length 0.
    ///
    /// # Errors
    ///
    /// [`ReadError`]; contention is none: a reader is never blocked by writers.
    ///
    /// # Memory ordering
    ///
    /// What the writer did before committing it is visible after this.
    ///
    /// # Cost
    ///
    /// One copy; no system call. Typed: no allocation, but a type of more than some hundred bytes
    /// is moved once or twice on its way to the caller, where
    /// [`snapshot_into`](Reader::snapshot_into) copies straight to its place. Bytes: one
    /// allocation.
    #[inline]
    pub fn snapshot(&self) -> Result<Snapshot<T::Owned>, ReadError> {
        T::snapshot(self)
    }
}

impl<T> Clone for Reader<T> {
    fn clone(&self) -> Self {
        // ORDERING: Acquire, as in `current`, and the mapping goes on to other threads with it.
        // INVARIANT: 1, of the same subscription.
        Self {
            map: AtomicPtr::new(self.map.load(Ordering::Acquire)),
            clock: self.clock,
            state_id: self.state_id,
            subscription: Arc::clone(&self.subscription),
            content: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Reader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("name", &self.name().as_str())
            .field("access", &self.access())
            .field("generation", &self.generation())
            .finish_non_exhaustive()
    }
}

/// The state's open file, for `poll`, `select` and `epoll`: readable when a version exists that
/// is newer than the last one [acknowledged](Reader::acknowledge).
impl<T> AsFd for Reader<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.subscription.descriptor()
    }
}
