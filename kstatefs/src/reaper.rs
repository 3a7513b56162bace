#![expect(
    unsafe_code,
    reason = "pidfd_open(2) and tgkill(2) have no wrappers in nix"
)]
//! Watches the processes that have claimed something, and cleans up after the dead.
//!
//! RELEASE is no sign of death: `close` sends it while the map still writes, and a killed writer
//! whose forked child holds the descriptor sends none. So whoever claims a slot group or sets a
//! wait mark is watched by a pidfd, which becomes readable when the process ends, however it
//! ends.
//!
//! Lock order: a state's lock before this module's.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::descriptors;
use crate::intents::{IntentRecord, Intents};
use crate::state::State;

/// A process that holds something. Never used again, unlike a process id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Process(u64);

#[cfg(test)]
impl Process {
    /// One that there need not be.
    pub(crate) const fn for_tests(number: u64) -> Self {
        Self(number)
    }
}

/// Token of the event that ends the thread.
const STOP: u64 = 0;

#[derive(Debug)]
pub(crate) struct Reaper {
    epoll: Epoll,
    stop: EventFd,
    intents: Arc<Intents>,
    watched: Mutex<Watched>,
}

#[derive(Debug, Default)]
struct Watched {
    next: u64,
    by_pid: HashMap<i32, Process>,
    processes: HashMap<Process, Record>,
}

#[derive(Debug)]
struct Record {
    pid: i32,
    pidfd: OwnedFd,
    holdings: HashMap<u64, Weak<State>>,
    records: Vec<Arc<IntentRecord>>,
}

/// Records that one process can have: one for each of its threads that commits at the same time.
const MAX_RECORDS: usize = 64;

impl Record {
    fn is_empty(&self) -> bool {
        self.holdings.is_empty() && self.records.is_empty()
    }
}

impl Reaper {
    pub(crate) fn new(intents: Arc<Intents>) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        epoll.add(&stop, EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
        let watched = Mutex::new(Watched {
            next: STOP + 1,
            ..Watched::default()
        });
        Ok(Self {
            epoll,
            stop,
            intents,
            watched,
        })
    }

    /// Notes that the process of thread `tid` holds something of `state`, and watches it.
    ///
    /// # Errors
    ///
    /// `ESRCH` when the daemon cannot see the process, being in another pid namespace, or it has
    /// ended; `EMFILE` when descriptors run out.
    pub(crate) fn hold(&self, tid: u32, state: &Arc<State>) -> io::Result<Process> {
        let mut watched = self.lock();
        let process = self.watch(&mut watched, tid)?;
        if let Some(record) = watched.processes.get_mut(&process) {
            record.holdings.insert(state.ino(), Arc::downgrade(state));
        }
        Ok(process)
    }

    /// Makes the process of thread `tid` the owner of a record that `make` makes, and watches it.
    ///
    /// # Errors
    ///
    /// As [`Reaper::hold`]; `EUSERS` when it has too many; and those of `make`.
    pub(crate) fn hold_record(
        &self,
        tid: u32,
        make: impl FnOnce(Process) -> io::Result<Arc<IntentRecord>>,
    ) -> io::Result<u32> {
        let mut watched = self.lock();
        let process = self.watch(&mut watched, tid)?;
        let made = match watched.processes.get_mut(&process) {
            Some(record) if record.records.len() < MAX_RECORDS => {
                make(process).inspect(|made| record.records.push(made.clone()))
            }
            _ => Err(io::Error::from_raw_os_error(libc::EUSERS)),
        };
        if watched
            .processes
            .get(&process)
            .is_some_and(Record::is_empty)
        {
            self.forget(&mut watched, process);
        }
        made.map(|made| made.number())
    }

    /// Takes the record `number` back from the process of thread `tid`; `false` if it is not its.
    pub(crate) fn release_record(&self, tid: u32, number: u32) -> bool {
        let Some(process) = self.find(tid) else {
            return false;
        };
        let taken = {
            let mut watched = self.lock();
            let records = watched.processes.get_mut(&process).map(|r| &mut r.records);
            records.and_then(|records| {
                let index = records.iter().position(|r| r.number() == number)?;
                Some(records.swap_remove(index))
            })
        };
        // The lock is free here: a record's and a state's come first.
        let Some(taken) = taken else { return false };
        taken.bury(|ino| self.held(process, ino));
        self.intents.remove(&taken);
        let mut watched = self.lock();
        if watched
            .processes
            .get(&process)
            .is_some_and(Record::is_empty)
        {
            self.forget(&mut watched, process);
        }
        true
    }

    /// The state `ino`, if `process` holds something of it.
    pub(crate) fn held(&self, process: Process, ino: u64) -> Option<Arc<State>> {
        let watched = self.lock();
        watched
            .processes
            .get(&process)?
            .holdings
            .get(&ino)?
            .upgrade()
    }

    /// The process of thread `tid`, watched from now on.
    fn watch(&self, watched: &mut Watched, tid: u32) -> io::Result<Process> {
        let gone = || io::Error::from_raw_os_error(libc::ESRCH);
        let tid = i32::try_from(tid)
            .ok()
            .filter(|tid| *tid > 0)
            .ok_or_else(gone)?;
        let pid = find_process_of(tid)?;
        let known = watched.by_pid.get(&pid).copied().filter(|process| {
            // A process that has just died may still be listed; its id may be a new one's.
            watched
                .processes
                .get(process)
                .is_some_and(|record| is_alive(&record.pidfd))
        });
        if let Some(process) = known {
            return Ok(process);
        }
        let pidfd = descriptors::keep(pidfd_open(pid)?)?;
        if find_process_of(tid)? != pid {
            return Err(gone());
        }
        let process = Process(watched.next);
        watched.next += 1;
        self.epoll
            .add(&pidfd, EpollEvent::new(EpollFlags::EPOLLIN, process.0))?;
        watched.by_pid.insert(pid, process);
        let record = Record {
            pid,
            pidfd,
            holdings: HashMap::new(),
            records: Vec::new(),
        };
        watched.processes.insert(process, record);
        Ok(process)
    }

