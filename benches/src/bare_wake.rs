#![expect(
    unsafe_code,
    reason = "the limit is what a program without any protocol would do"
)]
//! The limit of waking: a value in shared memory, a word beside it that others sleep on, and a
//! descriptor that others poll.

use std::fs::File;
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use kstate_sys::futex;
use memmap2::{MmapOptions, MmapRaw};
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The value: what a cache line holds.
pub(crate) type BareValue = [u64; 8];

/// A value and its version, each in a cache line of one page, and nothing that tells whether what
/// was read is whole.
///
/// # Invariants
///
/// 1. The mapping is page aligned and has room for [`Parts`], and the file keeps that length.
pub(crate) struct BareWord(MmapRaw);

#[repr(C)]
struct Parts {
    version: AtomicU64,
    _rest_of_line: [u64; 7],
    value: BareValue,
}

impl BareWord {
    /// The one in the file at `path`, which is made if there is none.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let length = size_of::<Parts>();
        file.set_len(length as u64)?;
        // INVARIANT: 1: whoever opens it sets the same length.
        Ok(Self(MmapOptions::new().len(length).map_raw(&file)?))
    }

    #[inline]
    fn word(&self) -> &AtomicU64 {
        // SAFETY: invariant 1: the first word, aligned, always an atomic.
        unsafe { AtomicU64::from_ptr(self.0.as_mut_ptr().cast()) }
    }

    #[inline]
    fn value(&self) -> *mut BareValue {
        let offset = std::mem::offset_of!(Parts, value);
        // SAFETY: invariant 1: within the mapping.
        unsafe { self.0.as_mut_ptr().add(offset).cast() }
    }

    /// Stores the value, swaps the word, wakes all who sleep there; returns how many did.
    #[inline]
    pub(crate) fn publish(&self, value: &BareValue) -> usize {
        self.store(value);
        futex::wake_all(self.word())
    }

    /// Stores the value and swaps the word, for who looks without sleeping.
    #[inline]
    pub(crate) fn store(&self, value: &BareValue) {
        // SAFETY: aligned and within the mapping; a reader may be looking, which is the point.
        unsafe { std::ptr::copy_nonoverlapping(value, self.value(), 1) };
        let word = self.word();
        let version = word.load(Ordering::Relaxed);
        // ORDERING: Release with the Acquire in `version`, and before the look for sleepers.
        black_box(word.swap(version + 1, Ordering::SeqCst));
    }

    #[inline]
    pub(crate) fn version(&self) -> u64 {
        // ORDERING: Acquire with the swap in `store`.
        self.word().load(Ordering::Acquire)
    }

    /// Sleeps until there is a version after that one, or for no reason.
    #[inline]
    pub(crate) fn wait(&self, version: u64) -> io::Result<()> {
        futex::wait(self.word(), low(version), None).map(|_| ())
    }

    /// The newest value, or a mixture.
    #[inline]
    pub(crate) fn read(&self) -> BareValue {
        // SAFETY: aligned and within the mapping; that it may be torn is the point.
        unsafe { self.value().read() }
    }
}

/// An eventfd(2): readable from a signal until that is taken.
#[derive(Debug)]
pub(crate) struct BareEvent(File);

impl BareEvent {
    /// One that processes started from now on inherit.
    pub(crate) fn new() -> io::Result<Self> {
        let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK)?;
        Ok(Self(File::from(OwnedFd::from(event))))
    }

    /// The one that is inherited as `number`.
    ///
    /// # Safety
    ///
    /// `number` is an eventfd's that nobody else in this process owns.
    pub(crate) unsafe fn inherited(number: RawFd) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { File::from_raw_fd(number) })
    }

    #[inline]
    pub(crate) fn signal(&self) -> io::Result<()> {
        (&self.0).write_all(&1_u64.to_ne_bytes())
    }

    /// Takes all signals; [`WouldBlock`](io::ErrorKind::WouldBlock) when there is none.
    #[inline]
    pub(crate) fn take(&self) -> io::Result<()> {
        (&self.0).read_exact(&mut [0; 8])
    }

    /// Has the current runtime say when it is readable.
    pub(crate) fn register(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: the file goes along, so that its descriptor stays open for as long as it is
        // registered, and has one number.
        let registered = unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) };
        Ok(registered?)
    }
}

impl AsFd for BareEvent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for BareEvent {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// What the kernel compares of a word.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the low half is what is compared"
)]
pub(crate) const fn low(word: u64) -> u32 {
    word as u32
}

/// A value as a file shows it.
pub(crate) fn to_bytes(value: &BareValue) -> [u8; size_of::<BareValue>()] {
    let mut bytes = [0; size_of::<BareValue>()];
    for (to, from) in bytes.chunks_exact_mut(8).zip(value) {
        to.copy_from_slice(&from.to_ne_bytes());
    }
    bytes
}

/// A value from what a file shows.
pub(crate) fn from_bytes(bytes: &[u8; size_of::<BareValue>()]) -> BareValue {
    let mut value = [0; 8];
    for (to, from) in value.iter_mut().zip(bytes.as_chunks().0) {
        *to = u64::from_ne_bytes(*from);
    }
    value
}
