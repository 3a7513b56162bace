//! Any sequence of calls does what a plain list of versions does.

use std::collections::BTreeMap;

use kstate_sys::abi::{CLASSES, Class};
use kstate_sys::clock::Ticks;
use kstate_sys::region::{
    self, Candidate, CommitError, Group, Head, LiveOwner, Mapped, Memory, ReadError, Version,
    Writer, live_generation,
};
use proptest::prelude::*;

use super::shared::{Region, buffer, bytes};

const WRITERS: usize = 3;

#[derive(Clone, Debug)]
enum Call {
    /// Replaces the newest version.
    Publish { writer: usize, length: usize },
    /// Commits on the version `back` before the newest.
    Commit {
        writer: usize,
        length: usize,
        back: usize,
    },
    /// The writer's slots are of this class from now on, if it is a bigger one.
    Grow { writer: usize, class: Class },
    /// The writer dies, and its group is claimed anew.
    Claim { writer: usize, class: Class },
    /// Reads the newest version with so many bytes of room.
    Read { room: usize },
    /// Reads the version `back` before the newest, if it is still there.
    ReadAt { back: usize },
    /// Reads in a process that has mapped this far.
    ReadMapped { class: Class },
    /// Refreshes the live page.
    RefreshLive,
    /// The committer of the version `back` before the newest gets to refresh it only now.
    ShowLive { back: usize },
}

fn length() -> impl Strategy<Value = usize> {
    let page = kstate_sys::abi::page_size() as usize;
    prop_oneof![
        3 => 0..=page,
        // One more than a page never fits.
        3 => prop::sample::select(vec![
            0, 1, 63, 64, 65, 255, 256, 257, 1023, 1024, 1025, page - 1, page, page + 1,
        ]),
        2 => 0..=64_usize,
    ]
}

fn call() -> impl Strategy<Value = Call> {
    let class = || prop::sample::select(CLASSES.to_vec());
    let back = || 0..9_usize;
    prop_oneof![
        6 => (0..WRITERS, length()).prop_map(|(writer, length)| Call::Publish { writer, length }),
        6 => (0..WRITERS, length(), prop_oneof![3 => Just(0), 2 => back()])
            .prop_map(|(writer, length, back)| Call::Commit { writer, length, back }),
        2 => (0..WRITERS, class()).prop_map(|(writer, class)| Call::Grow { writer, class }),
        1 => (0..WRITERS, class()).prop_map(|(writer, class)| Call::Claim { writer, class }),
        3 => length().prop_map(|room| Call::Read { room }),
        4 => back().prop_map(|back| Call::ReadAt { back }),
        1 => class().prop_map(|class| Call::ReadMapped { class }),
        2 => Just(Call::RefreshLive),
        2 => back().prop_map(|back| Call::ShowLive { back }),
    ]
}

/// One version as it was published.
#[derive(Clone, Debug)]
struct Published {
    head: Head,
    value: Vec<u8>,
    class: Class,
    time: Ticks,
}

impl Published {
    fn assert_is(&self, version: Version, value: &[u8]) {
        assert_eq!(version.head, self.head);
        assert_eq!(version.length as usize, self.value.len());
        assert_eq!(version.time, self.time);
        assert!(value == self.value, "the bytes of {:?}", self.head);
    }
}

/// The list, and which version a slot holds.
struct Model {
    versions: Vec<Published>,
    slots: BTreeMap<u16, Head>,
}

impl Model {
    fn new() -> Self {
        let never = Published {
            head: Head::INITIAL,
            value: Vec::new(),
            class: Class::B64,
            time: Ticks::NONE,
        };
        Self {
            versions: vec![never],
            slots: BTreeMap::from([(0, Head::INITIAL)]),
        }
    }

    fn newest(&self) -> &Published {
        self.versions.last().unwrap()
    }

    fn back(&self, back: usize) -> &Published {
        &self.versions[self.versions.len().saturating_sub(1 + back)]
    }

    /// Checks what came of publishing `value`, and takes it up.
    fn publish(
        &mut self,
        region: &Mapped<'_>,
        writer: &Writer,
        value: Vec<u8>,
        time: Ticks,
        result: Result<Head, CommitError>,
    ) {
        let room = region.slot_bytes(writer.class());
        if value.len() > room {
            let length = value.len();
            assert_eq!(result, Err(CommitError::TooLong { length, room }));
            return;
        }
        let head = result.unwrap();
        let newest = self.newest().head;
        assert_eq!(head.generation().0, newest.generation().0 + 1);
        assert_eq!(head.slot().group(), writer.group().0);
        assert_ne!(
            head.slot(),
            newest.slot(),
            "filled the newest version's slot"
        );
        assert!(!head.has_intent());
        self.slots.insert(head.slot().index(), head);
        let class = writer.class();
        self.versions.push(Published {
            head,
            value,
            class,
            time,
        });
    }
}

