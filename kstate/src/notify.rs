//! A descriptor for event loops that is readable when one of many states has changed.

mod engine;
mod entry;
mod events;
mod files;
mod uring;
mod waitv;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use kstate_sys::fork::Process;
use kstate_sys::futex::Deadline;
use kstate_sys::region::Generation;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::wait::{WaitError, Waitable};
use engine::Engine;
use entry::Entry;
pub use events::Events;

/// Watches states, hundreds if need be, and has a descriptor that is readable when there is something
/// to be had from [`changed`](Self::changed).
///
/// It goes into `poll`, `select`, `epoll`, an event loop of yours, or tokio's `AsyncFd`; or
/// [`wait`](Self::wait) sleeps on it. Each state is followed from the version it is added with: the
/// newest is never missed, those that come and go between two looks are. Of a [view](crate::View) no
/// more is told than its rate allows.
///
/// ```no_run
/// let gps = kstate::subscribe("robot.gps").typed::<[f64; 2]>()?;
/// let speed = kstate::subscribe("robot.speed").typed::<f64>()?;
/// let mut notifier = kstate::Notifier::new()?;
/// let of_gps = notifier.add(&gps)?;
/// notifier.add(&speed)?;
/// loop {
///     for event in notifier.wait(None)? {
///         match event.key == of_gps {
///             true => println!("{:?}", gps.snapshot()?.value),
///             false => println!("{} m/s", speed.snapshot()?.value),
///         }
///     }
/// }
/// # #[allow(unreachable_code, reason = "shows an endless loop")]
/// # Ok::<(), kstate::Error>(())
/// ```
///
/// The descriptor is an eventfd that an io_uring makes readable, in which a futex wait a state is in
/// flight (Linux 6.7). Where that is refused, one thread of the process does so that sleeps in
/// `futex_waitv` (Linux 5.16; another thread each 127 states); where that is, too, it is an epoll of the states' own files.
///
/// Use it from one thread where you can. Of a notifier that several threads have called, a change interrupts the thread
/// that called it last, wherever that is: its `epoll_wait` may end with `EINTR`, as by a signal, while `poll` and
/// most other calls go on by themselves.
///
/// **After `fork`** the child's first call here makes a descriptor of its own, which is another
/// than before: fetch it after that.
///
/// # Cost
///
/// Two descriptors and some 20 KiB of the kernel's memory. Taking changes and waiting for the next
/// ones costs three system calls, however many states have changed.
pub struct Notifier {
    engine: Engine,
    /// The process that `engine` is of; none where it cannot be told from its children.
    process: Option<Process>,
    entries: BTreeMap<u64, Entry>,
    last: u64,
    /// Entries to look at that an error has left; kept for its room, too.
    fired: Vec<u64>,
    /// Found: what the caller is given.
    events: Vec<Event>,
    /// Found where nothing could be given.
    untold: Vec<Event>,
    failures: Vec<(Key, NotifyError)>,
    /// Whether all that is watched is waited for. Not so behind what a look at memory has found, until
    /// the caller has seen that.
    is_settled: bool,
}

/// So many states are looked at one by one.
const FEW: usize = 8;

/// Which of the states of a [`Notifier`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(u64);

impl Key {
    /// As a number, for tables of one's own; from 1, and not used again by the same notifier.
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// Something has happened to a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// To which.
    pub key: Key,
    /// What.
    pub change: Change,
}

/// What has happened to a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// This is the newest generation now.
    To(Generation),
    /// This generation is still the newest, and the next one is overdue. Told once.
    Overdue(Generation),
    /// It was deleted, and is not watched any more.
    Deleted,
    /// It cannot be watched, and is not any more; [`Notifier::failure`] says why.
    Failed,
}

/// How a [`Notifier`] learns of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotifyBy {
    /// Futex waits in an io_uring.
    Uring,
    /// A thread in `futex_waitv` and an eventfd.
    Thread,
    /// The states' files in an epoll, opened anew for it: a descriptor and a subscriber more each. Views may
    /// wake in vain once in their time.
    Files,
}

/// Why a state is not watched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotifyError {
    /// The state cannot be waited for.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// A signal handler ran; nothing is lost, ask again.
    #[error("the wait was interrupted by a signal")]
    Interrupted,
    /// A forked child's, of what belongs to its parent.
    #[error("an asynchronous notifier belongs to the process that made it; make another one")]
    Forked,
    /// What the kernel said.
    #[error("states cannot be watched: {source}")]
    Io {
        /// The operating system's error.
        #[from]
        source: io::Error,
    },
}

impl Notifier {
    /// One that watches nothing yet, by the best way there is here.
    ///
    /// # Errors
    ///
    /// What the kernel says: no descriptor left.
    pub fn new() -> Result<Self, NotifyError> {
        Ok(Self::over(Engine::first()?))
    }

