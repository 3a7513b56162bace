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
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::descriptors;
use crate::intents::{IntentRecord, Intents};
use crate::process::{Identity, find_process_of, is_alive, pidfd_open, process_of};
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
    identity: Identity,
    /// None for one that was dead when it was taken over, or that cannot be known again.
    pidfd: Option<OwnedFd>,
    holdings: HashMap<u64, Weak<State>>,
    records: Vec<Arc<IntentRecord>>,
}

/// Records that one process can have: one for each of its threads that commits at the same time.
const MAX_RECORDS: usize = 64;

/// What is known of a process that held something of a daemon's before this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// It is watched from now on.
    Living,
    /// It is to be buried.
    Dead,
    /// It cannot be watched: it counts as living for as long as there is what it holds.
    Unknown,
}

impl Record {
    fn new(identity: Identity, pidfd: Option<OwnedFd>) -> Self {
        Self {
            identity,
            pidfd,
            holdings: HashMap::new(),
            records: Vec::new(),
        }
    }

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
        make: impl FnOnce(Process, Identity) -> io::Result<Arc<IntentRecord>>,
    ) -> io::Result<u32> {
        let mut watched = self.lock();
        let process = self.watch(&mut watched, tid)?;
        let made = match watched.processes.get_mut(&process) {
            Some(record) if record.records.len() < MAX_RECORDS => {
                make(process, record.identity).inspect(|made| record.records.push(made.clone()))
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
                .is_some_and(|record| record.pidfd.as_ref().is_some_and(is_alive))
        });
        if let Some(process) = known {
            return Ok(process);
        }
        let pidfd = descriptors::keep(pidfd_open(pid)?)?;
        let identity = Identity::of(pid).or_else(|error| match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => Err(error),
            // Hidden, or gone, which is looked at next. A later daemon cannot know it again.
            _ => Ok(Identity { pid, started: 0 }),
        })?;
        if find_process_of(tid)? != pid || !is_alive(&pidfd) {
            return Err(gone());
        }
        self.add(watched, Record::new(identity, Some(pidfd)))
    }

    fn add(&self, watched: &mut Watched, record: Record) -> io::Result<Process> {
        let process = Process(watched.next);
        watched.next += 1;
        if let Some(pidfd) = &record.pidfd {
            self.epoll
                .add(pidfd, EpollEvent::new(EpollFlags::EPOLLIN, process.0))?;
            watched.by_pid.insert(record.identity.pid, process);
        }
        watched.processes.insert(process, record);
        Ok(process)
    }

    /// Watches a process that held something of a daemon's before this one; of a pid namespace that is not
    /// `comparable` nothing can be said.
    ///
    /// # Errors
    ///
    /// There is no descriptor or memory to watch it with.
    pub(crate) fn adopt(
        &self,
        identity: Identity,
        comparable: bool,
    ) -> io::Result<(Process, Life)> {
        let mut watched = self.lock();
        let known = watched.by_pid.get(&identity.pid).copied();
        let is_it = |record: &Record| record.identity == identity;
        if let Some(known) = known
            && watched.processes.get(&known).is_some_and(is_it)
        {
            return Ok((known, Life::Living));
        }
        let (mut pidfd, mut life) = (None, Life::Unknown);
        if comparable && identity.started != 0 {
            match identity.open().and_then(descriptors::keep) {
                Ok(opened) => (pidfd, life) = (Some(opened), Life::Living),
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => life = Life::Dead,
                Err(error) => return Err(error),
            }
        }
        let process = self.add(&mut watched, Record::new(identity, pidfd))?;
        Ok((process, life))
    }

    /// Notes that an adopted process holds something of `state`.
    pub(crate) fn hold_adopted(&self, process: Process, state: &Arc<State>) {
        if let Some(record) = self.lock().processes.get_mut(&process) {
            record.holdings.insert(state.ino(), Arc::downgrade(state));
        }
    }

    /// Notes whose a record is.
    pub(crate) fn hold_adopted_record(&self, process: Process, intents: Arc<IntentRecord>) {
        if let Some(record) = self.lock().processes.get_mut(&process) {
            record.records.push(intents);
        }
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
        u32::try_from(record.identity.pid).ok()
    }

    /// What tells `process` from others, as long as it holds something.
    pub(crate) fn identity(&self, process: Process) -> Option<Identity> {
        Some(self.lock().processes.get(&process)?.identity)
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
        if let Some(pidfd) = &record.pidfd {
            // Fails only if it is no longer registered.
            let _ = self.epoll.delete(pidfd);
        }
        let pid = record.identity.pid;
        if watched.by_pid.get(&pid) == Some(&process) {
            watched.by_pid.remove(&pid);
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

    /// Settles what a process that has ended has left.
    pub(crate) fn bury(&self, process: Process) {
        let record = {
            let mut watched = self.lock();
            self.forget(&mut watched, process)
        };
        // The lock is free here: a state's lock comes first.
        let Some(record) = record else { return };
        tracing::debug!(
            pid = record.identity.pid,
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
