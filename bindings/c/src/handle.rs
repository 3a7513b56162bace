//! The handles that programs have: pointers to structures that nobody defines.

use core::marker::PhantomData;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::boundary::quietly;
use crate::failure::{Failure, Outcome};
use crate::state::StateEntry;
use crate::table::{INDEX_BITS, Key, Table, USE_BITS};
use crate::transaction::TransactionEntry;

/// `struct kstate_state` of the header, which has no members.
pub(crate) enum State {}
/// `struct kstate_transaction` of the header.
pub(crate) enum Transaction {}

/// A handle as it comes in and goes out; the pointer is never followed.
///
/// From the lowest bit: three zeros, so that it is aligned as a pointer; which kind; the entry; its use.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct Handle<K>(*mut K, PhantomData<K>);

impl<K> Clone for Handle<K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for Handle<K> {}

/// What a handle is of.
pub(crate) trait Kind: Sized + 'static {
    /// In the fourth bit.
    const BIT: u64;
    /// What is kept for one.
    type Entry: 'static;
    /// Where.
    fn table() -> &'static Table<Self::Entry>;
}

impl Kind for State {
    const BIT: u64 = 0;
    type Entry = StateEntry;

    fn table() -> &'static Table<StateEntry> {
        static TABLE: Table<StateEntry> = Table::new();
        &TABLE
    }
}

impl Kind for Transaction {
    const BIT: u64 = 1;
    type Entry = TransactionEntry;

    fn table() -> &'static Table<TransactionEntry> {
        static TABLE: Table<TransactionEntry> = Table::new();
        &TABLE
    }
}

/// Numbers for people, from 1, of which no two are equal for as long as there are less than four milliards.
pub(crate) struct Ids(AtomicU32);

impl Ids {
    pub(crate) const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    pub(crate) fn next(&self) -> u32 {
        // 0 stands for none.
        self.0
            .fetch_add(1, Ordering::Relaxed)
            .wrapping_add(1)
            .max(1)
    }
}

const KIND_SHIFT: u32 = 3;
const INDEX_SHIFT: u32 = KIND_SHIFT + 1;
const USE_SHIFT: u32 = INDEX_SHIFT + INDEX_BITS;
const _: () = assert!(USE_SHIFT + USE_BITS == u64::BITS);

impl<K: Kind> Handle<K> {
    /// No handle.
    pub(crate) const NULL: Self = Self(core::ptr::null_mut(), PhantomData);

    /// A handle of `entry`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: there are too many.
    pub(crate) fn new(entry: K::Entry) -> Outcome<Self> {
        let key = K::table().insert(entry);
        let key = key.ok_or(Failure::plain(
            libc::ENOMEM,
            c"there are two million handles",
        ))?;
        let index = key.index as u64;
        let bits = key.used << USE_SHIFT | index << INDEX_SHIFT | K::BIT << KIND_SHIFT;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "pointers have 64 bits here"
        )]
        let address = bits as usize;
        Ok(Self(
            core::ptr::without_provenance_mut(address),
            PhantomData,
        ))
    }

    /// Whether it is none.
    pub(crate) fn is_null(self) -> bool {
        self.0.is_null()
    }

    #[inline]
    fn key(self) -> Option<Key> {
        let bits = self.0.addr() as u64;
        let used = bits >> USE_SHIFT;
        let rest = bits & ((1 << INDEX_SHIFT) - 1);
        let index = (bits >> INDEX_SHIFT) as usize & ((1 << INDEX_BITS) - 1);
        (used > 0 && rest == K::BIT << KIND_SHIFT).then_some(Key { index, used })
    }

    /// Runs `work` with what is kept for it.
    ///
    /// # Errors
    ///
    /// `EINVAL`: it is none, or was freed; and those of `work`.
    #[inline]
    pub(crate) fn with<R>(self, work: impl FnOnce(&mut K::Entry) -> Outcome<R>) -> Outcome<R> {
        match self.key().and_then(|key| K::table().with(key, work)) {
            Some(done) => done,
            None => Err(Failure::NO_HANDLE),
        }
    }

    /// Ends the handle that a program has at `place`, and has none there from then on.
    ///
    /// # Safety
    ///
    /// `place` is null or points to a handle.
    #[expect(unsafe_code, reason = "reads and writes where programs say")]
    pub(crate) unsafe fn free(place: *mut Self) {
        if !place.is_null() {
            // SAFETY: by the contract above.
            let handle = unsafe { place.replace(Self::NULL) };
            quietly((), || {
                drop(handle.end());
                Ok(())
            });
        }
    }

    /// Ends it; what was kept, if it was one.
    pub(crate) fn end(self) -> Option<K::Entry> {
        K::table().remove(self.key()?)
    }
}