    /// One that does it so.
    ///
    /// # Errors
    ///
    /// What the kernel says: it does not know how to, or a filter does not let it.
    pub fn by(way: NotifyBy) -> Result<Self, NotifyError> {
        Ok(Self::over(Engine::new(way)?))
    }

    fn over(engine: Engine) -> Self {
        Self {
            engine,
            process: Process::current().ok(),
            entries: BTreeMap::new(),
            last: 0,
            fired: Vec::new(),
            events: Vec::new(),
            untold: Vec::new(),
            failures: Vec::new(),
            is_settled: true,
        }
    }

    /// How it is done here.
    pub fn way(&self) -> NotifyBy {
        self.engine.by()
    }

    /// How many states are watched.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Watches a state from now on; its newest version is told of first, if somebody has written one.
    ///
    /// # Errors
    ///
    /// [`NotifyError`].
    ///
    /// # Cost
    ///
    /// A system call, and two FUSE requests the first time that this process waits through the handle: while
    /// it is watched, each commit costs its writer a system call.
    pub fn add<W: Waitable + ?Sized>(&mut self, of: &W) -> Result<Key, NotifyError> {
        self.add_since(of, Generation::NEVER)
    }

    /// As [`add`](Self::add), but `since` is known already.
    ///
    /// # Errors
    ///
    /// [`NotifyError`].
    pub fn add_since<W: Waitable + ?Sized>(
        &mut self,
        of: &W,
        since: Generation,
    ) -> Result<Key, NotifyError> {
        self.follow_fork()?;
        let by = self.way();
        let mut entry = Entry::new(of, since, by != NotifyBy::Files)?;
        self.last += 1;
        let id = self.last;
        let look = entry.look()?;
        self.engine.arm(id, &mut entry, look)?;
        self.entries.insert(id, entry);
        self.submit()?;
        Ok(Key(id))
    }

    /// Watches a state no more; `false` if that was not so.
    pub fn remove(&mut self, key: Key) -> bool {
        if self.entries.remove(&key.0).is_none() {
            return false;
        }
        if self.is_ours() {
            self.engine.disarm(key.0);
            // What is left in the queue goes with the next call.
            let _ = self.submit();
        }
        true
    }

    /// Why a state is not watched any more of which [`Change::Failed`] was told; once.
    pub fn failure(&mut self, key: Key) -> Option<NotifyError> {
        let at = self.failures.iter().position(|(of, _)| *of == key)?;
        Some(self.failures.swap_remove(at).1)
    }

