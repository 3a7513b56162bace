#![expect(
    unsafe_code,
    reason = "maps the page that the kernel wipes in a forked child"
)]
//! How a process notices that it is a forked child.
//!
//! Slot groups and open transactions belong to one process. `fork` copies the memory that says
//! so, and a child that went on with it would write into its parent's slots. One page of each
//! process therefore is wiped by the kernel in a child (`MADV_WIPEONFORK`, Linux 4.14): whoever
//! finds its token gone is a child.
//!
//! A `fork` also copies what other threads were in the middle of. [`Lock`] and [`Once`] are the
//! locks that a child gets past.

mod lock;
mod once;

use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

pub use lock::{Held, Lock};
pub use once::Once;

use crate::clock::monotonic_ns;

/// Membership in one process: false in every forked child, whatever way it was forked.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    word: &'static AtomicU64,
    token: u64,
}

impl Process {
    /// The process that calls. In a forked child that is a new one.
    ///
    /// # Errors
    ///
    /// The kernel refused a page or lacks `MADV_WIPEONFORK`.
    pub fn current() -> std::io::Result<Self> {
        static WORD: AtomicPtr<AtomicU64> = AtomicPtr::new(core::ptr::null_mut());
        // ORDERING: Relaxed, as below: the page came from the kernel, as everybody sees it.
        let word = WORD.load(Ordering::Relaxed);
        // SAFETY: null, or a word that stays for the life of the process.
        let word = match unsafe { word.as_ref() } {
            Some(word) => word,
            None => {
                let fresh = core::ptr::from_ref(wiped_on_fork()?).cast_mut();
                let none = core::ptr::null_mut();
                // A loser of the race leaves one page mapped for the life of the process.
                let first =
                    WORD.compare_exchange(none, fresh, Ordering::Relaxed, Ordering::Relaxed);
                // SAFETY: as above.
                unsafe { &*first.map_or_else(|theirs| theirs, |_| fresh) }
            }
        };
        let seen = word.load(Ordering::Relaxed);
        if seen != 0 {
            return Ok(Self { word, token: seen });
        }
        let fresh = (u64::from(std::process::id()) << 40) ^ monotonic_ns() | 1;
        let token = match word.compare_exchange(0, fresh, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => fresh,
            Err(other_thread) => other_thread,
        };
        Ok(Self { word, token })
    }

    /// What tells it from other processes: odd, and never that of a parent or a child.
    #[inline]
    pub fn token(self) -> u64 {
        self.token
    }

    /// Whether the caller is still in the process that made this value.
    ///
    /// # Cost
    ///
    /// One load and a comparison.
    #[inline]
    pub fn is_current(&self) -> bool {
        self.word.load(Ordering::Relaxed) == self.token
    }
}

fn wiped_on_fork() -> std::io::Result<&'static AtomicU64> {
    let length = crate::abi::page_size() as usize;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no other memory.
    let page = unsafe {
        libc::mmap(
            core::ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if page == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the page was mapped above and nobody else has it.
    if unsafe { libc::madvise(page, length, libc::MADV_WIPEONFORK) } != 0 {
        let error = std::io::Error::last_os_error();
        // SAFETY: as above; no reference into the page was made.
        unsafe { libc::munmap(page, length) };
        return Err(error);
    }
    // SAFETY: page aligned, zeroed, never unmapped from here on.
    Ok(unsafe { AtomicU64::from_ptr(page.cast()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forked_child_is_not_current() {
        let process = Process::current().unwrap();
        assert!(process.is_current());
        // SAFETY: the child only loads a word and leaves by `_exit`, both safe after a fork in a
        // program with threads.
        match unsafe { libc::fork() } {
            // SAFETY: `_exit` ends the child at once.
            0 => unsafe { libc::_exit(i32::from(process.is_current())) },
            child => {
                let mut status = 0;
                // SAFETY: `status` is a valid place for the result; the child is ours.
                unsafe { libc::waitpid(child, &raw mut status, 0) };
                assert_eq!(status, 0, "the child took itself for its parent");
            }
        }
        assert!(process.is_current());
        assert!(Process::current().unwrap().is_current());
    }
}
