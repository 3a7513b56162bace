#![expect(unsafe_code, reason = "lets the protocol fill uninitialised bytes")]
//! The two ways to see a state: as a type, or as bytes.

use core::mem::MaybeUninit;
use std::borrow::Borrow;

use kstate_sys::region::{self, Candidate, Head, Version};

use crate::layout::Layout;
use crate::reader::Reader;
use crate::snapshot::{ReadError, Snapshot};

/// The content of an untyped state: bytes, as many as the newest version has.
#[derive(Clone, Copy, Debug)]
pub enum Bytes {}

/// What a handle can be about: a [`Layout`], or [`Bytes`].
pub trait Content: sealed::Sealed + Sized + 'static {
    /// What is published: `T`, or `[u8]`.
    type View: ?Sized;
    /// What is handed out: `T`, or `Vec<u8>`.
    type Owned: Borrow<Self::View>;
    /// Private memory for a version that a transaction works on.
    #[doc(hidden)]
    type Page;

    #[doc(hidden)]
    fn bytes(view: &Self::View) -> &[u8];

    #[doc(hidden)]
    fn snapshot(reader: &Reader<Self>) -> Result<Snapshot<Self::Owned>, ReadError>;

    #[doc(hidden)]
    fn page(capacity: u32) -> Self::Page;

    #[doc(hidden)]
    fn owned(page: &Self::Page) -> &Self::Owned;

    #[doc(hidden)]
    fn owned_mut(page: &mut Self::Page) -> &mut Self::Owned;

    #[doc(hidden)]
    fn replace(page: &mut Self::Page, value: &Self::View);

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

impl<T: Layout> Content for T {
    type View = T;
    type Owned = T;
    type Page = Box<T>;

    #[inline]
    fn bytes(view: &T) -> &[u8] {
        view.as_bytes()
    }

    #[inline]
    fn snapshot(reader: &Reader<T>) -> Result<Snapshot<T>, ReadError> {
        if size_of::<T>() > 64 {
            let mut snapshot = MaybeUninit::uninit();
            snapshot_to(reader, &mut snapshot);
            // SAFETY: `snapshot_to` writes it.
            return unsafe { snapshot.assume_init() };
        }
        // In registers until it is known to be whole.
        let memory = reader.memory_copied();
        if let Some(candidate) = Candidate::newest(&memory, size_of::<T>()) {
            let value = candidate.payload.value();
            if candidate.still_stands() {
                return Ok(Snapshot::new(value, &candidate.version, reader.clock()));
            }
        }
        snapshot_slowly(reader)
    }

    #[inline]
    fn page(_capacity: u32) -> Box<T> {
        Box::new(T::new_zeroed())
    }

    #[inline]
    fn owned(page: &Box<T>) -> &T {
        page
    }

    #[inline]
    fn owned_mut(page: &mut Box<T>) -> &mut T {
        page
    }

    #[inline]
    fn replace(page: &mut Box<T>, value: &T) {
        **page = *value;
    }

    #[inline(always)]
    fn fill_quickly(reader: &Reader<T>, head: Head, page: &mut Box<T>) -> bool {
        let memory = reader.memory_copied();
        copy_if_whole(Candidate::at(&memory, head, size_of::<T>()), &mut **page).is_some()
    }

    fn fill(
        reader: &Reader<T>,
        head: Option<Head>,
        page: &mut Box<T>,
    ) -> Result<Filled, ReadError> {
        let version = reader.retry_grown(|memory| {
            let into = maybe_uninit(page.as_mut_bytes());
            match head {
                Some(head) => region::read_at(memory, head, into),
                None => region::read(memory, into).map(Some),
            }
        });
        let version = match version {
            Ok(None) => return Ok(Filled::Recycled),
            Ok(Some(version)) => Ok(version),
            Err(error) => Err(error),
        };
        let version = check_length::<T>(reader, version)?;
        if version.length == 0 {
            **page = T::new_zeroed();
        }
        Ok(Filled::Whole)
    }
}

