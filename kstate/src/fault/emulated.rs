//! Programs that are run by valgrind.
//!
//! It runs one thread at a time: one that touches a page keeps the others from running, and with them the
//! one that would answer the touch. On most machines it refuses userfaultfd(2), but not `/dev/userfaultfd`.

use core::sync::atomic::{AtomicU8, Ordering};

const UNKNOWN: u8 = 0;
const NO: u8 = 1;
const YES: u8 = 2;

/// Whether valgrind runs this process.
pub(super) fn is_emulated() -> bool {
    static KNOWN: AtomicU8 = AtomicU8::new(UNKNOWN);
    let known = KNOWN.load(Ordering::Relaxed);
    if known != UNKNOWN {
        return known == YES;
    }
    // It loads a library of its own into each program, whatever its tool. What cannot be read is no reason.
    let maps = std::fs::read("/proc/self/maps").unwrap_or_default();
    let found = names_valgrind(&maps);
    KNOWN.store(if found { YES } else { NO }, Ordering::Relaxed);
    found
}

fn names_valgrind(maps: &[u8]) -> bool {
    const PRELOADED: &[u8] = b"/vgpreload_";
    maps.windows(PRELOADED.len()).any(|part| part == PRELOADED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_by_itself_is_not_emulated() {
        assert!(!is_emulated() && !is_emulated());
        let line =
            b"483e000-4842000 r--p 0 08:01 9 /usr/libexec/valgrind/vgpreload_core-amd64-linux.so\n";
        assert!(names_valgrind(line));
    }
}