    /// The token of the process of thread `tid`, if it holds anything.
    pub(crate) fn find(&self, tid: u32) -> Option<Process> {
        let pid = process_of(i32::try_from(tid).ok()?)?;
        self.lock().by_pid.get(&pid).copied()
    }

    /// The process id of `process`, as long as it lives and holds something.
    pub(crate) fn pid_of(&self, process: Process) -> Option<u32> {
        let watched = self.lock();
        let record = watched.processes.get(&process)?;
        u32::try_from(record.pid).ok()
    }

    /// Notes that `process` holds nothing of the state `ino` any more.
    pub(crate) fn let_go(&self, process: Process, ino: u64) {
        let mut watched = self.lock();
        let Some(record) = watched.processes.get_mut(&process) else {
            return;
        };
        record.holdings.remove(&ino);
        if record.is_empty() {
            self.forget(&mut watched, process);
        }
    }

    /// The state `ino` has gone, and with it what was held of it.
    pub(crate) fn forget_state(&self, ino: u64) {
        let mut watched = self.lock();
        let idle: Vec<Process> = watched
            .processes
            .iter_mut()
            .filter_map(|(process, record)| {
                record.holdings.remove(&ino)?;
                record.is_empty().then_some(*process)
            })
            .collect();
        for process in idle {
            self.forget(&mut watched, process);
        }
    }

    fn forget(&self, watched: &mut Watched, process: Process) -> Option<Record> {
        let record = watched.processes.remove(&process)?;
        // Fails only if it is no longer registered.
        let _ = self.epoll.delete(&record.pidfd);
        if watched.by_pid.get(&record.pid) == Some(&process) {
            watched.by_pid.remove(&record.pid);
        }
        Some(record)
    }

    /// Buries the dead until [`Reaper::stop`].
    pub(crate) fn run(&self) {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let ready = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(ready) => ready,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => {
                    tracing::error!(%error, "cannot watch processes any more");
                    return;
                }
            };
            for event in &events[..ready] {
                if event.data() == STOP {
                    return;
                }
                self.bury(Process(event.data()));
            }
        }
    }

    /// Ends [`Reaper::run`].
    pub(crate) fn stop(&self) {
        if let Err(error) = self.stop.write(1) {
            tracing::error!(%error, "the reaper cannot be stopped");
        }
    }

    /// As if the process of thread `tid` had ended.
    #[cfg(fuzzing)]
    pub(crate) fn end(&self, tid: u32) {
        if let Some(process) = self.find(tid) {
            self.bury(process);
        }
    }

    /// Whether no process holds anything.
    #[cfg(fuzzing)]
    pub(crate) fn is_idle(&self) -> bool {
        let watched = self.lock();
        watched.processes.is_empty() && watched.by_pid.is_empty()
    }

    fn bury(&self, process: Process) {
        let record = {
            let mut watched = self.lock();
            self.forget(&mut watched, process)
        };
        // The lock is free here: a state's lock comes first.
        let Some(record) = record else { return };
        tracing::debug!(
            pid = record.pid,
            states = record.holdings.len(),
            "process ended"
        );
        // Before the groups are given out again: a list is settled only where they are held.
        for intents in &record.records {
            intents.bury(|ino| record.holdings.get(&ino)?.upgrade());
            self.intents.remove(intents);
        }
        for state in record.holdings.values().filter_map(Weak::upgrade) {
            state.bury(process);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The process that thread `tid` belongs to, if the daemon can see it.
pub(crate) fn process_of(tid: i32) -> Option<i32> {
    find_process_of(tid).ok()
}

/// As [`process_of`], with the reason.
///
/// FUSE requests carry thread ids. Most threads that open a file are their process's first, which
/// tgkill(2) tells without a descriptor, and cheaper than reading `/proc`.
///
/// # Errors
///
/// `ESRCH`; `EMFILE` when there is no descriptor to look with.
fn find_process_of(tid: i32) -> io::Result<i32> {
    let gone = || io::Error::from_raw_os_error(libc::ESRCH);
    if tid <= 0 {
        return Err(gone());
    }
    if is_first_thread(tid) {
        return Ok(tid);
    }
    let status = std::fs::read_to_string(format!("/proc/{tid}/status"));
    let status = status.map_err(|error| match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => error,
        _ => gone(),
    })?;
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    let process = line.and_then(|line| line.trim().parse().ok());
    process.ok_or_else(gone)
}

/// Whether there is a process of this number, one that has ended and was not waited for included.
fn is_first_thread(tid: i32) -> bool {
    // SAFETY: takes three integers, and sends nothing for signal 0.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, tid, tid, 0) };
    // Of another user's process the daemon hears that it may not.
    sent == 0 || io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
}

fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers. The descriptor is close-on-exec by itself.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A pidfd is readable once its process has ended.
fn is_alive(pidfd: &OwnedFd) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(0))
}
