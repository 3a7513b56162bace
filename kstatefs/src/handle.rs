//! One open state file: what it has read, and what its next write is validated against.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kstate_sys::region::{Generation, Head};

use crate::blocked::{BlockedRead, BlockedReads, Given};
use crate::errno::Errno;
use crate::poll::{Hub, Poller, Readiness};
use crate::reaper::Reaper;
use crate::state::{Edit, Expectation, Interest, Purpose, State};
use crate::view::{Pace, View};

/// How a state file was opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenMode {
    /// `O_RDWR` or `O_WRONLY`.
    pub(crate) write: bool,
    /// `O_RDWR` or `O_RDONLY`.
    pub(crate) read: bool,
    /// `O_TRUNC`.
    pub(crate) truncate: bool,
    /// Opened by the library, which arms the live page itself when it needs it.
    pub(crate) library: bool,
}

impl OpenMode {
    /// From the flags of `open(2)`.
    pub(crate) fn from_flags(flags: i32) -> Self {
        let access = flags & libc::O_ACCMODE;
        Self {
            write: access != libc::O_RDONLY,
            read: access != libc::O_WRONLY,
            truncate: flags & libc::O_TRUNC != 0,
            library: flags & kstate_sys::abi::O_LIBRARY != 0,
        }
    }

    /// Whether who has it open so counts as a writer. One of the library's does once it has
    /// claimed a slot group.
    pub(crate) fn is_writer(self) -> bool {
        self.write && !self.library
    }
}

/// Where a write goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At an offset.
    At(u64),
    /// Behind what is there: `O_APPEND`.
    End,
}

/// An open file of a state, or of a view of it. Reads and writes through one descriptor follow each
/// other, so they are serialised.
///
/// Lock order: the blocked reads, what has been read, the state.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) id: u64,
    pub(crate) state: Arc<State>,
    pub(crate) mode: OpenMode,
    pub(crate) view: Option<View>,
    /// The process that opened it, if the daemon can see it.
    pub(crate) opener: Option<i32>,
    /// The newest generation seen through this file: what poll compares with.
    seen: AtomicU64,
    io: Mutex<Io>,
    blocked: BlockedReads,
}

#[derive(Debug)]
struct Io {
    /// The version that reads continue in and writes are validated against.
    version: Option<ReadVersion>,
    /// Truncated to nothing: the next write replaces the whole value.
    replace_next: bool,
    /// Of a view whose reads wait, which has no offsets: the next byte of the version.
    at: usize,
    pace: Pace,
    /// The generation whose being overdue has been seen.
    overdue_seen: Option<Generation>,
    /// Versions written through this file.
    written: u64,
}

impl Io {
    /// The bytes of the version taken; none before.
    fn bytes(&self) -> &[u8] {
        self.version.as_ref().map_or(&[], |version| &version.bytes)
    }

    /// How many of them are still to be read.
    fn rest(&self) -> usize {
        self.bytes().len().saturating_sub(self.at)
    }
}

#[derive(Debug)]
struct ReadVersion {
    head: Head,
    bytes: Vec<u8>,
}

impl Handle {
    pub(crate) fn new(
        id: u64,
        state: Arc<State>,
        mode: OpenMode,
        view: Option<View>,
        opener: Option<i32>,
    ) -> Self {
        let io = Io {
            version: None,
            replace_next: mode.truncate,
            at: 0,
            pace: Pace::new(view.map_or(Duration::ZERO, View::period)),
            overdue_seen: None,
            written: 0,
        };
        Self {
            id,
            state,
            mode,
            view,
            opener,
            seen: AtomicU64::new(0),
            io: Mutex::new(io),
            blocked: BlockedReads::default(),
        }
    }

    /// The newest generation seen through this file.
    pub(crate) fn seen(&self) -> Generation {
        Generation(self.seen.load(Ordering::Relaxed))
    }

    /// Notes that versions up to `generation` have been seen.
    pub(crate) fn mark_seen(&self, generation: Generation) {
        self.seen.fetch_max(generation.0, Ordering::Relaxed);
    }

