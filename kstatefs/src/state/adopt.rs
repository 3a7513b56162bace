//! A state that a daemon before this one has left.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::{Duration, Instant};

use kstate_sys::abi::{Class, Geometry};
use kstate_sys::futex;
use kstate_sys::ioctl::Groups;
use kstate_sys::region::{self, Generation, Group, LiveOwner, Memory, Notice};

use super::announce::Announced;
use super::claims::Owner;
use super::deadline::Deadline;
use super::{Common, Inner, State};
use crate::backing::RegionFile;
use crate::errno::{Errno, may_tell_of_damage};
use crate::ledger::{GroupNote, StateNote};
use crate::reaper::{Process, Reaper};
use crate::region::RegionMapping;
use crate::timer::Look;

impl State {
    /// The state `ino` as it was noted, with the region it has. What the daemon before this one said in the
    /// header is said again, since writers could have written anything there; what they say themselves
    /// stays.
    ///
    /// # Errors
    ///
    /// `ENFILE`, `ENOSPC`.
    pub(crate) fn adopt(
        ino: u64,
        noted: &StateNote,
        file: RegionFile,
        common: &Common,
    ) -> Result<Self, Errno> {
        let geometry = Geometry::of_this_machine();
        let class = geometry.class_for(noted.capacity).ok_or(Errno::EIO)?;
        let reach = noted.reach.max(class);
        file.allocate(geometry.header(), geometry.page() as usize)?;
        let mapping = RegionMapping::new(&file, geometry, reach, common.intents.clone())?;
        let mapped = mapping.mapped();
        region::initialise(mapped.mapped(), ino, noted.capacity, &common.clock);
        let header = mapped.header();
        let layout = noted.layout.as_ref().map_or(0, |layout| layout.id);
        // ORDERING: Release, as when it was recorded.
        header.layout_id.store(layout, Ordering::Release);
        header.mark_overdue(0);
        header.end_turn();
        header.lower(Notice::DELETED);
        let newest = region::newest(&mapped).map_or(Generation::NEVER, |head| head.generation());
        let mut inner = Inner::new(noted.attributes, noted.capacity);
        inner.capacity_chosen = noted.capacity_chosen;
        inner.reach = reach;
        inner.layout = noted.layout.clone();
        inner.armed = noted.armed;
        inner.deadline = Deadline::adopted(noted.deadline);
        inner.announced = Announced::adopted(noted.sinks, newest);
        if header.notice().contains(Notice::WAITERS) {
            inner.waits.keep_former();
        }
        inner.waits.announce(header);
        match noted.armed {
            true => header.raise(Notice::ARMED),
            false => header.lower(Notice::ARMED),
        }
        Ok(Self {
            ino,
            name: noted.name.clone(),
            file: Arc::new(file),
            geometry,
            common: common.clone(),
            created: noted.created,
            mapping: RwLock::new(Arc::new(mapping)),
            overdue: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            persisting: Mutex::default(),
            last: OnceLock::new(),
            sealing: AtomicBool::new(false),
            inner: Mutex::new(inner),
        })
    }

    /// Notes who has a group of an adopted state.
    pub(crate) fn adopt_group(&self, group: u8, process: Process, noted: GroupNote) {
        let mut inner = self.lock();
        let newest = self.newest().unwrap_or(Generation::NEVER);
        let owner = Owner::adopted(process, noted.owner.pid, noted.is_closed, newest);
        inner.groups.insert(group, owner);
    }

    /// Notes that `process` was subscribed. The state stays until it has opened it again, or has ended.
    pub(crate) fn adopt_subscriber(&self, process: Process) {
        self.lock().absent.insert(process);
    }

    /// Has who was told by the daemon before this one ask again, and pays what that may have owed. From now on
    /// the state stays for `awaited` even if nobody is known to come.
    pub(crate) fn begin_epoch(&self, epoch: u32, awaited: Duration) {
        let mut inner = self.lock();
        inner.awaited_until = Some(Instant::now() + awaited);
        let mapping = self.mapping();
        let mapped = mapping.mapped();
        if inner.armed {
            let daemon = LiveOwner::of(Group::DAEMON);
            if let Err(error) = region::seize_live(&mapped, daemon, daemon)
                && may_tell_of_damage()
            {
                tracing::warn!(name = %self.name, %error, "live page not refreshed");
            }
        }
        let header = mapped.header();
        // ORDERING: Release: who finds it finds what this daemon has said before.
        header.epoch.store(epoch, Ordering::Release);
        if !inner.waits.is_empty() {
            let (timer, look) = (&self.common.timer, Look::Waits(self.ino));
            timer.schedule_by(look, Duration::ZERO);
        }
        drop(inner);
        futex::wake_all(&header.turn);
        self.wake_all();
    }

    /// The process of thread `tid` has the state open through this daemon wherever it had before, so that its
    /// files count, and has reclaimed its groups but for those of `listed`: the rest are nobody's.
    ///
    /// # Errors
    ///
    /// `ESTALE`.
    pub(crate) fn has_returned(
        &self,
        reaper: &Reaper,
        tid: u32,
        listed: &Groups,
    ) -> Result<(), Errno> {
        if self.is_gone() {
            return Err(Errno::ESTALE);
        }
        if let Some(process) = reaper.find(tid) {
            self.end_absence(reaper, process, listed);
        }
        Ok(())
    }

    /// The processes that had the state open at a daemon before this one and have not returned.
    pub(crate) fn absent(&self) -> Vec<Process> {
        self.lock().absent.iter().copied().collect()
    }

    /// `process` is awaited no more: it has returned, or has let go of the state.
    pub(crate) fn end_absence(&self, reaper: &Reaper, process: Process, listed: &Groups) {
        self.losing_writers(|inner| {
            let lost = inner.former_groups(process, listed);
            self.give_back(inner, &lost);
            inner.absent.remove(&process);
            self.let_go_if_free(inner, reaper, process);
            (!lost.is_empty(), ())
        });
        self.look_whether_abandoned();
    }

    /// Whether another process than `own` was subscribed at a daemon before this one, as far as is known.
    pub(crate) fn is_awaited_by_others(&self, own: Option<i32>, reaper: &Reaper) -> bool {
        let own = own.and_then(|own| u32::try_from(own).ok());
        self.lock().is_awaited_by_others(own, reaper)
    }

    /// Has somebody look whether anything keeps the state.
    pub(crate) fn look_whether_abandoned(&self) {
        let look = Look::Linger(self.ino);
        self.common.timer.schedule(look, Duration::ZERO);
    }
}

/// Tells whoever has the region of a state mapped that it has gone, in case the daemon before this one could
/// not.
///
/// # Errors
///
/// `ENFILE`.
pub(crate) fn mark_deleted(file: &RegionFile, common: &Common) -> Result<(), Errno> {
    let geometry = Geometry::of_this_machine();
    let mapping = RegionMapping::new(file, geometry, Class::B64, common.intents.clone())?;
    let mapped = mapping.mapped();
    let header = mapped.header();
    header.raise(Notice::DELETED);
    header.seal();
    header.stir_crowd();
    futex::wake_all(&header.head);
    futex::wake_all(&header.crowd);
    Ok(())
}
