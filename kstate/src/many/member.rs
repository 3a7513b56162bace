//! One state of a transaction over several.

use std::any::{Any, TypeId};
use std::cell::Cell;
use std::fmt;

use kstate_sys::clock::Ticks;
use kstate_sys::name::StateName;
use kstate_sys::region::{Generation, Head, Memory, Notice, Writer};

use crate::claim::ClaimError;
use crate::content::{Content, Filled};
use crate::intent::Region;
use crate::publish::Room;
use crate::reader::Reader;
use crate::records::Records;
use crate::snapshot::ReadError;
use crate::state::State;
use crate::subscription::Subscription;
use crate::transaction::{CommitError, Outcome};

/// A state that was added: what was seen of it, and what is to become of it.
pub(super) struct Member<'s> {
    handle: Handle<'s>,
    // Asked for again and again, so not through the handle.
    state_id: u64,
    records: &'s Records,
    pub(super) base: Head,
    /// A `T::Page`.
    page: Option<Box<dyn Any>>,
    pub(super) read: bool,
    pub(super) dirty: bool,
    pub(super) doomed: bool,
}

/// How it was added.
pub(super) enum Handle<'s> {
    /// To be written.
    Writing(&'s dyn Written),
    /// To be read.
    Reading(&'s dyn Read),
}

/// A [`Reader`], whatever of.
pub(super) trait Read {
    fn subscription(&self) -> &Subscription;
    fn region(&self) -> Region<'_>;
    fn is_newest(&self, base: Head) -> bool;
    fn generation(&self) -> Generation;
    fn content(&self) -> TypeId;
}

/// A [`State`], whatever of.
pub(super) trait Written: Read {
    fn writer(&self) -> &Cell<Option<Writer>>;
    /// A writer of this process, put in its place.
    fn claim(&self) -> Result<(), ClaimError>;
    fn now(&self) -> Ticks;
    /// The bytes of a page of this state.
    fn bytes<'p>(&self, page: &'p dyn Any) -> &'p [u8];
    fn has_room(&self, length: usize, asked: Option<u32>) -> bool;
    fn make_room(&self, length: usize, asked: Option<u32>) -> std::io::Result<Room>;
    /// Pays what the commit of `head` owes; `false` if the state was deleted.
    fn settle(&self, head: Head) -> bool;
    fn meet(&self);
    fn forked(&self) -> CommitError;
    /// The ordinary commit.
    fn commit_alone(&self, base: Head, page: &dyn Any) -> Result<Outcome, CommitError>;
}

impl<T: Content> Read for Reader<T> {
    fn subscription(&self) -> &Subscription {
        Self::subscription(self)
    }

    fn region(&self) -> Region<'_> {
        Self::region(self)
    }

    fn is_newest(&self, base: Head) -> bool {
        self.look().is_ok_and(|standing| standing.head == base)
    }

    fn generation(&self) -> Generation {
        Self::generation(self)
    }

    fn content(&self) -> TypeId {
        TypeId::of::<T>()
    }
}

impl<T: Content> Read for State<T> {
    fn subscription(&self) -> &Subscription {
        Reader::subscription(self)
    }

    fn region(&self) -> Region<'_> {
        Reader::region(self)
    }

    fn is_newest(&self, base: Head) -> bool {
        Read::is_newest(&**self, base)
    }

    fn generation(&self) -> Generation {
        Reader::generation(self)
    }

    fn content(&self) -> TypeId {
        TypeId::of::<T>()
    }
}

impl<T: Content> Written for State<T> {
    fn writer(&self) -> &Cell<Option<Writer>> {
        &self.writer
    }

    fn claim(&self) -> Result<(), ClaimError> {
        let writer = match self.own_writer() {
            Some(writer) => writer,
            None => Self::claim(self)?,
        };
        self.writer.set(Some(writer));
        Ok(())
    }

    fn now(&self) -> Ticks {
        Self::now(self)
    }

