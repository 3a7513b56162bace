//! What is to be looked at again at a time: one thread for all of the daemon.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Look {
    /// Whether a state that nobody is subscribed to evaporates.
    Linger(u64),
    /// Whether a writer's turn is over.
    Turn(u64),
    /// Whether a state has been committed to within its deadline.
    Overdue(u64),
    /// Whether who was going to wait for a state still does.
    Waits(u64),
    /// Whom a state's views have news for.
    Views(u64),
    /// Whether who is blocked in a read has been sent a signal.
    Signals,
    /// Whether who had states open at a daemon before this one has them mapped still.
    Absent,
}

/// The looks to come, earliest first, and the thread's reason to wake.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    due: Mutex<Due>,
    changed: Condvar,
}

/// One time for each: the one set last.
#[derive(Debug, Default)]
struct Due {
    times: BTreeSet<(Instant, Look)>,
    by_look: HashMap<Look, Instant>,
    stopped: bool,
}

impl Due {
    fn forget(&mut self, look: Look) {
        if let Some(time) = self.by_look.remove(&look) {
            self.times.remove(&(time, look));
        }
    }
}

impl Timer {
    /// Has `look` done after `delay`, and not when it was to be before.
    pub(crate) fn schedule(&self, look: Look, delay: Duration) {
        let mut due = self.lock();
        due.forget(look);
        // A delay beyond what the clock can name is for ever.
        if let Some(time) = Instant::now().checked_add(delay) {
            due.times.insert((time, look));
            due.by_look.insert(look, time);
        }
        let is_first = due.times.first().is_some_and(|(_, first)| *first == look);
        drop(due);
        if is_first {
            self.changed.notify_one();
        }
    }

    /// As [`Timer::schedule`], unless there is to be such a look already.
    pub(crate) fn schedule_once(&self, look: Look, delay: Duration) {
        if !self.lock().by_look.contains_key(&look) {
            self.schedule(look, delay);
        }
    }

    /// As [`Timer::schedule`], unless there is to be such a look by then already.
    pub(crate) fn schedule_by(&self, look: Look, delay: Duration) {
        let by = Instant::now().checked_add(delay);
        let at = self.lock().by_look.get(&look).copied();
        if at.is_none_or(|at| by.is_some_and(|by| by < at)) {
            self.schedule(look, delay);
        }
    }

    /// The state `ino` has gone.
    pub(crate) fn forget_state(&self, ino: u64) {
        let mut due = self.lock();
        for look in [
            Look::Linger,
            Look::Turn,
            Look::Overdue,
            Look::Views,
            Look::Waits,
        ] {
            due.forget(look(ino));
        }
    }

    /// Calls `look` for each whose time has come, until [`Timer::stop`].
    pub(crate) fn run(&self, look: impl Fn(Look)) {
        let mut due = self.lock();
        while !due.stopped {
            let now = Instant::now();
            match due.times.first().copied() {
                Some((time, what)) if time <= now => {
                    due.forget(what);
                    // Unlocked: looking takes the locks that come before this one.
                    drop(due);
                    look(what);
                    due = self.lock();
                }
                Some((time, _)) => {
                    let waited = self.changed.wait_timeout(due, time - now);
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

    /// Ends [`Timer::run`].
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
    fn each_has_one_time_and_none_when_its_state_has_gone() {
        let timer = Timer::default();
        for seconds in 1..1000 {
            timer.schedule(Look::Linger(1), Duration::from_secs(seconds));
        }
        timer.schedule(Look::Turn(1), Duration::from_secs(1));
        timer.schedule(Look::Turn(2), Duration::from_secs(1));
        timer.forget_state(2);
        let due = timer.lock();
        assert_eq!((due.times.len(), due.by_look.len()), (2, 2));
    }

    #[test]
    fn what_is_scheduled_once_stays_when_it_was() {
        let timer = Timer::default();
        timer.schedule_once(Look::Signals, Duration::from_secs(1));
        let first = timer.lock().by_look[&Look::Signals];
        timer.schedule_once(Look::Signals, Duration::from_secs(9));
        assert_eq!(timer.lock().by_look[&Look::Signals], first);
    }

    #[test]
    fn what_is_scheduled_by_a_time_is_not_put_off() {
        let timer = Timer::default();
        let at = || timer.lock().by_look[&Look::Waits(1)];
        timer.schedule_by(Look::Waits(1), Duration::from_secs(9));
        let late = at();
        timer.schedule_by(Look::Waits(1), Duration::from_secs(1));
        let early = at();
        assert!(early < late);
        timer.schedule_by(Look::Waits(1), Duration::from_secs(9));
        assert_eq!(at(), early);
    }

    #[test]
    fn the_earliest_comes_first_and_stop_ends_the_run() {
        let timer = Timer::default();
        timer.schedule(Look::Linger(2), Duration::from_millis(20));
        timer.schedule(Look::Linger(1), Duration::from_millis(1));
        timer.schedule(Look::Signals, Duration::from_secs(3600));
        let seen = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                timer.run(|look| {
                    let mut seen = seen.lock().unwrap();
                    seen.push(look);
                    if seen.len() == 2 {
                        timer.stop();
                    }
                });
            });
        });
        assert_eq!(*seen.lock().unwrap(), [Look::Linger(1), Look::Linger(2)]);
    }
}