    /// Whether reads have no offsets, and wait.
    pub(crate) fn is_stream(&self) -> bool {
        self.view.is_some_and(|view| view.waits)
    }

    pub(crate) fn read(&self, offset: u64, size: usize) -> Result<Given, Errno> {
        match self.is_stream() {
            true => self.read_on(size),
            false => self.read_at(offset, size),
        }
    }

    /// At offset 0 takes the newest version, as far as the view's rate allows; behind it goes on in
    /// the version taken.
    fn read_at(&self, offset: u64, size: usize) -> Result<Given, Errno> {
        let mut io = self.lock();
        // Of what has gone there is no later time to show the last version.
        let may_show = || io.pace.not_before().is_none() || self.state.is_gone();
        if io.version.is_none() || (offset == 0 && may_show()) {
            self.take_newest(&mut io)?;
        }
        if offset == 0 {
            io.overdue_seen = self.state.overdue();
        }
        Ok(Given::part_of(io.bytes(), offset, size))
    }

    /// Goes on in the version taken; behind its end waits for the next one. The end of the file is
    /// where the state has been deleted.
    fn read_on(&self, size: usize) -> Result<Given, Errno> {
        let mut io = self.lock();
        if io.rest() == 0 {
            // The mark that it has gone first: then there is no later version.
            let gone = self.state.is_gone();
            let newest = self.state.newest()?;
            if newest > self.seen() && (gone || io.pace.not_before().is_none()) {
                self.take_newest(&mut io)?;
            } else if gone {
                return Ok(Given::Bytes(Vec::new()));
            } else {
                let overdue = self.state.overdue();
                if overdue.is_some() && overdue != io.overdue_seen {
                    io.overdue_seen = overdue;
                    return Err(Errno::ETIMEDOUT);
                }
                return Ok(Given::NotYet);
            }
        }
        let given = Given::part_of(io.bytes(), io.at as u64, size);
        io.at = io.at.saturating_add(size).min(io.bytes().len());
        Ok(given)
    }

    fn take_newest(&self, io: &mut Io) -> Result<(), Errno> {
        let (head, bytes) = self.state.read()?;
        let shown = io.version.as_ref().map(|version| version.head.generation());
        if head.generation() > shown.unwrap_or(Generation::NEVER) {
            io.pace.show();
        }
        self.mark_seen(head.generation());
        io.version = Some(ReadVersion { head, bytes });
        io.at = 0;
        Ok(())
    }

    /// Keeps a read that has found nothing until there is something.
    pub(crate) fn block(self: &Arc<Self>, hub: &Arc<Hub>, read: BlockedRead) {
        match self.blocked.add(read) {
            Ok(()) => self.serve(hub),
            Err(read) => read.answer(Err(Errno::EOPNOTSUPP)),
        }
    }

    /// Answers what reads it can, and sees to it that the others are.
    ///
    /// 1. What is there is given. Nobody waits any more: done.
    /// 2. Registered, under a key that all threads here share. News from here on calls this again.
    /// 3. What came between 1 and 2, and would not call, such as that the state is overdue, is given.
    ///    Somebody waits still: done, as 2 stands.
    /// 4. Else it is not needed. But a read may have come in behind 3, whose own 2 is forgotten by
    ///    this: then all over again. If it comes behind that look, its 2 is later still.
    fn serve(self: &Arc<Self>, hub: &Arc<Hub>) {
        let serve = || self.blocked.serve(|size| self.read_on(size));
        while serve() {
            let (this, theirs) = (self.clone(), hub.clone());
            let registered = self.state.register(Interest {
                file: self.id,
                purpose: Purpose::Read,
                beyond: Some(self.seen()),
                not_before: self.lock().pace.not_before(),
                handle: None,
                call: Poller::new(move || this.serve(&theirs)),
            });
            match registered {
                Ok(found) if found.look => hub.watch(&self.state),
                Ok(_) => {}
                Err(error) => {
                    self.blocked.serve(|_| Err(error));
                }
            }
            if serve() {
                return;
            }
            self.state.forget_interest(self.id, Purpose::Read);
        }
    }

