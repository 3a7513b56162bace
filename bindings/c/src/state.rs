#![expect(unsafe_code, reason = "exported, and reads what programs point to")]
//! States as programs have them.

use std::ffi::{CStr, c_char, c_int};
use std::sync::Arc;

use kstate::{
    Access, Bytes, Generation, Interrupt, Live, NameError, StateName, Subscribe, SubscribeError,
    View, subscribe,
};
use kstate_sys::name::MAX_NAME_BYTES;

use crate::boundary::{answer, answer_or, quietly};
use crate::failure::{Failure, Outcome};
use crate::handle::{Handle, Ids, State};
use crate::shared::Shared;
use crate::waiting::Watched;

/// The numbers of states.
static IDS: Ids = Ids::new();

/// `KSTATE_READ` of the header.
pub(crate) const READ: u32 = 1;
/// `KSTATE_WRITE`.
pub(crate) const WRITE: u32 = 2;

/// What is kept for a handle of a state.
pub(crate) struct StateEntry {
    pub(crate) id: u32,
    subscribed: Option<Box<Subscribed>>,
}

/// What is kept while it is subscribed.
pub(crate) struct Subscribed {
    pub(crate) shared: Arc<Shared>,
    pub(crate) permissions: u32,
    /// What the program sees of it, if at a rate of its own.
    pub(crate) view: Option<Arc<View<Bytes>>>,
    /// Live pointers that were handed out, the last one in force: all stay good.
    pub(crate) live: Vec<Live<Bytes>>,
    /// Whether that one is of `view`, as it is.
    pub(crate) is_live_in_force: bool,
    pub(crate) watched: Option<Watched>,
    /// The newest version that the program has taken.
    pub(crate) seen: Generation,
    pub(crate) interrupt: Interrupt,
}

impl Subscribed {
    fn new(subscribe: Subscribe, permissions: u32) -> Outcome<Box<Self>> {
        Ok(Box::new(Self {
            shared: Arc::new(Shared::new(subscribe)?),
            permissions,
            view: None,
            live: Vec::new(),
            is_live_in_force: false,
            watched: None,
            seen: Generation::NEVER,
            interrupt: Interrupt::new(),
        }))
    }
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        // Whoever waits through it has nothing to wait for any more.
        self.interrupt.raise();
    }
}

impl StateEntry {
    /// What it is subscribed to.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is not.
    #[inline]
    pub(crate) fn subscribed(&mut self) -> Outcome<&mut Subscribed> {
        self.subscribed.as_deref_mut().ok_or(Failure::plain(
            libc::EINVAL,
            c"the handle is not subscribed to a state",
        ))
    }
}

impl Handle<State> {
    /// Runs `work` with what it is subscribed to.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is no handle, or not subscribed.
    #[inline]
    pub(crate) fn with_subscribed<R>(
        self,
        work: impl FnOnce(&mut Subscribed) -> Outcome<R>,
    ) -> Outcome<R> {
        self.with(|entry| work(entry.subscribed()?))
    }

    /// The subscription, to be used without the handle.
    pub(crate) fn shared(self) -> Outcome<Arc<Shared>> {
        self.with_subscribed(|subscribed| Ok(subscribed.shared.clone()))
    }
}

/// Permissions as they were given, of which writing implies reading.
pub(crate) fn permissions(given: u32) -> Outcome<u32> {
    match given {
        READ => Ok(READ),
        WRITE | 3 => Ok(READ | WRITE),
        _ => Err(Failure::plain(
            libc::EINVAL,
            c"permissions are KSTATE_READ, KSTATE_WRITE or both",
        )),
    }
}

/// A name that a program points to.
fn name(given: *const c_char) -> Outcome<StateName> {
    if given.is_null() {
        return Err(Failure::plain(libc::EINVAL, c"the name is NULL"));
    }
    // SAFETY: a string by the header's contract; no more of it is looked at than a name can have.
    let length = unsafe { libc::strnlen(given, MAX_NAME_BYTES + 1) };
    // SAFETY: as long as that it is readable.
    let bytes = unsafe { core::slice::from_raw_parts(given.cast::<u8>(), length) };
    StateName::new(bytes).map_err(|error| match error {
        // Whatever is wrong with it.
        NameError::TooLong { .. } => Failure::plain(
            libc::EINVAL,
            c"the name has more than KSTATE_MAX_NAME_LEN bytes",
        ),
        error => SubscribeError::from(error).into(),
    })
}

