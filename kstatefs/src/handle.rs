//! One open state file: what it has read, and what its next write is validated against.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kstate_sys::region::{Generation, Head};

use crate::errno::Errno;
use crate::reaper::Reaper;
use crate::state::{Expectation, State};

/// How a state file was opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenMode {
    /// `O_RDWR` or `O_WRONLY`.
    pub(crate) write: bool,
    /// `O_RDWR` or `O_RDONLY`.
    pub(crate) read: bool,
    /// `O_APPEND`.
    pub(crate) append: bool,
    /// `O_TRUNC`.
    pub(crate) truncate: bool,
    /// Opened by the library, which arms the live page itself when it needs it.
    pub(crate) library: bool,
}

impl OpenMode {
    /// From the flags of `open(2)`.
    pub(crate) fn from_flags(flags: i32) -> Self {
        let access = flags & libc::O_ACCMODE;
        Self {
            write: access != libc::O_RDONLY,
            read: access != libc::O_WRONLY,
            append: flags & libc::O_APPEND != 0,
            truncate: flags & libc::O_TRUNC != 0,
            library: flags & kstate_sys::abi::O_LIBRARY != 0,
        }
    }
}

/// An open state file. Reads and writes through one descriptor follow each other, so they are
/// serialised; the lock comes before the state's.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) id: u64,
    pub(crate) state: Arc<State>,
    pub(crate) mode: OpenMode,
    /// The process that opened it, if the daemon can see it.
    pub(crate) opener: Option<i32>,
    /// The newest generation seen through this file: what poll compares with.
    seen: AtomicU64,
    io: Mutex<Io>,
}

#[derive(Debug, Default)]
struct Io {
    /// The version that reads continue in and writes are validated against.
    version: Option<ReadVersion>,
    /// Truncated to nothing: the next write replaces the whole value.
    replace_next: bool,
}

#[derive(Debug)]
struct ReadVersion {
    head: Head,
    bytes: Vec<u8>,
}

impl Handle {
    pub(crate) fn new(id: u64, state: Arc<State>, mode: OpenMode, opener: Option<i32>) -> Self {
        let io = Io {
            version: None,
            replace_next: mode.truncate,
        };
        Self {
            id,
            state,
            mode,
            opener,
            seen: AtomicU64::new(0),
            io: Mutex::new(io),
        }
    }

    /// The newest generation seen through this file.
    pub(crate) fn seen(&self) -> Generation {
        Generation(self.seen.load(Ordering::Relaxed))
    }

    /// Notes that versions up to `generation` have been seen.
    pub(crate) fn mark_seen(&self, generation: Generation) {
        self.seen.fetch_max(generation.0, Ordering::Relaxed);
    }

    /// At offset 0 takes the newest version; behind it goes on in the version taken.
    pub(crate) fn read(&self, offset: u64, size: usize) -> Result<Vec<u8>, Errno> {
        let mut io = self.lock();
        if offset == 0 || io.version.is_none() {
            let (head, bytes) = self.state.read()?;
            self.mark_seen(head.generation());
            io.version = Some(ReadVersion { head, bytes });
        }
        let bytes = io
            .version
            .as_ref()
            .map_or(&[][..], |version| &version.bytes);
        let start = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        let end = start.saturating_add(size).min(bytes.len());
        Ok(bytes[start..end].to_vec())
    }

    /// One commit.
    ///
    /// # Errors
    ///
    /// `ESTALE` when this file has read and somebody has committed since, `EFBIG` beyond the
    /// capacity; nothing was changed then.
    pub(crate) fn write(&self, reaper: &Reaper, offset: u64, data: &[u8]) -> Result<(), Errno> {
        if !self.mode.write {
            return Err(Errno::EBADF);
        }
        if data.is_empty() {
            return Ok(());
        }
        let mut io = self.lock();
        let expectation = match &io.version {
            Some(version) => Expectation::Base(version.head),
            None => Expectation::Newest,
        };
        // Behind the last byte of what was read: the next value, not more of the old one.
        let follows = !self.mode.append
            && io.version.as_ref().is_some_and(|version| {
                !version.bytes.is_empty() && offset == version.bytes.len() as u64
            });
        let replace = io.replace_next || follows;
        let (head, bytes) = self.state.write(reaper, expectation, |base| {
            if replace {
                return Some(data.to_vec());
            }
            let base = io.version.as_ref().map_or(base, |version| &version.bytes);
            let offset = match self.mode.append {
                true => base.len(),
                false => usize::try_from(offset).ok()?,
            };
            splice(base, offset, data, self.state.page() as usize)
        })?;
        io.replace_next = false;
        if io.version.is_some() {
            io.version = Some(ReadVersion { head, bytes });
            // One's own commit is nothing new to oneself.
            self.mark_seen(head.generation());
        }
        Ok(())
    }

    /// `truncate(0)`: commits nothing, the next write replaces the whole value.
    pub(crate) fn truncate(&self) {
        self.lock().replace_next = true;
    }

    fn lock(&self) -> MutexGuard<'_, Io> {
        self.io.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `base` with `data` at `offset`, zeros between; `None` beyond `bound` bytes.
fn splice(base: &[u8], offset: usize, data: &[u8], bound: usize) -> Option<Vec<u8>> {
    let end = offset.checked_add(data.len()).filter(|end| *end <= bound)?;
    let mut value = base.to_vec();
    value.resize(base.len().max(end), 0);
    value[offset..end].copy_from_slice(data);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_splice_keeps_what_it_does_not_cover() {
        assert_eq!(splice(b"hello", 1, b"EL", 64).unwrap(), b"hELlo");
        assert_eq!(splice(b"ab", 4, b"c", 64).unwrap(), b"ab\0\0c");
        assert_eq!(splice(b"ab", 2, b"c", 3).unwrap(), b"abc");
        assert_eq!(splice(b"ab", 2, b"cd", 3), None);
        assert_eq!(splice(b"ab", usize::MAX, b"c", 64), None);
    }
}
