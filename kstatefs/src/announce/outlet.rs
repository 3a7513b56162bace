//! One sink's queue, and the thread that empties it: who holds one up holds no other.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kstate_sys::announce::{Record, Sinks};
use kstate_sys::name::StateName;

use super::sink::{Counter, Refused};
use crate::poll::{Hub, Poller};
use crate::state::{Interest, Purpose, State};

/// How long a sink may take for a message before what it does not get meanwhile is dropped.
const STUCK: Duration = Duration::from_secs(1);

/// An end that messages leave by.
pub(super) trait Sink: Send {
    /// Announces one version of the state `name`; takes as long as whoever is there does.
    fn send(&mut self, name: &StateName, record: &Record) -> Result<(), Refused>;
}

/// What is to be sent to a sink, and how much was.
#[derive(Debug)]
pub(super) struct Outlet {
    pub(super) sink: Sinks,
    pub(super) counter: Counter,
    hub: Arc<Hub>,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    states: VecDeque<Arc<State>>,
    /// Their numbers: each is there once.
    numbers: HashSet<u64>,
    /// Since when the sink has had a message that it has not answered.
    sending: Option<Instant>,
    stopped: bool,
    finished: bool,
}

impl Queue {
    fn is_stuck(&self) -> bool {
        self.sending.is_some_and(|since| since.elapsed() >= STUCK)
    }
}

impl Outlet {
    pub(super) fn new(sink: Sinks, counter: Counter, hub: Arc<Hub>) -> Arc<Self> {
        Arc::new(Self {
            sink,
            counter,
            hub,
            queue: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// Starts the thread that sends, until [`Outlet::finish`].
    pub(super) fn start(self: &Arc<Self>, way: Box<dyn Sink>) -> io::Result<JoinHandle<()>> {
        let this = self.clone();
        let thread = thread::Builder::new().name(format!("kstate-{}", self.counter.sink));
        thread.spawn(move || this.run(way))
    }

    pub(super) fn is_chosen_by(&self, state: &State) -> bool {
        state.sinks().contains(self.sink)
    }

    /// Has the next version of `state` announced that was not yet.
    pub(super) fn watch(self: &Arc<Self>, state: &Arc<State>) {
        let (this, theirs) = (Arc::downgrade(self), Arc::downgrade(state));
        let registered = state.register(Interest {
            // Of no file.
            file: 0,
            purpose: Purpose::Announce(self.sink.bits()),
            beyond: state.announced(self.sink),
            not_before: None,
            handle: None,
            call: Poller::new(move || {
                if let (Some(this), Some(state)) = (this.upgrade(), theirs.upgrade()) {
                    this.queue(state);
                }
            }),
        });
        match registered {
            // Its last version may have come in between.
            Ok(found) if found.gone => self.queue(state.clone()),
            Ok(found) if found.look => self.hub.watch(state),
            Ok(_) => {}
            Err(error) => tracing::debug!(?error, name = %state.name(), "not announced any more"),
        }
    }

    pub(super) fn queue(&self, state: Arc<State>) {
        let mut queue = self.lock();
        if queue.finished || !queue.numbers.insert(state.ino()) {
            return;
        }
        queue.states.push_back(state);
        drop(queue);
        self.changed.notify_all();
    }

    fn run(self: &Arc<Self>, mut way: Box<dyn Sink>) {
        while let Some(state) = self.next() {
            // Looked at first: behind that there is no later version.
            let gone = state.is_gone();
            let record = state.take_announcement(self.sink);
            // Before it is sent: what comes until the sink has answered is queued, where it is counted
            // if that takes too long.
            if !gone && self.is_chosen_by(&state) {
                self.watch(&state);
            }
            let Some(record) = record else { continue };
            self.lock().sending = Some(Instant::now());
            let sent = way.send(state.name(), &record);
            self.count_passed_over();
            self.lock().sending = None;
            self.counter.count(sent);
        }
        self.lock().finished = true;
        self.changed.notify_all();
    }

    fn next(&self) -> Option<Arc<State>> {
        let mut queue = self.lock();
        loop {
            if let Some(state) = queue.states.pop_front() {
                // Before it is looked at: what comes from here on queues it again.
                queue.numbers.remove(&state.ino());
                return Some(state);
            }
            if queue.stopped {
                return None;
            }
            queue = self
                .changed
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// If the sink is stuck, counts as dropped what it will not get: all but the newest version of each
    /// state that is queued.
    pub(super) fn count_passed_over(&self) {
        let queue = self.lock();
        if !queue.is_stuck() {
            return;
        }
        let states = queue.states.clone();
        // States are locked before the queue.
        drop(queue);
        let each = states.iter().map(|state| state.pass_over(self.sink));
        self.counter.drop_stuck(each.fold(0, u64::saturating_add));
    }

    /// Ends the thread when the queue is empty.
    pub(super) fn finish(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    /// Waits for that. If it is not before `until`, counts as dropped what is left, and returns `false`.
    pub(super) fn has_finished(&self, until: Instant) -> bool {
        let left = until.saturating_duration_since(Instant::now());
        let goes_on = |queue: &mut Queue| !queue.finished;
        let waited = self.changed.wait_timeout_while(self.lock(), left, goes_on);
        let (mut queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if queue.finished {
            return true;
        }
        // Taken out: should the sink wake up, it gets no more.
        let states = std::mem::take(&mut queue.states);
        queue.finished = true;
        drop(queue);
        let pass = |state: &Arc<State>| {
            let older = state.pass_over(self.sink);
            let newest = state.take_announcement(self.sink);
            older.saturating_add(newest.is_some().into())
        };
        let dropped = states.iter().map(pass).fold(0, u64::saturating_add);
        self.counter.drop_stuck(dropped);
        tracing::warn!(
            sink = self.counter.sink,
            dropped,
            "a sink does not answer; the last announcements to it are dropped"
        );
        false
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
