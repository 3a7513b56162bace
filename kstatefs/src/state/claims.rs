//! Who holds slot groups, and what is done when they die.

use std::sync::Arc;

use kstate_sys::abi::GROUPS;
use kstate_sys::ioctl::{Claim, Groups};
use kstate_sys::region::{self, Generation, Group, LiveOwner, Writer};

use super::{Inner, State};
use crate::errno::{Errno, may_tell_of_damage};
use crate::ledger::Event;
use crate::reaper::{Process, Reaper};

/// Who has a slot group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    process: Process,
    pid: Option<u32>,
    through: Through,
    /// The newest generation when it was claimed.
    since: Generation,
}

/// The open file that a group was claimed through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Through {
    File(u64),
    /// One of a daemon that has ended, which its process may have open still.
    Former,
    /// One that was closed without giving the group back. Then the process has called `exec`, or
    /// it still writes through a map that outlives the file: the group stays its own, and is what
    /// it gets when it claims again.
    Closed,
}

impl Owner {
    /// Whether a program that follows the protocol may still write.
    pub(super) const fn is_writer(self) -> bool {
        !matches!(self.through, Through::Closed)
    }

    /// One that a daemon before this one knew.
    pub(super) fn adopted(process: Process, pid: i32, is_closed: bool, since: Generation) -> Self {
        Self {
            process,
            pid: u32::try_from(pid).ok(),
            through: match is_closed {
                true => Through::Closed,
                false => Through::Former,
            },
            since,
        }
    }

    /// Its process id, if it can have committed this generation.
    pub(super) fn committer(self, generation: Generation) -> Option<u32> {
        self.pid.filter(|_| generation > self.since)
    }

    /// Whether it is `process`.
    pub(super) fn is_process(self, process: Process) -> bool {
        self.process == process
    }
}

impl State {
    /// Gives the process of thread `tid` a slot group of its own, allocated, for as long as it has
    /// `file` open.
    ///
    /// The state's lock is held from before the process is watched until the group is its own, so
    /// that another of its threads cannot give up the watch in between.
    ///
    /// # Errors
    ///
    /// `EUSERS` when all 255 are taken, `ENOSPC`, `ESTALE`, `ESRCH` for a process that the daemon
    /// cannot see.
    pub(crate) fn claim(
        self: &Arc<Self>,
        reaper: &Reaper,
        tid: u32,
        file: u64,
    ) -> Result<Claim, Errno> {
        let mut inner = self.lock();
        if inner.gone {
            return Err(Errno::ESTALE);
        }
        let last = u8::try_from(GROUPS - 1).unwrap_or(u8::MAX);
        let left = reaper.find(tid).and_then(|process| inner.left_by(process));
        let group = left.or_else(|| (1..=last).find(|group| !inner.groups.contains_key(group)));
        let group = group.ok_or(Errno::EUSERS)?;
        let class = self.geometry.class_for(inner.capacity).ok_or(Errno::EIO)?;
        self.allocate_group(Group(group), class)?;
        let process = reaper.hold(tid, self)?;
        let noted = match reaper.identity(process) {
            Some(owner) => {
                let ino = self.ino;
                self.note(&inner, Event::Claimed { ino, group, owner })
            }
            None => Err(Errno::ESTALE),
        };
        if let Err(error) = noted {
            self.let_go_if_free(&inner, reaper, process);
            return Err(error);
        }
        if left.is_some() {
            self.settle(&mut inner, &[group]);
        }
        let owner = Owner {
            process,
            pid: reaper.pid_of(process),
            through: Through::File(file),
            since: self.newest().unwrap_or(Generation::NEVER),
        };
        inner.groups.insert(group, owner);
        inner.reach = inner.reach.max(class);
        Ok(Claim::new(u32::from(group), class as u32, inner.capacity))
    }

    /// Has the process of thread `tid` hold a group through `file` that it claimed through a file of a
    /// daemon before this one.
    ///
    /// # Errors
    ///
    /// `EINVAL` when it is not that process's, or was claimed through another file, `ESTALE`.
    pub(crate) fn reclaim(
        &self,
        reaper: &Reaper,
        tid: u32,
        file: u64,
        group: u32,
    ) -> Result<(), Errno> {
        let mut inner = self.lock();
        if inner.gone {
            return Err(Errno::ESTALE);
        }
        let group = u8::try_from(group).map_err(|_| Errno::EINVAL)?;
        let process = reaper.find(tid).ok_or(Errno::EINVAL)?;
        let owner = inner.groups.get_mut(&group).ok_or(Errno::EINVAL)?;
        if owner.process != process || owner.through != Through::Former {
            return Err(Errno::EINVAL);
        }
        owner.through = Through::File(file);
        Ok(())
    }

