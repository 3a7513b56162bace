#![expect(unsafe_code, reason = "changes what a page of its own may be used for")]
//! A page that the program can read and not write, and not even read when its transaction is over.

use core::ffi::c_void;
use core::num::NonZeroUsize;
use core::ptr::NonNull;

use kstate_sys::abi::page_size;
use kstate_sys::fork::Process;
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, mprotect, munmap};

use crate::failure::{Failure, Outcome};

/// One page of memory.
///
/// # Invariants
///
/// 1. `start` is a mapping of `length` bytes, of `process` alone: its children do not have it, and may have something
///    else there.
/// 2. Nobody but `fill` writes to it: else it may be read, or not even that.
pub(crate) struct Page {
    start: NonNull<c_void>,
    length: NonZeroUsize,
    process: Process,
}

// SAFETY: memory of the process, whichever thread has it.
unsafe impl Send for Page {}

impl Page {
    /// One that cannot be read yet.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(crate) fn new() -> Outcome<Self> {
        let process = Process::current().map_err(|_| Failure::NO_MEMORY)?;
        let length = NonZeroUsize::new(page_size() as usize);
        let length = length.ok_or_else(|| refused(Errno::EINVAL))?;
        let (none, private) = (ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE);
        // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
        let start = unsafe { mmap_anonymous(None, length, none, private) }.map_err(refused)?;
        // INVARIANT: 1, unless this fails.
        let page = Self {
            start,
            length,
            process,
        };
        // SAFETY: mapped just now.
        unsafe { madvise(start, length.get(), MmapAdvise::MADV_DONTFORK) }.map_err(refused)?;
        Ok(page)
    }

    /// Puts there what `fill` does, in front of zeros, to be read from then on.
    ///
    /// # Errors
    ///
    /// Those of `fill`, and what the kernel says; it cannot be read then.
    ///
    /// # Cost
    ///
    /// Two system calls, and what `fill` costs.
    pub(crate) fn fill(&mut self, fill: impl FnOnce(&mut [u8]) -> Outcome<usize>) -> Outcome<()> {
        self.check()?;
        self.protect(ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?;
        // SAFETY: invariant 1: mapped, for writing just now, and initialised by the kernel. A pointer that the program
        // kept from an earlier use is dead.
        let bytes = unsafe {
            core::slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.length.get())
        };
        let filled = fill(bytes);
        if let Ok(length) = &filled {
            bytes[*length..].fill(0);
        }
        self.protect(match filled {
            Ok(_) => ProtFlags::PROT_READ,
            Err(_) => ProtFlags::PROT_NONE,
        })?;
        filled.map(drop)
    }

    /// Whoever reads it from now on dies of it.
    pub(crate) fn close(&mut self) {
        // In a child there is nothing to be read either. Of a page of ours the kernel refuses nothing.
        let _ = self
            .check()
            .and_then(|()| self.protect(ProtFlags::PROT_NONE));
    }

    /// Where the program reads it.
    ///
    /// # Errors
    ///
    /// `ESTALE` in a forked child, which does not have it.
    pub(crate) fn start(&self) -> Outcome<NonNull<c_void>> {
        self.check().map(|()| self.start)
    }

    fn check(&self) -> Outcome<()> {
        match self.process.is_current() {
            true => Ok(()),
            false => Err(Failure::PARENTS),
        }
    }

    fn protect(&self, protection: ProtFlags) -> Outcome<()> {
        // SAFETY: invariant 1, and no reference into it is left.
        unsafe { mprotect(self.start, self.length.get(), protection) }.map_err(refused)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        if self.process.is_current() {
            // SAFETY: invariant 1; who has a pointer to it has been told that it ends with the transaction.
            let _ = unsafe { munmap(self.start, self.length.get()) };
        }
    }
}

fn refused(errno: Errno) -> Failure {
    Failure::plain(errno as i32, c"no memory for a page to read from")
}
