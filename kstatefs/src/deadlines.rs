//! States that are to be looked at again at a time: how long one outlives its last subscriber, when
//! a writer's turn is over.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Deadlines, earliest first, and the thread's reason to wake.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    due: Mutex<Due>,
    changed: Condvar,
}

/// One deadline a state: the one set last.
#[derive(Debug, Default)]
struct Due {
    deadlines: BTreeSet<(Instant, u64)>,
    by_state: HashMap<u64, Instant>,
    stopped: bool,
}

impl Due {
    fn forget(&mut self, ino: u64) {
        if let Some(deadline) = self.by_state.remove(&ino) {
            self.deadlines.remove(&(deadline, ino));
        }
    }
}

impl Deadlines {
    /// Has the state `ino` looked at again after `delay`, and not when it was to be before.
    pub(crate) fn schedule(&self, ino: u64, delay: Duration) {
        let mut due = self.lock();
        due.forget(ino);
        // A delay beyond what the clock can name is for ever.
        if let Some(deadline) = Instant::now().checked_add(delay) {
            due.deadlines.insert((deadline, ino));
            due.by_state.insert(ino, deadline);
        }
        drop(due);
        self.changed.notify_one();
    }

    /// The state `ino` has gone.
    pub(crate) fn forget(&self, ino: u64) {
        self.lock().forget(ino);
    }

    /// Calls `look` for each state whose time has come, until [`Deadlines::stop`].
    pub(crate) fn run(&self, look: impl Fn(u64)) {
        let mut due = self.lock();
        while !due.stopped {
            let now = Instant::now();
            match due.deadlines.first().copied() {
                Some((deadline, ino)) if deadline <= now => {
                    due.forget(ino);
                    // Unlocked: looking takes the locks that come before this one.
                    drop(due);
                    look(ino);
                    due = self.lock();
                }
                Some((deadline, _)) => {
                    let waited = self.changed.wait_timeout(due, deadline - now);
                    due = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                None => {
                    due = self
                        .changed
                        .wait(due)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Ends [`Deadlines::run`].
    pub(crate) fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_one();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Due> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_has_one_deadline_and_none_when_it_has_gone() {
        let deadlines = Deadlines::default();
        for seconds in 1..1000 {
            deadlines.schedule(1, Duration::from_secs(seconds));
        }
        deadlines.schedule(2, Duration::from_secs(1));
        deadlines.forget(2);
        let due = deadlines.lock();
        assert_eq!((due.deadlines.len(), due.by_state.len()), (1, 1));
    }

    #[test]
    fn the_earliest_comes_first_and_stop_ends_the_run() {
        let deadlines = Deadlines::default();
        deadlines.schedule(2, Duration::from_millis(20));
        deadlines.schedule(1, Duration::from_millis(1));
        deadlines.schedule(3, Duration::from_secs(3600));
        let seen = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                deadlines.run(|ino| {
                    let mut seen = seen.lock().unwrap();
                    seen.push(ino);
                    if seen.len() == 2 {
                        deadlines.stop();
                    }
                });
            });
        });
        assert_eq!(*seen.lock().unwrap(), [1, 2]);
    }
}
