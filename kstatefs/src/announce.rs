//! Announcements: after commits, messages to a bus outside, for states whose owners chose so.
//!
//! For them the daemon is one more that waits on `head`. What is new is queued, a state at a time, for
//! one thread, which sends the newest version there is by then: commits that come faster than they can
//! be announced are announced together, and the last one is never left out. What a sink does not take
//! is dropped and counted. Which device and which bus there are is said by who mounts, and never by who
//! uses a state.
//!
//! Lock order: a state, the queue. Nothing is locked while a message is sent.

#[cfg(feature = "dbus")]
mod dbus;
mod kbus;
mod message;
mod sink;

use std::collections::{HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kstate_sys::announce::{Record, Sinks};
use kstate_sys::name::StateName;

pub(crate) use message::MAX_NAME_BYTES as LONGEST_KBUS_NAME;
pub(crate) use sink::Counter;

use crate::config::Bus;
use crate::poll::{Hub, Poller};
use crate::state::{Interest, Purpose, State};
use kbus::Kbus;
use sink::Refused;

/// How long the end of the daemon waits for messages that are owed: a sink may never take them.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Where announcements go, as whoever mounts has said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    /// The device of KBUS and what message names begin with.
    pub(crate) kbus: Option<(PathBuf, String)>,
    pub(crate) dbus: Option<Bus>,
}

/// What is to be announced, and how much was.
#[derive(Debug)]
pub(crate) struct Announcer {
    settings: Settings,
    hub: Arc<Hub>,
    queue: Mutex<Queue>,
    changed: Condvar,
    kbus: Counter,
    dbus: Counter,
}

#[derive(Debug, Default)]
struct Queue {
    states: VecDeque<Arc<State>>,
    /// Their numbers: each is there once.
    numbers: HashSet<u64>,
    stopped: bool,
    finished: bool,
}

/// A version that is announced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Announcement {
    pub(crate) sinks: Sinks,
    pub(crate) record: Record,
}

impl Announcer {
    pub(crate) fn new(settings: Settings, hub: Arc<Hub>) -> Arc<Self> {
        Arc::new(Self {
            settings,
            hub,
            queue: Mutex::default(),
            changed: Condvar::new(),
            kbus: Counter::new("kbus"),
            dbus: Counter::new("dbus"),
        })
    }

    /// The sinks that this mount has.
    pub(crate) fn sinks(&self) -> Sinks {
        let kbus = self.settings.kbus.as_ref().map(|_| Sinks::KBUS);
        let dbus = self.settings.dbus.as_ref().map(|_| Sinks::DBUS);
        kbus.unwrap_or_default() | dbus.unwrap_or_default()
    }

    /// What was sent to each of them, and what was dropped.
    pub(crate) fn counters(&self) -> impl Iterator<Item = &Counter> {
        self.sinks().each().map(|sink| self.counter(sink))
    }

    fn counter(&self, sink: Sinks) -> &Counter {
        match sink {
            Sinks::DBUS => &self.dbus,
            _ => &self.kbus,
        }
    }

    /// Has the next version of `state` announced that was not yet.
    pub(crate) fn watch(self: &Arc<Self>, state: &Arc<State>) {
        let (this, theirs) = (Arc::downgrade(self), Arc::downgrade(state));
        let registered = state.register(Interest {
            // Of no file.
            file: 0,
            purpose: Purpose::Announce,
            beyond: state.announced(),
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

    fn queue(&self, state: Arc<State>) {
        let mut queue = self.lock();
        if queue.finished || !queue.numbers.insert(state.ino()) {
            return;
        }
        queue.states.push_back(state);
        drop(queue);
        self.changed.notify_all();
    }

    /// Announces what there is until [`Announcer::stop`].
    pub(crate) fn run(self: &Arc<Self>) {
        let mut outlets = Outlets::new(&self.settings);
        while let Some(state) = self.next() {
            // Looked at first: behind that there is no later version.
            let gone = state.is_gone();
            if let Some(announcement) = state.take_announcement() {
                self.send(&mut outlets, state.name(), announcement);
            }
            if !gone && state.is_announced() {
                self.watch(&state);
            }
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

    fn send(&self, outlets: &mut Outlets, name: &StateName, announcement: Announcement) {
        for sink in announcement.sinks.each() {
            match outlets.send(sink, name, &announcement.record) {
                // Chosen while the mount had it: there is no such change.
                None => {}
                Some(sent) => self.counter(sink).count(sent),
            }
        }
    }

    /// Ends [`Announcer::run`] when what `states` have committed is announced. `false` if a sink takes
    /// its time, and the thread goes with the process.
    pub(crate) fn stop(&self, states: impl Iterator<Item = Arc<State>>) -> bool {
        states
            .filter(|state| state.is_announced())
            .for_each(|state| self.queue(state));
        let mut queue = self.lock();
        queue.stopped = true;
        self.changed.notify_all();
        let goes_on = |queue: &mut Queue| !queue.finished;
        let waited = self.changed.wait_timeout_while(queue, LAST_WORDS, goes_on);
        let (queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        queue.finished
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The ends that messages leave by; the thread's own.
struct Outlets {
    kbus: Option<Kbus>,
    #[cfg(feature = "dbus")]
    dbus: Option<dbus::Dbus>,
}

impl Outlets {
    fn new(settings: &Settings) -> Self {
        let kbus = settings.kbus.clone();
        Self {
            kbus: kbus.map(|(device, prefix)| Kbus::new(device, prefix)),
            #[cfg(feature = "dbus")]
            dbus: settings.dbus.clone().map(dbus::Dbus::new),
        }
    }

    /// Sends to one sink; `None` where there is no such sink.
    fn send(
        &mut self,
        sink: Sinks,
        name: &StateName,
        record: &Record,
    ) -> Option<Result<(), Refused>> {
        match sink {
            Sinks::KBUS => self.kbus.as_mut().map(|kbus| kbus.send(name, record)),
            #[cfg(feature = "dbus")]
            Sinks::DBUS => self.dbus.as_mut().map(|dbus| dbus.send(name, record)),
            _ => None,
        }
    }
}