/// The version of `candidate`, copied to `into`, if it was one version all the time.
#[inline(always)]
fn copy_if_whole<T: Layout>(candidate: Option<Candidate<'_>>, into: &mut T) -> Option<Version> {
    let candidate = candidate?;
    candidate.payload.load(maybe_uninit(into.as_mut_bytes()));
    candidate.still_stands().then_some(candidate.version)
}

/// A snapshot of a long value, put where it is wanted before it is known to be whole.
///
/// Out of line, because a call is what the compiler hands the final place to: a page is copied
/// once, where a value returned by inlined code is moved twice more.
#[inline(never)]
fn snapshot_to<T: Layout>(
    reader: &Reader<T>,
    place: &mut MaybeUninit<Result<Snapshot<T>, ReadError>>,
) {
    let memory = reader.memory_copied();
    if let Some(candidate) = Candidate::newest(&memory, size_of::<T>()) {
        let value = candidate.payload.value();
        place.write(Ok(Snapshot::new(value, &candidate.version, reader.clock())));
        if candidate.still_stands() {
            return;
        }
    }
    place.write(snapshot_slowly(reader));
}

#[cold]
#[inline(never)]
fn snapshot_slowly<T: Layout>(reader: &Reader<T>) -> Result<Snapshot<T>, ReadError> {
    let mut value = T::new_zeroed();
    let version = typed_slowly(reader, &mut value)?;
    Ok(Snapshot::new(value, &version, reader.clock()))
}

/// A typed read that is not of the usual kind: a state never written, grown, of another length,
/// damaged.
#[cold]
#[inline(never)]
fn typed_slowly<T: Layout>(reader: &Reader<T>, value: &mut T) -> Result<Version, ReadError> {
    let version =
        reader.retry_grown(|memory| region::read(memory, maybe_uninit(value.as_mut_bytes())));
    let version = check_length::<T>(reader, version)?;
    if version.length == 0 {
        *value = T::new_zeroed();
    }
    Ok(version)
}

/// A version has the length of its type, or was never written.
fn check_length<T: Layout>(
    reader: &Reader<T>,
    version: Result<Version, ReadError>,
) -> Result<Version, ReadError> {
    let found = match version {
        Ok(version) if version.length as usize == size_of::<T>() => return Ok(version),
        Ok(version) if version.generation().is_never() => return Ok(version),
        Ok(version) => version.length,
        Err(ReadError::TooLong { length, .. }) => length,
        Err(error) => return Err(error),
    };
    let name = reader.name().clone();
    Err(ReadError::Length {
        name,
        found,
        expected: size_of::<T>(),
        layout: T::describe(),
    })
}

impl Content for Bytes {
    type View = [u8];
    type Owned = Vec<u8>;
    type Page = Vec<u8>;

    #[inline]
    fn bytes(view: &[u8]) -> &[u8] {
        view
    }

    fn snapshot(reader: &Reader<Self>) -> Result<Snapshot<Vec<u8>>, ReadError> {
        let mut bytes = Vec::new();
        let version = append_newest(reader, &mut bytes)?;
        Ok(Snapshot::new(bytes, &version, reader.clock()))
    }

    fn page(capacity: u32) -> Vec<u8> {
        Vec::with_capacity(capacity as usize)
    }

    #[inline]
    fn owned(page: &Vec<u8>) -> &Vec<u8> {
        page
    }

    #[inline]
    fn owned_mut(page: &mut Vec<u8>) -> &mut Vec<u8> {
        page
    }

    #[inline]
    fn replace(page: &mut Vec<u8>, value: &[u8]) {
        page.clear();
        page.extend_from_slice(value);
    }

    fn fill_quickly(reader: &Reader<Self>, head: Head, page: &mut Vec<u8>) -> bool {
        matches!(Self::fill(reader, Some(head), page), Ok(Filled::Whole))
    }

