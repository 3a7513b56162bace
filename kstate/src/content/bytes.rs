#![expect(unsafe_code, reason = "fills the spare room of a vector")]
//! A state seen as bytes.

use core::mem::MaybeUninit;

use kstate_sys::region::{self, Head, Version};

use super::{AnyPage, Bytes, Content, Filled, maybe_uninit};
use crate::intent::Region;
use crate::reader::Reader;
use crate::snapshot::{ReadError, Snapshot};

impl Content for Bytes {
    type Borrowed = [u8];
    type Owned = Vec<u8>;
    type Page = Vec<u8>;

    const HAS_LENGTH: bool = false;

    #[inline]
    fn bytes(value: &[u8]) -> &[u8] {
        value
    }

    fn snapshot(reader: &Reader<Self>) -> Result<Snapshot<Vec<u8>>, ReadError> {
        let mut bytes = Vec::new();
        let version = read_newest(reader, &mut bytes)?;
        Ok(Snapshot::new(bytes, &version, reader.clock()))
    }

    fn snapshot_at(
        reader: &Reader<Self>,
        head: Head,
    ) -> Result<Option<Snapshot<Vec<u8>>>, ReadError> {
        let mut bytes = Vec::new();
        let version = with_room(reader, &mut bytes, |memory, into| {
            region::read_at(memory, head, into)
        })?;
        Ok(version.map(|version| {
            // SAFETY: reading has filled that many bytes of the room given.
            unsafe { bytes.set_len(version.length as usize) };
            Snapshot::new(bytes, &version, reader.clock())
        }))
    }

    fn of_version(_: &Reader<Self>, bytes: &[u8], _: &Version) -> Result<Vec<u8>, ReadError> {
        Ok(bytes.to_vec())
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

    fn mix(page: Vec<u8>) -> AnyPage {
        AnyPage::of_bytes(page)
    }

    fn unmix(page: AnyPage) -> Option<Vec<u8>> {
        page.into_bytes()
    }

    fn owned_in(page: &AnyPage) -> Option<&Vec<u8>> {
        page.bytes_page()
    }

    fn owned_in_mut(page: &mut AnyPage) -> Option<&mut Vec<u8>> {
        page.bytes_page_mut()
    }

    fn raw_length(found: u32, capacity: u32) -> usize {
        if found == 0 {
            capacity as usize
        } else {
            found as usize
        }
    }

    fn fill_quickly(reader: &Reader<Self>, head: Head, page: &mut Vec<u8>) -> bool {
        matches!(Self::fill(reader, Some(head), page), Ok(Filled::Whole))
    }

    fn fill(
        reader: &Reader<Self>,
        head: Option<Head>,
        page: &mut Vec<u8>,
    ) -> Result<Filled, ReadError> {
        let Some(head) = head else {
            return read_newest(reader, page).map(|_| Filled::Whole);
        };
        page.clear();
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

/// Replaces `bytes` by the newest version; leaves none if there is an error.
///
/// # Errors
///
/// As [`Reader::snapshot`].
///
/// # Cost
///
/// One copy; no allocation if `bytes` has had as many before.
pub(crate) fn read_newest(
    reader: &Reader<Bytes>,
    bytes: &mut Vec<u8>,
) -> Result<Version, ReadError> {
    bytes.clear();
    let version = with_room(reader, bytes, |memory, into| region::read(memory, into))?;
    // SAFETY: reading has filled that many bytes of the room given.
    unsafe { bytes.set_len(version.length as usize) };
    Ok(version)
}

/// Reads into the spare room of the empty `bytes`, with more of it if the state has grown.
fn with_room<R>(
    reader: &Reader<Bytes>,
    bytes: &mut Vec<u8>,
    mut read: impl FnMut(&Region<'_>, &mut [MaybeUninit<u8>]) -> Result<R, region::ReadError>,
) -> Result<R, ReadError> {
    bytes.reserve(reader.capacity() as usize);
    if let Ok(done) = read(&reader.region(), bytes.spare_capacity_mut()) {
        return Ok(done);
    }
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
