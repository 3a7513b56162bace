#![expect(
    unsafe_code,
    reason = "futex(2) and futex_waitv(2) have no wrapper in nix"
)]
//! Sleeping on the low half of a shared word and waking who sleeps there.
//!
//! `FUTEX_WAIT` needs no more than a read-only mapping, so a reader can wait for a writer it has
//! no right to disturb. The kernel compares 32 bits: the generation's low half, which is where
//! `head` keeps it.

use core::sync::atomic::AtomicU64;
use std::io;
use std::time::Duration;

use crate::clock::monotonic_ns;

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// The word differed from what was expected, or somebody woke the waiters: look again.
    LookAgain,
    /// The deadline passed.
    TimedOut,
    /// A signal handler ran.
    Interrupted,
}

/// A point of `CLOCK_MONOTONIC` until which to wait, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub u64);

impl Deadline {
    /// One that does not pass.
    pub const NEVER: Self = Self(u64::MAX);

    /// Now.
    pub fn now() -> Self {
        Self(monotonic_ns())
    }

    /// The point `timeout` from now.
    pub fn after(timeout: Duration) -> Self {
        let ns = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        Self(monotonic_ns().saturating_add(ns))
    }

    /// Time left; zero when it has passed.
    pub fn left(self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(monotonic_ns()))
    }

    /// Whether it has passed.
    pub fn has_passed(self) -> bool {
        self.0 <= monotonic_ns()
    }

    /// As the kernel wants it.
    pub fn timespec(self) -> libc::timespec {
        let Self(ns) = self;
        libc::timespec {
            // At most 2^64 ns, some 18 billion seconds, which fits.
            tv_sec: (ns / 1_000_000_000).cast_signed(),
            tv_nsec: (ns % 1_000_000_000).cast_signed(),
        }
    }
}

/// Sleeps while the low 32 bits of `word` are `expected`, at most until `deadline`.
///
/// # Errors
///
/// What the kernel says, apart from the three outcomes: `EFAULT` when the page is gone.
///
/// # Cost
///
/// One system call. `FUTEX_WAIT_BITSET` takes an absolute time, so that a signal costs no drift.
pub fn wait(word: &AtomicU64, expected: u32, deadline: Option<Deadline>) -> io::Result<Woken> {
    let timeout = deadline.map(Deadline::timespec);
    let timeout: *const libc::timespec = timeout.as_ref().map_or(core::ptr::null(), |t| t);
    // SAFETY: `word` is a live, aligned word for the time of the borrow and the kernel only reads
    // its first half; `timeout` is null or points at a timespec that outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr().cast::<u32>(),
            libc::FUTEX_WAIT_BITSET,
            expected,
            timeout,
            core::ptr::null::<u32>(),
            libc::FUTEX_BITSET_MATCH_ANY,
        )
    };
    woken(result)
}

/// How many words [`wait_any`] sleeps on at most: `FUTEX_WAITV_MAX` of `<linux/futex.h>`.
pub const MOST_WORDS: usize = 128;

/// `FUTEX2_SIZE_U32` of `<linux/futex.h>`, without `FUTEX2_PRIVATE`: the words are shared.
pub const FUTEX2_SIZE_U32: u32 = 2;

/// A word to sleep on as long as its low half is as expected: `struct futex_waitv` of
/// `<linux/futex.h>`.
///
/// # Invariants
///
/// 1. `uaddr` is the address of an aligned word that lives for `'w`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Word<'w> {
    val: u64,
    uaddr: u64,
    flags: u32,
    reserved: u32,
    word: core::marker::PhantomData<&'w AtomicU64>,
}

