#![expect(unsafe_code, reason = "handles SIGBUS, which only signal handlers can")]
//! Keeps a damaged region from killing the daemon.
//!
//! A process that may write a region can punch a hole into it; when the tmpfs is full by then,
//! the next touch raises SIGBUS. Mappings of the daemon are registered here: a fault in one of
//! them gets a page of zeros instead, which the protocol's checks then find to be no region, and
//! the mapping is marked damaged. A fault anywhere else goes where it went before.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, Once};

/// Mappings that can be registered at one time: more than a process can have, unless somebody has raised
/// `vm.max_map_count`, which is 65 530, far. What is not used takes no memory.
const MAX_MAPPINGS: usize = 1 << 20;

struct Entry {
    start: AtomicUsize,
    end: AtomicUsize,
    damaged: AtomicBool,
}

static TABLE: [Entry; MAX_MAPPINGS] = [const {
    Entry {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        damaged: AtomicBool::new(false),
    }
}; MAX_MAPPINGS];
/// Entries from here on were never used.
static USED: AtomicUsize = AtomicUsize::new(0);
static FREE: Mutex<Vec<usize>> = Mutex::new(Vec::new());
static PAGE: AtomicUsize = AtomicUsize::new(0);
static PREVIOUS: Mutex<Option<libc::sigaction>> = Mutex::new(None);

/// A registered mapping.
#[derive(Debug)]
pub(crate) struct Guard(usize);

impl Guard {
    /// Registers `start..start + len`, which must stay mapped as long as the guard lives. `None`
    /// when the table is full.
    pub(crate) fn new(start: *const u8, len: usize) -> Option<Self> {
        install();
        let recycled = lock(&FREE).pop();
        let index = match recycled {
            Some(index) => index,
            None => {
                let index = USED.fetch_add(1, Ordering::Relaxed);
                if index >= MAX_MAPPINGS {
                    USED.store(MAX_MAPPINGS, Ordering::Relaxed);
                    return None;
                }
                index
            }
        };
        let entry = &TABLE[index];
        entry.damaged.store(false, Ordering::Relaxed);
        entry.start.store(start.addr(), Ordering::Relaxed);
        // ORDERING: Release: the handler that finds this end finds this start.
        entry.end.store(start.addr() + len, Ordering::Release);
        Some(Self(index))
    }

    /// Whether a fault in the mapping was papered over.
    pub(crate) fn is_damaged(&self) -> bool {
        TABLE[self.0].damaged.load(Ordering::Relaxed)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        TABLE[self.0].end.store(0, Ordering::Release);
        lock(&FREE).push(self.0);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        PAGE.store(kstate_sys::abi::page_size() as usize, Ordering::Relaxed);
        // SAFETY: all zeros is a valid sigaction.
        let mut action: libc::sigaction = unsafe { core::mem::zeroed() };
        let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_sigbus;
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_ONSTACK;
        // SAFETY: as above.
        let mut previous: libc::sigaction = unsafe { core::mem::zeroed() };
        // SAFETY: both are valid; the handler only does what a signal handler may.
        unsafe { libc::sigaction(libc::SIGBUS, &raw const action, &raw mut previous) };
        *lock(&PREVIOUS) = Some(previous);
    });
}

/// Async-signal-safe: loads, one `mmap`, no lock, no allocation.
extern "C" fn on_sigbus(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler.
    let info = unsafe { &*info };
    // SAFETY: a SIGBUS carries an address.
    let address = unsafe { info.si_addr() }.addr();
    let used = USED.load(Ordering::Relaxed).min(MAX_MAPPINGS);
    for entry in &TABLE[..used] {
        // ORDERING: Acquire with the Release in `Guard::new`.
        let end = entry.end.load(Ordering::Acquire);
        if address < end && address >= entry.start.load(Ordering::Relaxed) {
            let page = PAGE.load(Ordering::Relaxed);
            // SAFETY: replaces one page of a mapping registered for that, whose contents are
            // only reached through atomics and checked copies.
            let patched = unsafe {
                libc::mmap(
                    core::ptr::without_provenance_mut(address & !(page - 1)),
                    page,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                    -1,
                    0,
                )
            };
            if patched != libc::MAP_FAILED {
                entry.damaged.store(true, Ordering::Relaxed);
                return;
            }
        }
    }
    // Not ours: what was there before handles the fault when it is raised again. The lock was
    // released before this handler could run; `try_lock` keeps even a bug from hanging here.
    match PREVIOUS.try_lock() {
        // SAFETY: `previous` came from sigaction.
        Ok(previous) => match &*previous {
            // SAFETY: as above.
            Some(previous) => unsafe {
                libc::sigaction(libc::SIGBUS, previous, core::ptr::null_mut());
            },
            None => default_action(),
        },
        Err(_) => default_action(),
    }
}

fn default_action() {
    // SAFETY: resetting a signal to its default action is always allowed.
    unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_fault_in_a_registered_mapping_reads_zeros_and_marks_it() {
        let page = kstate_sys::abi::page_size() as usize;
        let file = tempfile::tempfile().unwrap();
        // A mapping beyond the end of its file faults with SIGBUS, like a hole on a full tmpfs.
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                core::ptr::null_mut(),
                page,
                libc::PROT_READ,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        assert_ne!(start, libc::MAP_FAILED);
        let guard = Guard::new(start.cast(), page).unwrap();
        assert!(!guard.is_damaged());
        // SAFETY: mapped; the handler supplies the page.
        let byte = unsafe { start.cast::<u8>().read_volatile() };
        assert_eq!(byte, 0);
        assert!(guard.is_damaged());
        drop(guard);
        // SAFETY: mapped above and not used any more.
        unsafe { libc::munmap(start, page) };
    }
}
