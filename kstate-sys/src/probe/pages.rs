//! Pages to try things on.

#![expect(unsafe_code, reason = "maps memory")]

use nix::errno::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::null_mut;

/// The machine's page size in bytes.
pub(super) fn page_bytes() -> usize {
    // SAFETY: sysconf takes a plain number.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or(4096)
}

/// A mapping of whole pages, unmapped on drop.
///
/// # Invariants
///
/// 1. `start..start + bytes` is mapped, readable, ours alone and page-aligned while this lives.
pub(super) struct Pages {
    start: *mut libc::c_void,
    bytes: usize,
}

impl Pages {
    /// Private anonymous pages.
    pub(super) fn private(count: usize) -> nix::Result<Pages> {
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        Pages::map(count, rights, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)
    }

    /// The first page of a file, shared and read-only.
    pub(super) fn shared_read_only(file: BorrowedFd<'_>) -> nix::Result<Pages> {
        Pages::map(1, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd())
    }

    fn map(count: usize, rights: i32, flags: i32, fd: i32) -> nix::Result<Pages> {
        let bytes = count * page_bytes();
        // SAFETY: a mapping at an address of the kernel's choice replaces nothing.
        let start = unsafe { libc::mmap(null_mut(), bytes, rights, flags, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        // INVARIANT: Pages 1, from mmap.
        Ok(Pages { start, bytes })
    }

    pub(super) fn start(&self) -> *mut libc::c_void {
        self.start
    }

    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// Writes the first byte; the pages must be private ones.
    pub(super) fn touch(&self) {
        // SAFETY: Pages invariant 1; volatile, because another mapping may see the page.
        unsafe { self.start.cast::<u8>().write_volatile(1) };
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: Pages invariant 1; nobody refers into the mapping, which ends with its owner.
        unsafe { libc::munmap(self.start, self.bytes) };
    }
}
