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
    /// States that have gone while files of them were open: who has one can still ask about it.
    gone: HashMap<u64, Arc<State>>,
    next: u64,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            by_name: BTreeMap::new(),
            by_ino: HashMap::new(),
            gone: HashMap::new(),
            next: FIRST_STATE,
        }
    }
}

impl Table {
    /// An empty one, whose first number is `next`.
    pub(crate) fn numbered_from(next: u64) -> Self {
        Self {
            next: next.max(FIRST_STATE),
            ..Self::default()
        }
    }

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

    /// Takes a state that has gone out of its place, until its last file is closed.
    pub(crate) fn remove(&mut self, state: &State) {
        if let Some(gone) = self.by_ino.remove(&state.ino())
            && gone.is_open()
        {
            self.gone.insert(state.ino(), gone);
        }
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

    /// Also one that has gone, as long as a file of it is open.
    pub(crate) fn known(&self, ino: u64) -> Option<&Arc<State>> {
        self.numbered(ino).or_else(|| self.gone.get(&ino))
    }

    /// The last file of a state that had gone is closed.
    pub(crate) fn forget(&mut self, ino: u64) {
        self.gone.remove(&ino);
    }

    /// States that have gone while files of them were open.
    #[cfg(fuzzing)]
    pub(crate) fn gone(&self) -> impl Iterator<Item = &Arc<State>> {
        self.gone.values()
    }

    /// Names in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<State>> {
        self.by_name.values()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }
}