fn value(length: usize, salt: u64) -> Vec<u8> {
    (0..length as u64)
        .map(|i| ((i ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56).to_le_bytes()[0])
        .collect()
}

/// Reads in a process that has mapped the slots of classes up to `mapped`.
fn read_newest(model: &Model, region: &Mapped<'_>, mapped: Class, room: usize) {
    let newest = model.newest();
    let mut into = buffer(room);
    let found = region::read(region, &mut into);
    let length = u32::try_from(newest.value.len()).unwrap();
    let mapped = newest.class <= mapped;
    if length > 0 && !mapped {
        let class = newest.class;
        assert_eq!(found, Err(ReadError::Unmapped { class }));
    } else if newest.value.len() > room {
        assert_eq!(found, Err(ReadError::TooLong { length, room }));
    } else {
        newest.assert_is(found.unwrap(), &bytes(&into[..length as usize]));
    }
    assert_eq!(region::newest(region), Ok(newest.head));
    // The short way: to the same, or to nothing.
    let candidate = Candidate::newest(region, room);
    let usual = CLASSES
        .into_iter()
        .find(|class| region.slot_bytes(*class) >= room);
    let expected = mapped && newest.value.len() == room && usual == Some(newest.class);
    assert_eq!(
        candidate.is_some(),
        expected,
        "{candidate:?} with {room} bytes"
    );
    if let Some(candidate) = candidate {
        let mut into = buffer(room);
        candidate.payload.load(&mut into);
        assert!(candidate.still_stands());
        newest.assert_is(candidate.version, &bytes(&into));
    }
}

fn read_back(model: &Model, region: &Mapped<'_>, back: usize) {
    let old = model.back(back);
    let mut into = buffer(old.value.len());
    let found = region::read_at(region, old.head, &mut into).unwrap();
    let there = model.slots[&old.head.slot().index()] == old.head;
    assert_eq!(
        found.is_some(),
        there,
        "{:?} is still in its slot: {there}",
        old.head
    );
    if let Some(version) = found {
        old.assert_is(version, &bytes(&into));
    }
}

fn refresh_live(model: &Model, region: &Mapped<'_>) {
    region::refresh_live(region, LiveOwner::of(Group::DAEMON)).unwrap();
    assert_live(model, region);
}

fn show_live(model: &Model, region: &Mapped<'_>, back: usize) {
    let shown = model.back(back);
    let owner = LiveOwner::of(Group(shown.head.slot().group()));
    if !region::show_live(region, owner, shown.head, &shown.value) {
        region::refresh_live(region, owner).unwrap();
    }
    assert_live(model, region);
}

fn assert_live(model: &Model, region: &Mapped<'_>) {
    let newest = model.newest();
    assert_eq!(live_generation(region), Some(newest.head.generation()));
    let mut page = buffer(region.live().len());
    region.live().load(&mut page);
    let page = bytes(&page);
    let (value, rest) = page.split_at(newest.value.len());
    assert!(value == newest.value, "the live page holds another value");
    assert!(
        rest.iter().all(|byte| *byte == 0),
        "a longer value's rest is left"
    );
}

fn run(calls: Vec<Call>) {
    let region = Region::new();
    let whole = region.mapped();
    let mut model = Model::new();
    let claim = |writer: usize, class| {
        // Group 0 is the one that holds nobody's version at first.
        Writer::claimed(&whole, Group(u8::try_from(writer).unwrap()), class)
    };
    let mut writers: Vec<_> = (0..WRITERS).map(|i| claim(i, Class::B64)).collect();
    for (salt, call) in (1_u64..).zip(calls) {
        let time = Ticks(salt);
        match call {
            Call::Publish { writer, length } => {
                let (writer, value) = (&mut writers[writer], value(length, salt));
                let result = writer.publish(&whole, &value, time);
                model.publish(&whole, writer, value, time, result);
            }
            Call::Commit {
                writer,
                length,
                back,
            } => {
                let (writer, value) = (&mut writers[writer], value(length, salt));
                let (base, found) = (model.back(back).head, model.newest().head);
                let result = writer.commit(&whole, base, &value, time);
                if base == found {
                    model.publish(&whole, writer, value, time, result);
                } else {
                    assert_eq!(result, Err(CommitError::Conflict { found }));
                }
            }
            Call::Grow { writer, class } => {
                let class = class.max(writers[writer].class());
                writers[writer].grow(class);
                assert_eq!(writers[writer].class(), class);
            }
            Call::Claim { writer, class } => writers[writer] = claim(writer, class),
            Call::Read { room } => read_newest(&model, &whole, Class::Page, room),
            Call::ReadAt { back } => read_back(&model, &whole, back),
            Call::ReadMapped { class } => {
                let region = region.mapped_up_to(class);
                read_newest(&model, &region, class, whole.live().len());
            }
            Call::RefreshLive => refresh_live(&model, &whole),
            Call::ShowLive { back } => show_live(&model, &whole, back),
        }
        let described = region::describe(&whole).unwrap();
        let newest = model.newest();
        newest.assert_is(described, &newest.value);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 256,
        // The sequence that failed is printed, shrunk; no file is left behind.
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_sequence_of_calls_does_what_a_list_of_versions_does(
        calls in prop::collection::vec(call(), 1..80),
    ) {
        run(calls);
    }
}
