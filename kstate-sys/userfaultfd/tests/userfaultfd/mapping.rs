//! Pages to try things on.

use libc::c_void;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::null_mut;

pub(crate) fn page_bytes() -> usize {
    // SAFETY: sysconf takes a plain number.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap()
}

/// Whole pages, unmapped on drop.
pub(crate) struct Mapping {
    start: *mut c_void,
    bytes: usize,
}

// SAFETY: the pages are touched through volatile accesses of single bytes only.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Private anonymous pages, none of them there yet.
    pub(crate) fn new(pages: usize) -> Mapping {
        Mapping::map(pages, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)
    }

    /// Two mappings of the same shared pages.
    pub(crate) fn shared_pair(pages: usize) -> [Mapping; 2] {
        // SAFETY: the name is a C string.
        let fd = unsafe { libc::memfd_create(c"minor".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(fd >= 0);
        // SAFETY: memfd_create has just made it, and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let bytes = i64::try_from(pages * page_bytes()).unwrap();
        // SAFETY: ftruncate takes plain numbers.
        assert_eq!(unsafe { libc::ftruncate(fd.as_raw_fd(), bytes) }, 0);
        [(); 2].map(|()| Mapping::map(pages, libc::MAP_SHARED, fd.as_raw_fd()))
    }

    fn map(pages: usize, flags: i32, fd: i32) -> Mapping {
        let bytes = pages * page_bytes();
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a mapping at an address of the kernel's choice replaces nothing.
        let start = unsafe { libc::mmap(null_mut(), bytes, rights, flags, fd, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        Mapping { start, bytes }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    pub(crate) fn page(&self, index: usize) -> *mut c_void {
        self.start.wrapping_byte_add(index * page_bytes())
    }

    /// Reads the first byte of a page.
    pub(crate) fn read(&self, index: usize) -> u8 {
        assert!(index * page_bytes() < self.bytes);
        // SAFETY: within the mapping (asserted).
        unsafe { self.page(index).cast::<u8>().read_volatile() }
    }

    /// Writes the first byte of a page.
    pub(crate) fn write(&self, index: usize, value: u8) {
        assert!(index * page_bytes() < self.bytes);
        // SAFETY: within the mapping (asserted).
        unsafe { self.page(index).cast::<u8>().write_volatile(value) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nobody refers into the mapping, which ends with its owner.
        unsafe { libc::munmap(self.start, self.bytes) };
    }
}
