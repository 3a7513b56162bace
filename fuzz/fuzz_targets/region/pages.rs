#![expect(unsafe_code, reason = "maps pages and lends them to the protocol")]
//! Memory with pages on either side that nobody may touch.

use std::ptr::NonNull;

use kstate_sys::abi::page_size;

/// Pages of zeros, and one before and one behind them whose touch ends the process.
///
/// # Invariants
///
/// 1. `start..start + len` is mapped for reading and writing until the process ends, `start` is page
///    aligned, and it is reached through atomics, payloads and [`store`](Pages::store) alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pages {
    start: NonNull<u8>,
    len: usize,
}

impl Pages {
    /// `len` bytes, a multiple of a page; never unmapped.
    pub(crate) fn new(len: usize) -> Self {
        let page = page_size() as usize;
        assert!(len.is_multiple_of(page), "{len} is whole pages");
        // SAFETY: a new mapping at an address of the kernel's choice.
        let guard = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len + 2 * page,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(guard, libc::MAP_FAILED, "no address space");
        // SAFETY: a page into the mapping just made.
        let start = unsafe { guard.cast::<u8>().add(page) };
        // SAFETY: within the mapping just made.
        let failed =
            unsafe { libc::mprotect(start.cast(), len, libc::PROT_READ | libc::PROT_WRITE) };
        assert_eq!(failed, 0, "mprotect");
        // INVARIANT: 1.
        Self {
            start: NonNull::new(start).expect("nothing is mapped at 0"),
            len,
        }
    }

    /// Zeros again.
    pub(crate) fn clear(&self) {
        // SAFETY: invariant 1; private and anonymous, so what was dropped reads as zeros.
        let failed =
            unsafe { libc::madvise(self.start.as_ptr().cast(), self.len, libc::MADV_DONTNEED) };
        assert_eq!(failed, 0, "madvise");
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Puts `word` at the word `index`, counted round the end.
    pub(crate) fn store(&self, index: usize, word: u64) {
        let offset = index % (self.len / 8) * 8;
        // SAFETY: within the mapping (invariant 1).
        let place = unsafe { self.start.add(offset) };
        // SAFETY: as above, aligned; this program has one thread.
        unsafe { place.cast::<u64>().write_volatile(word) };
    }
}
