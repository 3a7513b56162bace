#![expect(unsafe_code, reason = "futex_waitv(2) has no wrapper")]
//! Waits by `futex_waitv` (Linux 5.16), for kernels and containers without io_uring futexes.
//!
//! One call holds [`PER_THREAD`] states and one more word, by which the thread is called to look
//! at its list again. The first thread takes what comes in and starts others as they fill up.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use kstate_sys::futex::{self, Deadline};
use kstate_sys::region::Memory;

use super::Inbox;
use crate::state::State;

/// `FUTEX_WAITV_MAX` is 128; one is the thread's own word.
const PER_THREAD: usize = 127;
/// How late a poller may be told where nothing can wait on several words at once.
const NAP: Duration = Duration::from_millis(5);

/// `FUTEX_32` of `<linux/futex.h>`, shared between processes.
const FUTEX_32: u32 = 2;

/// `struct futex_waitv` of `<linux/futex.h>`.
#[repr(C)]
struct Waiter {
    val: u64,
    uaddr: u64,
    flags: u32,
    reserved: u32,
}

const _: () = assert!(core::mem::size_of::<Waiter>() == 24);

#[derive(Default)]
struct Shard {
    states: Mutex<Vec<Weak<State>>>,
    call: AtomicU64,
    stopped: AtomicBool,
}

impl Shard {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Weak<State>>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a state, unless full. A state already here only makes the thread look again.
    fn take(&self, state: &Weak<State>) -> bool {
        let mut states = self.lock();
        if !states.iter().any(|known| known.ptr_eq(state)) {
            if states.len() >= PER_THREAD {
                return false;
            }
            states.push(state.clone());
        }
        drop(states);
        self.ring();
        true
    }

    fn ring(&self) {
        self.call.fetch_add(1, Ordering::SeqCst);
        futex::wake_all(&self.call);
    }

    /// Where even `futex_waitv` is missing (before Linux 5.16, or refused by a filter): sleeps
    /// until called, but only so long, and has the states looked at again.
    fn nap(&self, call: u64) -> io::Result<()> {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the low half is what is compared"
        )]
        let expected = call as u32;
        futex::wait(&self.call, expected, Some(Deadline::after(NAP))).map(|_| ())
    }

    fn run(&self, inbox: &Inbox) {
        while !self.stopped.load(Ordering::Acquire) {
            // Read before the states are visited: a call after this ends the wait at once.
            let call = self.call.load(Ordering::SeqCst);
            let mut waiters = vec![waiter(&self.call, call)];
            // The words stay mapped until the wait is over.
            let mut kept = Vec::new();
            let states = self.lock().clone();
            for state in states {
                let Some(live) = state.upgrade() else {
                    continue;
                };
                if let Some((head, mapping)) = inbox.tell(&live).watch {
                    let expected = u64::from(head.futex_word());
                    waiters.push(waiter(&mapping.mapped().header().head, expected));
                    kept.push(mapping);
                }
            }
            // States that came in meanwhile are behind the ones copied above.
            self.lock()
                .retain(|state| state.upgrade().is_some_and(|state| state.is_waited_for()));
            // However it is refused: a filter may answer with any number.
            let waited = wait(&waiters).or_else(|_| self.nap(call));
            if let Err(error) = waited {
                tracing::error!(%error, "programs that poll state files are not notified");
                return;
            }
            drop(kept);
        }
    }
}

pub(super) fn run(inbox: &Arc<Inbox>) {
    let mut shards: Vec<(Arc<Shard>, std::thread::JoinHandle<()>)> = Vec::new();
    while !inbox.is_stopped() {
        let mut count = [0; 8];
        match nix::unistd::read(&inbox.bell, &mut count) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => {
                tracing::error!(%error, "programs that poll state files are not notified");
                break;
            }
        }
        for state in inbox.take() {
            // Where it is already watched first, so that no state is in two shards.
            let known = shards
                .iter()
                .find(|(shard, _)| shard.lock().iter().any(|known| known.ptr_eq(&state)));
            if known.is_some_and(|(shard, _)| shard.take(&state))
                || shards.iter().any(|(shard, _)| shard.take(&state))
            {
                continue;
            }
            let shard = Arc::new(Shard::default());
            shard.take(&state);
            let (theirs, inbox) = (shard.clone(), inbox.clone());
            let builder = std::thread::Builder::new().name("kstate-waitv".into());
            match builder.spawn(move || theirs.run(&inbox)) {
                Ok(thread) => shards.push((shard, thread)),
                Err(error) => tracing::error!(%error, "a polled state is not watched"),
            }
        }
    }
    for (shard, thread) in shards {
        shard.stopped.store(true, Ordering::Release);
        shard.ring();
        if thread.join().is_err() {
            tracing::error!("a polling thread panicked");
        }
    }
}

fn waiter(word: &AtomicU64, expected: u64) -> Waiter {
    let uaddr = word.as_ptr().expose_provenance() as u64;
    Waiter {
        val: expected & 0xffff_ffff,
        uaddr,
        flags: FUTEX_32,
        reserved: 0,
    }
}

/// Sleeps until one of the words differs from what was expected or is woken.
fn wait(waiters: &[Waiter]) -> io::Result<()> {
    // SAFETY: the array is valid for its length and the words it names stay mapped meanwhile.
    let result = unsafe {
        libc::syscall(
            libc::SYS_futex_waitv,
            waiters.as_ptr(),
            waiters.len(),
            0,
            core::ptr::null::<libc::timespec>(),
            libc::CLOCK_MONOTONIC,
        )
    };
    if result >= 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EINTR) => Ok(()),
        _ => Err(error),
    }
}
