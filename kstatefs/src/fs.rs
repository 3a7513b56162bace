//! The file system without FUSE: what each call means, testable without a mount.
//!
//! Here is what its parts share and how long a state lives; `names.rs` has calls by name and inode
//! number, `files.rs` calls through an open file.
//!
//! Lock order: the table, what the kernel maps (`fuse.rs`), the streams of changes, the open files, one
//! open file, a record, a state, the reaper, the records.

mod files;
#[cfg(fuzzing)]
mod left;
mod names;
mod persist;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime};

use kstate_sys::announce::{Sinks, is_kbus_name};
use kstate_sys::clock::Clock;
use kstate_sys::region::Generation;

use crate::announce::{self, Announcer};
use crate::backing::{Backing, Space, Transport};
use crate::blocked;
use crate::changes::Prefixes;
use crate::errno::Errno;
use crate::intents::Intents;
use crate::leave::Leaving;
use crate::ledger::Ledger;
use crate::metrics::Requests;
use crate::persist::{Flusher, Manifest};
use crate::poll::{Hub, Poller, Pollers};
use crate::reaper::Reaper;
use crate::registry::RegistryFile;
use crate::socket::Desk;
use crate::state::{Cause, Common, Interest, NextLook, Purpose, State, Totals};
use crate::table::Table;
use crate::takeover;
use crate::timer::{Look, Timer};

use files::OpenFile;
pub(crate) use files::Opened;
#[cfg(fuzzing)]
pub(crate) use files::Region;
pub(crate) use names::{Change, Entry};
use persist::Permits;
pub(crate) use persist::Refused;

/// Who makes a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    /// Effective user id.
    pub(crate) uid: u32,
    /// Effective group id.
    pub(crate) gid: u32,
    /// Thread id in the daemon's pid namespace, 0 when it cannot be seen from there.
    pub(crate) tid: u32,
}

/// What the mount is like as a whole.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) root_mode: u32,
    pub(crate) linger: Duration,
    pub(crate) announce: announce::Settings,
    /// Where the list of persistent states is.
    pub(crate) manifest: Option<PathBuf>,
}

/// What a mount has had since it began, be it with a daemon before this one.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) clock: Clock,
    pub(crate) mount_id: u64,
    pub(crate) ledger: Ledger,
    /// Whether there was a daemon before this one.
    pub(crate) is_left: bool,
}

/// What the parts of the daemon share.
pub(crate) struct Shared {
    /// Clock, records, streams and timer, which states know as well.
    pub(crate) common: Common,
    pub(crate) reaper: Reaper,
    pub(crate) registry: RegistryFile,
    pub(crate) desk: Desk,
    pub(crate) hub: Arc<Hub>,
    pub(crate) announcer: Announcer,
    pub(crate) backing: Backing,
    pub(crate) requests: Requests,
    pub(crate) flusher: Arc<Flusher>,
    permits: Permits,
    /// The list of persistent states, where there is one.
    manifest: Option<Manifest>,
    /// States of the list that did not come back.
    not_restored: AtomicU64,
    /// Device number of the mount.
    device: OnceLock<u64>,
    pub(crate) leaving: Leaving,
    transport: Transport,
    mount_id: u64,
    settings: Settings,
    mounted: SystemTime,
    prefixes: Prefixes,
    table: RwLock<Table>,
    files: RwLock<HashMap<u64, OpenFile>>,
    next_file: AtomicU64,
    /// Files through which reads wait.
    blocking: Mutex<BTreeSet<u64>>,
    /// Totals of the states that have gone.
    past: Mutex<Totals>,
    /// Told the inode number of each state that goes.
    on_retired: OnceLock<Box<dyn Fn(u64) + Send + Sync>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("transport", &self.transport)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new(
        backing: Backing,
        transport: Transport,
        timer: Arc<Timer>,
        hub: Arc<Hub>,
        settings: Settings,
        origin: Origin,
    ) -> io::Result<Self> {
        let ledger = Arc::new(origin.ledger);
        let intents = Arc::new(Intents::new(ledger.clone()));
        let reaper = Reaper::new(intents.clone())?;
        let manifest = settings.manifest.as_deref().map(Manifest::open);
        let manifest = manifest.transpose()?;
        let registry = match origin.is_left {
            true => RegistryFile::inherit(&backing, transport)?,
            false => RegistryFile::create(&backing, transport)?,
        };
        let next = ledger.model(|model| model.head.next_ino).unwrap_or(0);
        let common = Common {
            clock: origin.clock,
            intents,
            streams: Arc::default(),
            timer,
            ledger,
        };
        Ok(Self {
            common,
            reaper,
            registry,
            // Who may not search the mount has nothing to ask for.
            desk: Desk::open(settings.root_mode & 0o077 != 0)?,
            announcer: Announcer::new(settings.announce.clone(), &hub),
            flusher: Arc::new(Flusher::new(hub.clone())),
            permits: Permits::default(),
            manifest,
            not_restored: AtomicU64::new(0),
            device: OnceLock::new(),
            hub,
            backing,
            requests: Requests::default(),
            leaving: Leaving::new()?,
            transport,
            mount_id: origin.mount_id,
            settings,
            mounted: SystemTime::now(),
            prefixes: Prefixes::default(),
            table: RwLock::new(Table::numbered_from(next)),
            files: RwLock::default(),
            next_file: AtomicU64::new(1),
            blocking: Mutex::default(),
            past: Mutex::default(),
            on_retired: OnceLock::new(),
        })
    }

