#![expect(unsafe_code, reason = "shares a page of counters between processes")]
//! What the processes note of their work: memory that outlives each of them, so that what a killed one had
//! done is known to the last commit.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Result;
use super::outcome::OUTCOMES;

/// What one process notes. A process has one entry, and each entry one process.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct Entry {
    /// Commits begun: one more than those done while one is under way.
    begun: AtomicU64,
    /// Reads, commits, waits or whatever the process is for.
    done: AtomicU64,
    /// Attempts that others were in the way of.
    pub(crate) conflicts: AtomicU64,
    /// Values or cuts that were not whole.
    pub(crate) torn: AtomicU64,
    /// Reads that found an older generation than one before.
    pub(crate) backwards: AtomicU64,
    /// The longest call, in nanoseconds, since it was last looked at.
    longest: AtomicU64,
    /// Calls beside a hostile writer, by what came of them.
    outcomes: [AtomicU64; OUTCOMES],
}

impl Entry {
    pub(crate) fn begin(&self) {
        // One writer: its own process.
        self.begun.store(self.done() + 1, Ordering::Relaxed);
    }

    pub(crate) fn did(&self, count: u64) {
        self.done.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Commits that may have been made and were not noted as done.
    pub(crate) fn in_flight(&self) -> u64 {
        self.begun
            .load(Ordering::Relaxed)
            .saturating_sub(self.done())
    }

    pub(crate) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    /// Calls `work` and notes how long it took.
    pub(crate) fn timed<T>(&self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let value = work();
        self.took(start.elapsed());
        value
    }

    /// Notes that a call took so long.
    pub(crate) fn took(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.longest.fetch_max(nanos, Ordering::Relaxed);
    }

    /// The longest call since this was last asked.
    pub(crate) fn take_longest(&self) -> u64 {
        self.longest.swap(0, Ordering::Relaxed)
    }

    pub(crate) fn outcome(&self, index: usize) -> &AtomicU64 {
        &self.outcomes[index]
    }
}

/// All entries, in a file that every process maps.
///
/// # Invariants
///
/// 1. `start` is where `length` entries are mapped, shared and writable, until the process ends. They
///    are atomics, for which any bytes are a value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Board {
    start: NonNull<Entry>,
    length: usize,
}

impl Board {
    /// A new one in the file `path`.
    pub(crate) fn create(path: &Path, length: usize) -> Result<Self> {
        let file = File::create_new(path)?;
        file.set_len((length * size_of::<Entry>()) as u64)?;
        Self::open(path)
    }

    /// The one in the file `path`.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        let bytes = usize::try_from(file.metadata()?.len())?;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error().into());
        }
        // INVARIANT: 1.
        Ok(Self {
            start: NonNull::new(start.cast()).ok_or("mapped at 0")?,
            length: bytes / size_of::<Entry>(),
        })
    }

    /// The entry `index`; `None` beyond the last.
    pub(crate) fn entry(&self, index: usize) -> Option<&'static Entry> {
        if index >= self.length {
            return None;
        }
        // SAFETY: within the mapping (invariant 1).
        let entry = unsafe { self.start.add(index) };
        // SAFETY: invariant 1; a page is aligned to more than an entry.
        Some(unsafe { entry.as_ref() })
    }
}
