//! Waits by `futex_waitv` (Linux 5.16), for kernels and containers without io_uring futexes.
//!
//! One call holds [`PER_THREAD`] states and one more word, by which the thread is called to look
//! at its list again. The first thread takes what comes in and starts others as they fill up.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use kstate_sys::futex::{self, Deadline, Word};
use kstate_sys::region::Memory;

use super::Inbox;
use crate::state::State;

/// One is the thread's own word.
const PER_THREAD: usize = futex::MOST_WORDS - 1;
/// How late a poller may be told where nothing can wait on several words at once.
const NAP: Duration = Duration::from_millis(5);

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
        futex::wait(&self.call, low(call), Some(Deadline::after(NAP))).map(|_| ())
    }

    fn run(&self, inbox: &Inbox) {
        while !self.stopped.load(Ordering::Acquire) {
            // Read before the states are visited: a call after this ends the wait at once.
            let call = self.call.load(Ordering::SeqCst);
            let mut watched = Vec::new();
            let states = self.lock().clone();
            for state in states.iter().filter_map(Weak::upgrade) {
                watched.extend(inbox.tell(&state).watch);
            }
            let mapped: Vec<_> = watched
                .iter()
                .map(|(head, mapping)| (head, mapping.mapped()))
                .collect();
            let words: Vec<_> = std::iter::once(Word::new(&self.call, low(call)))
                .chain(
                    mapped
                        .iter()
                        .map(|(head, mapped)| Word::new(&mapped.header().head, head.futex_word())),
                )
                .collect();
            // States that came in meanwhile are behind the ones copied above.
            self.lock()
                .retain(|state| state.upgrade().is_some_and(|state| state.is_waited_for()));
            // However it is refused: a filter may answer with any number.
            let waited = futex::wait_any(&words, None).map(|_| ());
            if let Err(error) = waited.or_else(|_| self.nap(call)) {
                tracing::error!(%error, "programs that poll state files are not notified");
                return;
            }
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

/// The half that is compared.
#[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
const fn low(word: u64) -> u32 {
    word as u32
}