    /// Whether that user may end the daemon.
    pub(crate) fn is_owner(&self, uid: u32) -> bool {
        uid == 0 || uid == self.settings.uid
    }

    pub(crate) fn transport(&self) -> Transport {
        self.transport
    }

    /// What this mount has in common with no other.
    pub(crate) fn mount_id(&self) -> u64 {
        self.mount_id
    }

    /// Has `tell` called with the inode number of each file that goes.
    pub(crate) fn on_retired(&self, tell: impl Fn(u64) + Clone + Send + Sync + 'static) {
        self.common.intents.on_gone(tell.clone());
        // Set once, when the session is made.
        let _ = self.on_retired.set(Box::new(tell));
    }

    /// Space of the backing tmpfs, and how many states there are.
    pub(crate) fn space(&self) -> Result<(Space, u64), Errno> {
        Ok((self.backing.space()?, self.table().len() as u64))
    }

    /// The states there are, by name.
    pub(crate) fn states(&self) -> Vec<Arc<State>> {
        self.states_and_past().0
    }

    /// The same, and totals of those that have gone: each state is in one of both.
    pub(crate) fn states_and_past(&self) -> (Vec<Arc<State>>, Totals) {
        let table = self.table();
        let past = *self.past.lock().unwrap_or_else(PoisonError::into_inner);
        (table.iter().cloned().collect(), past)
    }

    // --- what time brings -------------------------------------------------------------------

    /// Lets a state evaporate, at once or after its time to linger, if nobody is subscribed.
    pub(crate) fn look_after(&self, state: &Arc<State>) {
        match state.abandoned_for() {
            Some(Duration::ZERO) => self.evaporate(state.ino()),
            Some(linger) => self
                .common
                .timer
                .schedule(Look::Linger(state.ino()), linger),
            None => {}
        }
    }

    /// Expects a commit of the state at least so often; or not, any more.
    ///
    /// # Errors
    ///
    /// `ENOSPC`.
    pub(crate) fn set_deadline(
        &self,
        state: &Arc<State>,
        after: Option<Duration>,
    ) -> Result<(), Errno> {
        state.set_deadline(after)?;
        self.look(Look::Overdue(state.ino()));
        Ok(())
    }

    /// Announces commits of the state from now on there, and only there.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` for a sink that the mount does not have, `EINVAL` for a name that KBUS cannot carry,
    /// `ENOSPC`.
    pub(crate) fn announce(&self, state: &Arc<State>, sinks: Sinks) -> Result<(), Errno> {
        if !self.announcer.sinks().contains(sinks) {
            return Err(Errno::EOPNOTSUPP);
        }
        if sinks.contains(Sinks::KBUS) && !is_kbus_name(state.name()) {
            return Err(Errno::EINVAL);
        }
        state.set_sinks(sinks)?;
        self.announcer.follow(state);
        Ok(())
    }

