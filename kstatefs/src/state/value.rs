//! The value of a state: reading it, and writing it on behalf of programs without the library.

use std::borrow::Cow;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use kstate_sys::abi::Class;
use kstate_sys::clock::Ticks;
use kstate_sys::futex;
use kstate_sys::region::{
    self, CommitError, Generation, Group, Head, LiveOwner, Memory, Notice, Version,
};

use super::{Inner, State};
use crate::errno::{Errno, may_tell_of_damage};
use crate::handle::Place;
use crate::poll::Poller;
use crate::reaper::Reaper;
use crate::region::Region;

/// Attempts of a write that splices into whatever is newest, before it gives up.
const MAX_SPLICE_ATTEMPTS: u32 = 10_000;

/// What a write is based on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expectation<'a> {
    /// The version with this head and these bytes; `ESTALE` if there is a newer one.
    Base(Head, &'a [u8]),
    /// Whatever is newest.
    Newest,
}

/// What a write makes of its base.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Edit<'a> {
    /// Where the data go; everything else stays. Without a place it goes.
    pub(crate) place: Option<Place>,
    pub(crate) data: &'a [u8],
}

impl<'a> Edit<'a> {
    /// Whether nothing stays of a base of so many bytes.
    fn covers(&self, length: usize) -> bool {
        match self.place {
            None => true,
            Some(Place::At(0)) => self.data.len() >= length,
            Some(_) => false,
        }
    }

    /// The new value, zeros in a gap; `None` beyond `bound` bytes.
    fn apply(&self, base: &[u8], bound: usize) -> Option<Cow<'a, [u8]>> {
        if self.covers(base.len()) {
            return (self.data.len() <= bound).then_some(Cow::Borrowed(self.data));
        }
        let offset = match self.place {
            None => 0,
            Some(Place::At(offset)) => usize::try_from(offset).ok()?,
            Some(Place::End) => base.len(),
        };
        let end = offset.checked_add(self.data.len());
        let end = end.filter(|end| *end <= bound)?;
        let mut value = base.to_vec();
        value.resize(base.len().max(end), 0);
        value[offset..end].copy_from_slice(self.data);
        Some(Cow::Owned(value))
    }
}

impl State {
    /// The newest version.
    pub(crate) fn read(&self) -> Result<(Head, Vec<u8>), Errno> {
        let mut inner = self.lock();
        self.read_locked(&mut inner)
    }

    fn read_locked(&self, inner: &mut Inner) -> Result<(Head, Vec<u8>), Errno> {
        let (version, bytes) = self.read_version(inner)?;
        Ok((version.head, bytes))
    }

    /// The newest version with what is known of it.
    pub(super) fn read_version(&self, inner: &mut Inner) -> Result<(Version, Vec<u8>), Errno> {
        let mapping = self.map_reach(inner)?;
        let mut bytes = Vec::with_capacity(self.geometry.page() as usize);
        let room = bytes.spare_capacity_mut();
        let version = match self.last.get() {
            None => region::read(&mapping.mapped(), room).map(Some),
            Some(last) => region::read_at(&mapping.mapped(), *last, room),
        };
        if mapping.is_damaged() {
            return Err(Errno::EIO);
        }
        let version = version?.ok_or(Errno::EIO)?;
        #[expect(unsafe_code, reason = "says how much was read")]
        // SAFETY: the postcondition of `region::read`: so many bytes of the room given are filled.
        unsafe {
            bytes.set_len(version.length as usize);
        }
        Ok((version, bytes))
    }

    /// The newest generation.
    pub(crate) fn newest(&self) -> Result<Generation, Errno> {
        let newest = region::newest(&self.mapping().mapped());
        match newest {
            Err(region::ReadError::Deleted) => Ok(self.sealed_at()?.generation()),
            newest => Ok(newest?.generation()),
        }
    }

    /// The head that the sealed region had: `ESTALE` when none counts any more, `EIO` when it was somebody
    /// who may write the region that sealed it, and the state is as it was.
    fn sealed_at(&self) -> Result<Head, Errno> {
        let last = self.last.get().copied();
        last.ok_or_else(|| match self.sealing.load(Ordering::SeqCst) {
            true => Errno::ESTALE,
            false => region::ReadError::Deleted.into(),
        })
    }