    /// What has happened since the last call, and waits for more in the background when that is dropped.
    /// Does not wait, and may have nothing.
    ///
    /// # Errors
    ///
    /// [`NotifyError`], if the kernel fails what serves all states; of a single one that fails
    /// [`Change::Failed`] is told.
    ///
    /// # Cost
    ///
    /// Of up to eight states none until the events are dropped; then, or else at once, two system calls. A FUSE request
    /// where the daemon has to be asked for a wake mark: after its restart, or for a seat that has become free.
    pub fn changed(&mut self) -> Result<Events<'_>, NotifyError> {
        self.gather()?;
        Ok(Events::of(self))
    }

    fn gather(&mut self) -> Result<(), NotifyError> {
        self.glance()?;
        match self.events.is_empty() {
            true => self.take(),
            false => Ok(()),
        }
    }

    /// What a look at memory finds, and says nothing of the rest. No system call: what is to be waited
    /// for begins with the next call of [`changed`](Self::changed), or when its events are dropped.
    pub(crate) fn glance(&mut self) -> Result<(), NotifyError> {
        self.follow_fork()?;
        self.events.clear();
        self.events.append(&mut self.untold);
        // Of few, each: then the wait that was in flight is taken together with the one that begins.
        if self.way() == NotifyBy::Uring && self.entries.len() <= FEW {
            let is_news = |(_, entry): &(&u64, &Entry)| entry.known().look().is_news();
            let news = self.entries.iter().filter(is_news).map(|(id, _)| *id);
            let news: smallvec::SmallVec<[u64; FEW]> = news.collect();
            news.into_iter().for_each(|id| self.visit(id));
        }
        self.is_settled &= self.events.is_empty();
        Ok(())
    }

    /// Takes what has come, and begins to wait for more.
    fn take(&mut self) -> Result<(), NotifyError> {
        let mut fired = self.fired()?;
        fired.drain(..).for_each(|id| self.visit(id));
        self.fired = fired;
        // Of failures that were found.
        self.events.append(&mut self.untold);
        self.submit()
    }

    /// The entries to look at. Of those that have something new though nobody woke them, the daemon does
    /// not wake.
    fn fired(&mut self) -> Result<Vec<u64>, NotifyError> {
        let mut fired = std::mem::take(&mut self.fired);
        if let Err(error) = self.engine.fired(&mut fired) {
            // What was taken is looked at by the next call.
            self.fired = fired;
            self.engine.again();
            return Err(error.into());
        }
        for (id, is_late) in self.engine.unwoken() {
            if let Some(entry) = self.entries.get_mut(&id) {
                let has_news = || entry.known().look().has_news();
                if entry.known().is_in_crowd() && (is_late || has_news()) {
                    entry.distrust_daemon();
                }
                fired.push(id);
            }
        }
        Ok(fired)
    }

    fn submit(&mut self) -> Result<(), NotifyError> {
        self.is_settled = self.engine.submit()?;
        if !self.is_settled {
            self.engine.again();
        }
        Ok(())
    }

    /// Begins to wait for what comes behind the events told, if that has been put off.
    fn settle(&mut self) {
        if self.is_settled || !self.is_ours() {
            return;
        }
        let settled = self.fired().and_then(|mut fired| {
            for id in fired.drain(..) {
                let Some(entry) = self.entries.get_mut(&id) else {
                    continue;
                };
                // News are not told here: what is so already makes the descriptor readable at once.
                let armed = entry.look();
                let armed = armed.and_then(|look| self.engine.arm(id, entry, look));
                if let Err(error) = armed {
                    self.fail(id, error);
                    self.engine.again();
                }
            }
            self.fired = fired;
            self.submit()
        });
        if settled.is_err() {
            // It is tried again by the next call, which says what is wrong.
            self.engine.again();
        }
    }

    /// As [`changed`](Self::changed), and waits for more at once.
    #[cfg(feature = "tokio")]
    pub(crate) fn changed_at_once(&mut self) -> Result<&[Event], NotifyError> {
        self.follow_fork()?;
        self.events.clear();
        self.take()?;
        Ok(&self.events)
    }

    /// What was found.
    #[cfg(feature = "tokio")]
    pub(crate) fn events(&self) -> &[Event] {
        &self.events
    }

    /// Sleeps until something happens, no longer than `timeout`, and says what; nothing after the
    /// time.
    ///
    /// # Errors
    ///
    /// [`NotifyError`]; in particular [`NotifyError::Interrupted`] when a signal handler ran.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<Events<'_>, NotifyError> {
        let deadline = timeout.map(Deadline::after);
        loop {
            self.gather()?;
            let left = deadline.map(Deadline::left);
            if !self.events.is_empty() || left == Some(Duration::ZERO) {
                return Ok(Events::of(self));
            }
            let timeout = match left {
                None => PollTimeout::NONE,
                // Rounded up: no sleep is shorter than wanted.
                Some(left) => PollTimeout::try_from(left.as_nanos().div_ceil(1_000_000))
                    .unwrap_or(PollTimeout::MAX),
            };
            let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(_) => {}
                Err(nix::errno::Errno::EINTR) => return Err(NotifyError::Interrupted),
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
    }

    /// Looks at an entry, tells what is new, and waits on behalf of it for more.
    fn visit(&mut self, id: u64) {
        if let Err(error) = self.try_to_visit(id) {
            self.fail(id, error);
        }
    }

    fn try_to_visit(&mut self, id: u64) -> Result<(), NotifyError> {
        let Some(entry) = self.entries.get_mut(&id) else {
            return Ok(());
        };
        let mut look = entry.look()?;
        if let Some(change) = entry.tell(&mut look) {
            self.events.push(Event {
                key: Key(id),
                change,
            });
            if change == Change::Deleted {
                self.entries.remove(&id);
                self.engine.disarm(id);
                return Ok(());
            }
            // What that has hidden: it may be overdue or deleted already, and then nobody wakes again.
            look = entry.look()?;
            look.has_told = true;
        }
        self.engine.arm(id, entry, look)
    }

    /// Gives an entry up, and has that told.
    fn fail(&mut self, id: u64, error: NotifyError) {
        self.entries.remove(&id);
        self.engine.disarm(id);
        self.failures.push((Key(id), error));
        self.untold.push(Event {
            key: Key(id),
            change: Change::Failed,
        });
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.process.is_none_or(|process| process.is_current())
    }

    /// In a forked child: makes an engine of its own.
    pub(crate) fn follow_fork(&mut self) -> Result<(), NotifyError> {
        if self.is_ours() {
            return Ok(());
        }
        // The old one is a parent's, and knows that.
        self.engine = Engine::new(self.way()).or_else(|_| Engine::first())?;
        self.process = Process::current().ok();
        let by = self.way();
        let mut failed = Vec::new();
        for (id, entry) in &mut self.entries {
            let renewed = entry.renew(by != NotifyBy::Files);
            let looked = renewed.and_then(|()| entry.look());
            if let Err(error) = looked.and_then(|look| self.engine.arm(*id, entry, look)) {
                failed.push((*id, error));
            }
        }
        for (id, error) in failed {
            self.fail(id, error);
        }
        self.submit()
    }
}

impl AsFd for Notifier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.engine.as_fd()
    }
}

impl AsRawFd for Notifier {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl fmt::Debug for Notifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notifier")
            .field("way", &self.way())
            .field("states", &self.entries.len())
            .finish_non_exhaustive()
    }
}
