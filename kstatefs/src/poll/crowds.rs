//! Wakes what is left of big crowds, so that whoever watches heads goes on with the next state.

use std::collections::BTreeMap;
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
    /// By the state's inode number: each once, however often it was moved on.
    by_state: BTreeMap<u64, Arc<RegionMapping>>,
    stopped: bool,
}

impl Crowds {
    pub(super) fn add(&self, ino: u64, mapping: Arc<RegionMapping>) {
        self.lock().by_state.insert(ino, mapping);
        self.changed.notify_one();
    }

    /// Wakes them, until [`Crowds::stop`].
    pub(super) fn run(&self) {
        let mut left = self.lock();
        while !left.stopped {
            match left.by_state.pop_first() {
                Some((_, mapping)) => {
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
