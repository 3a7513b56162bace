//! The value of a state: reading it, and writing it on behalf of programs without the library.

use std::mem::MaybeUninit;
use std::time::{Duration, SystemTime};

use kstate_sys::abi::Class;
use kstate_sys::clock::Ticks;
use kstate_sys::futex;
use kstate_sys::region::{
    self, CommitError, Generation, Group, Head, LiveOwner, Memory, Notice, Version,
};

use super::{Inner, State};
use crate::errno::{Errno, may_tell_of_damage};
use crate::poll::Poller;
use crate::reaper::Reaper;
use crate::region::Region;

/// Attempts of a write that splices into whatever is newest, before it gives up.
const MAX_SPLICE_ATTEMPTS: u32 = 10_000;

/// What a write is based on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expectation {
    /// The version with this head; `ESTALE` if there is a newer one.
    Base(Head),
    /// Whatever is newest.
    Newest,
}

impl State {
    /// The newest version.
    pub(crate) fn read(&self) -> Result<(Head, Vec<u8>), Errno> {
        let mut inner = self.lock();
        self.read_locked(&mut inner)
    }

    fn read_locked(&self, inner: &mut Inner) -> Result<(Head, Vec<u8>), Errno> {
        self.map_reach(inner)?;
        let mapping = self.mapping();
        let mut bytes = vec![MaybeUninit::<u8>::uninit(); self.geometry.page() as usize];
        let version = region::read(&mapping.mapped(), &mut bytes);
        if mapping.is_damaged() {
            return Err(Errno::EIO);
        }
        let version = version?;
        bytes.truncate(version.length as usize);
        Ok((version.head, initialised(bytes)))
    }

    /// The newest generation.
    pub(crate) fn newest(&self) -> Result<Generation, Errno> {
        Ok(region::newest(&self.mapping().mapped())?.generation())
    }

    /// What is known of the newest version, without its bytes.
    pub(crate) fn describe(&self) -> Result<Version, Errno> {
        let mapping = self.mapping();
        match region::describe(&mapping.mapped()) {
            Ok(version) => Ok(version),
            // Only its bytes are out of reach of this mapping.
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
        match self.age(version) {
            Some(age) => SystemTime::now().checked_sub(age).unwrap_or(self.created),
            None if version.generation().is_never() => self.created,
            None => self.attributes().changed,
        }
    }

    /// How long ago the version was committed, if that is known.
    pub(crate) fn age(&self, version: &Version) -> Option<Duration> {
        (version.time != Ticks::NONE).then(|| self.clock.between(version.time, self.clock.now()))
    }

    /// Commits what `value` makes of the base; it is called again when another writer came first
    /// and the base is whatever is newest. `None` from it means beyond the bound: `EFBIG`.
    pub(crate) fn write(
        &self,
        reaper: &Reaper,
        expectation: Expectation,
        mut value: impl FnMut(&[u8]) -> Option<Vec<u8>>,
    ) -> Result<(Head, Vec<u8>), Errno> {
        let mut inner = self.lock();
        if inner.gone {
            return Err(Errno::ENOENT);
        }
        self.claim_for_daemon(&mut inner)?;
        for _ in 0..MAX_SPLICE_ATTEMPTS {
            let (base, bytes) = match expectation {
                Expectation::Base(head) => (head, Vec::new()),
                Expectation::Newest => self.read_locked(&mut inner)?,
            };
            let bytes = value(&bytes).ok_or(Errno::EFBIG)?;
            if bytes.len() > inner.capacity as usize {
                return Err(Errno::EFBIG);
            }
            let mapping = self.mapping();
            let mapped = mapping.mapped();
            let writer = inner.writer.as_mut().ok_or(Errno::EIO)?;
            let committed = writer.commit(&mapped, base, &bytes, self.clock.now());
            if mapping.is_damaged() {
                return Err(Errno::EIO);
            }
            match committed {
                Ok(head) => {
                    let (calls, others) = self.tell_few(&mut inner, head.generation());
                    self.settle_commit(&mapped, others);
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
                    Expectation::Base(_) => {
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
        self.settle_commit(mapped, true);
    }

    fn settle_commit(&self, mapped: &Region<'_>, wake: bool) {
        let notice = mapped.header().notice();
        if notice.contains(Notice::ARMED)
            && let Err(error) = region::refresh_live(mapped, LiveOwner::of(Group::DAEMON))
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

/// The bytes of a vector all of which were written.
fn initialised(bytes: Vec<MaybeUninit<u8>>) -> Vec<u8> {
    // `read` has written the first `length` bytes, and the vector was cut to them.
    bytes
        .into_iter()
        .map(|byte| {
            #[expect(unsafe_code, reason = "reads what `region::read` has written")]
            // SAFETY: the postcondition of `region::read`: `length` bytes are initialised.
            unsafe {
                byte.assume_init()
            }
        })
        .collect()
}