fn wanted(name: &StateName, permissions: u32) -> Subscribe {
    let access = match permissions & WRITE {
        0 => Access::Read,
        _ => Access::Write,
    };
    subscribe(name).access(access)
}

#[unsafe(no_mangle)]
extern "C" fn kstate_new_state() -> Handle<State> {
    answer_or(Handle::NULL, || {
        Handle::new(StateEntry {
            id: IDS.next(),
            subscribed: None,
        })
    })
}

/// # Safety
///
/// `state` is null or points to a handle.
#[unsafe(no_mangle)]
unsafe extern "C" fn kstate_free_state(state: *mut Handle<State>) {
    // SAFETY: by the contract above.
    unsafe { Handle::free(state) }
}

#[unsafe(no_mangle)]
extern "C" fn kstate_subscribe_state(state: Handle<State>, of: *const c_char, given: u32) -> c_int {
    answer(|| {
        // In the order in which a program is told of what is wrong; no state is made for one that is.
        let is_free = state.with(|entry| Ok(entry.subscribed.is_none()))?;
        let (name, permissions) = (name(of)?, permissions(given)?);
        let taken = || Failure::plain(libc::EINVAL, c"the handle is subscribed already");
        if !is_free {
            return Err(taken());
        }
        let mut subscribe = wanted(&name, permissions);
        if permissions == READ {
            subscribe = subscribe.existing();
        }
        let subscribed = Subscribed::new(subscribe, permissions)?;
        // The handle was free for others meanwhile: subscribing can wait for a daemon.
        let late = state.with(|entry| {
            Ok(match &entry.subscribed {
                None => {
                    entry.subscribed = Some(subscribed);
                    None
                }
                Some(_) => Some(subscribed),
            })
        })?;
        late.map_or(Ok(()), |_| Err(taken()))
    })
}

#[unsafe(no_mangle)]
extern "C" fn kstate_subscribe(of: *const c_char, given: u32) -> Handle<State> {
    answer_or(Handle::NULL, || {
        let (name, permissions) = (name(of)?, permissions(given)?);
        let subscribed = Subscribed::new(wanted(&name, permissions), permissions)?;
        Handle::new(StateEntry {
            id: IDS.next(),
            subscribed: Some(subscribed),
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn kstate_unsubscribe_state(state: Handle<State>) {
    quietly((), || {
        let subscribed = state.with(|entry| Ok(entry.subscribed.take()))?;
        // Not under the handle's lock: the daemon is told.
        drop(subscribed);
        Ok(())
    });
}

#[unsafe(no_mangle)]
extern "C" fn kstate_state_is_subscribed(state: Handle<State>) -> bool {
    quietly(false, || state.with(|entry| Ok(entry.subscribed.is_some())))
}

#[unsafe(no_mangle)]
extern "C" fn kstate_get_state_name(state: Handle<State>) -> *const c_char {
    // It stays where it is until the handle is unsubscribed.
    let name = |subscribed: &mut Subscribed| Ok(subscribed.shared.name().as_ptr());
    quietly(core::ptr::null(), || state.with_subscribed(name))
}

#[unsafe(no_mangle)]
extern "C" fn kstate_get_state_permissions(state: Handle<State>) -> u32 {
    quietly(0, || {
        state.with_subscribed(|subscribed| Ok(subscribed.permissions))
    })
}

#[unsafe(no_mangle)]
extern "C" fn kstate_get_state_id(state: Handle<State>) -> u32 {
    quietly(0, || state.with(|entry| Ok(entry.id)))
}

/// What a program is told of the state by name, for printing.
pub(crate) fn described(name: &CStr, permissions: u32) -> String {
    let rights = match permissions & WRITE {
        0 => "for reading",
        _ => "for reading and writing",
    };
    format!("'{}' {rights}", name.to_string_lossy())
}
