#![cfg_attr(
    all(target_arch = "x86_64", target_pointer_width = "64", not(kstate_loom)),
    expect(unsafe_code, reason = "loads by an instruction that may be left out")
)]
//! A load that is not made where nobody uses what it found.

use super::AtomicU64;

/// Loads `word`, relaxed; nothing happens where the compiler sees that the result is not used.
///
/// A relaxed load of `core` is made in any case. The words beside a value, its time for one, are
/// asked for by few of those who read the value, and would be a sixth of what that costs.
///
/// # Memory ordering
///
/// Relaxed. It stays between the acquiring loads and fences around it, since these may change memory
/// as far as the compiler knows: LLVM takes them so. Nothing else holds it: a loop that waits for such a word and
/// does nothing else could wait for ever.
#[inline(always)]
pub(crate) fn load_omittable(word: &AtomicU64) -> u64 {
    #[cfg(all(target_arch = "x86_64", target_pointer_width = "64", not(kstate_loom)))]
    {
        let found;
        // SAFETY: an aligned word behind a reference. Its load is one instruction that the processor
        // makes whole, whatever another process stores there, and writes nothing. `pure` lets the
        // compiler make it fewer times than it says here, never more often.
        unsafe {
            core::arch::asm!(
                "mov {found}, [{word}]",
                word = in(reg) word.as_ptr(), found = lateout(reg) found,
                options(pure, readonly, nostack, preserves_flags)
            );
        }
        found
    }
    #[cfg(not(all(target_arch = "x86_64", target_pointer_width = "64", not(kstate_loom))))]
    word.load(super::Ordering::Relaxed)
}