    fn fill(
        reader: &Reader<Self>,
        head: Option<Head>,
        page: &mut Vec<u8>,
    ) -> Result<Filled, ReadError> {
        page.clear();
        let Some(head) = head else {
            return append_newest(reader, page).map(|_| Filled::Whole);
        };
        let version = with_room(reader, page, |memory, into| {
            region::read_at(memory, head, into)
        })?;
        Ok(version.map_or(Filled::Recycled, |version| {
            // SAFETY: reading has filled that many bytes of the room given.
            unsafe { page.set_len(version.length as usize) };
            Filled::Whole
        }))
    }
}

fn append_newest(reader: &Reader<Bytes>, bytes: &mut Vec<u8>) -> Result<Version, ReadError> {
    let version = with_room(reader, bytes, |memory, into| region::read(memory, into))?;
    // SAFETY: reading has filled that many bytes of the room given.
    unsafe { bytes.set_len(version.length as usize) };
    Ok(version)
}

/// Reads into the spare room of the empty `bytes`, with more of it if the state has grown.
fn with_room<R>(
    reader: &Reader<Bytes>,
    bytes: &mut Vec<u8>,
    mut read: impl FnMut(&region::Mapped<'_>, &mut [MaybeUninit<u8>]) -> Result<R, region::ReadError>,
) -> Result<R, ReadError> {
    bytes.reserve(reader.capacity() as usize);
    loop {
        match reader.retry_grown(|memory| read(memory, bytes.spare_capacity_mut())) {
            Err(ReadError::TooLong { length, room, .. }) if room < length as usize => {
                // At most a page: a length beyond it was refused before.
                bytes.reserve(length as usize);
            }
            other => return other,
        }
    }
}

impl Reader<Bytes> {
    /// Copies the newest version to the start of `into`; the value of the snapshot is its length.
    ///
    /// # Errors
    ///
    /// [`ReadError::TooLong`] when `into` is too short, and as [`Reader::snapshot`]; `into` then
    /// holds arbitrary bytes.
    ///
    /// # Cost
    ///
    /// One copy; no system call, no allocation.
    #[inline]
    pub fn snapshot_into(&self, into: &mut [u8]) -> Result<Snapshot<usize>, ReadError> {
        let into = maybe_uninit(into);
        let version = match region::read(self.memory(), into) {
            Ok(version) => version,
            Err(_) => self.retry_grown(|memory| region::read(memory, into))?,
        };
        Ok(Snapshot::new(
            version.length as usize,
            &version,
            self.clock(),
        ))
    }
}

impl<T: Layout> Reader<T> {
    /// Copies the newest version to `into`; the value of the snapshot is its length, 0 for a state
    /// never written.
    ///
    /// # Errors
    ///
    /// As [`Reader::snapshot`]; `into` then holds arbitrary bytes.
    ///
    /// # Cost
    ///
    /// One copy, straight to where it is wanted; no system call, no allocation.
    #[inline]
    pub fn snapshot_into(&self, into: &mut T) -> Result<Snapshot<usize>, ReadError> {
        let memory = self.memory_copied();
        match copy_if_whole(Candidate::newest(&memory, size_of::<T>()), into) {
            Some(version) => Ok(Snapshot::new(size_of::<T>(), &version, self.clock())),
            None => {
                let version = typed_slowly(self, into)?;
                Ok(Snapshot::new(
                    version.length as usize,
                    &version,
                    self.clock(),
                ))
            }
        }
    }
}

/// Initialised bytes as a destination of [`region::read`], which only ever writes initialised
/// ones.
#[inline]
fn maybe_uninit(bytes: &mut [u8]) -> &mut [MaybeUninit<u8>] {
    let start = bytes.as_mut_ptr().cast::<MaybeUninit<u8>>();
    // SAFETY: the same bytes, borrowed as long; the private callers hand them to `region::read`
    // and `read_at` alone, which copy whole initialised bytes in.
    unsafe { core::slice::from_raw_parts_mut(start, bytes.len()) }
}
