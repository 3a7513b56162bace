//! What a ledger's events come to.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use kstate_sys::abi::Class;
use kstate_sys::announce::Sinks;
use kstate_sys::name::StateName;

use super::event::{Event, Head};
use crate::process::Identity;
use crate::state::{Attributes, Layout};

/// All that a later daemon has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) head: Head,
    pub(crate) states: BTreeMap<u64, StateNote>,
    pub(crate) records: BTreeMap<u32, RecordNote>,
    /// How many events may come that must not fail: the ends of what there is.
    ends: usize,
}

/// What is known of a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StateNote {
    pub(crate) name: StateName,
    pub(crate) attributes: Attributes,
    pub(crate) capacity: u32,
    pub(crate) capacity_chosen: bool,
    pub(crate) reach: Class,
    pub(crate) created: SystemTime,
    pub(crate) layout: Option<Layout>,
    pub(crate) armed: bool,
    pub(crate) deadline: Option<Duration>,
    pub(crate) sinks: Sinks,
    pub(crate) persistent: Option<String>,
    pub(crate) groups: BTreeMap<u8, GroupNote>,
}

/// Who has a slot group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupNote {
    pub(crate) owner: Identity,
    /// The file it was claimed through was closed already.
    pub(crate) is_closed: bool,
}

/// Whose record it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordNote {
    pub(crate) owner: Identity,
    pub(crate) user: (u32, u32),
}

impl Model {
    pub(crate) fn new(head: Head) -> Self {
        Self {
            head,
            states: BTreeMap::new(),
            records: BTreeMap::new(),
            ends: 0,
        }
    }

    /// Takes an event in. One of a state that is not known says nothing.
    pub(crate) fn apply(&mut self, event: Event) {
        match event {
            Event::Head(head) => self.head = head,
            Event::Mounted(minor) => {
                self.head.minors.retain(|known| *known != minor);
                self.head.minors.push(minor);
            }
            Event::StateCreated {
                ino,
                name,
                attributes,
                capacity,
                reach,
                created,
            } => {
                self.head.next_ino = self.head.next_ino.max(ino.saturating_add(1));
                self.forget_state(ino);
                let note = StateNote {
                    name,
                    attributes,
                    capacity,
                    capacity_chosen: false,
                    reach,
                    created,
                    layout: None,
                    armed: false,
                    deadline: None,
                    sinks: Sinks::NONE,
                    persistent: None,
                    groups: BTreeMap::new(),
                };
                self.states.insert(ino, note);
                self.ends += 1;
            }
            Event::StateGone(ino) => self.forget_state(ino),
            Event::RecordMade {
                number,
                owner,
                user,
            } => {
                self.head.last_record = self.head.last_record.max(number);
                let made = self.records.insert(number, RecordNote { owner, user });
                self.ends += usize::from(made.is_none());
            }
            Event::RecordGone(number) => {
                let gone = self.records.remove(&number);
                self.ends -= usize::from(gone.is_some());
            }
            Event::Attributes(ino, attributes) => {
                self.change(ino, |state| state.attributes = attributes);
            }
            Event::Capacity {
                ino,
                capacity,
                chosen,
                reach,
            } => self.change(ino, |state| {
                state.capacity = capacity;
                state.capacity_chosen = chosen;
                state.reach = reach;
            }),
            Event::Layout(ino, layout) => self.change(ino, |state| state.layout = Some(layout)),
            Event::Armed(ino) => self.change(ino, |state| state.armed = true),
            Event::Deadline(ino, after) => self.change(ino, |state| state.deadline = after),
            Event::Announced(ino, sinks) => self.change(ino, |state| state.sinks = sinks),
            Event::Persistent(ino, text) => self.change(ino, |state| state.persistent = text),
            Event::Claimed { ino, group, owner } => self.change_group(ino, group, |_| {
                let is_closed = false;
                Some(GroupNote { owner, is_closed })
            }),
            Event::Closed(ino, group) => self.change_group(ino, group, |note| {
                note.map(|note| GroupNote {
                    is_closed: true,
                    ..note
                })
            }),
            Event::Released(ino, group) => self.change_group(ino, group, |_| None),
        }
    }

    fn forget_state(&mut self, ino: u64) {
        if let Some(state) = self.states.remove(&ino) {
            let groups = state.groups.values().map(GroupNote::ends);
            self.ends -= 1 + groups.sum::<usize>();
        }
    }

    fn change_group(
        &mut self,
        ino: u64,
        group: u8,
        change: impl FnOnce(Option<GroupNote>) -> Option<GroupNote>,
    ) {
        let Some(state) = self.states.get_mut(&ino) else {
            return;
        };
        let old = state.groups.remove(&group);
        self.ends -= old.as_ref().map_or(0, GroupNote::ends);
        if let Some(new) = change(old) {
            self.ends += new.ends();
            state.groups.insert(group, new);
        }
    }

    fn change(&mut self, ino: u64, change: impl FnOnce(&mut StateNote)) {
        if let Some(state) = self.states.get_mut(&ino) {
            change(state);
        }
    }

    /// The fewest events that come to this.
    pub(super) fn events(&self) -> impl Iterator<Item = Event> {
        let states = self
            .states
            .iter()
            .flat_map(|(ino, state)| state.events(*ino));
        let records = self.records.iter().map(|(number, note)| Event::RecordMade {
            number: *number,
            owner: note.owner,
            user: note.user,
        });
        std::iter::once(Event::Head(self.head.clone()))
            .chain(states)
            .chain(records)
    }

    /// How many events may come that must not fail: the ends of what there is.
    pub(super) fn ends(&self) -> usize {
        self.ends
    }
}

impl GroupNote {
    /// It can be closed, and then released.
    fn ends(&self) -> usize {
        2 - usize::from(self.is_closed)
    }
}

impl StateNote {
    fn events(&self, ino: u64) -> Vec<Event> {
        let mut events = vec![
            Event::StateCreated {
                ino,
                name: self.name.clone(),
                attributes: self.attributes,
                capacity: self.capacity,
                reach: self.reach,
                created: self.created,
            },
            Event::Capacity {
                ino,
                capacity: self.capacity,
                chosen: self.capacity_chosen,
                reach: self.reach,
            },
        ];
        events.extend(self.layout.clone().map(|layout| Event::Layout(ino, layout)));
        events.extend(self.armed.then_some(Event::Armed(ino)));
        let deadline = self.deadline.map(|after| Event::Deadline(ino, Some(after)));
        events.extend(deadline);
        if !self.sinks.is_empty() {
            events.push(Event::Announced(ino, self.sinks));
        }
        if self.persistent.is_some() {
            events.push(Event::Persistent(ino, self.persistent.clone()));
        }
        for (group, note) in &self.groups {
            events.push(Event::Claimed {
                ino,
                group: *group,
                owner: note.owner,
            });
            events.extend(note.is_closed.then_some(Event::Closed(ino, *group)));
        }
        events
    }
}
