//! Notices commits on behalf of programs that poll state files.
//!
//! For them, and for reads that wait, the daemon is one more waiter on `head`: a committer sees no difference. One thread
//! holds all waits in an io_uring; where that is refused, threads with `futex_waitv`, which hold
//! 127 each.

mod crowds;
mod uring;
mod waitv;

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crowds::Crowds;

use crate::config::NotifyBy;
use crate::state::{State, Untold};
use crate::timer::{Look, Timer};

/// What poll found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Readiness {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// Deleted: nothing new will come.
    pub(crate) gone: bool,
    /// Not committed to in time.
    pub(crate) overdue: bool,
}

/// Called once, when what was polled for has come.
pub(crate) struct Poller(Box<dyn FnOnce() + Send>);

/// Those to be called; few, nearly always.
pub(crate) type Pollers = smallvec::SmallVec<[Poller; 4]>;

impl Poller {
    /// A poller that calls `notify`.
    pub(crate) fn new(notify: impl FnOnce() + Send + 'static) -> Self {
        Self(Box::new(notify))
    }

    pub(crate) fn call(self) {
        (self.0)();
    }
}

impl std::fmt::Debug for Poller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Poller")
    }
}

/// Watches the heads of polled states.
#[derive(Debug)]
pub(crate) struct Hub {
    inbox: Arc<Inbox>,
    way: Way,
}

/// Which way the heads are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// One io_uring.
    Uring,
    /// Threads in `futex_waitv`.
    Waitv,
}

#[derive(Debug)]
struct Inbox {
    states: Mutex<VecDeque<Weak<State>>>,
    timer: Arc<Timer>,
    crowds: Crowds,
    bell: EventFd,
    stopped: std::sync::atomic::AtomicBool,
}

impl Hub {
    /// Starts watching; the thread ends after [`Hub::stop`].
    pub(crate) fn start(
        by: NotifyBy,
        timer: Arc<Timer>,
    ) -> io::Result<(Self, std::thread::JoinHandle<()>)> {
        let inbox = Arc::new(Inbox {
            states: Mutex::new(VecDeque::new()),
            timer,
            crowds: Crowds::default(),
            bell: EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?,
            stopped: std::sync::atomic::AtomicBool::new(false),
        });
        let builder = std::thread::Builder::new().name("kstate-poll".into());
        let theirs = inbox.clone();
        let watcher = match by {
            NotifyBy::Auto => uring::Watcher::new(),
            NotifyBy::Futex => Err(io::Error::other("not wanted")),
        };
        let (way, thread) = match watcher {
            Ok(watcher) => (
                Way::Uring,
                builder.spawn(move || beside_crowds(&theirs, || watcher.run(&theirs)))?,
            ),
            Err(error) => {
                tracing::info!(%error, "no io_uring with futex waits; polling by futex_waitv");
                (
                    Way::Waitv,
                    builder.spawn(move || beside_crowds(&theirs, || waitv::run(&theirs)))?,
                )
            }
        };
        Ok((Self { inbox, way }, thread))
    }

    pub(crate) fn way(&self) -> Way {
        self.way
    }

    /// Somebody polls `state`: look at its head, and watch it as long as somebody does.
    pub(crate) fn watch(&self, state: &Arc<State>) {
        let mut states = self
            .inbox
            .states
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        states.push_back(Arc::downgrade(state));
        drop(states);
        self.inbox.ring();
    }

    pub(crate) fn stop(&self) {
        self.inbox
            .stopped
            .store(true, std::sync::atomic::Ordering::Release);
        self.inbox.crowds.stop();
        self.inbox.ring();
    }
}

/// Runs `watch`, with a thread beside it that wakes crowds.
fn beside_crowds(inbox: &Inbox, watch: impl FnOnce()) {
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("kstate-crowd".into());
        let spawned = builder.spawn_scoped(scope, || inbox.crowds.run());
        if let Err(error) = spawned {
            tracing::error!(%error, "big crowds are not woken");
        }
        watch();
        inbox.crowds.stop();
    });
}

impl Inbox {
    /// Has a state tell whom it can; who must wait for the rate of a view is told later.
    fn tell(&self, state: &State) -> Untold {
        let mut untold = state.tell();
        if let Some(crowd) = untold.crowd.take() {
            self.crowds.add(state.ino(), crowd);
        }
        if let Some(later) = untold.later {
            self.timer.schedule(Look::Views(state.ino()), later);
        }
        untold
    }

    fn ring(&self) {
        if let Err(error) = self.bell.write(1) {
            tracing::error!(%error, "the polling thread cannot be called");
        }
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(std::sync::atomic::Ordering::Acquire)
    }

    fn take(&self) -> VecDeque<Weak<State>> {
        std::mem::take(&mut *self.states.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
