//! What is kept of a state in its file, and bringing it back from there.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kstate_sys::clock::Ticks;
use kstate_sys::region::{CommitError, Generation, MAX_GENERATION};

use super::{Inner, Layout, State};
use crate::errno::Errno;
use crate::ledger::Event;
use crate::persist::{Image, Store};

impl State {
    /// The file of a state that is persistent.
    pub(crate) fn store(&self) -> Option<Arc<Store>> {
        self.lock().store.clone()
    }

    /// Notes for a later daemon how its file is opened.
    ///
    /// # Errors
    ///
    /// `ENOSPC`.
    pub(crate) fn note_file(&self, text: String) -> Result<(), Errno> {
        let inner = self.lock();
        self.note(&inner, Event::Persistent(self.ino, Some(text)))
    }

    /// Takes the file from a state that has gone.
    pub(crate) fn take_store(&self) -> Option<Arc<Store>> {
        self.lock().store.take()
    }

    /// Makes one at a time make it persistent.
    pub(crate) fn persisting(&self) -> MutexGuard<'_, ()> {
        self.persisting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the state persistent: from now on it stays without subscribers. `text` is noted for a later
    /// daemon, where that is news.
    ///
    /// # Errors
    ///
    /// `ESTALE` when it has gone, `ENOSPC`.
    pub(crate) fn attach(&self, store: Arc<Store>, text: Option<String>) -> Result<(), Errno> {
        let mut inner = self.lock();
        if inner.gone {
            return Err(Errno::ESTALE);
        }
        if text.is_some() {
            self.note(&inner, Event::Persistent(self.ino, text))?;
        }
        inner.store = Some(store);
        Ok(())
    }

    /// The newest version, and all that brings the state back, to be written to its file.
    ///
    /// # Errors
    ///
    /// `EIO` of a damaged region.
    pub(crate) fn image(&self, store: &Store) -> Result<Image, Errno> {
        self.image_within(store.within())
    }

    /// The same for a file that is not the state's yet.
    pub(crate) fn image_within(&self, within: Duration) -> Result<Image, Errno> {
        let mut inner = self.lock();
        let (version, value) = self.read_version(&mut inner)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let age = self.age(&version);
        let time = now
            .ok()
            .zip(age)
            .and_then(|(now, age)| now.checked_sub(age));
        let attributes = inner.attributes;
        let generation = version.generation().0;
        Ok(Image {
            name: self.name.clone(),
            generation,
            ceiling: crate::persist::ceiling(generation, false),
            clean: false,
            mode: attributes.mode,
            uid: attributes.uid,
            gid: attributes.gid,
            capacity: inner.capacity,
            layout: inner.layout.clone().map(|layout| (layout.id, layout.text)),
            linger: attributes.linger,
            deadline: inner.deadline.after(),
            announce: inner.announced.sinks().bits(),
            within,
            time,
            value,
        })
    }

    /// Whether [`restore`](Self::restore) will do, as far as can be told before.
    ///
    /// # Errors
    ///
    /// Those of that.
    pub(crate) fn check_restorable(&self, image: &Image) -> Result<(), Errno> {
        let is_other = |layout: &Layout| {
            image
                .layout
                .as_ref()
                .is_some_and(|(id, _)| *id != layout.id)
        };
        if self.layout().as_ref().is_some_and(is_other) {
            return Err(Errno::EPROTOTYPE);
        }
        let page = self.page();
        let fits = |length: usize| u32::try_from(length).is_ok_and(|length| length <= page);
        if image.capacity == 0 || image.capacity > page || !fits(image.value.len()) {
            return Err(Errno::EFBIG);
        }
        if image.generation.max(image.ceiling) > MAX_GENERATION.0 {
            return Err(Errno::EOVERFLOW);
        }
        match self.newest()?.is_never() {
            true => Ok(()),
            false => Err(Errno::ENOTUNIQ),
        }
    }

    /// Puts the version of `image` in place, as the first one, under the number `generation`; its
    /// layout and room first. Whoever has subscribed already sees it come.
    ///
    /// # Errors
    ///
    /// `ENOTUNIQ` when the state has a version of its own, `EPROTOTYPE` when it has another layout, `EFBIG`, `ENOSPC`.
    pub(crate) fn restore(&self, image: &Image, generation: Generation) -> Result<(), Errno> {
        if let Some((id, text)) = &image.layout {
            let layout = Layout {
                id: *id,
                text: text.clone(),
            };
            self.record_layout(&layout, true)?
                .map_err(|_| Errno::EPROTOTYPE)?;
        }
        let length = u32::try_from(image.value.len()).map_err(|_| Errno::EFBIG)?;
        let wanted = image.capacity.max(length);
        if !self.newest()?.is_never() {
            return Err(Errno::ENOTUNIQ);
        }
        if wanted > self.capacity() || !self.is_open() {
            self.set_capacity(wanted.into())?;
        }
        if generation.is_never() {
            return Ok(());
        }
        let mut inner = self.lock();
        self.claim_for_daemon(&mut inner)?;
        let mapping = self.mapping();
        let mapped = mapping.mapped();
        let time = image.time.map_or(Ticks::NONE, |time| self.ticks_of(time));
        let writer = inner.writer.as_mut().ok_or(Errno::EIO)?;
        match writer.restore(&mapped, generation, &image.value, time) {
            Ok(_) => {}
            Err(CommitError::Conflict { .. }) => return Err(Errno::ENOTUNIQ),
            Err(error) => return Err(error.into()),
        }
        drop(inner);
        self.after_commit(&mapped);
        Ok(())
    }

    /// A time since the epoch by the mount's clock.
    fn ticks_of(&self, time: Duration) -> Ticks {
        let clock = self.common.clock;
        // Whoever owns the file can have put any time there.
        let at = UNIX_EPOCH.checked_add(time);
        let ago = at.and_then(|at| SystemTime::now().duration_since(at).ok());
        let ago = ago.unwrap_or_default();
        clock.before(clock.now(), ago)
    }
}

impl Inner {
    /// Whether it stays without subscribers.
    pub(super) fn is_kept(&self) -> bool {
        self.store.is_some() || self.attributes.is_kept()
    }

    /// Something has changed that is kept in the state's file besides its value.
    pub(super) fn note_change(&self) {
        if let Some(store) = &self.store {
            store.touch();
        }
    }
}
