//! The states' own files in an epoll, where nothing faster is allowed.

use std::collections::{BTreeMap, HashMap, hash_map};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use kstate_sys::abi::O_LIBRARY;
use kstate_sys::futex::Deadline;
use kstate_sys::ioctl::call;
use kstate_sys::region::Generation;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::NotifyError;
use super::entry::{Entry, Look};
use crate::errno;
use crate::wait::cannot_wait;

/// Token of the timer; the others are descriptors.
const TIMER: u64 = u64::MAX;

#[derive(Debug)]
pub(super) struct Files {
    epoll: Epoll,
    timer: TimerFd,
    /// Entries to look at when their time has come, and not before.
    due: BTreeMap<u64, Deadline>,
    /// By descriptor, which is its token in the epoll, the entries that share the open file: what one of
    /// them acknowledges is not told to the others.
    sharing: HashMap<RawFd, BTreeMap<u64, Listener>>,
    /// In a forked child, whose open files are its parent's, too: the states' files opened anew.
    own: Option<HashMap<u64, File>>,
}

/// What an entry waits for.
#[derive(Clone, Copy, Debug)]
struct Listener {
    flags: EpollFlags,
    /// What it has been told of.
    seen: Generation,
}

impl Files {
    pub(super) fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, TIMER))?;
        Ok(Self {
            epoll,
            timer,
            due: BTreeMap::new(),
            sharing: HashMap::new(),
            own: None,
        })
    }

    /// For a forked child: what its parent acknowledges shall be told here all the same, and what is
    /// acknowledged here there.
    pub(super) fn for_child(self) -> Self {
        Self {
            own: Some(HashMap::new()),
            ..self
        }
    }

    /// The open file that is polled for an entry.
    fn file<'f>(&'f self, id: u64, entry: &'f Entry) -> BorrowedFd<'f> {
        let own = self.own.as_ref().and_then(|own| own.get(&id));
        own.map_or(entry.reader().as_fd(), File::as_fd)
    }

    fn open_own(&mut self, id: u64, entry: &Entry) {
        let Some(own) = &mut self.own else { return };
        if let hash_map::Entry::Vacant(vacant) = own.entry(id) {
            let path = format!("/proc/self/fd/{}", entry.reader().as_fd().as_raw_fd());
            let mut options = File::options();
            options.read(true).custom_flags(O_LIBRARY);
            // Where that is not to be had, the one of its parent's has to do.
            if let Ok(file) = options.open(path) {
                vacant.insert(file);
            }
        }
    }

    pub(super) fn arm(&mut self, id: u64, entry: &Entry, look: Look) -> Result<(), NotifyError> {
        self.open_own(id, entry);
        let known = entry.known();
        let mut flags = EpollFlags::empty();
        if !look.has_news() {
            flags |= EpollFlags::EPOLLIN;
            if !known.is_told_overdue() {
                flags |= EpollFlags::EPOLLPRI;
            }
        }
        let seen = known.seen;
        let descriptor = self.file(id, entry).as_raw_fd();
        let sharing = self.sharing.entry(descriptor).or_default();
        sharing.insert(id, Listener { flags, seen });
        if look.has_news() {
            self.due.insert(id, look.due);
        } else {
            // The file tells these no more of it.
            let behind = sharing.iter().filter(|(_, other)| other.seen < seen);
            for (other, _) in behind {
                self.due.entry(*other).or_default();
            }
            let file = self.file(id, entry);
            let acknowledged = errno::uninterrupted(|| call::seen(file, seen.0));
            acknowledged.map_err(|source| cannot_wait(&known.reader, source))?;
        }
        self.listen(self.file(id, entry))?;
        Ok(self.set_timer()?)
    }

    /// Once: what has been told is not to be told again and again, nor what has to wait for its time.
    fn listen(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        let descriptor = file.as_raw_fd();
        let sharing = self.sharing.get(&descriptor).into_iter().flatten();
        let wanted = sharing.fold(EpollFlags::EPOLLONESHOT, |all, (_, one)| all | one.flags);
        let mut event = EpollEvent::new(wanted, u64::from(descriptor.unsigned_abs()));
        match self.epoll.modify(file, &mut event) {
            Err(nix::errno::Errno::ENOENT) => self.epoll.add(file, event)?,
            modified => modified?,
        }
        Ok(())
    }

    pub(super) fn disarm(&mut self, id: u64, entry: &Entry) {
        self.due.remove(&id);
        let descriptor = self.file(id, entry).as_raw_fd();
        let Some(sharing) = self.sharing.get_mut(&descriptor) else {
            return;
        };
        sharing.remove(&id);
        if sharing.is_empty() {
            self.sharing.remove(&descriptor);
            // Not there any more if the file has been closed, which it is not.
            let _ = self.epoll.delete(self.file(id, entry));
        }
        if let Some(own) = &mut self.own {
            own.remove(&id);
        }
    }

    pub(super) fn fired(&mut self, into: &mut Vec<u64>) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let ready = match self.epoll.wait(&mut events, EpollTimeout::ZERO) {
                Ok(ready) => ready,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let tokens = events[..ready].iter().map(EpollEvent::data);
            let files = tokens.filter_map(|token| RawFd::try_from(token).ok());
            for descriptor in files {
                let sharing = self.sharing.get(&descriptor).into_iter().flatten();
                into.extend(sharing.map(|(id, _)| *id));
            }
            if ready < events.len() {
                break;
            }
        }
        let is_due = |_: &u64, due: &mut Deadline| due.has_passed();
        into.extend(self.due.extract_if(.., is_due).map(|(id, _)| id));
        self.set_timer()
    }

    /// For the first that is due. Setting it makes it unreadable.
    fn set_timer(&self) -> io::Result<()> {
        match self.due.values().min() {
            None => self.timer.unset()?,
            Some(due) => {
                let at = TimeSpec::from_timespec(due.max(&Deadline(1)).timespec());
                let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME;
                self.timer.set(Expiration::OneShot(at), flags)?;
            }
        }
        Ok(())
    }
}

impl AsFd for Files {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}