    /// Takes a group back from the process of thread `tid`.
    ///
    /// # Errors
    ///
    /// `EINVAL` when it is not that process's.
    pub(crate) fn release(&self, reaper: &Reaper, tid: u32, group: u32) -> Result<(), Errno> {
        let group = u8::try_from(group).map_err(|_| Errno::EINVAL)?;
        self.losing_writers(|inner| {
            let process = reaper.find(tid);
            let owner = inner.groups.get(&group).copied();
            let (Some(process), Some(owner)) = (process, owner) else {
                return (false, Err(Errno::EINVAL));
            };
            if owner.process != process {
                return (false, Err(Errno::EINVAL));
            }
            self.end_turn_of(inner, group);
            self.note_group(inner, group);
            self.remove_group(inner, group);
            self.let_go_if_free(inner, reaper, process);
            // As far as can be told, it has written more than once.
            let newest = self.newest().unwrap_or(Generation::NEVER);
            (newest > owner.since.next(), Ok(()))
        })
    }

    pub(super) fn let_go_if_free(&self, inner: &Inner, reaper: &Reaper, process: Process) {
        let holds = inner.waits.has(process)
            || inner.absent.contains(&process)
            || inner.groups.values().any(|owner| owner.process == process);
        // Of a state that has gone the reaper has forgotten all but who waits there since, whose
        // groups nobody gives back.
        if !holds || inner.gone {
            reaper.let_go(process, self.ino);
        }
    }

    /// Ends what was held through `file`, which is closed: its wait marks, and of its groups the
    /// right to write to them.
    pub(super) fn let_go_of_file(&self, inner: &mut Inner, reaper: &Reaper, file: u64) {
        for (group, owner) in &mut inner.groups {
            if owner.through == Through::File(file) {
                owner.through = Through::Closed;
                if !inner.gone {
                    let closed = Event::Closed(self.ino, *group);
                    self.common.ledger.note_end(closed);
                }
            }
        }
        self.end_waits_of_file(inner, reaper, file);
    }

    /// Settles what a dead process left: its groups and its wait marks.
    pub(crate) fn bury(&self, process: Process) {
        self.losing_writers(|inner| {
            let dead: Vec<u8> = inner
                .groups
                .iter()
                .filter(|(_, owner)| owner.process == process)
                .map(|(g, _)| *g)
                .collect();
            self.give_back(inner, &dead);
            self.end_waits_of_dead(inner, process);
            if inner.absent.remove(&process) {
                self.look_whether_abandoned();
            }
            (true, ())
        });
    }

    /// Takes groups from who writes to them no more, when what it may have owed is settled.
    pub(super) fn give_back(&self, inner: &mut Inner, groups: &[u8]) {
        self.settle(inner, groups);
        for group in groups {
            self.end_turn_of(inner, *group);
            self.note_group(inner, *group);
            self.remove_group(inner, *group);
        }
    }

    fn remove_group(&self, inner: &mut Inner, group: u8) {
        if inner.groups.remove(&group).is_some() && !inner.gone {
            let released = Event::Released(self.ino, group);
            self.common.ledger.note_end(released);
        }
    }

    /// Does what the last writer of each of `groups` may have owed when it ended: frees the live
    /// page's lock, and wakes.
    fn settle(&self, inner: &mut Inner, groups: &[u8]) {
        if groups.is_empty() {
            return;
        }
        if inner.armed {
            // The newest version may lie further than this mapping reaches.
            let _ = self.map_reach(inner);
        }
        let mapping = self.mapping();
        let mapped = mapping.mapped();
        for group in groups.iter().filter(|_| inner.armed) {
            let (dead, heir) = (LiveOwner::of(Group(*group)), LiveOwner::of(Group::DAEMON));
            if let Err(error) = region::seize_live(&mapped, dead, heir)
                && may_tell_of_damage()
            {
                tracing::warn!(name = %self.name, %error, "live page not refreshed");
            }
        }
        // It may have died between its swap and its wake.
        self.wake_all();
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

impl Inner {
    /// Slot groups that programs with the library write to, and files that others have open for it.
    pub(super) fn writers(&self) -> u32 {
        let groups = self.groups.values().filter(|owner| owner.is_writer());
        let groups = u32::try_from(groups.count()).unwrap_or(u32::MAX);
        groups.saturating_add(self.open_for_writing)
    }

    /// The groups of `process` that it claimed through files of a daemon before this one, but for those `listed`.
    pub(super) fn former_groups(&self, process: Process, listed: &Groups) -> Vec<u8> {
        let is_former =
            |owner: &Owner| owner.process == process && owner.through == Through::Former;
        let former = self.groups.iter().filter(|(_, owner)| is_former(owner));
        let former = former.map(|(group, _)| *group);
        former.filter(|group| !listed.contains(*group)).collect()
    }

    /// Whether another process than `own` holds something that it had at a daemon before this one.
    pub(super) fn is_awaited_by_others(&self, own: Option<u32>, reaper: &Reaper) -> bool {
        let is_other = |pid: Option<u32>| pid.is_none() || pid != own;
        let former = |owner: &&Owner| owner.through == Through::Former;
        let mut owners = self.groups.values().filter(former);
        owners.any(|owner| is_other(owner.pid))
            || self
                .absent
                .iter()
                .any(|process| is_other(reaper.pid_of(*process)))
    }

    /// A group that `process` claimed through a file it has closed since.
    fn left_by(&self, process: Process) -> Option<u8> {
        self.groups
            .iter()
            .find(|(_, owner)| owner.process == process && !owner.is_writer())
            .map(|(group, _)| *group)
    }
}
