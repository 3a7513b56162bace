#![no_main]
#![expect(unsafe_code, reason = "takes fenced pages for a region")]
//! What a process of good faith does with two regions and a record, beside one that writes any word
//! anywhere in them, before and during each call.
//!
//! Nothing may panic, go on for long, or touch what is not mapped: there are pages around each mapping
//! that end the process. As long as nobody has written what the protocol does not, every call must
//! also do what it is for.

use std::cell::OnceCell;
use std::mem::MaybeUninit;

use kstate_sys::abi::{CLASSES, Class, Geometry};
use kstate_sys::clock::{Clock, Ticks};
use kstate_sys::region::{
    self, Candidate, Check, Decision, Generation, Group, Head, LiveOwner, Mapped, Memory, Notice,
    ReadError, Round, SeveralError, Version, Write, Writer,
};
use kstate_sys::sync::Ordering;
use libfuzzer_sys::fuzz_target;

#[path = "region/enemy.rs"]
mod enemy;
#[path = "region/input.rs"]
mod input;
#[path = "region/pages.rs"]
mod pages;

use enemy::{Enemy, Hostile, Own};
use input::Input;
use pages::Pages;

fuzz_target!(|bytes: &[u8]| {
    thread_local! {
        static MAPPINGS: OnceCell<Mappings> = const { OnceCell::new() };
    }
    MAPPINGS.with(|mappings| run(mappings.get_or_init(Mappings::new), bytes));
});

/// Made once: what a run leaves in them is dropped before the next.
struct Mappings {
    geometry: Geometry,
    /// As far as the slots of each class.
    first: [Pages; 4],
    second: Pages,
    statuses: Pages,
    list: Pages,
}

impl Mappings {
    fn new() -> Self {
        let geometry = Geometry::of_this_machine();
        let page = geometry.page() as usize;
        Self {
            geometry,
            first: CLASSES.map(|class| Pages::new(geometry.mapped_len(class))),
            second: Pages::new(geometry.region_len()),
            statuses: Pages::new(page),
            list: Pages::new(page),
        }
    }
}

/// One of the two states.
struct State<'a> {
    memory: Hostile<'a>,
    writer: Writer,
    /// What was committed last, while all that has been written was written by the protocol.
    sound: Option<(Generation, Vec<u8>)>,
}

fn run(mappings: &Mappings, bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mapped_class = input.class();
    let regions = [mappings.first[mapped_class as usize], mappings.second];
    let enemy = Enemy::new(regions, mappings.statuses, mappings.list);
    let classes = [input.class().min(mapped_class), input.class()];
    let mut states = [0, 1].map(|index: usize| {
        let pages = regions[index];
        // SAFETY: the pages are mapped so far until the process ends, are page aligned, and are only
        // reached through the protocol's words and single words stored by the same thread.
        let mapped = unsafe { Mapped::new(pages.start(), pages.len(), mappings.geometry) };
        let mapped = mapped.expect("it reaches the metadata's end");
        region::initialise(&mapped, index as u64 + 1, 4096, &Clock::MONOTONIC);
        let memory = Hostile {
            mapped,
            enemy: &enemy,
        };
        State {
            memory,
            writer: Writer::claimed(&memory, Group(1), classes[index]),
            sound: Some((Generation::NEVER, Vec::new())),
        }
    });
    for state in &mut states {
        for number in 0..input.byte() % 8 {
            state.publish(&[number; 40]);
        }
    }
    let mut last = (Round(0), Decision::Aborted);
    while !input.is_empty() {
        statement(mappings, &enemy, &mut states, &mut last, &mut input);
        enemy.end_call();
    }
}

