//! A daemon that ends for another one to take its place: asked to by that, or asking.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kstate_sys::ioctl::call;
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::mountpoint;
use crate::takeover::{self, Left, Search};

/// How long a daemon may take to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks whether it has.
const PAUSE: Duration = Duration::from_millis(5);

/// That somebody has asked this daemon to end without its states.
#[derive(Debug)]
pub(crate) struct Leaving {
    asked: EventFd,
    /// Whether anybody does so when asked.
    awaited: AtomicBool,
}

impl Leaving {
    /// # Errors
    ///
    /// `EMFILE`.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self {
            asked: EventFd::from_flags(flags)?,
            awaited: AtomicBool::new(false),
        })
    }

    /// Somebody will look before long whether it was asked.
    pub(crate) fn expect(&self) {
        self.awaited.store(true, Ordering::Relaxed);
    }

    /// A descriptor that is readable once it was asked.
    pub(crate) fn awaited(&self) -> BorrowedFd<'_> {
        self.expect();
        self.asked.as_fd()
    }

    /// Asks; whether somebody will do it.
    pub(crate) fn ask(&self) -> bool {
        self.awaited.load(Ordering::Relaxed) && self.asked.write(1).is_ok()
    }
}

/// Has the daemon that serves `mount` end, and waits for what it leaves, which was [examined](takeover::examine).
///
/// # Errors
///
/// `EPERM` for somebody else's, `EOPNOTSUPP` for one that keeps no notes, `ETIMEDOUT`.
pub(crate) fn replace(backing: Option<&Path>, mount: &Path) -> io::Result<Left> {
    let registry = File::open(mount.join(".kstate/registry"))?;
    match call::leave(registry.as_fd()) {
        // It may be gone before its answer is here.
        Err(error) if !mountpoint::is_dead(&error) => return Err(error),
        _ => {}
    }
    drop(registry);
    let start = Instant::now();
    loop {
        if let Search::Found(left) = takeover::search(backing, mount)? {
            return Ok(*left);
        }
        if start.elapsed() >= PATIENCE {
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(PAUSE);
    }
}