    /// The reads that wait here.
    pub(crate) fn blocked(&self) -> &BlockedReads {
        &self.blocked
    }

    /// What there is to see. `poller` is called when there is something new.
    pub(crate) fn poll(
        self: &Arc<Self>,
        hub: &Hub,
        poller: Option<Poller>,
    ) -> Result<Readiness, Errno> {
        let (gone, newest) = match poller {
            Some(call) => {
                let (beyond, not_before) = self.next_edge()?;
                let found = self.state.register(Interest {
                    file: self.id,
                    purpose: Purpose::Poll,
                    beyond,
                    not_before,
                    handle: Some(self.clone()),
                    call,
                })?;
                if found.look {
                    hub.watch(&self.state);
                }
                (found.gone, found.newest)
            }
            // The mark that it has gone first: then there is no later version.
            None => (self.state.is_gone(), self.state.newest()?),
        };
        let mut readable = gone || newest > self.seen();
        let mut overdue = self.state.overdue();
        if self.view.is_some() || overdue.is_some() {
            let io = self.lock();
            let rest = self.is_stream() && io.rest() > 0;
            readable = gone || rest || (readable && io.pace.not_before().is_none());
            overdue = overdue.filter(|overdue| Some(*overdue) != io.overdue_seen);
        }
        Ok(Readiness {
            readable: readable && self.mode.read,
            writable: self.mode.write,
            gone,
            overdue: overdue.is_some(),
        })
    }

    /// Behind which version, and when, who polls is told: of each new one, as a view's rate allows.
    fn next_edge(&self) -> Result<(Option<Generation>, Option<Instant>), Errno> {
        let Some(view) = self.view else {
            return Ok((None, None));
        };
        let newest = self.state.newest()?;
        let paced = self.lock().pace.not_before();
        Ok(match newest > self.seen() {
            // Told now, and the next one no sooner than that.
            true if paced.is_none() => (Some(newest), Instant::now().checked_add(view.period())),
            true => (Some(self.seen()), paced),
            false => (Some(newest), paced),
        })
    }

    /// One commit, on behalf of thread `tid`.
    ///
    /// # Errors
    ///
    /// `ESTALE` when this file has read and somebody has committed since, `EFBIG` beyond the
    /// capacity; nothing was changed then.
    pub(crate) fn write(
        &self,
        reaper: &Reaper,
        tid: u32,
        place: Place,
        data: &[u8],
    ) -> Result<(), Errno> {
        if !self.mode.write {
            return Err(Errno::EBADF);
        }
        if data.is_empty() {
            return Ok(());
        }
        let mut io = self.lock();
        let (expectation, end) = match &io.version {
            Some(version) => {
                let end = version.bytes.len() as u64;
                (Expectation::Base(version.head, &version.bytes), end)
            }
            None => (Expectation::Newest, 0),
        };
        // Behind the last byte of what was read: the next value, not more of the old one.
        let follows = end > 0 && place == Place::At(end);
        let edit = Edit {
            place: (!io.replace_next && !follows).then_some(place),
            data,
        };
        let has_read = io.version.is_some();
        let (head, bytes) = self.state.write(reaper, tid, expectation, edit, |head| {
            // One's own commit is nothing new to oneself.
            if has_read {
                self.mark_seen(head.generation());
            }
        })?;
        let bytes = has_read.then(|| bytes.into_owned());
        io.replace_next = false;
        io.version = bytes.map(|bytes| ReadVersion { head, bytes });
        io.written += 1;
        Ok(())
    }

    /// The file is closed.
    pub(crate) fn close(&self, reaper: &Reaper) {
        let missed = self.mode.library || self.lock().written > 1;
        self.state.close(reaper, self.id, self.mode, missed);
    }

    /// `truncate(0)`: commits nothing, the next write replaces the whole value.
    pub(crate) fn truncate(&self) {
        self.lock().replace_next = true;
    }

    fn lock(&self) -> MutexGuard<'_, Io> {
        self.io.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
