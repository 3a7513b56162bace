//! What the callers of a run have in common, and what the checks go by.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};

use crate::fs::{Caller, Shared};
use crate::inode::{ALL_CHANGES, Node};

/// One run's.
#[derive(Debug, Default)]
pub(super) struct World {
    /// Whether anybody has written into a region.
    pub(super) scribbled: Cell<bool>,
    /// States whose rights somebody has changed.
    pub(super) changed: RefCell<HashSet<u64>>,
    /// How often the kernel was told of each file of changes with a prefix.
    lookups: RefCell<BTreeMap<u64, u64>>,
}

impl World {
    /// The kernel was told of a file.
    pub(super) fn looked_up(&self, ino: u64) {
        if ino != ALL_CHANGES && matches!(Node::from_ino(ino), Node::Changes(_)) {
            *self.lookups.borrow_mut().entry(ino).or_insert(0) += 1;
        }
    }

    /// The kernel forgets some lookups of a file; all of them only when nobody has it open.
    pub(super) fn forget(&self, shared: &Shared, which: usize, some: u64, open: &[u64]) {
        let mut known = self.lookups.borrow_mut();
        let Some((ino, lookups)) = known.iter().nth(which % known.len().max(1)) else {
            return;
        };
        let (ino, lookups) = (*ino, *lookups);
        let forgotten = match open.contains(&ino) {
            true => some.min(lookups - 1),
            false => some.min(lookups),
        };
        if forgotten == 0 {
            return;
        }
        shared.forget(ino, forgotten);
        known.insert(ino, lookups - forgotten);
        known.retain(|_, lookups| *lookups > 0);
    }

    pub(super) fn forget_all(&self, shared: &Shared) {
        for (ino, lookups) in self.lookups.take() {
            shared.forget(ino, lookups);
        }
    }
}

/// Who a caller is, and what the rights of files mean for it.
#[derive(Clone, Debug)]
pub(super) struct Person {
    pub(super) uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

/// Whose a file is, and what its mode lets them do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rights {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Person {
    pub(super) fn of(caller: Caller) -> Self {
        // Every thread that the daemon can see is this process's, or its child's.
        let groups = match caller.tid {
            0 => Vec::new(),
            _ => nix::unistd::getgroups().expect("a list"),
        };
        Self {
            uid: caller.uid,
            gid: caller.gid,
            groups: groups.into_iter().map(nix::unistd::Gid::as_raw).collect(),
        }
    }

    /// As the kernel, for `default_permissions`.
    pub(super) fn may(&self, file: Rights, wanted: u32) -> bool {
        let shift = match () {
            () if self.uid == 0 => return true,
            () if self.uid == file.uid => 6,
            () if self.gid == file.gid || self.groups.contains(&file.gid) => 3,
            () => 0,
        };
        file.mode >> shift & wanted == wanted
    }

    pub(super) fn owns(&self, file: Rights) -> bool {
        self.uid == 0 || self.uid == file.uid
    }

    /// The states there are that it may read now, by number.
    pub(super) fn readable(&self, shared: &Shared) -> BTreeMap<u64, String> {
        let states = shared.states();
        let readable = states.iter().filter(|state| {
            let attributes = state.attributes();
            let rights = Rights {
                mode: attributes.mode,
                uid: attributes.uid,
                gid: attributes.gid,
            };
            self.may(rights, 4)
        });
        readable
            .map(|state| (state.ino(), state.name().as_str().to_owned()))
            .collect()
    }
}
