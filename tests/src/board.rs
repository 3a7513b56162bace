#![expect(unsafe_code, reason = "shares a page of counters between processes")]
//! What the processes of a test note of their work: memory that outlives each of them, so that what a killed
//! one had done is known to the last.

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::ptr::NonNull;

/// What one process or thread notes.
///
/// # Safety
///
/// It consists of atomics alone, for which any bytes are a value, and is aligned to no more than a page.
pub unsafe trait Noted: Sync + 'static {}

/// All of them, in a file that every process maps.
///
/// # Invariants
///
/// 1. `start` is where `length` entries are mapped, shared and writable, until the process ends. By
///    [`Noted`] any bytes are a value of them.
#[derive(Debug)]
pub struct Board<E> {
    start: NonNull<E>,
    length: usize,
    entries: PhantomData<fn() -> E>,
}

impl<E> Clone for Board<E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E> Copy for Board<E> {}

impl<E: Noted> Board<E> {
    /// A new one in the file `path`.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub fn create(path: &Path, length: usize) -> io::Result<Self> {
        let file = File::create_new(path)?;
        file.set_len((length * size_of::<E>()) as u64)?;
        Self::open(path)
    }

    /// The one in the file `path`.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        let bytes = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
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
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast());
        // INVARIANT: 1.
        Ok(Self {
            start: start.ok_or_else(|| io::Error::other("mapped at 0"))?,
            length: bytes / size_of::<E>(),
            entries: PhantomData,
        })
    }

    /// The entry `index`; `None` beyond the last.
    pub fn entry(&self, index: usize) -> Option<&'static E> {
        if index >= self.length {
            return None;
        }
        // SAFETY: within the mapping (invariant 1).
        let entry = unsafe { self.start.add(index) };
        // SAFETY: invariant 1; a page is aligned to no less than an entry.
        Some(unsafe { entry.as_ref() })
    }
}
