//! What must be answered, worked out one command at a time.
//!
//! The reference knows what [`docs/design.md`] says of slots: a handle has a group of four and fills
//! them in turn, going on only after a success. So it can tell when the version that a transaction began
//! from is gone, and what a late first touch shows.
//!
//! [`docs/design.md`]: ../../../docs/design.md

mod several;
mod single;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use super::step::{self, Step, Verb};
use several::Several;
use single::Single;

/// Processes that are always there; those over them are forks.
pub(crate) const ACTORS: usize = 3;
/// With forks.
const MOST_ACTORS: usize = 5;
/// Transactions of a process that are open at once.
const MOST_OPEN: usize = 6;

/// The process of the test, which has a group of each state and does nothing with it.
const OBSERVER: usize = usize::MAX;

const STATES: usize = 3;
/// The state of bytes; the others are numbers.
const BYTES: usize = 2;
/// Bytes that it has room for.
pub(crate) const CAPACITY_BYTES: u32 = 32;
const CAPACITY: usize = CAPACITY_BYTES as usize;
const NUMBER_BYTES: usize = 8;
/// More of a raw page than anybody writes to.
const PAGE: usize = 64;

const SLOTS: u8 = 4;
/// More than the processes have of a state.
const MOST_GROUPS: u8 = 8;
/// One number of so many means any state, not one of a transaction's.
const ANY: usize = 10;
/// The ways to begin that trap nothing.
const SOFT: &str = "soft";
const SOFTWARE: &str = "software";

type Slot = (u8, u8);

/// A generation, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    generation: u64,
    slot: Slot,
}

#[derive(Debug)]
struct State {
    head: Head,
    /// What each slot was filled with last: under which generation, and the value.
    slots: HashMap<Slot, (u64, Vec<u8>)>,
    /// Who has each group.
    owners: BTreeMap<u8, usize>,
}

/// A handle's group, and the slot of its last success.
#[derive(Clone, Copy, Debug)]
struct Writer {
    group: u8,
    last: u8,
}

/// A raw page that no transaction has: how it is trapped, and the version in it.
#[derive(Clone, Debug)]
struct Spare {
    how: &'static str,
    holds: Option<(Head, Vec<u8>)>,
}

#[derive(Clone, Debug, Default)]
struct Actor {
    writers: [Option<Writer>; STATES],
    spares: [Vec<Spare>; STATES],
    singles: BTreeMap<u32, Single>,
    several: BTreeMap<u32, Several>,
}

/// What a step comes to.
#[derive(Debug)]
pub(crate) enum Act {
    /// A process is told a line, and must answer so.
    Tell {
        actor: usize,
        line: String,
        expected: String,
    },
    /// A process forks; the child has the next number.
    Fork { actor: usize },
    /// A process is killed. One of those that are always there comes anew.
    Kill { actor: usize },
}

pub(crate) struct Reference {
    states: [State; STATES],
    /// `None` for a fork that was killed.
    actors: Vec<Option<Actor>>,
    next: u32,
    /// How transactions are begun.
    ways: Vec<&'static str>,
}

impl State {
    fn new() -> Self {
        Self {
            head: Head {
                generation: 0,
                slot: (0, 0),
            },
            slots: HashMap::new(),
            owners: BTreeMap::new(),
        }
    }

    fn claim(&mut self, actor: usize) -> Writer {
        let free = (1..).find(|group| !self.owners.contains_key(group));
        let group = free.expect("few handles");
        self.owners.insert(group, actor);
        let (live, index) = self.head.slot;
        let last = if live == group { index } else { SLOTS - 1 };
        Writer { group, last }
    }

    fn release(&mut self, actor: usize) {
        self.owners.retain(|_, owner| *owner != actor);
    }

    /// Fills the writer's next slot, under the next generation; the slot.
    fn fill(&mut self, writer: Writer, value: &[u8]) -> Slot {
        let slot = (writer.group, (writer.last + 1) % SLOTS);
        let generation = self.head.generation + 1;
        self.slots.insert(slot, (generation, value.to_owned()));
        slot
    }

    /// Makes the slot that was filled just now the newest version.
    fn swap(&mut self, writer: &mut Writer, slot: Slot) -> u64 {
        writer.last = slot.1;
        self.head = Head {
            generation: self.head.generation + 1,
            slot,
        };
        self.head.generation
    }
}