fn statement(
    mappings: &Mappings,
    enemy: &Enemy,
    states: &mut [State<'_>; 2],
    last: &mut (Round, Decision),
    input: &mut Input<'_>,
) {
    let kind = input.byte();
    let state = &mut states[usize::from(kind >> 7)];
    match kind % 20 {
        0 => {
            enemy.store(input.place(&mappings.geometry), input.word());
            spoil(states);
        }
        1 | 2 => {
            enemy.store_later(
                input.byte() % 32,
                input.place(&mappings.geometry),
                input.word(),
            );
            spoil(states);
        }
        3 => state.read(input.length()),
        4 => {
            let head = Head::from_raw(input.word());
            let mut room = room(input.length());
            check_version(region::read_at(&state.memory, head, &mut room), room.len());
        }
        5 => {
            let described = region::describe(&state.memory);
            if let Some((generation, value)) = &state.sound {
                let version = described.expect("nothing is wrong with it");
                assert_eq!(version.generation(), *generation);
                assert_eq!(version.length as usize, value.len());
            }
        }
        6 => {
            let found = region::look(&state.memory);
            let newest = region::newest(&state.memory);
            if let Ok(standing) = found {
                let _ = standing.may_be_cut();
                standing.finish(&state.memory);
            }
            if let Some((generation, _)) = &state.sound {
                assert_eq!(newest.map(Head::generation), Ok(*generation));
            }
        }
        7 => state.candidate(input),
        8 => {
            let _ = region::live_generation(&state.memory);
            let checked = state.memory.mapped.check();
            assert!(checked.is_ok() || state.sound.is_none());
            let header = state.memory.header();
            let _ = header.notice().contains(Notice::ARMED);
            let _ = header.announced_capacity();
        }
        9 => state.refresh(Group(input.byte())),
        10 => {
            let (dead, heir) = (Group(input.byte() % 4), Group(input.byte() % 4));
            let (dead, heir) = (LiveOwner::of(dead), LiveOwner::of(heir));
            let _ = region::seize_live(&state.memory, dead, heir);
        }
        11 | 12 => {
            let value = vec![input.byte(); input.length()];
            state.publish(&value);
        }
        13 | 14 => {
            let value = vec![input.byte(); input.length()];
            let base = match input.byte() % 4 {
                0 => Ok(Head::from_raw(input.word())),
                _ => region::newest(&state.memory),
            };
            if let Ok(base) = base {
                state.commit(base, &value);
            }
        }
        15 => {
            let class = input.class().max(state.writer.class());
            // As the daemon sees to it, of slots that are mapped.
            let group = Group(input.byte() % 4);
            if state.memory.slot_bytes(class) <= state.memory.slot_bytes(state.mapped_class()) {
                state.writer = Writer::claimed(&state.memory, group, class);
            }
        }
        16 | 17 => several(enemy, states, last, input),
        18 => {
            let (commit, decision) = (input.commit(), decision(input));
            for listed in enemy.intents().entries() {
                let _ = listed.is_sound();
                listed.settle(&states[0].memory, commit, decision);
                listed.settle(&states[1].memory, commit, decision);
            }
            spoil(states);
        }
        _ => {
            let word = enemy.status_word(input.below(4));
            let found = word.load();
            let (from, to) = (decision(input), decision(input));
            let _ = match input.byte() % 3 {
                0 => word.kill(found.round()).is_some(),
                1 => word.decide(found.round(), from, to).is_ok(),
                _ => word.kill(Round(u64::from(input.byte()))).is_some(),
            };
            spoil(states);
        }
    }
}

fn spoil(states: &mut [State<'_>; 2]) {
    for state in states {
        state.sound = None;
    }
}

fn decision(input: &mut Input<'_>) -> Decision {
    [
        Decision::Undecided,
        Decision::Checking,
        Decision::Committed,
        Decision::Aborted,
        Decision::Killed,
    ][input.below(5)]
}

fn room(length: usize) -> Vec<MaybeUninit<u8>> {
    vec![MaybeUninit::new(0); length]
}

fn check_version(read: Result<Option<Version>, ReadError>, room: usize) {
    if let Ok(Some(version)) = read {
        assert!(version.length as usize <= room);
        assert!(!version.head.has_intent());
    }
}

impl State<'_> {
    fn mapped_class(&self) -> Class {
        let geometry = self.memory.mapped.geometry();
        let reaches =
            |class: &&Class| geometry.mapped_len(**class) <= self.memory.mapped.mapped_len();
        *CLASSES.iter().rev().find(reaches).unwrap_or(&Class::B64)
    }

    fn read(&self, length: usize) {
        let mut room = room(length);
        let read = region::read(&self.memory, &mut room);
        check_version(read.map(Some), length);
        let Some((generation, value)) = &self.sound else {
            return;
        };
        if value.len() > length {
            assert!(matches!(read, Err(ReadError::TooLong { .. })), "{read:?}");
            return;
        }
        let version = read.expect("nothing is wrong with it");
        assert_eq!(version.generation(), *generation);
        assert_eq!(version.length as usize, value.len());
        self.compare(&room, value);
    }

    fn compare(&self, room: &[MaybeUninit<u8>], value: &[u8]) {
        for (found, expected) in room.iter().zip(value) {
            // SAFETY: made of initialised bytes, and a read only writes bytes.
            assert_eq!(unsafe { found.assume_init() }, *expected);
        }
    }

    fn candidate(&self, input: &mut Input<'_>) {
        let length = input.length();
        let candidate = match input.byte() % 2 {
            0 => Candidate::newest(&self.memory, length),
            _ => Candidate::at(&self.memory, Head::from_raw(input.word()), length),
        };
        let Some(candidate) = candidate else { return };
        assert!(length <= candidate.payload.len());
        let mut room = room(length);
        candidate.payload.load(&mut room);
        let stands = candidate.still_stands();
        if let Some((generation, value)) = &self.sound
            && candidate.version.generation() == *generation
        {
            assert!(stands);
            self.compare(&room, value);
        }
    }

    fn refresh(&mut self, group: Group) {
        let refreshed = region::refresh_live(&self.memory, LiveOwner::of(group));
        if let Some((generation, value)) = &self.sound {
            assert_eq!(refreshed, Ok(()));
            assert_eq!(region::live_generation(&self.memory), Some(*generation));
            let mut room = room(value.len());
            self.memory.live().load(&mut room);
            self.compare(&room, value);
        }
    }

    /// How long a value may be.
    fn most(&self) -> usize {
        self.memory.slot_bytes(self.writer.class())
    }

    fn publish(&mut self, value: &[u8]) {
        let value = &value[..value.len().min(self.most() + 1)];
        let published = self.writer.publish(&self.memory, value, Ticks(1));
        self.done(&published.map_err(drop), value);
        let Ok(head) = published else { return };
        let owner = LiveOwner::of(self.writer.group());
        if !region::show_live(&self.memory, owner, head, value) {
            let refreshed = region::refresh_live(&self.memory, owner);
            assert!(refreshed.is_ok() || self.sound.is_none());
        }
    }

    fn commit(&mut self, base: Head, value: &[u8]) {
        let value = &value[..value.len().min(self.most() + 1)];
        let rests = self.memory.enemy.rests();
        let current = self.memory.header().head.load(Ordering::Relaxed) == base.raw();
        let committed = self.writer.commit(&self.memory, base, value, Ticks(1));
        if current {
            self.done(&committed.map_err(drop), value);
        } else if rests {
            assert!(committed.is_err());
        }
    }

    fn done(&mut self, done: &Result<Head, ()>, value: &[u8]) {
        let fits = value.len() <= self.most();
        assert!(done.is_err() || fits);
        if let Some((generation, sound)) = &mut self.sound {
            assert_eq!(done.is_ok(), fits);
            if fits {
                generation.0 += 1;
                *sound = value.to_vec();
            }
        }
    }
}

/// A commit of both states, or of one with the other checked.
fn several(
    enemy: &Enemy,
    states: &mut [State<'_>; 2],
    last: &mut (Round, Decision),
    input: &mut Input<'_>,
) {
    let bases = [0, 1].map(|index: usize| region::newest(&states[index].memory));
    let [Ok(first_base), Ok(second_base)] = bases else {
        return;
    };
    let both = input.byte() < 128;
    let values = [0, 1].map(|index: usize| {
        let most = states[index].most();
        vec![input.byte(); input.length().min(most + 1)]
    });
    let fit = [0, 1].map(|index: usize| values[index].len() <= states[index].most());
    let sound = states.iter().all(|state| state.sound.is_some());
    let [first, second] = states;
    let write = |state, memory, writer, base, bytes| Write {
        memory,
        state,
        writer,
        base,
        bytes,
        time: Ticks(1),
    };
    let mut writes = vec![write(
        1,
        &first.memory,
        &mut first.writer,
        first_base,
        &values[0],
    )];
    let mut checks = Vec::new();
    if both {
        writes.push(write(
            2,
            &second.memory,
            &mut second.writer,
            second_base,
            &values[1],
        ));
    } else {
        checks.push(Check {
            memory: &second.memory,
            base: second_base,
        });
    }
    let done = region::commit_several(&Own(enemy), *last, &mut writes, &checks);
    if done == Err(SeveralError::Killed) {
        // As the daemon settles it.
        let round = enemy.status_word(0).load().round();
        let _ = enemy.status_word(0).kill(round);
        spoil(states);
    } else if sound {
        let fit = fit[0] && (fit[1] || !both);
        assert_eq!(done.is_ok(), fit, "{done:?}");
        if fit {
            for (state, value) in states.iter_mut().zip(values).take(1 + usize::from(both)) {
                if let Some((generation, sound)) = &mut state.sound {
                    generation.0 += 1;
                    *sound = value;
                }
            }
        }
    }
    let status = enemy.status_word(0).load();
    // As the library: a record is used as long as it has rounds.
    if status.round() < kstate_sys::region::MAX_ROUND {
        *last = (status.round(), status.decision());
    } else {
        enemy.status_word(0).initialise();
        *last = (Round(0), Decision::Aborted);
    }
}
