#![expect(unsafe_code, reason = "exported, and writes where programs say")]
//! Waiting for a state to change, asleep or in an event loop.

use std::ffi::c_int;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use kstate::{Generation, Key, Notifier, Wait, Waited};
use kstate_sys::fork::Process;

use crate::boundary::answer;
use crate::failure::{Failure, Outcome};
use crate::handle::{Handle, State};
use crate::state::Subscribed;

/// A descriptor that is readable when a state shows what was not taken yet.
pub(crate) struct Watched {
    notifier: Notifier,
    key: Key,
    /// A child has another descriptor.
    process: Process,
}

impl Watched {
    /// Lets it not be readable any more, until something else happens.
    pub(crate) fn take(&mut self) -> Outcome<()> {
        // What the news are is seen at the look that follows.
        drop(self.notifier.changed()?);
        Ok(())
    }
}

impl Subscribed {
    /// Watches what the handle shows now for what is newer than what was taken, by the same descriptor if there is one.
    pub(crate) fn rewatch(&mut self) -> Outcome<()> {
        if let Some(watched) = &mut self.watched {
            watched.notifier.remove(watched.key);
            watched.key = match &self.view {
                None => watched
                    .notifier
                    .add_since(self.shared.reader(), self.seen)?,
                Some(view) => watched.notifier.add_since(&**view, self.seen)?,
            };
        }
        Ok(())
    }

    fn watch(&mut self) -> Outcome<c_int> {
        if self
            .watched
            .as_ref()
            .is_some_and(|watched| !watched.process.is_current())
        {
            self.watched = None;
        }
        if self.watched.is_none() {
            let process = Process::current().map_err(|_| Failure::NO_MEMORY)?;
            let mut notifier = Notifier::new()?;
            let key = match &self.view {
                None => notifier.add_since(self.shared.reader(), self.seen)?,
                Some(view) => notifier.add_since(&**view, self.seen)?,
            };
            self.watched = Some(Watched {
                notifier,
                key,
                process,
            });
        }
        let watched = self.watched.as_ref();
        Ok(watched.map_or(-libc::EINVAL, |watched| {
            watched.notifier.as_fd().as_raw_fd()
        }))
    }
}

#[unsafe(no_mangle)]
extern "C" fn kstate_get_fd(state: Handle<State>) -> c_int {
    let mut descriptor = -1;
    let refused = answer(|| {
        descriptor = state.with_subscribed(Subscribed::watch)?;
        Ok(())
    });
    match refused {
        0 => descriptor,
        errno => errno,
    }
}

/// # Safety
///
/// `newest` is null or has room for a number.
#[unsafe(no_mangle)]
unsafe extern "C" fn kstate_wait(
    state: Handle<State>,
    since: u64,
    timeout_ns: i64,
    newest: *mut u64,
) -> c_int {
    answer(|| {
        // Without the handle, which others use meanwhile.
        let (reader, view, interrupt) = state.with_subscribed(|subscribed| {
            let (reader, view) = (subscribed.shared.reader().clone(), subscribed.view.clone());
            Ok((reader, view, subscribed.interrupt.clone()))
        })?;
        let mut wait = Wait::new().interrupted_by(&interrupt);
        if let Ok(timeout) = u64::try_from(timeout_ns) {
            wait = wait.timeout(Duration::from_nanos(timeout));
        }
        let since = Generation(since);
        let waited = match &view {
            None => wait.for_change(&reader, since),
            Some(view) => wait.for_change(&**view, since),
        }?;
        match waited {
            Waited::Changed(generation) | Waited::Overdue(generation) => {
                if !newest.is_null() {
                    // SAFETY: by the contract above.
                    unsafe { newest.write(generation.0) };
                }
                Ok(())
            }
            Waited::TimedOut => Err(Failure::plain(
                libc::ETIMEDOUT,
                c"nothing changed for as long as was allowed",
            )),
            Waited::Interrupted => Err(Failure::plain(
                libc::EINTR,
                c"a signal handler ran, or the wait was ended",
            )),
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn kstate_interrupt(state: Handle<State>, raised: bool) -> c_int {
    answer(|| {
        state.with_subscribed(|subscribed| {
            match raised {
                true => subscribed.interrupt.raise(),
                false => subscribed.interrupt.clear(),
            }
            Ok(())
        })
    })
}
