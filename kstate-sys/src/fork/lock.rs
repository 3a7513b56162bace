#![expect(unsafe_code, reason = "lends what is locked to who has the lock")]
//! A lock that a forked child does not wait for in vain.
//!
//! `fork` copies a lock as it stands. If a thread held it that the child has not, an ordinary one
//! stays held there for ever, and what it guards may be half changed. This one says which
//! process holds it: who finds another process's token there takes it over, with a fresh value.

use core::cell::UnsafeCell;
use core::fmt;
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use super::Process;

/// Nobody holds it.
const FREE: u64 = 0;
/// Held by a process that the kernel gave no page to tell it from its children. Tokens are odd.
const UNTOLD: u64 = 2;

/// Rounds of waiting that only spin, and those after them that only yield.
const SPINS: u32 = 50;
const YIELDS: u32 = 200;
/// A waiter of higher priority than the holder must leave it the processor.
const SLEEP: Duration = Duration::from_micros(50);

/// A value that one thread of a process has at a time. A forked child finds the value as it was or, if
/// a thread of its parent held it at the fork, a default one: the other is forgotten there.
///
/// For what is held shortly: waiting is spinning, then yielding, then sleeping for moments. A
/// panic of the holder lets go of it, with the value as it is then.
///
/// # Invariants
///
/// 1. It is in private memory of a process.
/// 2. `value` is reached only by who made `holder` the token of its process, from `FREE` or from the
///    token of another process, and has not let go since; or through `&mut self`.
/// 3. If `holder` is the token of another process no thread of this one has the lock. A process
///    writes its own token only, so by 1 a `fork` has copied it; and the one thread that came
///    along did not hold the lock, as nothing forks that is done under one.
/// 4. While it is so, `value` may be half changed, and is neither used nor dropped.
pub struct Lock<T> {
    holder: AtomicU64,
    value: UnsafeCell<ManuallyDrop<T>>,
}

// SAFETY: invariant 2: one thread at a time has the value, to which it is thereby sent.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T> Lock<T> {
    /// A lock that nobody holds.
    pub const fn new(value: T) -> Self {
        Self {
            holder: AtomicU64::new(FREE),
            value: UnsafeCell::new(ManuallyDrop::new(value)),
        }
    }
}

impl<T: Default> Lock<T> {
    /// Waits until no other thread of this process holds it.
    ///
    /// # Cost
    ///
    /// One compare-and-swap if nobody does, and a store to let go.
    pub fn lock(&self) -> Held<'_, T> {
        let me = Process::current().map_or(UNTOLD, Process::token);
        let mut rounds = 0;
        loop {
            // ORDERING: Acquire with the Release in `Held`'s drop.
            let taken =
                self.holder
                    .compare_exchange(FREE, me, Ordering::Acquire, Ordering::Relaxed);
            match taken {
                // INVARIANT: 2.
                Ok(_) => return Held(self),
                Err(holder) if holder != me && holder != UNTOLD && me != UNTOLD => {
                    if self.take_over(holder, me) {
                        return Held(self);
                    }
                }
                Err(_) => pause(&mut rounds),
            }
        }
    }

    /// Takes the lock from a process that is not this one; `false` if another thread did.
    #[cold]
    fn take_over(&self, holder: u64, me: u64) -> bool {
        // Made before, since it may panic.
        let fresh = ManuallyDrop::new(T::default());
        // ORDERING: Relaxed: what the holder wrote is not looked at.
        let taken = self
            .holder
            .compare_exchange(holder, me, Ordering::Relaxed, Ordering::Relaxed);
        if taken.is_ok() {
            // INVARIANT: 2, by 3.
            // SAFETY: invariant 2; what was there is not dropped (invariant 4).
            unsafe { self.value.get().write(fresh) };
        }
        taken.is_ok()
    }
}

impl<T> Drop for Lock<T> {
    fn drop(&mut self) {
        // Else a fork has copied it held (invariant 4), or a `Held` was forgotten.
        if *self.holder.get_mut() == FREE {
            // SAFETY: whole, as nobody held it, and not used again.
            unsafe { ManuallyDrop::drop(self.value.get_mut()) };
        }
    }
}

