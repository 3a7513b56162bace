#![expect(
    unsafe_code,
    reason = "lets the protocol fill bytes without looking at them first"
)]
//! The two ways to see a state: as a type, or as bytes.

mod bytes;
mod page;
mod place;
mod typed;

#[cfg(test)]
mod tests;

use core::mem::MaybeUninit;
use std::borrow::Borrow;

use kstate_sys::region::{Head, Version};

use crate::layout::Layout;
use crate::reader::Reader;
use crate::snapshot::{ReadError, Snapshot};

pub(crate) use bytes::read_newest;
pub(crate) use page::{AnyPage, ValuePage};

/// The content of an untyped state: bytes, as many as the newest version has.
#[derive(Clone, Copy, Debug)]
pub enum Bytes {}

/// What a handle can be about: a [`Layout`], or [`Bytes`].
pub trait Content: sealed::Sealed + Sized + 'static {
    /// What is published: `T`, or `[u8]`.
    type Borrowed: ?Sized;
    /// What is handed out: `T`, or `Vec<u8>`.
    type Owned: Borrow<Self::Borrowed>;
    /// Private memory for a version that a transaction works on.
    #[doc(hidden)]
    type Page;

    #[doc(hidden)]
    fn bytes(value: &Self::Borrowed) -> &[u8];

    #[doc(hidden)]
    fn snapshot(reader: &Reader<Self>) -> Result<Snapshot<Self::Owned>, ReadError>;

    /// The version that `head` names; `None` when its slot holds another one by now.
    #[doc(hidden)]
    fn snapshot_at(
        reader: &Reader<Self>,
        head: Head,
    ) -> Result<Option<Snapshot<Self::Owned>>, ReadError>;

    /// The value of a version that was copied as the bytes it is.
    #[doc(hidden)]
    fn of_version(
        reader: &Reader<Self>,
        bytes: &[u8],
        version: &Version,
    ) -> Result<Self::Owned, ReadError>;

    #[doc(hidden)]
    fn page(capacity: u32) -> Self::Page;

    #[doc(hidden)]
    fn owned(page: &Self::Page) -> &Self::Owned;

    #[doc(hidden)]
    fn owned_mut(page: &mut Self::Page) -> &mut Self::Owned;

    #[doc(hidden)]
    fn replace(page: &mut Self::Page, value: &Self::Borrowed);
    /// The page among those of other contents.
    #[doc(hidden)]
    fn mix(page: Self::Page) -> AnyPage;
    /// What [`mix`](Content::mix) made of one, if of this content.
    #[doc(hidden)]
    fn unmix(page: AnyPage) -> Option<Self::Page>;
    /// What is in the page, if of this content.
    #[doc(hidden)]
    fn owned_in(page: &AnyPage) -> Option<&Self::Owned>;
    #[doc(hidden)]
    fn owned_in_mut(page: &mut AnyPage) -> Option<&mut Self::Owned>;

    /// Whether all versions have the same length.
    #[doc(hidden)]
    const HAS_LENGTH: bool;

    /// How long a version is that was written by pointer, over one of `found` bytes.
    #[doc(hidden)]
    fn raw_length(found: u32, capacity: u32) -> usize;

    /// Fills `page` with the version that `head` names, if nothing is in the way.
    #[doc(hidden)]
    fn fill_quickly(reader: &Reader<Self>, head: Head, page: &mut Self::Page) -> bool;

    /// Fills `page` with the version that `head` names, the newest one if none is named.
    #[doc(hidden)]
    fn fill(
        reader: &Reader<Self>,
        head: Option<Head>,
        page: &mut Self::Page,
    ) -> Result<Filled, ReadError>;
}

/// What filling a page came to.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// The version was copied.
    Whole,
    /// Its slot holds another version by now.
    Recycled,
}

mod sealed {
    pub trait Sealed {}
    impl<T: super::Layout> Sealed for T {}
    impl Sealed for super::Bytes {}
}

/// Initialised bytes as a destination of [`region::read`](kstate_sys::region::read()), which only ever writes initialised
/// ones.
#[inline]
pub(crate) fn maybe_uninit(bytes: &mut [u8]) -> &mut [MaybeUninit<u8>] {
    let start = bytes.as_mut_ptr().cast::<MaybeUninit<u8>>();
    // SAFETY: the same bytes, borrowed as long; the callers below this module hand them to `region::read`
    // and its like alone, which copy whole initialised bytes in.
    unsafe { core::slice::from_raw_parts_mut(start, bytes.len()) }
}
