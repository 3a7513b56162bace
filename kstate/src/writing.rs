//! What a handle writes with, whatever the content of its state.

use std::cell::Cell;
use std::io;

use kstate_sys::access::Access;
use kstate_sys::clock::Ticks;
use kstate_sys::fork::Process;
use kstate_sys::futex::{self, Deadline};
use kstate_sys::region::{
    self, Group, Head, Header, LONGEST_TURN, LiveOwner, Memory, Notice, Turn, Writer,
};

use crate::claim::{self, ClaimError, Claimed};
use crate::content::AnyPage;
use crate::errno;
use crate::reader::{Reader, Untyped};
use crate::stamp::{Stamp, Stamping};

/// Slots, the process that claimed them, and how versions are stamped.
///
/// # Invariants
///
/// 1. `writer` is used only by the process of `process`, which claimed its group.
pub(crate) struct Writing {
    reader: Reader<Untyped>,
    pub(crate) writer: Cell<Option<Writer>>,
    pub(crate) process: Cell<Process>,
    pub(crate) stamping: Cell<Stamping>,
    /// Whether others' turns are honoured.
    pub(crate) polite: Cell<bool>,
    /// The last of them that was.
    pub(crate) waited_for: Cell<Turn>,
    /// The page of an earlier transaction over several states, to be used again.
    pub(crate) spare: Cell<Option<AnyPage>>,
}

impl Writing {
    /// Without slots yet.
    pub(crate) fn new(reader: Reader<Untyped>) -> io::Result<Self> {
        Ok(Self {
            reader,
            writer: Cell::new(None),
            process: Cell::new(Process::current()?),
            stamping: Cell::new(Stamping::default()),
            polite: Cell::new(true),
            waited_for: Cell::new(Turn::NOBODYS),
            spare: Cell::new(None),
        })
    }

    /// The reading side of the same handle.
    #[inline]
    pub(crate) fn reader(&self) -> &Reader<Untyped> {
        &self.reader
    }

    /// Whether this handle may write.
    #[inline]
    pub(crate) fn is_writable(&self) -> bool {
        self.reader.access() == Access::Write
    }

    /// Maps and writes as far as `capacity`, the one in force, allows.
    pub(crate) fn take_capacity(&self, capacity: u32) -> io::Result<()> {
        let class = self
            .reader
            .geometry()
            .class_for(capacity)
            .ok_or_else(errno::protocol_violation)?;
        self.reader.grow(class)?;
        if let Some(mut writer) = self.kept_writer() {
            // The daemon has allocated slots of that class for every group.
            writer.grow(class);
            self.reader
                .current()
                .populate_group(writer.group(), writer.class());
            self.writer.set(Some(writer));
        }
        Ok(())
    }

    /// Takes the writer out, if this process has claimed one; the caller puts it back.
    #[inline]
    pub(crate) fn own_writer(&self) -> Option<Writer> {
        match self.process.get().is_current() {
            true => self.writer.take(),
            false => None,
        }
    }

    /// As [`own_writer`](Self::own_writer), unless a daemon that has followed another one has not found its
    /// claim: it does not write any more then.
    #[cold]
    pub(crate) fn kept_writer(&self) -> Option<Writer> {
        let writer = self.own_writer()?;
        match self.reader.subscription().link().has_lost(writer.group()) {
            false => Some(writer),
            true => {
                claim::release(&self.reader, writer.group());
                None
            }
        }
    }

    /// Has a writer of this process in its place.
    ///
    /// # Errors
    ///
    /// [`ClaimError`].
    #[inline]
    pub(crate) fn ensure_claimed(&self) -> Result<(), ClaimError> {
        let writer = match self.kept_writer() {
            Some(writer) => writer,
            None => self.claim()?,
        };
        self.writer.set(Some(writer));
        Ok(())
    }

    /// Claims a group for the calling process, in place of a parent's if there is one.
    #[cold]
    pub(crate) fn claim(&self) -> Result<Writer, ClaimError> {
        let Claimed { writer, process } = claim::claim(&self.reader)?;
        // INVARIANT: 1; the writer itself is put back by the caller.
        self.process.set(process);
        Ok(writer)
    }

