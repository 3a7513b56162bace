//! Where a state is announced, up to which version it was, and who committed that.

use std::time::UNIX_EPOCH;

use kstate_sys::announce::{Record, Sinks};
use kstate_sys::clock::Ticks;
use kstate_sys::region::{self, Generation, Head};

use super::{Inner, State};
use crate::errno::Errno;
use crate::ledger::Event;
use crate::process::process_of;

/// What is remembered of a state on behalf of announcements.
#[derive(Debug, Default)]
pub(super) struct Announced {
    sinks: Sinks,
    /// The newest version that was announced on KBUS, or found when that began.
    kbus: Generation,
    /// The same on D-Bus.
    dbus: Generation,
    /// Who committed a version, where the slot does not tell: by `write(2)`, or through a group
    /// given back since.
    by: Option<(Generation, u32)>,
}

impl Announced {
    pub(super) fn sinks(&self) -> Sinks {
        self.sinks
    }

    /// Of a state that was taken over: what comes from now on is announced there.
    pub(super) fn adopted(sinks: Sinks, newest: Generation) -> Self {
        Self {
            sinks,
            kbus: newest,
            dbus: newest,
            by: None,
        }
    }

    fn upto(&mut self, sink: Sinks) -> &mut Generation {
        match sink {
            Sinks::DBUS => &mut self.dbus,
            _ => &mut self.kbus,
        }
    }
}

impl State {
    /// Where its commits are announced.
    pub(crate) fn sinks(&self) -> Sinks {
        self.lock().announced.sinks
    }

    /// Announces what comes from now on there.
    ///
    /// # Errors
    ///
    /// `ENOSPC`; nothing was changed then.
    pub(crate) fn set_sinks(&self, sinks: Sinks) -> Result<(), Errno> {
        let mut inner = self.lock();
        self.note(&inner, Event::Announced(self.ino, sinks))?;
        let old = inner.announced.sinks;
        for sink in sinks.each().filter(|sink| !old.contains(*sink)) {
            *inner.announced.upto(sink) = self.newest().unwrap_or(Generation::NEVER);
        }
        inner.announced.sinks = sinks;
        inner.note_change();
        Ok(())
    }

    /// Behind which version there is something to announce to a sink; `None` behind the newest, where the state
    /// is damaged and its version cannot be announced.
    pub(crate) fn announced(&self, sink: Sinks) -> Option<Generation> {
        self.describe().ok()?;
        Some(*self.lock().announced.upto(sink))
    }

    /// What is to be announced to a sink of the newest version, once.
    pub(crate) fn take_announcement(&self, sink: Sinks) -> Option<Record> {
        let version = self.describe().ok()?;
        let generation = version.generation();
        let mut inner = self.lock();
        let is_chosen = inner.announced.sinks.contains(sink);
        let upto = inner.announced.upto(sink);
        if !is_chosen || generation <= *upto {
            return None;
        }
        *upto = generation;
        let pid = inner.committer(version.head).unwrap_or(0);
        drop(inner);
        let time = match version.time {
            Ticks::NONE => None,
            _ => self.modified(&version).duration_since(UNIX_EPOCH).ok(),
        };
        let time = time.map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        Some(Record::new(generation.0, version.length, time, pid))
    }

    /// Leaves all versions but the newest out of what is to be announced to a sink, and says how many these
    /// are.
    pub(crate) fn pass_over(&self, sink: Sinks) -> u64 {
        let Ok(version) = self.describe() else {
            return 0;
        };
        let mut inner = self.lock();
        if !inner.announced.sinks.contains(sink) {
            return 0;
        }
        let upto = inner.announced.upto(sink);
        let before = Generation(version.generation().0.saturating_sub(1));
        let passed = before.0.saturating_sub(upto.0);
        *upto = before.max(*upto);
        passed
    }

    /// Notes whose group it was, which is going to be given back, if the newest version came through it.
    pub(super) fn note_group(&self, inner: &mut Inner, group: u8) {
        if inner.announced.sinks.is_empty() {
            return;
        }
        let Ok(head) = region::newest(&self.mapping().mapped()) else {
            return;
        };
        if head.slot().group() == group
            && let Some(pid) = inner.committer(head)
        {
            inner.announced.by = Some((head.generation(), pid));
        }
    }
}

impl Inner {
    /// Notes that thread `tid` has committed a version by `write(2)`.
    pub(super) fn note_write(&mut self, generation: Generation, tid: u32) {
        if self.announced.sinks.is_empty() {
            return;
        }
        let pid = i32::try_from(tid).ok().and_then(process_of);
        let pid = pid.and_then(|pid| u32::try_from(pid).ok());
        self.announced.by = pid.map(|pid| (generation, pid));
    }

    /// The process that committed the newest version, if that is known.
    fn committer(&self, head: Head) -> Option<u32> {
        match self.announced.by {
            Some((generation, pid)) if generation == head.generation() => Some(pid),
            _ => self
                .groups
                .get(&head.slot().group())?
                .committer(head.generation()),
        }
    }
}
