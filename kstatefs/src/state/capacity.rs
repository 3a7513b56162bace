//! How much room a state has, and the slots that must be allocated for it.

use std::io;
use std::sync::atomic::Ordering;

use kstate_sys::abi::{Class, SLOT_META_BYTES, SLOTS_PER_GROUP};
use kstate_sys::region::{Group, Memory, Slot};

use super::{Inner, State};
use crate::errno::Errno;
use crate::ledger::Event;

impl State {
    /// What a subscriber would like: the first one chooses, later ones can only ask for more.
    pub(crate) fn want_capacity(&self, wanted: u32) -> Result<u32, Errno> {
        let mut inner = self.lock();
        if wanted > self.geometry.page() {
            return Err(Errno::EFBIG);
        }
        let unwritten = self.newest()?.is_never();
        if wanted > 0 && (wanted > inner.capacity || (unwritten && !inner.capacity_chosen)) {
            self.change_capacity(&mut inner, wanted)?;
        }
        Ok(inner.capacity)
    }

    /// As [`State::want_capacity`] for somebody who may only read: never lets a state grow.
    pub(crate) fn suggest_capacity(&self, wanted: u32) -> Result<u32, Errno> {
        let mut inner = self.lock();
        if wanted > self.geometry.page() {
            return Err(Errno::EFBIG);
        }
        let open = !inner.capacity_chosen && self.newest()?.is_never();
        if wanted > 0 && open {
            self.change_capacity(&mut inner, wanted)?;
            // Only a suggestion: the first writer still chooses.
            inner.capacity_chosen = false;
            self.note_capacity(&inner)?;
        }
        Ok(inner.capacity)
    }

    /// Sets the capacity as asked.
    ///
    /// # Errors
    ///
    /// `EINVAL` for 0 and when it would shrink after the first write, `EFBIG` beyond a page,
    /// `ENOSPC`; nothing was changed then.
    pub(crate) fn set_capacity(&self, wanted: u64) -> Result<u32, Errno> {
        let mut inner = self.lock();
        let wanted = u32::try_from(wanted)
            .ok()
            .filter(|wanted| *wanted <= self.geometry.page());
        let wanted = wanted.ok_or(Errno::EFBIG)?;
        if wanted == 0 || (wanted < inner.capacity && !self.newest()?.is_never()) {
            return Err(Errno::EINVAL);
        }
        self.change_capacity(&mut inner, wanted)?;
        Ok(wanted)
    }

    fn change_capacity(&self, inner: &mut Inner, capacity: u32) -> Result<(), Errno> {
        let class = self.geometry.class_for(capacity).ok_or(Errno::EFBIG)?;
        let before = (inner.reach, inner.capacity, inner.capacity_chosen);
        inner.reach = inner.reach.max(class);
        // Every writer may publish in the bigger class as soon as the capacity is announced.
        for group in inner.groups.keys().copied() {
            self.allocate_group(Group(group), class)?;
        }
        if inner.writer.is_some() {
            self.allocate_group(Group::DAEMON, class)?;
            self.map(inner, class)?;
        }
        if let Some(writer) = inner.writer.as_mut() {
            writer.grow(class);
        }
        inner.capacity = capacity;
        inner.capacity_chosen = true;
        self.note_capacity(inner).inspect_err(|_| {
            // Slots of the bigger class may be written to from here on, but nobody is told so.
            (_, inner.capacity, inner.capacity_chosen) = before;
        })?;
        inner.note_change();
        let mapping = self.mapping();
        let mapped = mapping.mapped();
        mapped.header().capacity.store(capacity, Ordering::Release);
        Ok(())
    }

    fn note_capacity(&self, inner: &Inner) -> Result<(), Errno> {
        let event = Event::Capacity {
            ino: self.ino,
            capacity: inner.capacity,
            chosen: inner.capacity_chosen,
            reach: inner.reach,
        };
        self.note(inner, event)
    }

    pub(super) fn allocate_group(&self, group: Group, class: Class) -> io::Result<()> {
        let first = Slot::of_group(group.0, 0).index();
        let slots = usize::from(SLOTS_PER_GROUP);
        self.file
            .allocate(self.geometry.slot_meta(first), slots * SLOT_META_BYTES)?;
        let payload = self.geometry.payload(first, class);
        self.file
            .allocate(payload, slots * self.geometry.slot_bytes(class))
    }
}
