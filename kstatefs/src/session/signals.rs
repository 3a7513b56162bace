//! The signals that end a daemon, taken by a descriptor.

use std::io;

use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The three signals that end the daemon, blocked and readable from a descriptor.
#[derive(Debug)]
pub(super) struct SignalGuard {
    pub(super) descriptor: SignalFd,
    before: SigSet,
}

impl SignalGuard {
    pub(super) fn block() -> io::Result<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            set.add(signal);
        }
        let mut before = SigSet::empty();
        pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&set), Some(&mut before))?;
        let descriptor = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC)?;
        Ok(Self { descriptor, before })
    }
}

impl Drop for SignalGuard {
    fn drop(&mut self) {
        // The signal that ended the daemon must not end its caller now.
        let flags = nix::fcntl::OFlag::O_NONBLOCK;
        let _ = nix::fcntl::fcntl(&self.descriptor, nix::fcntl::FcntlArg::F_SETFL(flags));
        while let Ok(Some(_)) = self.descriptor.read_signal() {}
        if let Err(error) = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None) {
            tracing::warn!(%error, "signals stay blocked");
        }
    }
}
