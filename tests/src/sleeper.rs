//! A thread that is known to sleep.

use std::sync::mpsc;
use std::thread::JoinHandle;

use nix::unistd::{Pid, gettid};

use crate::deadline::eventually;

/// A thread that is going to sleep.
#[derive(Debug)]
pub struct Sleeper<T> {
    thread: Pid,
    handle: JoinHandle<T>,
}

impl<T: Send + 'static> Sleeper<T> {
    /// Starts `work` in it.
    ///
    /// # Panics
    ///
    /// When it does not start.
    #[track_caller]
    pub fn start(work: impl FnOnce() -> T + Send + 'static) -> Self {
        let (tell, told) = mpsc::channel();
        let handle = std::thread::spawn(move || {
            tell.send(gettid()).expect("it is listened to");
            work()
        });
        let thread = told.recv().expect("it tells its number");
        Self { thread, handle }
    }

    /// Its number.
    pub fn thread(&self) -> Pid {
        self.thread
    }

    /// Waits until it sleeps in a futex or in poll.
    ///
    /// # Panics
    ///
    /// When it ends instead, or goes on.
    #[track_caller]
    pub fn await_asleep(&self) {
        // proc_pid_syscall(5): the number of the call it is in, or that it runs.
        let path = format!("/proc/self/task/{}/syscall", self.thread);
        let sleeps =
            [libc::SYS_futex, libc::SYS_futex_waitv, libc::SYS_poll].map(|call| call.to_string());
        eventually("the thread sleeps", || {
            assert!(!self.handle.is_finished(), "it has ended and not slept");
            let call = std::fs::read_to_string(&path).unwrap_or_default();
            let number = call.split_whitespace().next();
            sleeps
                .iter()
                .any(|sleep| number == Some(sleep))
                .then_some(())
        });
    }

    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    /// What it returns.
    ///
    /// # Panics
    ///
    /// When it does not end, or has panicked.
    #[track_caller]
    pub fn join(self) -> T {
        eventually("the thread ends", || {
            self.handle.is_finished().then_some(())
        });
        self.handle.join().expect("it has not panicked")
    }
}