impl<T: Default> Default for Lock<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

/// It may be held, so the value is not shown.
impl<T> fmt::Debug for Lock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock").finish_non_exhaustive()
    }
}

/// The lock, held; dropping it lets go.
#[derive(Debug)]
pub struct Held<'l, T>(&'l Lock<T>);

impl<T> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: invariant 2.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for Held<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: invariant 2, and `self` is borrowed exclusively.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for Held<'_, T> {
    fn drop(&mut self) {
        // ORDERING: Release with the Acquire in `lock`.
        self.0.holder.store(FREE, Ordering::Release);
    }
}

fn pause(rounds: &mut u32) {
    *rounds = rounds.saturating_add(1);
    if *rounds <= SPINS {
        core::hint::spin_loop();
    } else if *rounds <= SPINS + YIELDS {
        std::thread::yield_now();
    } else {
        std::thread::sleep(SLEEP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicBool;
    use std::sync::Arc;

    /// Whether `work` returns true in a forked child, which is given ten seconds.
    fn in_child(work: impl FnOnce() -> bool) -> bool {
        // SAFETY: the child allocates, which glibc lets a forked child do, uses what is under test
        // here, and leaves by `_exit`.
        match unsafe { libc::fork() } {
            0 => {
                // SAFETY: takes a number; SIGALRM ends the child.
                unsafe { libc::alarm(10) };
                let right = work();
                // SAFETY: ends the child at once.
                unsafe { libc::_exit(i32::from(!right)) }
            }
            child => {
                let mut status = 0;
                // SAFETY: `status` is a valid place for the result; the child is ours.
                unsafe { libc::waitpid(child, &raw mut status, 0) };
                status == 0
            }
        }
    }

    #[test]
    fn one_thread_at_a_time_has_it() {
        let lock = Lock::new((0_u64, 0_u64));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let mut held = lock.lock();
                        let (first, second) = &mut *held;
                        assert_eq!(first, second);
                        *first += 1;
                        core::hint::spin_loop();
                        *second += 1;
                    }
                });
            }
        });
        assert_eq!(*lock.lock(), (80_000, 80_000));
    }

    #[test]
    fn a_child_finds_what_nobody_held_as_it_was() {
        let lock = Lock::new(vec![1]);
        lock.lock().push(2);
        assert!(in_child(|| *lock.lock() == [1, 2]));
        assert_eq!(*lock.lock(), [1, 2]);
    }

    #[test]
    fn a_child_takes_over_what_a_thread_of_its_parent_held_and_starts_afresh() {
        let lock = Lock::new(vec![1]);
        let (held, release) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut value = lock.lock();
                value.push(2);
                held.store(true, Ordering::Release);
                while !release.load(Ordering::Acquire) {
                    std::thread::yield_now();
                }
                value.push(3);
            });
            while !held.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            let right = in_child(|| {
                let fresh = lock.lock().is_empty();
                // From then on it is the child's, and its children find it as it was.
                lock.lock().push(9);
                fresh && in_child(|| *lock.lock() == [9])
            });
            release.store(true, Ordering::Release);
            assert!(right, "the child waited, or found its parent's value");
        });
        assert_eq!(*lock.lock(), [1, 2, 3]);
    }

    #[test]
    fn what_was_held_at_the_fork_is_not_dropped_in_the_child() {
        let counted = Arc::new(());
        let lock = Lock::new(Some(counted.clone()));
        let held = lock.lock();
        // SAFETY: a second owner of the value, which in the child alone is dropped.
        let copy = unsafe { core::ptr::read(&raw const lock) };
        assert!(in_child(move || {
            drop(copy);
            Arc::strong_count(&counted) == 2
        }));
        drop(held);
    }

    #[test]
    fn threads_that_fork_while_others_hold_it_make_children_that_get_it() {
        let lock = Lock::new(0_u64);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        *lock.lock() += 1;
                    }
                });
            }
            let right = (0..100).all(|_| {
                in_child(|| {
                    *lock.lock() += 1;
                    *lock.lock() > 0
                })
            });
            stop.store(true, Ordering::Relaxed);
            assert!(right, "a child waited for a thread that it has not");
        });
    }
}
