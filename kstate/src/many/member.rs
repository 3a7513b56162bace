//! One state of a transaction over several.

use std::any::TypeId;
use std::fmt;

use kstate_sys::region::Head;

use crate::content::{AnyPage, Content};
use crate::reader::{Reader, Untyped};
use crate::records::Records;
use crate::snapshot::ReadError;
use crate::state::State;
use crate::transaction::fill_slowly;
use crate::writing::Writing;

/// A state that was added: what was seen of it, and what is to become of it.
pub(super) struct Member<'s> {
    reader: &'s Reader<Untyped>,
    /// If it is to be written.
    writing: Option<&'s Writing>,
    content: fn() -> TypeId,
    pub(super) base: Head,
    page: Option<AnyPage>,
    read: bool,
    dirty: bool,
    doomed: bool,
}

impl<'s> Member<'s> {
    #[inline]
    pub(super) fn to_write<T: Content>(state: &'s State<T>, base: Head) -> Self {
        Self::new::<T>(state.writing.reader(), Some(&state.writing), base)
    }

    #[inline]
    pub(super) fn to_read<T: Content>(reader: &'s Reader<T>, base: Head) -> Self {
        Self::new::<T>(reader.as_of(), None, base)
    }

    #[inline]
    fn new<T: Content>(
        reader: &'s Reader<Untyped>,
        writing: Option<&'s Writing>,
        base: Head,
    ) -> Self {
        Self {
            reader,
            writing,
            content: TypeId::of::<T>,
            base,
            page: None,
            read: false,
            dirty: false,
            doomed: false,
        }
    }

    /// Gives the page back to the handle.
    #[inline]
    pub(super) fn recycle(&mut self) {
        if let (Some(writing), Some(page)) = (self.writing, self.page.take()) {
            writing.spare.set(Some(page));
        }
    }

    pub(super) fn reader(&self) -> &'s Reader<Untyped> {
        self.reader
    }

    /// Whether it is to be changed.
    #[inline]
    pub(super) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// The bytes of the new version.
    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        self.page.as_ref().map_or(&[], AnyPage::bytes)
    }

    #[inline]
    pub(super) fn state_id(&self) -> u64 {
        self.reader.state_id()
    }

    #[inline]
    pub(super) fn writing(&self) -> Option<&'s Writing> {
        self.writing
    }

    /// Whether it was read, and must be as it was though it is not changed.
    #[inline]
    pub(super) fn is_read_alone(&self) -> bool {
        self.read && !self.dirty
    }

    pub(super) fn is_touched(&self) -> bool {
        self.read || self.dirty
    }

    pub(super) fn is_doomed(&self) -> bool {
        self.doomed
    }

    pub(super) fn records(&self) -> &'s Records {
        self.reader.subscription().records()
    }

    /// Whether `reader` is of the same mount.
    #[inline]
    pub(super) fn is_of_mount_of(&self, reader: &Reader<Untyped>) -> bool {
        let theirs: &Records = reader.subscription().records();
        std::ptr::eq(self.records(), theirs) || self.records().are_of_the_mount_of(theirs)
    }

    /// Whether `reader` is of the same state.
    pub(super) fn is_of(&self, reader: &Reader<Untyped>) -> bool {
        self.reader.state_id() == reader.state_id() && self.is_of_mount_of(reader)
    }

    /// Whether it is the state that is asked for so.
    #[inline]
    pub(super) fn serves<T: Content>(&self, reader: &Reader<T>, writing: bool) -> bool {
        let theirs = reader.as_of();
        let same = std::ptr::eq(self.reader.subscription(), theirs.subscription());
        (same || self.is_of(theirs))
            && (!writing || self.writing.is_some())
            && (std::ptr::fn_addr_eq(self.content, TypeId::of::<T> as fn() -> TypeId)
                || (self.content)() == TypeId::of::<T>())
    }

    pub(super) fn is_current(&self) -> bool {
        let standing = self.reader.look();
        standing.is_ok_and(|standing| standing.head == self.base)
    }

    /// The value, for reading. `ours` says that this process began the transaction.
    #[inline]
    pub(super) fn filled<T: Content>(&mut self, ours: bool) -> Result<&T::Owned, ReadError> {
        if self.page.is_none() {
            self.fill::<T>(ours)?;
        }
        self.read = true;
        match self.page.as_ref().and_then(T::owned_in) {
            Some(owned) => Ok(owned),
            None => unreachable!("a page is of the content of its state"),
        }
    }

    /// The same for writing.
    #[inline]
    pub(super) fn filled_to_write<T: Content>(
        &mut self,
        ours: bool,
    ) -> Result<&mut T::Owned, ReadError> {
        if self.page.is_none() {
            self.fill::<T>(ours)?;
        }
        self.dirty = true;
        match self.page.as_mut().and_then(T::owned_in_mut) {
            Some(owned) => Ok(owned),
            None => unreachable!("a page is of the content of its state"),
        }
    }

    pub(super) fn set<T: Content>(&mut self, value: &T::Borrowed) {
        let mut page = match self.page.take().and_then(T::unmix) {
            Some(page) => page,
            None => self.fresh::<T>(),
        };
        T::replace(&mut page, value);
        self.page = Some(T::mix(page));
        self.dirty = true;
    }

    #[inline]
    fn fill<T: Content>(&mut self, ours: bool) -> Result<(), ReadError> {
        if !ours {
            return Err(self.reader.touched_by_child());
        }
        let mut page = self.fresh::<T>();
        let reader = self.reader.as_of();
        if !T::fill_quickly(reader, self.base, &mut page) {
            self.doomed = fill_slowly::<T>(reader, self.base, &mut page)?;
        }
        self.page = Some(T::mix(page));
        Ok(())
    }

    /// A page with arbitrary contents.
    #[inline]
    fn fresh<T: Content>(&self) -> T::Page {
        let spare = self.writing.and_then(|writing| writing.spare.take());
        let spare = spare.and_then(T::unmix);
        spare.unwrap_or_else(|| T::page(self.reader.capacity()))
    }
}

impl fmt::Debug for Member<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member")
            .field("state", &self.reader.name().as_str())
            .field("base", &self.base.generation())
            .field("read", &self.read)
            .field("dirty", &self.dirty)
            .finish_non_exhaustive()
    }
}