    /// Leaves what a parent process claimed, so that this one can begin transactions.
    #[cold]
    pub(crate) fn leave_parents(&self) -> io::Result<()> {
        self.process.set(Process::current()?);
        self.writer.set(None);
        Ok(())
    }

    /// The commit time of a version that is being written now.
    #[inline]
    pub(crate) fn now(&self) -> Ticks {
        match self.stamping.get() {
            Stamping::CommitTime => self.reader.clock().clock().now(),
            Stamping::Off => Ticks::NONE,
        }
    }

    /// The commit time that the caller gives.
    pub(crate) fn ticks_of(&self, stamp: Stamp) -> Ticks {
        stamp.ticks(&self.reader.clock().clock())
    }

    /// Whether the capacity allows `length` bytes: the one the daemon was asked for, else the one
    /// it has announced in the header, which another writer could have scribbled over.
    #[cold]
    pub(crate) fn has_room(
        &self,
        length: usize,
        asked: Option<u32>,
    ) -> Result<(), region::CommitError> {
        let announced = || self.reader().memory().header().announced_capacity();
        let room = asked.map_or_else(announced, |capacity| capacity as usize);
        match length <= room {
            true => Ok(()),
            false => Err(region::CommitError::TooLong { length, room }),
        }
    }

    /// Asks for the capacity in force and, if it allows `length` bytes, maps and writes that far.
    /// Who has `asked` already cannot be helped.
    #[cold]
    pub(crate) fn make_room(&self, length: usize, asked: Option<u32>) -> io::Result<Room> {
        let capacity = self.reader().subscription().capacity_in_force()?;
        if length > capacity as usize {
            return Ok(Room::Lacking { capacity });
        }
        if asked == Some(capacity) {
            return Err(errno::protocol_violation());
        }
        self.take_capacity(capacity)?;
        Ok(Room::Made { capacity })
    }

    /// As [`State::settle_value`](crate::State::settle_value), where the value is not at hand: pays what
    /// the commit owes, then stands back if it is another's turn.
    #[cold]
    #[inline(never)]
    pub(crate) fn settle(&self, notice: Notice, head: Head) -> bool {
        let owner = live_owner(head);
        let there = self.pay(notice, owner);
        if notice.contains(Notice::TURN) {
            self.stand_back(owner.group(), Deadline::after(LONGEST_TURN));
        }
        there
    }

    /// Pays what a commit owes of this handle's, but for standing back. `false` if the state was deleted.
    #[cold]
    #[inline(never)]
    pub(crate) fn settle_own(&self, notice: Notice) -> bool {
        let Some(writer) = self.own_writer() else {
            return !notice.contains(Notice::DELETED);
        };
        let owner = LiveOwner::of(writer.group());
        self.writer.set(Some(writer));
        self.pay(notice, owner)
    }

    /// Pays what a commit owes, refreshing the live page in the name of `owner`; it does not stand back.
    pub(crate) fn pay(&self, notice: Notice, owner: LiveOwner) -> bool {
        if notice.contains(Notice::ARMED) {
            // Another writer may have grown the state. What else fails is damage, which readers
            // will see; the commit stands.
            let _ = self
                .reader()
                .retry_grown(|memory| region::refresh_live(memory, owner));
        }
        if notice.contains(Notice::WAITERS) {
            wake(self.reader().memory().header());
        }
        if notice.contains(Notice::DELETED) {
            // It came behind the deletion, or has taken an intent off that stood over it.
            self.reader().memory().header().seal();
        }
        !notice.contains(Notice::DELETED)
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if let Some(writer) = self.own_writer() {
            claim::release(&self.reader, writer.group());
        }
    }
}

/// Wakes who sleeps on `head`.
pub(crate) fn wake(header: &Header) {
    futex::wake_all(&header.head);
    // Behind it: who is woken does not wait for a figure.
    header.count_wake();
}

/// Who refreshes after committing `head`: its slot is one of the handle's group.
#[inline]
pub(crate) fn live_owner(head: Head) -> LiveOwner {
    LiveOwner::of(Group(head.slot().group()))
}

/// Whether a version of some length is possible now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// It is.
    Made {
        /// The capacity in force, in bytes.
        capacity: u32,
    },
    /// The capacity in force is less.
    Lacking {
        /// In bytes.
        capacity: u32,
    },
}
