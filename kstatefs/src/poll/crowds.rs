//! Wakes what is left of big crowds, so that whoever watches heads goes on with the next state.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use kstate_sys::futex;
use kstate_sys::region::Memory;

use crate::region::RegionMapping;

/// Crowds that have been moved on, of which not all may have been woken.
#[derive(Debug, Default)]
pub(super) struct Crowds {
    left: Mutex<Left>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Left {
    states: Turns<Arc<RegionMapping>>,
    stopped: bool,
}

/// What is to be done for states, first come, first served: each is there once, and one that comes again
/// while its turn is taken is behind all others.
#[derive(Debug)]
struct Turns<T> {
    /// Inode numbers.
    order: VecDeque<u64>,
    /// # Invariants
    ///
    /// 1. Its keys are what is in `order`, where each is once.
    waiting: HashMap<u64, T>,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self {
            order: VecDeque::new(),
            waiting: HashMap::new(),
        }
    }
}

impl<T> Turns<T> {
    /// One that waits already keeps its place.
    fn add(&mut self, ino: u64, what: T) {
        // INVARIANT: Turns 1.
        if self.waiting.insert(ino, what).is_none() {
            self.order.push_back(ino);
        }
    }

    fn next(&mut self) -> Option<T> {
        let ino = self.order.pop_front()?;
        self.waiting.remove(&ino)
    }
}

impl Crowds {
    pub(super) fn add(&self, ino: u64, mapping: Arc<RegionMapping>) {
        self.lock().states.add(ino, mapping);
        self.changed.notify_one();
    }

    /// Wakes them, until [`Crowds::stop`].
    pub(super) fn run(&self) {
        let mut left = self.lock();
        while !left.stopped {
            match left.states.next() {
                Some(mapping) => {
                    drop(left);
                    futex::wake_all(&mapping.mapped().header().crowd);
                    left = self.lock();
                }
                None => {
                    let waited = self.changed.wait(left);
                    left = waited.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    pub(super) fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Left> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crowds_are_woken_in_the_order_in_which_they_came() {
        let mut turns = Turns::default();
        for ino in [7, 3, 5, 3] {
            turns.add(ino, ino);
        }
        assert_eq!(turns.next(), Some(7));
        assert_eq!(turns.next(), Some(3));
        // It comes again while it is woken.
        turns.add(3, 33);
        assert_eq!(turns.next(), Some(5));
        assert_eq!(turns.next(), Some(33));
        assert_eq!(turns.next(), None);
    }
}