fn tell(actor: usize, line: String, expected: &str) -> Act {
    let expected = expected.to_owned();
    Act::Tell {
        actor,
        line,
        expected,
    }
}

/// One of the transactions that are open, the newest as often as not.
fn pick<T>(open: &BTreeMap<u32, T>, number: usize) -> Option<u32> {
    match number % 2 {
        0 => open.keys().next_back().copied(),
        _ => open.keys().nth(number / 2 % open.len().max(1)).copied(),
    }
}

fn empty(state: usize) -> Vec<u8> {
    match state {
        BYTES => Vec::new(),
        _ => vec![0; NUMBER_BYTES],
    }
}

fn value_of(state: usize, value: step::Value) -> Vec<u8> {
    match state {
        BYTES => vec![value.fill; value.length],
        _ => vec![value.fill; NUMBER_BYTES],
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a string takes it");
    }
    match text.is_empty() {
        true => String::from("-"),
        false => text,
    }
}

/// The values of states, as the reference has them.
fn version(states: &[State; STATES], state: usize, head: Head) -> Option<Vec<u8>> {
    if head.generation == 0 {
        return Some(empty(state));
    }
    let (tag, value) = states[state].slots.get(&head.slot)?;
    (*tag == head.generation).then(|| value.clone())
}

/// What a first touch shows, and whether it is newer than the base.
fn shown(states: &[State; STATES], state: usize, base: Head) -> (Vec<u8>, bool) {
    match version(states, state, base) {
        Some(value) => (value, false),
        None => {
            let newest = version(states, state, states[state].head);
            (newest.expect("the newest is there"), true)
        }
    }
}

impl Actor {
    /// The process that a fork makes.
    fn forked(&self) -> Self {
        let mut child = self.clone();
        // It has neither slots nor pages of its own yet.
        child.writers = [None; STATES];
        child.spares = Default::default();
        for single in child.singles.values_mut() {
            single.inherited = true;
        }
        for several in child.several.values_mut() {
            several.inherited = true;
        }
        child
    }

    /// Takes the page of a transaction that has ended, with a version if that is in it unwritten.
    fn end(&mut self, single: &Single, holds: Option<(Head, Vec<u8>)>) {
        if single.is_trapped() && !single.inherited {
            let how = single.how;
            self.spares[single.state].push(Spare { how, holds });
        }
    }
}

impl Reference {
    pub(crate) fn new(ways: Vec<&'static str>) -> Self {
        let mut reference = Self {
            states: std::array::from_fn(|_| State::new()),
            actors: Vec::new(),
            next: 0,
            ways,
        };
        for state in &mut reference.states {
            state.claim(OBSERVER);
        }
        for actor in 0..ACTORS {
            reference.actors.push(None);
            reference.arrive(actor);
        }
        reference
    }

    /// The groups of each state that are free, up to one that nobody ever has.
    pub(crate) fn free(&self) -> [Vec<u32>; STATES] {
        self.states.each_ref().map(|state| {
            (1..=MOST_GROUPS)
                .filter(|group| !state.owners.contains_key(group))
                .map(u32::from)
                .collect()
        })
    }

    /// What a snapshot of each state says.
    pub(crate) fn newest(&self, state: usize) -> String {
        let head = self.states[state].head;
        let value = version(&self.states, state, head).expect("the newest is there");
        format!("{} {}", head.generation, hex(&value))
    }

    /// A process begins, and subscribes to all states.
    pub(crate) fn arrive(&mut self, actor: usize) {
        let writers = self.states.each_mut().map(|state| Some(state.claim(actor)));
        self.actors[actor] = Some(Actor {
            writers,
            ..Actor::default()
        });
    }

