//! Being told to end, by Ctrl-C or `kill`, without ending at once.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The signals by which a person, a service manager or a closing terminal ends a command.
const ENDING: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// Whether this process was asked to end.
///
/// # Invariants
///
/// 1. The signals are blocked in every thread and never read from `descriptor`, so that it is
///    readable from the first one on.
#[derive(Debug)]
pub(crate) struct Ending {
    descriptor: Arc<SignalFd>,
    flag: Arc<AtomicBool>,
}

impl Ending {
    /// From now on the signals do not end the process. To be called before any thread is started.
    ///
    /// # Errors
    ///
    /// The kernel refuses a descriptor or a thread.
    pub(crate) fn catch() -> io::Result<Self> {
        let signals: SigSet = ENDING.into_iter().collect();
        // INVARIANT: Ending 1: threads inherit the mask.
        signals.thread_block()?;
        let descriptor =
            Arc::new(SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)?);
        let flag = Arc::new(AtomicBool::new(false));
        let ending = Self { descriptor, flag };
        let (descriptor, flag) = (ending.descriptor.clone(), ending.flag.clone());
        thread::Builder::new().name("signals".into()).spawn(move || {
            let mut polled = [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)];
            while let Err(Errno::EINTR) = poll(&mut polled, PollTimeout::NONE) {}
            flag.store(true, Ordering::Relaxed);
        })?;
        Ok(ending)
    }

    /// Set once a signal came.
    pub(crate) fn flag(&self) -> &AtomicBool {
        &self.flag
    }

    /// Whether a signal came.
    pub(crate) fn is_asked(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    /// Becomes readable with the first signal, and stays so.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Lets the signals end this process again, should a parent have blocked them.
///
/// # Errors
///
/// None is known.
pub(crate) fn allow() -> io::Result<()> {
    Ok(ENDING.into_iter().collect::<SigSet>().thread_unblock()?)
}
