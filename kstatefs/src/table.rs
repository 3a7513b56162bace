//! All states of the mount, by name and by inode number.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kstate_sys::name::StateName;

use crate::state::State;

/// Inode number of the root directory, as FUSE fixes it.
pub(crate) const ROOT: u64 = 1;
/// Inode number of `.kstate`.
pub(crate) const CONTROL: u64 = 2;
/// Inode number of `.kstate/registry`.
pub(crate) const REGISTRY: u64 = 3;
/// Inode number of `.kstate/intents`.
pub(crate) const INTENTS: u64 = 4;
/// From here on, two a record: the files in `.kstate/intents`. No state's number comes so far.
pub(crate) const FIRST_RECORD_FILE: u64 = 1 << 48;
/// The first state's; numbers are never used again.
pub(crate) const FIRST_STATE: u64 = 16;

#[derive(Debug)]
pub(crate) struct Table {
    by_name: BTreeMap<StateName, Arc<State>>,
    by_ino: HashMap<u64, Arc<State>>,
    next: u64,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            by_name: BTreeMap::new(),
            by_ino: HashMap::new(),
            next: FIRST_STATE,
        }
    }
}

impl Table {
    /// A number that no state has had.
    pub(crate) fn fresh_ino(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    pub(crate) fn insert(&mut self, state: Arc<State>) {
        self.by_ino.insert(state.ino(), state.clone());
        self.by_name.insert(state.name().clone(), state);
    }

    pub(crate) fn remove(&mut self, state: &State) {
        self.by_ino.remove(&state.ino());
        // A later state may have the name already.
        if self
            .by_name
            .get(state.name())
            .is_some_and(|known| known.ino() == state.ino())
        {
            self.by_name.remove(state.name());
        }
    }

    pub(crate) fn named(&self, name: &str) -> Option<&Arc<State>> {
        self.by_name.get(name)
    }

    pub(crate) fn numbered(&self, ino: u64) -> Option<&Arc<State>> {
        self.by_ino.get(&ino)
    }

    /// Names in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<State>> {
        self.by_name.values()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }
}