    /// What `step` comes to, one after the other; nothing if there is nothing it can be done to. It
    /// is done here, except that who is killed arrives again.
    pub(crate) fn apply(&mut self, step: &Step) -> Vec<Act> {
        let live: Vec<usize> = (0..self.actors.len())
            .filter(|actor| self.actors[*actor].is_some())
            .collect();
        let actor = live[step.actor % live.len()];
        let mut acts = Vec::new();
        match &step.verb {
            Verb::Publish(state, value, times) => {
                let publish = || self.publish(actor, *state, *value);
                acts.extend(std::iter::repeat_with(publish).take(*times));
            }
            Verb::Recycle(state, value) => {
                let now = &self.states[*state];
                if let Some(owner) = now.owners.get(&now.head.slot.0).copied() {
                    let publish = || self.publish(owner, *state, *value);
                    acts.extend(std::iter::repeat_with(publish).take(usize::from(SLOTS)));
                }
            }
            Verb::Many(states, at_once) => {
                if let Some(tx) = self.number(actor) {
                    self.actor(actor).several.insert(tx, Several::default());
                    acts.push(tell(actor, format!("many {tx}"), "ok"));
                    let add = |(state, reading): &(_, _)| self.add(actor, tx, *state, *reading);
                    acts.extend(states.iter().filter_map(add));
                    if let Some(value) = at_once {
                        acts.extend(self.touch_all(actor, tx, *value));
                    }
                }
            }
            _ => acts.extend(self.apply_one(actor, &step.verb)),
        }
        acts
    }

    fn publish(&mut self, actor: usize, state: usize, value: step::Value) -> Act {
        let value = value_of(state, value);
        let mut writer = self.writer(actor, state);
        let slot = self.states[state].fill(writer, &value);
        let generation = self.states[state].swap(&mut writer, slot);
        self.actor(actor).writers[state] = Some(writer);
        let line = format!("publish {state} {}", hex(&value));
        tell(actor, line, &generation.to_string())
    }

    fn apply_one(&mut self, actor: usize, verb: &Verb) -> Option<Act> {
        match verb {
            Verb::Publish(..) | Verb::Recycle(..) | Verb::Many(..) => None,
            Verb::Snapshot(state) => {
                let line = format!("snapshot {state}");
                Some(tell(actor, line, &self.newest(*state)))
            }
            Verb::Cut => {
                let all: Vec<_> = (0..STATES).map(|state| self.newest(state)).collect();
                Some(tell(actor, String::from("cut"), &all.join(" ")))
            }
            Verb::Begin(state, how) => {
                // As often as not on the page of an earlier one, which may hold the base.
                let spare = self.actor(actor).spares[*state]
                    .last()
                    .map(|spare| spare.how);
                let how = match spare.filter(|_| how % 2 == 0) {
                    Some(how) => how,
                    None => self.ways[how / 2 % self.ways.len()],
                };
                let tx = self.number(actor)?;
                let generation = self.begin(actor, tx, *state, how);
                let line = format!("begin {tx} {state} {how}");
                Some(tell(actor, line, &generation.to_string()))
            }
            Verb::Single(tx, what) => {
                let tx = pick(&self.actor(actor).singles, *tx)?;
                let (line, expected) = self.single(actor, tx, what)?;
                Some(tell(actor, line, &expected))
            }
            Verb::Add(tx, state, reading) => {
                let tx = pick(&self.actor(actor).several, *tx)?;
                self.add(actor, tx, *state, *reading)
            }
            Verb::Several(tx, what) => {
                let tx = pick(&self.actor(actor).several, *tx)?;
                let (line, expected) = self.several(actor, tx, what);
                Some(tell(actor, line, &expected))
            }
            Verb::Fork => {
                if self.actors.len() >= MOST_ACTORS {
                    return None;
                }
                let child = self.actor(actor).forked();
                self.actors.push(Some(child));
                Some(Act::Fork { actor })
            }
            Verb::Kill => {
                self.actors[actor] = None;
                for state in &mut self.states {
                    state.release(actor);
                }
                Some(Act::Kill { actor })
            }
        }
    }

    fn actor(&mut self, actor: usize) -> &mut Actor {
        self.actors[actor].as_mut().expect("it lives")
    }

    /// A number for a transaction, if there may be one more.
    fn number(&mut self, actor: usize) -> Option<u32> {
        let actor = self.actor(actor);
        let open = actor.singles.len() + actor.several.len();
        if open >= MOST_OPEN {
            return None;
        }
        self.next += 1;
        Some(self.next)
    }

    /// The slots of a process, claimed now if it has none.
    fn writer(&mut self, actor: usize, state: usize) -> Writer {
        if let Some(writer) = self.actor(actor).writers[state] {
            return writer;
        }
        let writer = self.states[state].claim(actor);
        self.actor(actor).writers[state] = Some(writer);
        writer
    }
}
