#![no_main]
#![expect(unsafe_code, reason = "forks a process that does nothing")]
//! What programs send to the daemon, none of which it may trust; see `kstatefs/src/fuzzing.rs`.

use std::cell::OnceCell;
use std::sync::{Mutex, PoisonError};

use kstatefs::fuzzing::Requests;
use libfuzzer_sys::fuzz_target;

static REQUESTS: Mutex<OnceCell<Requests>> = Mutex::new(OnceCell::new());

fuzz_target!(|bytes: &[u8]| {
    let mut requests = REQUESTS.lock().unwrap_or_else(PoisonError::into_inner);
    if requests.get().is_none() {
        // Before there is any other thread of ours.
        let _ = requests.set(Requests::new(another_process()));
        // SAFETY: a function that takes and returns nothing.
        unsafe { libc::atexit(remove) };
    }
    if let Some(requests) = requests.get_mut() {
        requests.run(bytes);
    }
});

/// A process that sleeps as long as this one lives.
fn another_process() -> u32 {
    // SAFETY: the child calls nothing but async-signal-safe functions.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: takes integers.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        loop {
            // SAFETY: takes nothing.
            unsafe { libc::pause() };
        }
    }
    u32::try_from(child).expect("forked")
}

/// What the daemons keep in /dev/shm and /run.
extern "C" fn remove() {
    // Held where a run has failed.
    if let Ok(requests) = REQUESTS.try_lock()
        && let Some(requests) = requests.get()
    {
        requests.remove();
    }
}
