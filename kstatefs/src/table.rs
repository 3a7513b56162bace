//! All states of the mount, by name and by inode number.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kstate_sys::name::StateName;

use crate::inode::{FIRST_STATE, STATE_BITS};
use crate::state::State;

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
    /// A number that no state has had; `None` when they are used up.
    pub(crate) fn fresh_ino(&mut self) -> Option<u64> {
        let fresh = self.next;
        (fresh >> STATE_BITS == 0).then(|| {
            self.next += 1;
            fresh
        })
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
