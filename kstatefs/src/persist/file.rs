//! A state's file: made, recovered, saved to.

use std::io;

use kstate_sys::abi::page_size;

use super::error::FileError;
use super::format::{self, Copy};
use super::image::Image;
use super::inspection::inspect;
use super::medium::Medium;

/// A state's file, for the one who saves in it: nobody else may write to it meanwhile.
///
/// # Invariants
///
/// 1. The newest copy is never written over with other bytes.
/// 2. The older copy is written over only while the newest is known to be on the disk: a sync has
///    succeeded since it was last written by this one.
/// 3. An attempt to save has a higher sequence number than the newest copy and every attempt before it
///    through this.
#[derive(Debug)]
pub struct StateFile<M> {
    medium: M,
    file_id: [u8; 16],
    /// Bytes of an area.
    area: u32,
    /// Which copy is the newest: 0 or 1.
    newest: usize,
    /// That of the last attempt to save.
    sequence: u64,
    /// The newest copy's bytes as long as nobody knows whether they are on the disk: what is read may
    /// be in memory only, after a sync that failed.
    unproven: Option<Vec<u8>>,
}

impl<M: Medium> StateFile<M> {
    /// Makes an empty file one of ours: allocates, writes both copies in full, syncs.
    ///
    /// The file's entry in its directory is the caller's to sync.
    ///
    /// # Errors
    ///
    /// There is no room or another error of the kernel; or the file has more in it than an attempt that
    /// failed would have left. The caller may try again, or remove the file: as long as this has not
    /// succeeded, it may have anything in it.
    ///
    /// # Cost
    ///
    /// Twice a page and 4 KiB are written, and synced.
    pub fn initialise(medium: M, first: &Image) -> Result<Self, FileError> {
        let area = format::area_of_page(page_size());
        let length = medium.len()?;
        if length > 2 * u64::from(area) {
            return Err(FileError::NotEmpty { length });
        }
        let mut file_id = [0; 16];
        getrandom::fill(&mut file_id).map_err(io::Error::other)?;
        // INVARIANT: 3.
        let copies = [(0, 2), (1, 1)].map(|(index, sequence)| {
            let mut bytes = format::encode(first, file_id, sequence, area, index)?;
            // Whatever is saved later finds its blocks there.
            bytes.resize(area as usize, 0);
            Ok(bytes)
        });
        let copies: io::Result<Vec<_>> = copies.into_iter().collect();
        medium.allocate(2 * u64::from(area))?;
        medium.write_at(&copies?.concat(), 0)?;
        medium.sync()?;
        Ok(Self {
            medium,
            file_id,
            area,
            newest: 0,
            sequence: 2,
            unproven: None,
        })
    }

    /// The newest complete version. Writes nothing, ever.
    ///
    /// After a sync that failed, and without a power cut since, it may be a version that is not on the
    /// disk yet: [`settle`](Self::settle), or the next save, sees to that.
    ///
    /// # Errors
    ///
    /// There is none; the file is as it was.
    ///
    /// # Cost
    ///
    /// Some three system calls, and a checksum over each copy.
    pub fn recover(medium: M) -> Result<(Self, Image), FileError> {
        let (newest, copy) = inspect(&medium)?.into_newest()?;
        let Copy {
            file_id,
            sequence,
            area,
            image,
        } = copy;
        let unproven = format::encode(&image, file_id, sequence, area, newest)?;
        let file = Self {
            medium,
            file_id,
            area,
            newest,
            sequence,
            unproven: Some(unproven),
        };
        Ok((file, image))
    }

    /// Writes a version over the older copy, syncs, and only then counts it the newest. Returns the
    /// bytes written: whole blocks of 4096.
    ///
    /// # Errors
    ///
    /// The value is greater than a page of the machine that made the file, and nothing was written; or
    /// what the kernel says. The version before is safe. After a crash either may be recovered. The same
    /// copy is written again next time, in full, since a sync that succeeds says nothing of
    /// what was written before one that failed.
    ///
    /// # Cost
    ///
    /// One write and one fdatasync(2); both twice for the first after [`recover`](Self::recover).
    pub fn save(&mut self, image: &Image) -> io::Result<u64> {
        let sequence = self.sequence.checked_add(1).ok_or_else(used_up)?;
        let older = 1 - self.newest;
        let bytes = format::encode(image, self.file_id, sequence, self.area, older)?;
        // INVARIANT: 2.
        let settled = self.settle()?;
        // INVARIANT: 3: also when this attempt fails.
        self.sequence = sequence;
        self.medium.write_at(&bytes, self.offset(older))?;
        self.medium.sync()?;
        // INVARIANT: 1: only now.
        self.newest = older;
        Ok(settled + bytes.len() as u64)
    }

    /// Makes sure that the version that [`recover`](Self::recover) found is on the disk, if nothing was
    /// saved since. Who says of it that it is kept does this first. Returns the bytes written, 0 if it
    /// was known.
    ///
    /// # Errors
    ///
    /// What the kernel says; it is still not known then.
    ///
    /// # Cost
    ///
    /// One write and one fdatasync(2), once.
    pub fn settle(&mut self) -> io::Result<u64> {
        let Some(bytes) = &self.unproven else {
            return Ok(0);
        };
        // INVARIANT: 1: the bytes it has. If the disk has them this changes nothing, wherever it is
        // cut; if not, the disk has the other copy whole.
        self.medium.write_at(bytes, self.offset(self.newest))?;
        self.medium.sync()?;
        let written = bytes.len() as u64;
        self.unproven = None;
        Ok(written)
    }

    /// The file's id, the same in both copies and in no other file.
    pub fn file_id(&self) -> [u8; 16] {
        self.file_id
    }

    /// The longest value it has room for, in bytes: a page of the machine that made it.
    pub fn room(&self) -> u32 {
        format::page_of_area(self.area).unwrap_or(0)
    }

    /// Where its bytes are.
    pub fn medium(&self) -> &M {
        &self.medium
    }

    /// Where a copy begins, in bytes.
    fn offset(&self, index: usize) -> u64 {
        u64::from(self.area) * index as u64
    }
}

/// Sequence numbers have come to their end, which takes longer than any machine lasts.
fn used_up() -> io::Error {
    io::Error::other("the file's sequence numbers are used up; make it anew")
}

#[cfg(test)]
mod tests;
