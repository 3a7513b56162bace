//! A thread that waits for each new version.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use kstate::{Bytes, Generation, Reader, Waited};
use nix::unistd::{Pid, gettid};

#[derive(Debug)]
pub(crate) struct Waiter {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
    tid: Pid,
}

#[derive(Debug, Default)]
struct Shared {
    seen: AtomicU64,
    ends: AtomicBool,
}

impl Waiter {
    /// Waits for all versions after the newest one.
    #[track_caller]
    pub(crate) fn start(reader: Reader<Bytes>) -> Self {
        let shared = Arc::new(Shared::default());
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn({
            let shared = shared.clone();
            move || {
                let seen = reader.generation();
                // The first one registers, which the daemon answers: a sleep that is none.
                let _ = reader.wait(seen, Some(std::time::Duration::from_millis(1)));
                shared.seen.store(seen.0, Ordering::Relaxed);
                tell.send(gettid()).unwrap();
                wait(&reader, &shared);
            }
        });
        let tid = told.recv().unwrap();
        Self {
            shared,
            thread,
            tid,
        }
    }

    /// The newest generation it knows of.
    pub(crate) fn seen(&self) -> u64 {
        self.shared.seen.load(Ordering::Acquire)
    }

    /// Whether it sleeps, knowing of that generation and of no later one.
    pub(crate) fn is_asleep_at(&self, generation: u64) -> bool {
        if self.seen() != generation {
            return false;
        }
        // After that it does nothing that takes it off the processor but to sleep.
        let status = std::fs::read_to_string(format!("/proc/self/task/{}/stat", self.tid));
        let status = status.unwrap();
        status
            .rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('S'))
    }

    /// Ends it; `publish` wakes it for the last time.
    #[track_caller]
    pub(crate) fn end(self, publish: impl FnOnce()) {
        self.shared.ends.store(true, Ordering::Release);
        publish();
        self.thread.join().unwrap();
    }
}

fn wait(reader: &Reader<Bytes>, shared: &Shared) {
    while !shared.ends.load(Ordering::Acquire) {
        let seen = Generation(shared.seen.load(Ordering::Relaxed));
        if let Waited::Changed(newest) = reader.wait(seen, None).unwrap() {
            shared.seen.store(newest.0, Ordering::Release);
        }
    }
}
