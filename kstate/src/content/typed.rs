#![expect(unsafe_code, reason = "fills a value that is not there yet")]
//! A state seen as a type.

use core::mem::MaybeUninit;

use kstate_sys::region::{self, Candidate, Head, Version};

use super::{AnyPage, Content, Filled, ValuePage, maybe_uninit, place};
use crate::layout::Layout;
use crate::reader::Reader;
use crate::snapshot::{Label, ReadError, Snapshot};

/// Up to this size a value costs less to move once more than to fill by a call.
const MOVED_GLADLY_BYTES: usize = 128;

impl<T: Layout> Content for T {
    type Borrowed = T;
    type Owned = T;
    type Page = ValuePage<T>;

    const HAS_LENGTH: bool = true;

    #[inline]
    fn bytes(value: &T) -> &[u8] {
        value.as_bytes()
    }

    #[inline]
    fn snapshot(reader: &Reader<T>) -> Result<Snapshot<T>, ReadError> {
        if size_of::<T>() > MOVED_GLADLY_BYTES {
            return place::snapshot(reader);
        }
        let memory = reader.memory_copied();
        let mut snapshot = MaybeUninit::<Snapshot<T>>::uninit();
        let candidate = Candidate::newest(&memory, size_of::<T>());
        match copy_if_whole(candidate, place::value_bytes(&mut snapshot)) {
            Some(version) => {
                let label = Label::new(&version, reader.clock());
                // SAFETY: all bytes of the value were written.
                Ok(unsafe { place::labelled(snapshot, label) })
            }
            None => {
                let mut value = T::new_zeroed();
                let version = typed_slowly(reader, &mut value)?;
                Ok(Snapshot::new(value, &version, reader.clock()))
            }
        }
    }

    #[inline]
    fn snapshot_at(reader: &Reader<Self>, head: Head) -> Result<Option<Snapshot<T>>, ReadError> {
        let memory = reader.memory_copied();
        let mut snapshot = MaybeUninit::<Snapshot<T>>::uninit();
        let candidate = Candidate::at(&memory, head, size_of::<T>());
        match copy_if_whole(candidate, place::value_bytes(&mut snapshot)) {
            Some(version) => {
                let label = Label::new(&version, reader.clock());
                // SAFETY: all bytes of the value were written.
                Ok(Some(unsafe { place::labelled(snapshot, label) }))
            }
            None => snapshot_slowly_at(reader, head),
        }
    }

    fn of_version(reader: &Reader<Self>, bytes: &[u8], version: &Version) -> Result<T, ReadError> {
        check_length(reader, Ok(*version))?;
        // Of another length is what nobody has written, alone.
        Ok(T::read_from_bytes(bytes).unwrap_or_else(|_| T::new_zeroed()))
    }

    #[inline]
    fn page(_capacity: u32) -> ValuePage<T> {
        ValuePage::zeroed()
    }

    #[inline]
    fn owned(page: &ValuePage<T>) -> &T {
        page
    }

    #[inline]
    fn owned_mut(page: &mut ValuePage<T>) -> &mut T {
        page
    }

    #[inline]
    fn replace(page: &mut ValuePage<T>, value: &T) {
        **page = *value;
    }

    #[inline]
    fn mix(page: ValuePage<T>) -> AnyPage {
        AnyPage::of_value(page)
    }

    #[inline]
    fn unmix(page: AnyPage) -> Option<ValuePage<T>> {
        page.into_value()
    }

    #[inline]
    fn owned_in(page: &AnyPage) -> Option<&T> {
        page.value()
    }

    #[inline]
    fn owned_in_mut(page: &mut AnyPage) -> Option<&mut T> {
        page.value_mut()
    }

    fn raw_length(_found: u32, _capacity: u32) -> usize {
        size_of::<T>()
    }

    #[inline(always)]
    fn fill_quickly(reader: &Reader<T>, head: Head, page: &mut ValuePage<T>) -> bool {
        let memory = reader.memory_copied();
        let into = maybe_uninit(page.as_mut_bytes());
        copy_if_whole(Candidate::at(&memory, head, size_of::<T>()), into).is_some()
    }

    fn fill(
        reader: &Reader<T>,
        head: Option<Head>,
        page: &mut ValuePage<T>,
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
pub(super) fn copy_if_whole(
    candidate: Option<Candidate<'_>>,
    into: &mut [MaybeUninit<u8>],
) -> Option<Version> {
    let candidate = candidate?;
    candidate.payload.load(into);
    candidate.still_stands().then_some(candidate.version)
}

/// A typed read that is not of the usual kind: a state never written, grown, of another length,
/// damaged.
#[cold]
#[inline(never)]
pub(super) fn typed_slowly<T: Layout>(
    reader: &Reader<T>,
    value: &mut T,
) -> Result<Version, ReadError> {
    let version =
        reader.retry_grown(|memory| region::read(memory, maybe_uninit(value.as_mut_bytes())));
    let version = check_length::<T>(reader, version)?;
    if version.length == 0 {
        *value = T::new_zeroed();
    }
    Ok(version)
}

/// As [`typed_slowly`], of the version that `head` names.
#[cold]
#[inline(never)]
fn snapshot_slowly_at<T: Layout>(
    reader: &Reader<T>,
    head: Head,
) -> Result<Option<Snapshot<T>>, ReadError> {
    let mut value = T::new_zeroed();
    let version = reader
        .retry_grown(|memory| region::read_at(memory, head, maybe_uninit(value.as_mut_bytes())));
    let version = match version {
        Ok(None) => return Ok(None),
        Ok(Some(version)) => Ok(version),
        Err(error) => Err(error),
    };
    let version = check_length::<T>(reader, version)?;
    if version.length == 0 {
        value = T::new_zeroed();
    }
    Ok(Some(Snapshot::new(value, &version, reader.clock())))
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
        let bytes = maybe_uninit(into.as_mut_bytes());
        match copy_if_whole(Candidate::newest(&memory, size_of::<T>()), bytes) {
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