const _: () = assert!(core::mem::size_of::<Word<'_>>() == 24);

impl<'w> Word<'w> {
    /// `word`, whose low half is `expected`.
    pub fn new(word: &'w AtomicU64, expected: u32) -> Self {
        // INVARIANT: 1.
        Self {
            val: u64::from(expected),
            uaddr: word.as_ptr().expose_provenance() as u64,
            flags: FUTEX2_SIZE_U32,
            reserved: 0,
            word: core::marker::PhantomData,
        }
    }
}

/// Sleeps while each of `words` is as expected, at most until `deadline` (`futex_waitv`,
/// Linux 5.16).
///
/// # Errors
///
/// What the kernel says, apart from the three outcomes: `ENOSYS` where it does not know the call,
/// `EINVAL` for no word or more than [`MOST_WORDS`]; whatever a filter answers.
///
/// # Cost
///
/// One system call, some 50 ns a word.
pub fn wait_any(words: &[Word<'_>], deadline: Option<Deadline>) -> io::Result<Woken> {
    let timeout = deadline.map(Deadline::timespec);
    // SAFETY: the array is valid for its length, the words it names live by invariant 1, and
    // `timeout` is null or points at a timespec that outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_futex_waitv,
            words.as_ptr(),
            words.len(),
            0,
            timeout
                .as_ref()
                .map_or(core::ptr::null(), core::ptr::from_ref),
            libc::CLOCK_MONOTONIC,
        )
    };
    woken(result)
}

/// What the kernel answered to one who was to sleep.
fn woken(result: libc::c_long) -> io::Result<Woken> {
    if result >= 0 {
        return Ok(Woken::LookAgain);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN) => Ok(Woken::LookAgain),
        Some(libc::ETIMEDOUT) => Ok(Woken::TimedOut),
        Some(libc::EINTR) => Ok(Woken::Interrupted),
        _ => Err(error),
    }
}

/// Wakes everybody who sleeps on `word`; returns how many that were.
///
/// # Cost
///
/// One system call, 0.4 µs when nobody sleeps and some microseconds a sleeper.
pub fn wake_all(word: &AtomicU64) -> usize {
    wake(word, i32::MAX)
}

/// As [`wake_all`], but no more than `most`, those who came first.
pub fn wake(word: &AtomicU64, most: i32) -> usize {
    // SAFETY: the kernel uses the address of `word` as a key and does not write to it.
    let woken = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr().cast::<u32>(),
            libc::FUTEX_WAKE,
            most,
            core::ptr::null::<libc::timespec>(),
            core::ptr::null::<u32>(),
            0_u32,
        )
    };
    // Fails only for an address that is not mapped: then nobody can sleep there.
    usize::try_from(woken).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::Ordering;

    #[test]
    fn a_changed_word_is_not_waited_for() {
        let word = AtomicU64::new(7 | 9 << 32);
        assert_eq!(wait(&word, 8, None).unwrap(), Woken::LookAgain);
    }

    #[test]
    fn a_deadline_ends_the_wait() {
        let word = AtomicU64::new(7 | 9 << 32);
        let deadline = Deadline::after(Duration::from_millis(5));
        assert_eq!(wait(&word, 7, Some(deadline)).unwrap(), Woken::TimedOut);
        assert!(deadline.has_passed());
    }

    #[test]
    fn any_of_several_words_ends_a_wait() {
        let words = [const { AtomicU64::new(0) }; 3];
        let all = || words.each_ref().map(|word| Word::new(word, 0));
        let soon = Deadline::after(Duration::from_millis(5));
        assert_eq!(wait_any(&all(), Some(soon)).unwrap(), Woken::TimedOut);
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| {
                while words[2].load(Ordering::SeqCst) == 0 {
                    assert_eq!(wait_any(&all(), None).unwrap(), Woken::LookAgain);
                }
            });
            words[2].store(1, Ordering::SeqCst);
            wake(&words[2], 1);
            sleeper.join().unwrap();
        });
        assert_eq!(wait_any(&all(), None).unwrap(), Woken::LookAgain);
    }

    #[test]
    fn a_wake_reaches_a_sleeper() {
        let word = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| {
                while word.load(Ordering::SeqCst) == 0 {
                    wait(&word, 0, None).unwrap();
                }
            });
            word.store(1, Ordering::SeqCst);
            wake_all(&word);
            sleeper.join().unwrap();
        });
    }
}