    /// Does what its time has come for, or had when it was scheduled.
    pub(crate) fn look(&self, look: Look) {
        let again = match look {
            Look::Linger(ino) => {
                if let Ok(state) = self.state(ino) {
                    self.look_after(&state);
                }
                None
            }
            Look::Turn(ino) => self.state(ino).ok().and_then(|s| s.end_turn_in_time()),
            Look::Overdue(ino) => match self.state(ino) {
                Ok(state) => match state.look_at_deadline() {
                    Some(NextLook::In(delay)) => Some(delay),
                    Some(NextLook::Behind(generation)) => {
                        self.look_when_in_time_again(&state, generation);
                        None
                    }
                    None => None,
                },
                Err(_) => None,
            },
            Look::Waits(ino) => {
                let state = self.state(ino).ok();
                let next = state.and_then(|state| state.end_waits_in_time(&self.reaper));
                // A wait that has begun since may be over sooner.
                if let Some(delay) = next {
                    self.common.timer.schedule_by(look, delay);
                }
                None
            }
            Look::Views(ino) => {
                if let Ok(state) = self.state(ino) {
                    self.hub.watch(&state);
                }
                None
            }
            Look::Absent => takeover::look_again(self).then_some(takeover::LOOK_AGAIN),
            Look::Signals => self.let_go_signalled().then_some(blocked::SOON),
        };
        if let Some(delay) = again {
            self.common.timer.schedule(look, delay);
        }
    }

    /// Looks at the deadline of a state that is overdue when it has been committed to.
    fn look_when_in_time_again(&self, state: &Arc<State>, beyond: Generation) {
        let (timer, look) = (self.common.timer.clone(), Look::Overdue(state.ino()));
        let registered = state.register(Interest {
            // Of no file.
            file: 0,
            purpose: Purpose::Deadline,
            beyond: Some(beyond),
            not_before: None,
            handle: None,
            call: Poller::new(move || timer.schedule(look, Duration::ZERO)),
        });
        if registered.is_ok_and(|found| found.look) {
            self.hub.watch(state);
        }
    }

    /// Removes the state if it is still abandoned.
    fn evaporate(&self, ino: u64) {
        let mut table = self.table_mut();
        if let Some(state) = table.numbered(ino).cloned() {
            let retired = self.retire(&mut table, &state, Cause::Abandoned);
            drop(table);
            retired.tell();
        }
    }

    /// Takes a state that goes out of everything. Whoever waits for it is told by what this returns,
    /// once the table is free.
    #[must_use]
    fn retire(&self, table: &mut Table, state: &State, cause: Cause) -> Retired {
        let Some(waiting) = state.retire(cause) else {
            return Retired(Pollers::new());
        };
        table.remove(state);
        tracing::debug!(name = %state.name(), ?cause, "state gone");
        if let Some(tell) = self.on_retired.get() {
            tell(state.ino());
        }
        self.common.timer.forget_state(state.ino());
        self.reaper.forget_state(state.ino());
        self.common.streams.deleted(state.ino());
        self.registry.bump();
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        *past += state.totals();
        Retired(waiting)
    }

    /// Takes in a state that was taken over.
    pub(crate) fn insert(&self, state: &Arc<State>) {
        self.table_mut().insert(state.clone());
    }

    // --- parts ------------------------------------------------------------------------------

    fn state(&self, ino: u64) -> Result<Arc<State>, Errno> {
        self.table().numbered(ino).cloned().ok_or(Errno::ESTALE)
    }

    /// Also one that has gone, as long as a file of it is open.
    fn known(&self, ino: u64) -> Result<Arc<State>, Errno> {
        self.table().known(ino).cloned().ok_or(Errno::ESTALE)
    }

    fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn table_mut(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn files(&self) -> RwLockReadGuard<'_, HashMap<u64, OpenFile>> {
        self.files.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn files_mut(&self) -> RwLockWriteGuard<'_, HashMap<u64, OpenFile>> {
        self.files.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Origin {
    /// A beginning of which nothing is noted.
    ///
    /// # Errors
    ///
    /// No randomness.
    pub(crate) fn fresh() -> io::Result<Self> {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        Ok(Self {
            clock: Clock::calibrate(),
            mount_id: u64::from_ne_bytes(bytes),
            ledger: Ledger::none(),
            is_left: false,
        })
    }
}

/// Those who wait for a state that has gone.
struct Retired(Pollers);

impl Retired {
    fn tell(self) {
        self.0.into_iter().for_each(Poller::call);
    }
}
