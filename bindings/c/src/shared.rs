#![expect(
    unsafe_code,
    reason = "lends one handle of the library to several threads, one at a time"
)]
//! A subscription, which transactions share with the handle it was made by and may outlive it with.

use std::ffi::{CStr, CString};
use std::mem::ManuallyDrop;

use kstate::{Access, Bytes, Reader, State, Subscribe};
use kstate_sys::fork::{Held, Lock};

use crate::failure::{Failure, Outcome};

/// One subscription of the library's.
///
/// # Invariants
///
/// 1. `state` is used by who holds `turn`, found sound, and by nobody else; it is dropped with this, if
///    `turn` is sound then.
/// 2. It stays at its address until it is dropped: it is behind an `Arc`, and nobody has it otherwise.
pub(crate) struct Shared {
    turn: Lock<Turn>,
    state: ManuallyDrop<State<Bytes>>,
    reader: Reader<Bytes>,
    name: CString,
}

/// Whether what it guards is whole. By default it is not: that is what a forked child finds where a thread of its parent
/// was at work.
#[derive(Debug, Default)]
struct Turn {
    is_sound: bool,
}

const _: () = {
    const fn is_sent<T: Send>() {}
    const fn is_shared<T: Send + Sync>() {}
    is_sent::<State<Bytes>>();
    is_shared::<Reader<Bytes>>();
    is_shared::<CString>();
};

// SAFETY: invariant 1 for `state`, which may be sent to other threads; all else may be shared.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

/// The subscription, for as long as this is held.
pub(crate) struct Using<'s> {
    shared: &'s Shared,
    _turn: Held<'s, Turn>,
}

impl Shared {
    /// Subscribes to bytes.
    pub(crate) fn new(subscribe: Subscribe) -> Outcome<Self> {
        Ok(Self::of(subscribe.bytes()?))
    }

    fn of(state: State<Bytes>) -> Self {
        let (reader, name) = (state.reader(), state.name().as_str());
        Self {
            turn: Lock::new(Turn { is_sound: true }),
            // A name has no byte of zero.
            name: CString::new(name).unwrap_or_default(),
            state: ManuallyDrop::new(state),
            reader,
        }
    }

    /// Another one of the same state, with slots of its own.
    pub(crate) fn duplicate(&self) -> Outcome<Self> {
        let state = self
            .using()?
            .try_clone()
            .map_err(kstate::SubscribeError::from)?;
        Ok(Self::of(state))
    }

    pub(crate) fn name(&self) -> &CStr {
        &self.name
    }

    /// What reads, which threads share.
    pub(crate) fn reader(&self) -> &Reader<Bytes> {
        &self.reader
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.reader.access() == Access::Write
    }

    /// What writes, one thread at a time.
    ///
    /// # Errors
    ///
    /// `ESTALE` in a child that was forked while another thread was at work here.
    #[inline]
    pub(crate) fn using(&self) -> Outcome<Using<'_>> {
        let turn = self.turn.lock();
        match turn.is_sound {
            true => Ok(Using {
                shared: self,
                _turn: turn,
            }),
            false => Err(Failure::plain(
                libc::ESTALE,
                c"this process was forked while another thread used the state; subscribe again",
            )),
        }
    }
}

impl std::ops::Deref for Using<'_> {
    type Target = State<Bytes>;

    #[inline]
    fn deref(&self) -> &State<Bytes> {
        &self.shared.state
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.turn.lock().is_sound {
            // SAFETY: invariant 1; it is not used again.
            unsafe { ManuallyDrop::drop(&mut self.state) };
        }
    }
}
