//! The states' files in an epoll, where nothing faster is allowed.
//!
//! Each entry opens its state's file anew: what is acknowledged through an open file is told no more to
//! anybody who has it, be that another entry, another notifier, or the other one of a forked child and
//! its parent.

use std::collections::{BTreeMap, HashMap, hash_map};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use kstate_sys::abi::O_LIBRARY;
use kstate_sys::futex::Deadline;
use kstate_sys::ioctl::call;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::NotifyError;
use super::entry::{Entry, Look};
use crate::errno::{self, Refusal};
use crate::wait::cannot_wait;

/// Token of the timer; entries count from 1.
const TIMER: u64 = 0;

/// How often what is watched is looked at while no daemon is there.
const BETWEEN_DAEMONS: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Files {
    epoll: Epoll,
    timer: TimerFd,
    /// The open file of each entry.
    files: HashMap<u64, File>,
    /// Entries to look at when their time has come, and not before.
    due: BTreeMap<u64, Deadline>,
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
            files: HashMap::new(),
            due: BTreeMap::new(),
        })
    }

    pub(super) fn arm(&mut self, id: u64, entry: &Entry, look: Look) -> Result<(), NotifyError> {
        let reader = entry.reader();
        let link = reader.subscription().link();
        let mut listening = self.listen_anew(id, entry, look);
        if listening.as_ref().is_err_and(has_no_daemon) {
            // The file is of a daemon that has ended: another one of the one that has followed.
            self.forget_file(id);
            listening = link
                .connect()
                .and_then(|_| self.listen_anew(id, entry, look));
        }
        match listening {
            // Nobody tells of anything until there is one: it is looked at again and again.
            Err(error) if errno::may_come_back(&error) => {
                self.forget_file(id);
                let again = Deadline::after(BETWEEN_DAEMONS);
                self.due.insert(
                    id,
                    match look.has_news() {
                        true => look.due.min(again),
                        false => again,
                    },
                );
            }
            listening => listening.map_err(|source| cannot_wait(reader, source))?,
        }
        Ok(self.set_timer()?)
    }

    fn listen_anew(&mut self, id: u64, entry: &Entry, look: Look) -> io::Result<()> {
        let known = entry.known();
        let file = match self.files.entry(id) {
            hash_map::Entry::Occupied(there) => there.into_mut(),
            hash_map::Entry::Vacant(vacant) => vacant.insert(reopened(entry)?),
        };
        if look.has_news() {
            self.due.insert(id, look.due);
        } else {
            errno::uninterrupted(|| call::seen(&*file, known.seen.0))?;
        }
        self.listen(id, entry, look)
    }

    /// Once: what has been told is not to be told again and again, nor what has to wait for its time.
    fn listen(&self, id: u64, entry: &Entry, look: Look) -> io::Result<()> {
        let mut flags = EpollFlags::EPOLLONESHOT;
        if !look.has_news() {
            flags |= EpollFlags::EPOLLIN;
            if !entry.known().is_told_overdue() {
                flags |= EpollFlags::EPOLLPRI;
            }
        }
        let Some(file) = self.files.get(&id) else {
            return Ok(());
        };
        let mut event = EpollEvent::new(flags, id);
        match self.epoll.modify(file, &mut event) {
            Err(nix::errno::Errno::ENOENT) => self.epoll.add(file, event)?,
            modified => modified?,
        }
        Ok(())
    }

    /// Makes it readable.
    pub(super) fn again(&mut self) {
        let at = TimeSpec::from_duration(std::time::Duration::from_nanos(1));
        // Fails for no reason that such a time could have.
        let _ = self
            .timer
            .set(Expiration::OneShot(at), TimerSetTimeFlags::empty());
    }

    pub(super) fn disarm(&mut self, id: u64) {
        self.due.remove(&id);
        self.forget_file(id);
    }

    fn forget_file(&mut self, id: u64) {
        if let Some(file) = self.files.remove(&id) {
            // A process that this one has forked may have it open as well: it would go on to be told of.
            let _ = self.epoll.delete(&file);
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
            into.extend(
                events[..ready]
                    .iter()
                    .map(EpollEvent::data)
                    .filter(|id| *id != TIMER),
            );
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

fn has_no_daemon(error: &io::Error) -> bool {
    errno::refusal(error) == Refusal::DaemonDied
}

/// The state's file, opened anew.
fn reopened(entry: &Entry) -> io::Result<File> {
    let theirs = entry.reader().as_fd();
    let mut options = File::options();
    options.read(true).custom_flags(O_LIBRARY);
    let path = format!("/proc/self/fd/{}", theirs.as_raw_fd());
    // Where there is no /proc, the state is deleted, or may not be read any more, what there is has to do.
    let duplicated = |_| Ok(File::from(theirs.try_clone_to_owned()?));
    options.open(path).or_else(duplicated)
}

impl AsFd for Files {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}
