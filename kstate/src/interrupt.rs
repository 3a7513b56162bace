//! Ending another thread's wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kstate_sys::futex::{self, Word};

/// Ends the waits that were begun [with it](crate::Wait::interrupted_by), and those that will be,
/// from another thread.
///
/// It stays raised until it is cleared, so none that begins a moment later is missed. Clones are the
/// same one. A forked child has a copy of its own.
///
/// ```
/// use kstate::Interrupt;
///
/// let interrupt = Interrupt::new();
/// let theirs = interrupt.clone();
/// std::thread::spawn(move || theirs.raise()).join().unwrap();
/// assert!(interrupt.is_raised());
/// ```
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicU64>);

impl Interrupt {
    /// One that is not raised.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the waits. Can be called in a signal handler.
    ///
    /// # Memory ordering
    ///
    /// What was done before is visible to who finds it raised, or whose wait it ends.
    ///
    /// # Cost
    ///
    /// One system call.
    pub fn raise(&self) {
        // ORDERING: Release with the Acquire in `is_raised`.
        self.0.store(1, Ordering::Release);
        futex::wake_all(&self.0);
    }

    /// Lets waits be waits again.
    pub fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// Whether it is raised.
    pub fn is_raised(&self) -> bool {
        // ORDERING: Acquire with the Release in `raise`.
        self.0.load(Ordering::Acquire) != 0
    }

    /// What to sleep on beside another word: not any longer when it is raised.
    pub(crate) fn word(&self) -> Word<'_> {
        Word::new(&self.0, 0)
    }
}
