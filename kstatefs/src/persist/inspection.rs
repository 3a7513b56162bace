//! Both copies of a file, looked at without writing.

use std::io;

use super::error::{CopyError, FileError};
use super::format::{self, Copy, FILE_VERSION, MAX_AREA_BYTES};
use super::medium::Medium;

/// What is in a state's file.
#[derive(Debug)]
#[non_exhaustive]
pub struct Inspection {
    /// Length of the file in bytes.
    pub length: u64,
    /// Both copies, in the order in which they lie.
    pub copies: [FoundCopy; 2],
}

/// What is where a copy should be.
#[derive(Debug)]
#[non_exhaustive]
pub struct FoundCopy {
    /// Where, in bytes; `None` when neither the length of the file nor the other copy tells.
    pub offset: Option<u64>,
    /// The copy, or why there is none.
    pub content: Result<Copy, CopyError>,
}

/// Looks at both copies of a file. Writes nothing.
///
/// # Errors
///
/// The length cannot be had. That a copy cannot be read is said of the copy.
///
/// # Cost
///
/// Three system calls or a few more, and a checksum over each copy.
pub fn inspect(medium: &impl Medium) -> io::Result<Inspection> {
    let length = medium.len()?;
    let half = u32::try_from(length / 2).ok();
    let half = half.filter(|half| length % 2 == 0 && format::page_of_area(*half).is_some());
    let first = read(medium, 0, half.unwrap_or(MAX_AREA_BYTES), 0);
    // What is written into a state may look like a copy: where the second one is has to be said by a
    // first one that is whole or, without one, by the length of the file.
    let area = first.as_ref().map_or(half, |copy| Some(copy.area));
    let second = match area {
        Some(area) => read(medium, u64::from(area), area, 1).and_then(|copy| match copy.area {
            found if found == area => Ok(copy),
            _ => Err(CopyError::Misplaced),
        }),
        None => Err(CopyError::Absent),
    };
    Ok(Inspection {
        length,
        copies: [
            FoundCopy {
                offset: Some(0),
                content: first,
            },
            FoundCopy {
                offset: area.map(u64::from),
                content: second,
            },
        ],
    })
}

impl Inspection {
    /// Which copy counts, 0 or 1: the whole one with the higher sequence. `None` when
    /// [`into_newest`](Self::into_newest) has an error.
    pub fn counts(&self) -> Option<usize> {
        let [first, second] = &self.copies;
        if self.newer_version().is_some() {
            return None;
        }
        match (&first.content, &second.content) {
            (Ok(first), Ok(second)) if first.file_id != second.file_id => None,
            (Ok(first), Ok(second)) => Some(usize::from(second.sequence > first.sequence)),
            (Ok(_), Err(_)) => Some(0),
            (Err(_), Ok(_)) => Some(1),
            (Err(_), Err(_)) => None,
        }
    }

    /// The copy that counts, and which one it is.
    ///
    /// # Errors
    ///
    /// Neither is whole; or a newer program wrote the file, and what is of this version in it may be
    /// old; or the copies are of two files.
    pub fn into_newest(self) -> Result<(usize, Copy), FileError> {
        use CopyError::{Absent, Io, Mark};
        if let Some(found) = self.newer_version() {
            return Err(FileError::Version { found });
        }
        let counts = self.counts();
        let [first, second] = self.copies.map(|copy| copy.content);
        match (first, second) {
            (Ok(copy), _) if counts == Some(0) => Ok((0, copy)),
            (_, Ok(copy)) if counts == Some(1) => Ok((1, copy)),
            (Ok(_), _) | (_, Ok(_)) => Err(FileError::TwoFiles),
            _ if self.length == 0 => Err(FileError::Empty),
            (Err(Io(error)), _) | (_, Err(Io(error))) => Err(FileError::Io(error)),
            (Err(Mark | Absent), Err(Mark | Absent)) => Err(FileError::NotAStateFile),
            (Err(first), Err(second)) => Err(FileError::Damaged { first, second }),
        }
    }

    fn newer_version(&self) -> Option<u32> {
        self.copies.iter().find_map(|copy| match copy.content {
            Err(CopyError::Version { found }) if found > FILE_VERSION => Some(found),
            _ => None,
        })
    }
}

/// Reads copy number `index` at `offset`, of at most `most` bytes.
fn read(medium: &impl Medium, offset: u64, most: u32, index: usize) -> Result<Copy, CopyError> {
    let mut bytes = vec![0; most as usize];
    let mut length = 0;
    while length < bytes.len() {
        match medium.read_at(&mut bytes[length..], offset + length as u64) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // What is behind a bad block may not belong to the copy.
            Err(_) if length > 0 => break,
            Err(error) => return Err(error.into()),
        }
    }
    format::decode(&bytes[..length], index)
}
