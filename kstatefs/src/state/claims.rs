//! Who holds slot groups and wait marks, and what is done when they die.

use std::sync::Arc;

use kstate_sys::abi::GROUPS;
use kstate_sys::futex;
use kstate_sys::ioctl::Claim;
use kstate_sys::region::{self, Group, LiveOwner, Memory, Notice, Writer};

use super::{Inner, State};
use crate::errno::Errno;
use crate::reaper::{Process, Reaper};

impl State {
    /// Gives the process of thread `tid` a slot group of its own, allocated.
    ///
    /// The state's lock is held from before the process is watched until the group is its own, so
    /// that another of its threads cannot give up the watch in between.
    ///
    /// # Errors
    ///
    /// `EUSERS` when all 255 are taken, `ENOSPC`, `ESTALE`, `ESRCH` for a process that the daemon
    /// cannot see.
    pub(crate) fn claim(self: &Arc<Self>, reaper: &Reaper, tid: u32) -> Result<Claim, Errno> {
        let mut inner = self.lock();
        if inner.gone {
            return Err(Errno::ESTALE);
        }
        let last = u8::try_from(GROUPS - 1).unwrap_or(u8::MAX);
        let group = (1..=last).find(|group| !inner.groups.contains_key(group));
        let group = group.ok_or(Errno::EUSERS)?;
        let class = self.geometry.class_for(inner.capacity).ok_or(Errno::EIO)?;
        self.allocate_group(Group(group), class)?;
        let process = reaper.hold(tid, self)?;
        inner.groups.insert(group, process);
        inner.reach = inner.reach.max(class);
        Ok(Claim::new(u32::from(group), class as u32, inner.capacity))
    }

    /// Takes a group back from the process of thread `tid`.
    ///
    /// # Errors
    ///
    /// `EINVAL` when it is not that process's.
    pub(crate) fn release(&self, reaper: &Reaper, tid: u32, group: u32) -> Result<(), Errno> {
        let group = u8::try_from(group).map_err(|_| Errno::EINVAL)?;
        let mut inner = self.lock();
        let process = reaper.find(tid).ok_or(Errno::EINVAL)?;
        if inner.groups.get(&group) != Some(&process) {
            return Err(Errno::EINVAL);
        }
        inner.groups.remove(&group);
        self.let_go_if_free(&inner, reaper, process);
        Ok(())
    }

    /// Notes that the process of thread `tid` is going to wait: from now on each commit wakes.
    ///
    /// # Errors
    ///
    /// `ESRCH` for a process that the daemon cannot see.
    pub(crate) fn wait_begin(self: &Arc<Self>, reaper: &Reaper, tid: u32) -> Result<(), Errno> {
        let mut inner = self.lock();
        let process = reaper.hold(tid, self)?;
        *inner.waits.entry(process).or_insert(0) += 1;
        self.mapping().mapped().header().raise(Notice::WAITERS);
        Ok(())
    }

    /// The end of it.
    ///
    /// # Errors
    ///
    /// `EINVAL` without a beginning.
    pub(crate) fn wait_end(&self, reaper: &Reaper, tid: u32) -> Result<(), Errno> {
        let mut inner = self.lock();
        let process = reaper.find(tid).ok_or(Errno::EINVAL)?;
        let waits = inner.waits.get_mut(&process).ok_or(Errno::EINVAL)?;
        *waits -= 1;
        if *waits == 0 {
            inner.waits.remove(&process);
        }
        self.lower_mark_if_unused(&inner);
        self.let_go_if_free(&inner, reaper, process);
        Ok(())
    }

    fn let_go_if_free(&self, inner: &Inner, reaper: &Reaper, process: Process) {
        let holds = inner.waits.contains_key(&process)
            || inner.groups.values().any(|owner| *owner == process);
        if !holds {
            reaper.let_go(process, self.ino);
        }
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
            let _ = self.map_reach(&mut inner);
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

    pub(super) fn claim_for_daemon(&self, inner: &mut Inner) -> Result<(), Errno> {
        if inner.writer.is_none() {
            let class = self.geometry.class_for(inner.capacity).ok_or(Errno::EIO)?;
            self.allocate_group(Group::DAEMON, class)?;
            self.map(inner, class)?;
            inner.reach = inner.reach.max(class);
            let mapping = self.mapping();
            inner.writer = Some(Writer::claimed(&mapping.mapped(), Group::DAEMON, class));
        }
        Ok(())
    }
}
