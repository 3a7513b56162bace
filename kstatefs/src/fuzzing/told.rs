//! What a reader has been told of many states: that it all fits together, and names no state that it
//! may not read.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde_json::Value;

use super::world::{Person, World};
use crate::fs::Shared;
use crate::inode::Report;

/// What the lines of one stream of changes have said.
#[derive(Debug, Default)]
pub(super) struct Told {
    prefix: String,
    /// States told of, and not told to have gone, with the generation told last.
    known: BTreeMap<u64, u64>,
    deleted: HashSet<u64>,
    /// The beginning of a line whose end has not been read.
    line: Vec<u8>,
    /// Whether the daemon had nothing more when it was asked last, and was not asked since.
    is_drained: bool,
}

impl Told {
    pub(super) fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            ..Self::default()
        }
    }

    /// Bytes that have been read. `at_once` when they were asked for and given in one call.
    pub(super) fn read(
        &mut self,
        bytes: &[u8],
        at_once: bool,
        shared: &Shared,
        world: &World,
        reader: &Person,
        ever: &HashSet<u64>,
    ) {
        assert!(!bytes.is_empty(), "a stream of changes has no end");
        let is_fresh = at_once && self.is_drained;
        self.is_drained = false;
        let there: HashSet<u64> = shared.states().iter().map(|state| state.ino()).collect();
        let readable = reader.readable(shared);
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            let line: Value = serde_json::from_slice(&self.line).expect("JSON");
            let id = line["id"].as_u64().expect("a number");
            let name = line["state"].as_str().expect("a name");
            let event = line["event"].as_str().expect("a word");
            assert!(ever.contains(&id), "{reader:?} may never read: {line}");
            assert!(name.starts_with(&self.prefix), "not {self:?}: {line}");
            assert!(!self.deleted.contains(&id), "has gone before: {line}");
            if is_fresh && event != "deleted" && there.contains(&id) {
                assert!(readable.contains_key(&id), "{reader:?} now: {line}");
            }
            let generation = line["generation"].as_u64();
            let given = || generation.expect("a number");
            match event {
                "created" | "present" => {
                    let is_new = self.known.insert(id, given()).is_none();
                    let is_again = reader.uid != 0 && world.changed.borrow().contains(&id);
                    assert!(is_new || is_again, "told before: {line}");
                }
                "changed" => {
                    let last = self.known.insert(id, given());
                    let is_newer = last.is_some_and(|last| last < given());
                    assert!(is_newer || world.scribbled.get(), "{last:?} before: {line}");
                }
                "overdue" | "publisher_gone" => {
                    assert!(self.known.contains_key(&id), "not told of: {line}");
                }
                "deleted" => {
                    assert!(!there.contains(&id), "still there: {line}");
                    assert!(self.known.remove(&id).is_some(), "not told of: {line}");
                    self.deleted.insert(id);
                }
                _ => panic!("{line}"),
            }
            self.line.clear();
        }
    }

    /// There is nothing more: then all is told.
    pub(super) fn drained(&mut self, shared: &Shared, world: &World, reader: &Person) {
        self.is_drained = true;
        assert!(self.line.is_empty(), "half a line: {self:?}");
        for (id, name) in reader.readable(shared) {
            let is_known = !name.starts_with(&self.prefix) || self.known.contains_key(&id);
            assert!(is_known, "{name} is not told of: {self:?}");
        }
        let there: HashSet<u64> = shared.states().iter().map(|state| state.ino()).collect();
        for id in self.known.keys().filter(|id| !there.contains(id)) {
            let was_hidden = reader.uid != 0 && world.changed.borrow().contains(id);
            assert!(was_hidden, "{id} has gone untold: {self:?}");
        }
    }

    /// Whether the newest version has been told of each state that is followed.
    pub(super) fn is_current(&self, shared: &Shared, reader: &Person) -> bool {
        let readable = reader.readable(shared);
        let states = shared.states();
        let mut followed = states.iter().filter(|state| {
            readable.contains_key(&state.ino()) && state.name().as_str().starts_with(&self.prefix)
        });
        followed.all(|state| {
            let newest = state.newest().ok().map(|newest| newest.0);
            self.known.get(&state.ino()).copied() == newest
        })
    }
}

/// Checks that a report which is read now tells of what its reader may read, and of nothing else.
pub(super) fn check_report(report: Report, text: &[u8], readable: &BTreeMap<u64, String>) {
    let text = std::str::from_utf8(text).expect("text");
    assert!(text.is_empty() || text.ends_with('\n'));
    match report {
        Report::Version => assert!(text.starts_with("version ")),
        Report::States => {
            let state = |line: &str| {
                let line: Value = serde_json::from_str(line).expect("JSON");
                let name = line["state"].as_str().expect("a name").to_owned();
                (line["id"].as_u64().expect("a number"), name)
            };
            let told: BTreeMap<u64, String> = text.lines().map(state).collect();
            assert_eq!(told, *readable);
        }
        Report::Metrics => {
            let mut lines: BTreeMap<&str, usize> = BTreeMap::new();
            for line in text.lines().filter(|line| !line.starts_with('#')) {
                let (name, value) = line.split_once(' ').expect("a name and a value");
                value.parse::<u64>().expect("a number");
                let label = name.split_once("{state=\"").map(|(_, label)| label);
                if let Some(label) = label {
                    *lines.entry(label.trim_end_matches("\"}")).or_default() += 1;
                }
            }
            let told: BTreeSet<&str> = lines.keys().copied().collect();
            let expected: BTreeSet<&str> = readable.values().map(String::as_str).collect();
            assert_eq!(told, expected);
            let first = lines.values().next();
            assert!(lines.values().all(|count| Some(count) == first));
        }
    }
}