    /// What is known of the newest version, without its bytes.
    pub(crate) fn describe(&self) -> Result<Version, Errno> {
        let mapping = self.mapping();
        match region::describe(&mapping.mapped()) {
            Ok(version) => Ok(version),
            // Only its bytes are out of reach of this mapping.
            Err(region::ReadError::Deleted) => {
                let last = self.sealed_at()?;
                let mut version = region::describe_at(&mapping.mapped(), last);
                if matches!(version, Err(region::ReadError::Unmapped { .. })) {
                    self.map(&mut self.lock(), Class::Page)?;
                    version = region::describe_at(&self.mapping().mapped(), last);
                }
                version?.ok_or(Errno::EIO)
            }
            Err(region::ReadError::Unmapped { .. }) => {
                let mut inner = self.lock();
                self.map(&mut inner, Class::Page)?;
                drop(inner);
                Ok(region::describe(&self.mapping().mapped())?)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Time of the last commit, of creation if there was none, of the last change of attributes
    /// if the writer gave none.
    pub(crate) fn modified(&self, version: &Version) -> SystemTime {
        if version.generation().is_never() {
            return self.created;
        }
        let mut inner = self.lock();
        let Some(age) = self.age(version) else {
            return inner.attributes.changed;
        };
        // Two clocks are read, and would give another time again.
        match inner.modified {
            Some((generation, at)) if generation == version.generation() => at,
            _ => {
                let at = SystemTime::now().checked_sub(age).unwrap_or(self.created);
                inner.modified = Some((version.generation(), at));
                at
            }
        }
    }

    /// How long ago the version was committed, if that is known.
    pub(crate) fn age(&self, version: &Version) -> Option<Duration> {
        (version.time != Ticks::NONE).then(|| {
            self.common
                .clock
                .between(version.time, self.common.clock.now())
        })
    }

    /// Commits what `edit` makes of the base, again and again where other writers come first and the
    /// base is whatever is newest; on behalf of thread `tid`. `committed` is called before anybody is
    /// told.
    ///
    /// # Errors
    ///
    /// `ENOENT` when the state has gone, `EFBIG` beyond the capacity, `ESTALE`, `EBUSY`, `ENOSPC`, `EIO`.
    pub(crate) fn write<'a>(
        &self,
        reaper: &Reaper,
        tid: u32,
        expectation: Expectation<'_>,
        edit: Edit<'a>,
        committed: impl FnOnce(Head),
    ) -> Result<(Head, Cow<'a, [u8]>), Errno> {
        let mut inner = self.lock();
        if inner.gone {
            return Err(Errno::ENOENT);
        }
        self.claim_for_daemon(&mut inner)?;
        for _ in 0..MAX_SPLICE_ATTEMPTS {
            let bound = inner.capacity as usize;
            let (base, bytes) = match expectation {
                Expectation::Base(head, bytes) => (head, edit.apply(bytes, bound)),
                Expectation::Newest => {
                    let mapping = self.map_reach(&mut inner)?;
                    let version = region::describe(&mapping.mapped())?;
                    match edit.covers(version.length as usize) {
                        true => (version.head, edit.apply(&[], bound)),
                        false => {
                            let (head, bytes) = self.read_locked(&mut inner)?;
                            (head, edit.apply(&bytes, bound))
                        }
                    }
                }
            };
            let bytes = bytes.ok_or(Errno::EFBIG)?;
            let mapping = self.mapping();
            let mapped = mapping.mapped();
            let writer = inner.writer.as_mut().ok_or(Errno::EIO)?;
            let outcome = writer.commit(&mapped, base, &bytes, self.common.clock.now());
            if mapping.is_damaged() {
                return Err(Errno::EIO);
            }
            match outcome {
                Ok(head) => {
                    committed(head);
                    inner.note_write(head.generation(), tid);
                    let (calls, others) = self.tell_few(&mut inner, head.generation());
                    self.settle_commit(&mapped, Some((head, &bytes)), others);
                    drop(inner);
                    calls.into_iter().for_each(Poller::call);
                    return Ok((head, bytes));
                }
                // The base may come to count again.
                Err(CommitError::Conflict { found }) if found.has_intent() => {
                    drop(inner);
                    self.stand_back(reaper)?;
                    inner = self.lock();
                    if inner.gone {
                        return Err(Errno::ENOENT);
                    }
                }
                Err(CommitError::Conflict { .. }) => match expectation {
                    Expectation::Base(..) => {
                        mapped.header().count_conflict();
                        return Err(Errno::ESTALE);
                    }
                    Expectation::Newest => {}
                },
                Err(error) => return Err(error.into()),
            }
        }
        Err(Errno::EBUSY)
    }

    /// What every committer owes: the live page and a wake, where somebody wants them.
    pub(super) fn after_commit(&self, mapped: &Region<'_>) {
        self.settle_commit(mapped, None, true);
    }

    /// The same, with the version where it is at hand.
    fn settle_commit(&self, mapped: &Region<'_>, version: Option<(Head, &[u8])>, wake: bool) {
        let notice = mapped.header().notice();
        let owner = LiveOwner::of(Group::DAEMON);
        let is_shown =
            || version.is_some_and(|(head, bytes)| region::show_live(mapped, owner, head, bytes));
        if notice.contains(Notice::ARMED)
            && !is_shown()
            && let Err(error) = region::refresh_live(mapped, owner)
            && may_tell_of_damage()
        {
            tracing::warn!(name = %self.name, %error, "live page not refreshed");
        }
        if wake && notice.contains(Notice::WAITERS) {
            mapped.header().count_wake();
            futex::wake_all(&mapped.header().head);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(base: &[u8], place: Option<Place>, data: &[u8], bound: usize) -> Option<Vec<u8>> {
        Edit { place, data }.apply(base, bound).map(Cow::into_owned)
    }

    #[test]
    fn an_edit_keeps_what_it_does_not_cover() {
        let at = |offset| Some(Place::At(offset));
        for (base, place, data, value) in [
            (&b"hello"[..], at(1), &b"EL"[..], &b"hELlo"[..]),
            (b"hello", at(0), b"HE", b"HEllo"),
            (b"hello", at(0), b"HELLO", b"HELLO"),
            (b"hello", at(0), b"longer", b"longer"),
            (b"ab", at(4), b"c", b"ab\0\0c"),
            (b"ab", at(2), b"c", b"abc"),
            (b"ab", Some(Place::End), b"c", b"abc"),
            (b"hello", None, b"s", b"s"),
        ] {
            assert_eq!(applied(base, place, data, 64).unwrap(), value, "{place:?}");
        }
    }

    #[test]
    fn an_edit_beyond_the_bound_is_none() {
        for place in [
            None,
            Some(Place::At(0)),
            Some(Place::At(2)),
            Some(Place::End),
        ] {
            assert_eq!(applied(b"ab", place, b"cdef", 3), None, "{place:?}");
        }
        assert_eq!(applied(b"ab", Some(Place::At(u64::MAX)), b"c", 64), None);
    }
}
