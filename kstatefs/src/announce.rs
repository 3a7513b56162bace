//! Announcements: after commits, messages to a bus outside, for states whose owners chose so.
//!
//! For them the daemon is one more that waits on `head`. What is new is queued, a state at a time, for
//! each sink by itself, whose thread sends the newest version there is by then: commits that come faster
//! than they can be announced are announced together, and the last one is never left out. What a sink
//! does not take is dropped and counted. Which device and which bus there are is said by who mounts, and
//! never by who uses a state.
//!
//! Lock order: a state, a queue. Nothing is locked while a message is sent.

#[cfg(feature = "dbus")]
mod dbus;
mod kbus;
mod message;
mod outlet;
mod sink;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::BitOr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kstate_sys::announce::Sinks;

pub(crate) use message::MAX_NAME_BYTES as LONGEST_KBUS_NAME;
pub(crate) use sink::Counter;

use crate::config::Bus;
use crate::poll::Hub;
use crate::state::{Purpose, State};
use kbus::Kbus;
use outlet::{Outlet, Sink};

/// How long the end of the daemon waits for messages that are owed: a sink may never take them.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Where announcements go, as whoever mounts has said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    /// The device of KBUS and what message names begin with.
    pub(crate) kbus: Option<(PathBuf, String)>,
    #[cfg_attr(
        not(feature = "dbus"),
        expect(dead_code, reason = "there is none, as its type says")
    )]
    pub(crate) dbus: Option<Bus>,
}

/// The sinks that a mount has.
#[derive(Debug)]
pub(crate) struct Announcer {
    settings: Settings,
    outlets: Vec<Arc<Outlet>>,
    /// Of those, in the same order.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Announcer {
    pub(crate) fn new(settings: Settings, hub: &Arc<Hub>) -> Self {
        let sinks = ways(&settings).into_iter().map(|(sink, _)| sink);
        Self {
            outlets: sinks.map(|sink| outlet(sink, hub)).collect(),
            settings,
            threads: Mutex::default(),
        }
    }

    /// Starts a thread a sink, until [`Announcer::stop`].
    pub(crate) fn start(&self) -> io::Result<()> {
        let ways = ways(&self.settings).into_iter().map(|(_, way)| way);
        self.start_with(ways)
    }

    fn start_with(&self, ways: impl Iterator<Item = Box<dyn Sink>>) -> io::Result<()> {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for (outlet, way) in self.outlets.iter().zip(ways) {
            threads.push(outlet.start(way)?);
        }
        Ok(())
    }

    /// The sinks that this mount has.
    pub(crate) fn sinks(&self) -> Sinks {
        let each = self.outlets.iter().map(|outlet| outlet.sink);
        each.fold(Sinks::NONE, BitOr::bitor)
    }

    /// What was sent to each of them, and what was dropped.
    pub(crate) fn counters(&self) -> impl Iterator<Item = &Counter> {
        self.outlets.iter().map(|outlet| {
            outlet.count_passed_over();
            &outlet.counter
        })
    }

    /// Announces what comes from now on where `state` is to be announced, and only there.
    pub(crate) fn follow(&self, state: &Arc<State>) {
        for outlet in &self.outlets {
            match outlet.is_chosen_by(state) {
                true => outlet.watch(state),
                false => state.forget_interest(0, Purpose::Announce(outlet.sink.bits())),
            }
        }
    }

    /// Ends the threads when what `states` have committed is announced. One that a sink holds up goes
    /// with the process.
    pub(crate) fn stop(&self, states: &[Arc<State>]) {
        for outlet in &self.outlets {
            let chosen = states.iter().filter(|state| outlet.is_chosen_by(state));
            chosen.for_each(|state| outlet.queue(state.clone()));
            outlet.finish();
        }
        let until = Instant::now() + LAST_WORDS;
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for (outlet, thread) in self.outlets.iter().zip(threads.drain(..)) {
            if outlet.has_finished(until) && thread.join().is_err() {
                tracing::error!("a thread that announces panicked");
            }
        }
    }
}

fn outlet(sink: Sinks, hub: &Arc<Hub>) -> Arc<Outlet> {
    let name = match sink {
        Sinks::DBUS => "dbus",
        _ => "kbus",
    };
    Outlet::new(sink, Counter::new(name), hub.clone())
}

/// How messages get to each sink.
fn ways(settings: &Settings) -> Vec<(Sinks, Box<dyn Sink>)> {
    let mut ways: Vec<(Sinks, Box<dyn Sink>)> = Vec::new();
    if let Some((device, prefix)) = settings.kbus.clone() {
        ways.push((Sinks::KBUS, Box::new(Kbus::new(device, prefix))));
    }
    #[cfg(feature = "dbus")]
    if let Some(bus) = settings.dbus.clone() {
        ways.push((Sinks::DBUS, Box::new(dbus::Dbus::new(bus))));
    }
    ways
}
