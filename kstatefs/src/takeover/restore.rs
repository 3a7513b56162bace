//! States as a dead daemon left them, and settling what was in flight.
//!
//! It can be cut short at any point and begun again: what is done is noted when it is done.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use kstate_sys::abi::Geometry;

use super::subscribers;
use crate::fs::Shared;
use crate::inode::{FIRST_STATE, Node};
use crate::ledger::{Event, Model};
use crate::namespace;
use crate::process::Identity;
use crate::reaper::{Life, Process};
use crate::state::{State, mark_deleted};
use crate::timer::Look;

/// How long states stay though nobody is known to come back: programs that have none of them mapped but
/// open their files again, and those that cannot be seen from here.
const AWAITED: Duration = Duration::from_secs(10);

/// Builds what `model` says, of which `shared` has none yet, and settles what the dead have left. The
/// caller is the only one who knows of `shared`.
///
/// # Errors
///
/// What may pass, such as `ENFILE` and `ENOSPC`; whoever tries again finds all that was there.
pub(crate) fn restore(shared: &Shared, model: &Model) -> io::Result<()> {
    let comparable = namespace::of_pids().is_ok_and(|here| here == model.head.pid_namespace);
    let mut owners = Owners {
        shared,
        comparable,
        known: HashMap::new(),
    };
    remove_strangers(shared, model);
    let states = restore_states(shared, model)?;
    for (number, noted) in &model.records {
        let (process, _) = owners.adopt(noted.owner)?;
        let (backing, transport) = (&shared.backing, shared.transport());
        let intents = &shared.common.intents;
        match intents.adopt(backing, transport, *number, process, noted.user) {
            Ok(record) => shared.reaper.hold_adopted_record(process, record),
            Err(error) if may_pass(&error) => return Err(error),
            Err(error) => {
                tracing::error!(number, %error, "a record of commits of several states is lost");
                shared.common.ledger.note_end(Event::RecordGone(*number));
            }
        }
    }
    for (ino, state) in &states {
        let groups = model.states.get(ino).map(|noted| &noted.groups);
        for (group, noted) in groups.into_iter().flatten() {
            let (process, life) = owners.adopt(noted.owner)?;
            shared.reaper.hold_adopted(process, state);
            state.adopt_group(*group, process, *noted);
            // Whose end nobody will hear of must not keep a state.
            if life != Life::Unknown {
                state.adopt_subscriber(process);
            }
        }
    }
    let found = subscribers::find(model, &states, None);
    // The last one may still be mounted.
    let last = model.head.minors.last().copied();
    let counts = |minor| found.minors.contains(&minor) || Some(minor) == last;
    shared.common.ledger.keep_minors(counts);
    for (identity, mapped) in found.mapped {
        let mapped: Vec<_> = mapped.iter().filter_map(|ino| states.get(ino)).collect();
        if mapped.is_empty() {
            continue;
        }
        let (process, life) = owners.adopt(identity)?;
        if life == Life::Unknown {
            continue;
        }
        for state in mapped {
            shared.reaper.hold_adopted(process, state);
            state.adopt_subscriber(process);
        }
    }
    owners.bury_the_dead();
    let epoch = shared.common.ledger.model(|model| model.head.epoch);
    for state in states.values() {
        state.begin_epoch(epoch.unwrap_or(0), AWAITED);
        shared.begin_again(state);
    }
    shared
        .common
        .timer
        .schedule(Look::Absent, super::LOOK_AGAIN);
    shared.registry.bump();
    tracing::info!(states = states.len(), "taken over");
    Ok(())
}

/// Removes files that nothing is noted of: of a state or a record that was being made or removed.
fn remove_strangers(shared: &Shared, model: &Model) {
    for ino in shared.backing.inherited() {
        let is_known = match Node::from_ino(ino) {
            Node::State(ino) => model.states.contains_key(&ino),
            Node::Record(number, _) => model.records.contains_key(&number),
            Node::Registry => true,
            _ => false,
        };
        if is_known {
            continue;
        }
        let is_state = matches!(Node::from_ino(ino), Node::State(_)) && ino >= FIRST_STATE;
        if is_state
            && let Ok(file) = shared.backing.inherit_region(ino, shared.transport())
            && let Err(error) = mark_deleted(&file, &shared.common)
        {
            tracing::warn!(
                ino,
                ?error,
                "a region's users are not told that it has gone"
            );
        }
        shared.backing.forget(ino, shared.transport());
    }
}

/// Whether it is no fault of what was left: a file that is not there, or is another than was noted.
fn may_pass(error: &io::Error) -> bool {
    let kind = error.kind();
    !matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::InvalidData)
}

fn restore_states(shared: &Shared, model: &Model) -> io::Result<HashMap<u64, Arc<State>>> {
    let mut states = HashMap::new();
    for (ino, noted) in &model.states {
        let file = shared.backing.inherit_region(*ino, shared.transport());
        let file = match Geometry::of_this_machine().class_for(noted.capacity) {
            Some(_) => file,
            None => Err(io::ErrorKind::InvalidData.into()),
        };
        let state = file.and_then(|file| {
            let adopted = State::adopt(*ino, noted, file, &shared.common);
            adopted.map_err(|error| io::Error::from_raw_os_error(error.code()))
        });
        match state {
            Ok(state) => {
                let state = Arc::new(state);
                shared.insert(&state);
                states.insert(*ino, state);
            }
            Err(error) if may_pass(&error) => return Err(error),
            Err(error) => {
                tracing::error!(name = %noted.name, %error, "a state is lost");
                shared.common.ledger.note_end(Event::StateGone(*ino));
            }
        }
    }
    Ok(states)
}

/// Processes by what was noted of them.
struct Owners<'a> {
    shared: &'a Shared,
    /// Whether process ids mean here what they meant there.
    comparable: bool,
    known: HashMap<Identity, (Process, Life)>,
}

impl Owners<'_> {
    fn adopt(&mut self, identity: Identity) -> io::Result<(Process, Life)> {
        if let Some(known) = self.known.get(&identity) {
            return Ok(*known);
        }
        let adopted = self.shared.reaper.adopt(identity, self.comparable)?;
        self.known.insert(identity, adopted);
        Ok(adopted)
    }

    /// As when they die under a daemon's eyes.
    fn bury_the_dead(self) {
        let dead = self.known.into_values();
        let dead = dead.filter(|(_, life)| *life == Life::Dead);
        for (process, _) in dead {
            self.shared.reaper.bury(process);
        }
    }
}

impl Shared {
    /// Looks at what time brings of a state that was taken over.
    fn begin_again(&self, state: &Arc<State>) {
        if state.deadline().is_some() {
            self.look(Look::Overdue(state.ino()));
        }
        if !state.sinks().is_empty() {
            self.announcer.follow(state);
        }
        self.look_after(state);
    }
}
