//! Commits of several states, this being one of them.

use std::time::Duration;

use kstate_sys::region::{self, Decision, IntentRef, Listed};

use super::{Inner, State};
use crate::errno::Errno;
use crate::reaper::{Process, Reaper};

/// Between two looks at a commit that is in the way.
const PAUSE: Duration = Duration::from_micros(200);
/// Looks, before the daemon gives up writing beside commits of several states.
const MAX_LOOKS: u32 = 1000;

impl State {
    /// Does for `owner`, dead or waiting for it, what is to be done here of its commit. Nothing of
    /// `listed` is taken on trust: the slot must be of a group the owner holds, so that it may
    /// write here, and say itself that it belongs to the commit.
    pub(crate) fn settle_listed(
        &self,
        owner: Process,
        listed: Listed,
        commit: IntentRef,
        decision: Decision,
    ) {
        let mut inner = self.lock();
        if !inner.is_held_by(listed.intent.slot().group(), owner) {
            return;
        }
        if inner.armed {
            // The newest version may lie further than this mapping reaches.
            let _ = self.map_reach(&mut inner);
        }
        let mapping = self.mapping();
        let mapped = mapping.mapped();
        listed.settle(&mapped, commit, decision);
        // Whoever finished it may have died before it paid.
        if decision == Decision::Committed && !mapping.is_damaged() {
            self.after_commit(&mapped);
        }
    }

    /// Whether the newest head has an intent of `commit`.
    pub(crate) fn has_intent_of(&self, commit: IntentRef) -> bool {
        let standing = region::look(&self.mapping().mapped());
        standing.is_ok_and(|s| s.intent.is_some_and(|(found, _)| found == commit))
    }

    /// Takes the intent of a commit that is committed off the head, if its owner has not yet.
    pub(crate) fn finish_committed(&self) {
        let mapping = self.mapping();
        let mapped = mapping.mapped();
        if region::look(&mapped).is_ok_and(|standing| standing.finish(&mapped)) {
            self.after_commit(&mapped);
        }
    }

    /// Stands back until no commit of several states is in the way of a write, and settles one
    /// that stays. No lock of a state may be held.
    ///
    /// # Errors
    ///
    /// `EBUSY`, `EIO` of a damaged region.
    pub(super) fn stand_back(&self, reaper: &Reaper) -> Result<(), Errno> {
        for _ in 0..MAX_LOOKS {
            let mapping = self.mapping();
            let mapped = mapping.mapped();
            let standing = region::look(&mapped)?;
            let Some((commit, decision)) = standing.intent else {
                return Ok(());
            };
            if decision == Decision::Committed {
                if standing.finish(&mapped) {
                    self.after_commit(&mapped);
                }
                return Ok(());
            }
            let settled = self
                .common
                .intents
                .settle(commit, |process, ino| reaper.held(process, ino));
            if !settled {
                std::thread::sleep(PAUSE);
            }
        }
        Err(Errno::EBUSY)
    }
}

impl Inner {
    fn is_held_by(&self, group: u8, process: Process) -> bool {
        self.groups
            .get(&group)
            .is_some_and(|owner| owner.is_process(process))
    }
}
