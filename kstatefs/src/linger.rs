//! States that outlive their last subscriber for a while.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Deadlines, earliest first, and the thread's reason to wake.
#[derive(Debug, Default)]
pub(crate) struct Lingering {
    due: Mutex<Due>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Due {
    /// The number keeps two with the same deadline apart.
    deadlines: BTreeMap<(Instant, u64), u64>,
    next: u64,
    stopped: bool,
}

impl Lingering {
    /// Has the state `ino` looked at again after `delay`.
    pub(crate) fn schedule(&self, ino: u64, delay: Duration) {
        let mut due = self.lock();
        let number = due.next;
        due.next += 1;
        // A delay beyond what the clock can name is for ever.
        if let Some(deadline) = Instant::now().checked_add(delay) {
            due.deadlines.insert((deadline, number), ino);
        }
        drop(due);
        self.changed.notify_one();
    }

    /// Calls `look` for each state whose time has come, until [`Lingering::stop`].
    pub(crate) fn run(&self, look: impl Fn(u64)) {
        let mut due = self.lock();
        while !due.stopped {
            let now = Instant::now();
            match due
                .deadlines
                .first_key_value()
                .map(|(key, ino)| (*key, *ino))
            {
                Some((key, ino)) if key.0 <= now => {
                    due.deadlines.remove(&key);
                    // Unlocked: looking takes the locks that come before this one.
                    drop(due);
                    look(ino);
                    due = self.lock();
                }
                Some(((deadline, _), _)) => {
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

    /// Ends [`Lingering::run`].
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
    fn the_earliest_comes_first_and_stop_ends_the_run() {
        let lingering = Lingering::default();
        lingering.schedule(2, Duration::from_millis(20));
        lingering.schedule(1, Duration::from_millis(1));
        lingering.schedule(3, Duration::from_secs(3600));
        let seen = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                lingering.run(|ino| {
                    let mut seen = seen.lock().unwrap();
                    seen.push(ino);
                    if seen.len() == 2 {
                        lingering.stop();
                    }
                });
            });
        });
        assert_eq!(*seen.lock().unwrap(), [1, 2]);
    }
}
