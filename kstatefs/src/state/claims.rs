//! Who holds slot groups and wait marks, and what is done when they die.

use kstate_sys::abi::GROUPS;
use kstate_sys::futex;
use kstate_sys::ioctl::Claim;
use kstate_sys::region::{self, Group, LiveOwner, Memory, Notice, Writer};

use super::{Inner, State};
use crate::errno::Errno;
use crate::reaper::Process;

impl State {
    /// Gives `process` a slot group of its own, allocated and never the one that is live in
    /// another's hands.
    ///
    /// # Errors
    ///
    /// `EUSERS` when all 255 are taken, `ENOSPC`, `ESTALE`.
    pub(crate) fn claim(&self, process: Process) -> Result<Claim, Errno> {
        let mut inner = self.lock();
        if inner.gone {
            return Err(Errno::ESTALE);
        }
        let last = u8::try_from(GROUPS - 1).unwrap_or(u8::MAX);
        let group = (1..=last).find(|group| !inner.groups.contains_key(group));
        let group = group.ok_or(Errno::EUSERS)?;
        let class = self.geometry.class_for(inner.capacity).ok_or(Errno::EIO)?;
        self.allocate_group(Group(group), class)?;
        inner.groups.insert(group, process);
        Ok(Claim::new(u32::from(group), class as u32, inner.capacity))
    }

    /// Takes a group back. Returns whether `process` holds nothing of this state any more.
    pub(crate) fn release(&self, process: Process, group: u32) -> Result<bool, Errno> {
        let group = u8::try_from(group).map_err(|_| Errno::EINVAL)?;
        let mut inner = self.lock();
        if inner.groups.get(&group) != Some(&process) {
            return Err(Errno::EINVAL);
        }
        inner.groups.remove(&group);
        Ok(!inner.is_held_by(process))
    }

    /// Notes that `process` is going to wait: from now on each commit wakes.
    pub(crate) fn wait_begin(&self, process: Process) {
        let mut inner = self.lock();
        *inner.waits.entry(process).or_insert(0) += 1;
        self.mapping().mapped().header().raise(Notice::WAITERS);
    }

    /// The end of it. Returns whether `process` holds nothing of this state any more.
    pub(crate) fn wait_end(&self, process: Process) -> Result<bool, Errno> {
        let mut inner = self.lock();
        let waits = inner.waits.get_mut(&process).ok_or(Errno::EINVAL)?;
        *waits -= 1;
        if *waits == 0 {
            inner.waits.remove(&process);
        }
        self.lower_mark_if_unused(&inner);
        Ok(!inner.is_held_by(process))
    }

    /// Settles what a dead process left: its groups, its wait marks, the live page's lock, and
    /// the wake it may have died before.
    pub(crate) fn bury(&self, process: Process) {
        let mut inner = self.lock();
        let dead: Vec<u8> = inner
            .groups
            .iter()
            .filter(|(_, owner)| **owner == process)
            .map(|(g, _)| *g)
            .collect();
        if inner.armed && !dead.is_empty() {
            // The newest version may lie further than this mapping reaches.
            let _ = self.map_capacity(&mut inner);
        }
        let mapping = self.mapping();
        let mapped = mapping.mapped();
        for group in &dead {
            if inner.armed {
                let (dead, heir) = (LiveOwner::of(Group(*group)), LiveOwner::of(Group::DAEMON));
                if let Err(error) = region::seize_live(&mapped, dead, heir) {
                    tracing::warn!(name = %self.name, %error, "live page not refreshed");
                }
            }
            inner.groups.remove(group);
        }
        inner.waits.remove(&process);
        if !dead.is_empty() {
            // It may have died between its swap and its wake.
            futex::wake_all(&mapped.header().head);
        }
        self.lower_mark_if_unused(&inner);
    }

    /// Whether `process` has a group or a wait mark here.
    pub(crate) fn is_held_by(&self, process: Process) -> bool {
        self.lock().is_held_by(process)
    }

    pub(super) fn claim_for_daemon(&self, inner: &mut Inner) -> Result<(), Errno> {
        if inner.writer.is_none() {
            let class = self.geometry.class_for(inner.capacity).ok_or(Errno::EIO)?;
            self.allocate_group(Group::DAEMON, class)?;
            self.map(inner, class)?;
            let mapping = self.mapping();
            inner.writer = Some(Writer::claimed(&mapping.mapped(), Group::DAEMON, class));
        }
        Ok(())
    }
}
