//! What a view shows, and when it shows something newer.

use std::time::Duration;

use kstate_sys::fork::Lock;
use kstate_sys::futex::Deadline;
use kstate_sys::region::{self, Generation, Memory, Version};

use crate::content::{Bytes, read_newest};
use crate::reader::Reader;
use crate::snapshot::ReadError;

/// The version a view shows, and its pace. Whatever looks through the view, a snapshot, a wait, a
/// notifier, a live page, looks here: what one of them finds new is shown from then on, to all.
///
/// # Invariants
///
/// 1. Between two changes of what is shown there is a period, but for what cannot be read, which
///    is tried again at each look.
#[derive(Debug)]
pub(crate) struct Shown {
    reader: Reader<Bytes>,
    period: Duration,
    kept: Lock<Kept>,
}

/// The default is to have shown nothing: a forked child begins with it, if its parent was looking at
/// the fork.
#[derive(Debug, Default)]
struct Kept {
    /// The version shown; none before the first look, and if it cannot be read.
    version: Option<Version>,
    /// Its bytes.
    bytes: Vec<u8>,
    /// Room for the next one.
    spare: Vec<u8>,
    /// Which generation is shown.
    generation: Generation,
    /// The next one is not shown before.
    due: Deadline,
}

/// What a look found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Showing {
    /// The generation shown, from now on.
    pub(crate) generation: Generation,
    /// What is newer already and must wait, and when its time comes.
    pub(crate) next: Option<(Generation, Deadline)>,
    /// The next change is not shown before, whether it is there or not.
    pub(crate) due: Deadline,
}

impl Shown {
    /// Nothing yet, and then at most one change each `period`.
    pub(crate) fn new(reader: Reader<Bytes>, period: Duration) -> Self {
        Self {
            reader,
            period,
            kept: Lock::default(),
        }
    }

    pub(crate) fn reader(&self) -> &Reader<Bytes> {
        &self.reader
    }

    pub(crate) fn period(&self) -> Duration {
        self.period
    }

    /// Another one that shows the same now, and goes on by itself.
    pub(crate) fn duplicate(&self) -> Self {
        let kept = self.kept.lock();
        Self {
            reader: self.reader.clone(),
            period: self.period,
            kept: Lock::new(Kept {
                version: kept.version,
                bytes: kept.bytes.clone(),
                spare: Vec::new(),
                generation: kept.generation,
                due: kept.due,
            }),
        }
    }

    /// Shows the newest version if the pace allows, and says what is shown. Of one that cannot be
    /// read the generation is shown; the error is who reads it told.
    ///
    /// # Memory ordering
    ///
    /// As [`Reader::generation`].
    ///
    /// # Cost
    ///
    /// A lock and a load if nothing is newer; else a reading of the clock, and a copy if its time
    /// has come.
    pub(crate) fn look(&self) -> Showing {
        let mut kept = self.kept.lock();
        // Who reads is told of an error.
        let newest = self.advance(&mut kept).unwrap_or(kept.generation);
        Showing {
            generation: kept.generation,
            next: (newest != kept.generation).then_some((newest, kept.due)),
            due: kept.due,
        }
    }

    /// Shows the newest version if the pace allows, and lends what is shown to `see`: its bytes, and
    /// which version they are, overdue or not as of now.
    ///
    /// # Errors
    ///
    /// As [`Reader::snapshot`]: what should be shown cannot be read.
    pub(crate) fn see<R>(&self, see: impl FnOnce(&[u8], &Version) -> R) -> Result<R, ReadError> {
        let mut kept = self.kept.lock();
        let newest = self.advance(&mut kept)?;
        let Some(mut version) = kept.version else {
            // `advance` has read one, or failed.
            return Err(self.reader.named(region::ReadError::Unstable));
        };
        // Of one that another has followed the next is not late any more.
        let generation = version.generation();
        let header = self.reader.memory().header();
        version.overdue = generation == newest && header.is_overdue(generation);
        Ok(see(&kept.bytes, &version))
    }

    /// Shows the newest version if the pace allows, and says which is the newest.
    fn advance(&self, kept: &mut Kept) -> Result<Generation, ReadError> {
        if self.reader.is_deleted() {
            return Err(self.reader.named(region::ReadError::Deleted));
        }
        let newest = self.reader.generation();
        let stays = newest == kept.generation || !kept.due.has_passed();
        if kept.version.is_some() && stays {
            return Ok(newest);
        }
        let read = read_newest(&self.reader, &mut kept.spare);
        let generation = read.as_ref().map_or(newest, Version::generation);
        if generation != kept.generation {
            kept.generation = generation;
            // INVARIANT: 1: counted from behind the copy.
            kept.due = match self.period.is_zero() {
                true => Deadline::default(),
                false => Deadline::after(self.period),
            };
        }
        kept.version = read.as_ref().ok().copied();
        std::mem::swap(&mut kept.bytes, &mut kept.spare);
        read.map(|version| version.generation())
    }
}