    fn bytes<'p>(&self, page: &'p dyn Any) -> &'p [u8] {
        use std::borrow::Borrow;
        match page.downcast_ref::<T::Page>() {
            Some(page) => T::bytes(T::owned(page).borrow()),
            None => unreachable!("a member's page is of its state"),
        }
    }

    fn has_room(&self, length: usize, asked: Option<u32>) -> bool {
        Self::has_room(self, length, asked).is_ok()
    }

    fn make_room(&self, length: usize, asked: Option<u32>) -> std::io::Result<Room> {
        Self::make_room(self, length, asked)
    }

    fn settle(&self, head: Head) -> bool {
        let notice = self.memory().header().notice();
        notice.is_none() || Self::settle(self, notice, head)
    }

    fn meet(&self) {
        Self::meet(self);
    }

    fn forked(&self) -> CommitError {
        Self::forked(self)
    }

    fn commit_alone(&self, base: Head, page: &dyn Any) -> Result<Outcome, CommitError> {
        match page.downcast_ref::<T::Page>() {
            Some(page) => self.commit_page(base, page),
            None => unreachable!("a member's page is of its state"),
        }
    }
}

impl<'s> Handle<'s> {
    fn reader(&self) -> &'s dyn Read {
        match *self {
            Handle::Writing(state) => state,
            Handle::Reading(reader) => reader,
        }
    }
}

impl<'s> Member<'s> {
    pub(super) fn new(handle: Handle<'s>, base: Head) -> Self {
        let subscription = handle.reader().subscription();
        Self {
            state_id: subscription.state_id(),
            records: subscription.records(),
            handle,
            base,
            page: None,
            read: false,
            dirty: false,
            doomed: false,
        }
    }

    pub(super) fn reader(&self) -> &'s dyn Read {
        self.handle.reader()
    }

    /// The handle to write through, if it was added so.
    pub(super) fn written(&self) -> Option<&'s dyn Written> {
        match self.handle {
            Handle::Writing(state) => Some(state),
            Handle::Reading(_) => None,
        }
    }

    pub(super) fn is_writable(&self) -> bool {
        self.written().is_some()
    }

    pub(super) fn is_of<T: Content>(&self) -> bool {
        self.reader().content() == TypeId::of::<T>()
    }

    pub(super) fn name(&self) -> &'s StateName {
        self.reader().subscription().name()
    }

    pub(super) fn state_id(&self) -> u64 {
        self.state_id
    }

    pub(super) fn records(&self) -> &'s Records {
        self.records
    }

    pub(super) fn is_deleted(&self) -> bool {
        let region = self.reader().region();
        region.header().notice().contains(Notice::DELETED)
    }

    pub(super) fn is_current(&self) -> bool {
        self.reader().is_newest(self.base)
    }

    pub(super) fn taken_page(&self) -> Option<&dyn Any> {
        self.page.as_deref()
    }

    /// The page, whatever is in it; of this type, which was compared.
    pub(super) fn page<T: Content>(&mut self, reader: &Reader<T>) -> &mut T::Page {
        let page = self
            .page
            .get_or_insert_with(|| Box::new(T::page(reader.capacity())));
        match page.downcast_mut::<T::Page>() {
            Some(page) => page,
            None => unreachable!("a member's page is of its state"),
        }
    }

    /// Fills the page at the first use. `ours` says that this process began the transaction.
    pub(super) fn fill<T: Content>(
        &mut self,
        reader: &Reader<T>,
        ours: bool,
    ) -> Result<(), ReadError> {
        if self.page.is_some() {
            return Ok(());
        }
        if !ours {
            return Err(ReadError::Forked {
                name: reader.name().clone(),
            });
        }
        let base = self.base;
        let page = self.page::<T>(reader);
        let mut filled = Ok(());
        let mut doomed = false;
        if !T::fill_quickly(reader, base, page) {
            filled = match T::fill(reader, Some(base), page) {
                Ok(Filled::Whole) => Ok(()),
                Ok(Filled::Recycled) => {
                    doomed = true;
                    T::fill(reader, None, page).map(drop)
                }
                Err(error) => Err(error),
            };
        }
        self.doomed |= doomed;
        if filled.is_err() {
            self.page = None;
        }
        filled
    }
}

impl fmt::Debug for Member<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member")
            .field("state", &self.name().as_str())
            .field("base", &self.base.generation())
            .field("read", &self.read)
            .field("dirty", &self.dirty)
            .finish_non_exhaustive()
    }
}
