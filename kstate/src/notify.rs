//! A descriptor for event loops that is readable when one of many states has changed.

mod entry;
mod files;
mod uring;
mod waitv;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use kstate_sys::fork::Process;
use kstate_sys::futex::Deadline;
use kstate_sys::region::Generation;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::wait::{WaitError, Waitable};
use entry::{Entry, Look};
use files::Files;
use uring::Uring;
use waitv::Waitv;

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
/// The descriptor is the kernel's io_uring, in which a futex wait a state is in flight (Linux 6.7).
/// Where that is refused it is an eventfd, which one thread of the process serves that sleeps in
/// `futex_waitv` (Linux 5.16; another thread each 127 states); where that is, too, an epoll of the states' own files.
///
/// A thread that has called [`changed`](Self::changed) may have its `epoll_wait` ended by `EINTR`, as by a signal,
/// when a state changes (io_uring notifies so); `poll` and `select` go on by themselves.
///
/// **After `fork`** the child's first call here makes a descriptor of its own, which is another
/// than before: fetch it after that.
///
/// # Cost
///
/// A descriptor and some 20 KiB of the kernel's memory. A change costs a system call to take and to
/// wait for the next one, however many states have changed.
pub struct Notifier {
    engine: Engine,
    /// The process that `engine` is of; none where it cannot be told from its children.
    process: Option<Process>,
    entries: HashMap<u64, Entry>,
    last: u64,
    fired: Vec<u64>,
    events: Vec<Event>,
}

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
    /// What the kernel said.
    #[error("states cannot be watched: {source}")]
    Io {
        /// The operating system's error.
        #[from]
        source: io::Error,
    },
}

#[derive(Debug)]
enum Engine {
    Uring(Box<Uring>),
    Waitv(Waitv),
    Files(Files),
}

impl Engine {
    fn new(by: NotifyBy) -> io::Result<Self> {
        Ok(match by {
            NotifyBy::Uring => Self::Uring(Box::new(Uring::new()?)),
            NotifyBy::Thread => Self::Waitv(Waitv::new()?),
            NotifyBy::Files => Self::Files(Files::new()?),
        })
    }

    fn first() -> io::Result<Self> {
        Self::new(NotifyBy::Uring)
            .or_else(|_| Self::new(NotifyBy::Thread))
            .or_else(|_| Self::new(NotifyBy::Files))
    }

    fn by(&self) -> NotifyBy {
        match self {
            Self::Uring(_) => NotifyBy::Uring,
            Self::Waitv(_) => NotifyBy::Thread,
            Self::Files(_) => NotifyBy::Files,
        }
    }

    /// Has the descriptor readable when there is something to see of an entry behind `look`.
    fn arm(&mut self, id: u64, entry: &mut Entry, look: Look) -> Result<(), NotifyError> {
        match self {
            Self::Uring(uring) => uring.arm(id, entry, look),
            Self::Waitv(waitv) => waitv.arm(id, entry, look),
            Self::Files(files) => files.arm(id, entry, look),
        }
    }

    fn disarm(&mut self, id: u64) {
        match self {
            Self::Uring(uring) => uring.disarm(id),
            Self::Waitv(waitv) => waitv.disarm(id),
            Self::Files(files) => files.disarm(id),
        }
    }

    /// Hands over what was armed.
    fn submit(&mut self) -> io::Result<()> {
        match self {
            Self::Uring(uring) => uring.submit(),
            Self::Waitv(_) | Self::Files(_) => Ok(()),
        }
    }

    /// Takes the entries to look at.
    fn fired(&mut self, into: &mut Vec<u64>) -> io::Result<()> {
        match self {
            Self::Uring(uring) => uring.fired(into),
            Self::Waitv(waitv) => waitv.fired(into),
            Self::Files(files) => files.fired(into),
        }
    }

    /// Lets go of what a forked child has of it without touching what is its parent's.
    fn abandon(self) {
        match self {
            Self::Uring(uring) => uring.abandon(),
            Self::Waitv(waitv) => waitv.abandon(),
            Self::Files(_) => {}
        }
    }
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
            entries: HashMap::new(),
            last: 0,
            fired: Vec::new(),
            events: Vec::new(),
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
        self.engine.submit()?;
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
            let _ = self.engine.submit();
        }
        true
    }

    /// What has happened since the last call, of each state at most once, and waits for more in the
    /// background. Never sleeps, and may have nothing.
    ///
    /// # Errors
    ///
    /// [`NotifyError`]. What was not told yet is told next time.
    ///
    /// # Cost
    ///
    /// No system call if there is nothing, else one.
    pub fn changed(&mut self) -> Result<&[Event], NotifyError> {
        self.follow_fork()?;
        self.events.clear();
        let mut fired = std::mem::take(&mut self.fired);
        let taken = self.engine.fired(&mut fired);
        let mut result = taken.map_err(NotifyError::from);
        for id in fired.drain(..) {
            let visited = self.visit(id);
            result = result.and(visited);
        }
        self.fired = fired;
        let submitted = self.engine.submit().map_err(NotifyError::from);
        match result.and(submitted) {
            Ok(()) => Ok(&self.events),
            // What was found is told all the same, and the error when it comes again.
            Err(_) if !self.events.is_empty() => Ok(&self.events),
            Err(error) => Err(error),
        }
    }

    /// Sleeps until something happens, no longer than `timeout`, and says what; nothing after the
    /// time.
    ///
    /// # Errors
    ///
    /// [`NotifyError`]; in particular [`NotifyError::Interrupted`] when a signal handler ran.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<&[Event], NotifyError> {
        let deadline = timeout.map(Deadline::after);
        loop {
            // Twice, as the borrow checker has it: the first makes sure that there is something.
            if !self.changed()?.is_empty() {
                return Ok(&self.events);
            }
            let left = deadline.map(Deadline::left);
            if left == Some(Duration::ZERO) {
                return Ok(&[]);
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

    /// Looks at an entry and waits on behalf of it for more.
    fn visit(&mut self, id: u64) -> Result<(), NotifyError> {
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
        }
        self.engine.arm(id, entry, look)
    }

    fn is_ours(&self) -> bool {
        self.process.is_none_or(|process| process.is_current())
    }

    /// In a forked child: makes an engine of its own.
    fn follow_fork(&mut self) -> Result<(), NotifyError> {
        if self.is_ours() {
            return Ok(());
        }
        let engine = Engine::new(self.way()).or_else(|_| Engine::first())?;
        std::mem::replace(&mut self.engine, engine).abandon();
        self.process = Process::current().ok();
        let by = self.way();
        for (id, entry) in &mut self.entries {
            entry.renew(by != NotifyBy::Files)?;
            let look = entry.look()?;
            self.engine.arm(*id, entry, look)?;
        }
        Ok(self.engine.submit()?)
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        if !self.is_ours()
            && let Ok(engine) = Engine::new(NotifyBy::Files)
        {
            std::mem::replace(&mut self.engine, engine).abandon();
        } else if self.is_ours() {
            for id in self.entries.keys() {
                self.engine.disarm(*id);
            }
        }
    }
}

impl AsFd for Notifier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.engine {
            Engine::Uring(uring) => uring.as_fd(),
            Engine::Waitv(waitv) => waitv.as_fd(),
            Engine::Files(files) => files.as_fd(),
        }
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
