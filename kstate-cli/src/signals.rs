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
        let descriptor = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)?;
        Ok(Self {
            descriptor: Arc::new(descriptor),
        })
    }

    /// A flag that a thread sets once a signal came, for work that looks often.
    ///
    /// # Errors
    ///
    /// The kernel refuses a thread.
    pub(crate) fn flag(&self) -> io::Result<Arc<AtomicBool>> {
        let flag = Arc::new(AtomicBool::new(false));
        let (descriptor, set) = (self.descriptor.clone(), flag.clone());
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                let _ = is_readable(descriptor.as_fd(), PollTimeout::NONE);
                set.store(true, Ordering::Relaxed);
            })?;
        Ok(flag)
    }

    /// Whether a signal came.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    ///
    /// # Cost
    ///
    /// One system call.
    pub(crate) fn is_asked(&self) -> io::Result<bool> {
        is_readable(self.descriptor(), PollTimeout::ZERO)
    }

    /// Becomes readable with the first signal, and stays so.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

fn is_readable(descriptor: BorrowedFd<'_>, timeout: PollTimeout) -> io::Result<bool> {
    let mut polled = [PollFd::new(descriptor, PollFlags::POLLIN)];
    loop {
        match poll(&mut polled, timeout) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
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
