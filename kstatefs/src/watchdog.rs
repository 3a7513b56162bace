//! Telling the service manager, again and again, that the daemon serves: not only that a thread of it runs.

use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;

/// A thread that makes a request to the daemon's own mount, as any program does, and tells of it once it was
/// answered; until this is dropped.
///
/// The request is statfs(2), which the kernel passes on each time and the daemon answers without a lock that a client
/// could hold. If no thread of the daemon takes requests any more, or the file system's state stays locked,
/// it is not answered, and the manager hears nothing. The thread waits there for as long as that lasts, and holds
/// nobody up by it: nobody waits for it, it has no lock, and the request ends with the connection or with a
/// fatal signal, which is what the manager sends then.
///
/// What the answer is does not matter. Where another file system covers the mount, or it was moved, the path
/// leads elsewhere, and nothing is known against the daemon: those who have files open are served. A descriptor of the mount
/// would find it, but keep everybody from unmounting.
#[derive(Debug)]
pub(crate) struct Watchdog {
    _stop: Sender<()>,
}

impl Watchdog {
    /// The manager wants to hear something once in `period`, and does twice.
    pub(crate) fn start(period: Duration, mount: &Path, tell: impl Fn() + Send + 'static) -> Self {
        let (stop, stopped) = mpsc::channel();
        let mount = mount.to_owned();
        let run = move || {
            loop {
                let _ = nix::sys::statvfs::statvfs(&mount);
                tell();
                if stopped.recv_timeout(period / 2) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        };
        let started = std::thread::Builder::new().name("kstate-watchdog".into());
        if let Err(error) = started.spawn(run) {
            // Then the manager will find that it does not serve.
            tracing::error!(%error, "nobody tells that the daemon serves");
        }
        Self { _stop: stop }
    }
}
