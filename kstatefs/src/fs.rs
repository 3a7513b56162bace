//! The file system without FUSE: what each call means, testable without a mount.
//!
//! Lock order: the table, what the kernel maps (`fuse.rs`), the open files, one open file, a record,
//! a state, the reaper, the records.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime};

use kstate_sys::abi::{Geometry, page_size};
use kstate_sys::clock::Clock;
use kstate_sys::name::StateName;

use crate::attr::{Attr, Kind};
use crate::backing::{Backing, RegionFile, Space, Transport};
use crate::deadlines::Deadlines;
use crate::errno::Errno;
use crate::handle::{Handle, OpenMode};
use crate::intents::{IntentRecord, Intents, Part};
use crate::poll::{Hub, Poller};
use crate::reaper::{Reaper, process_of};
use crate::registry::RegistryFile;
use crate::socket::Desk;
use crate::state::{Attributes, Cause, PollState, State};
use crate::table::{CONTROL, FIRST_RECORD_FILE, FIRST_STATE, INTENTS, REGISTRY, ROOT, Table};
use crate::{ioctl, xattr};

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
}

/// What the parts of the daemon share.
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    pub(crate) reaper: Reaper,
    pub(crate) intents: Arc<Intents>,
    pub(crate) registry: RegistryFile,
    /// The socket; none where passthrough makes it needless.
    pub(crate) desk: Option<Desk>,
    /// When states evaporate that nobody is subscribed to.
    pub(crate) lingering: Deadlines,
    /// When writers' turns end.
    pub(crate) turns: Deadlines,
    pub(crate) hub: Hub,
    pub(crate) backing: Backing,
    transport: Transport,
    settings: Settings,
    mounted: SystemTime,
    table: RwLock<Table>,
    files: RwLock<HashMap<u64, OpenFile>>,
    next_file: AtomicU64,
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

#[derive(Clone, Debug)]
enum OpenFile {
    State(Arc<Handle>),
    Registry,
    Record {
        record: Arc<IntentRecord>,
        part: Part,
        writable: bool,
    },
    Directory(Arc<Vec<Entry>>),
}

/// A directory entry.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) ino: u64,
    pub(crate) kind: Kind,
    pub(crate) name: String,
}

/// A file just opened.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) file: u64,
    /// The state whose region the kernel may map, if any.
    pub(crate) ino: u64,
}

/// The region behind an open file.
pub(crate) enum Region<'a> {
    State(Arc<State>),
    Registry(&'a RegistryFile),
    Record(Arc<IntentRecord>, Part),
}

impl Region<'_> {
    pub(crate) fn file(&self) -> &RegionFile {
        match self {
            Self::State(state) => state.region_file(),
            Self::Registry(registry) => registry.region_file(),
            Self::Record(record, part) => record.file(*part),
        }
    }

    /// Whether its state, or its record, has gone.
    pub(crate) fn is_gone(&self) -> bool {
        match self {
            Self::State(state) => state.is_gone(),
            Self::Registry(_) => false,
            Self::Record(record, _) => record.is_gone(),
        }
    }
}

/// Attributes to change; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Change {
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) size: Option<u64>,
}

/// What poll found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Readiness {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// Deleted: nothing new will come.
    pub(crate) gone: bool,
}

impl Shared {
    pub(crate) fn new(
        backing: Backing,
        transport: Transport,
        hub: Hub,
        settings: Settings,
    ) -> io::Result<Self> {
        let intents = Arc::new(Intents::default());
        Ok(Self {
            clock: Clock::calibrate(),
            reaper: Reaper::new(intents.clone())?,
            intents,
            registry: RegistryFile::create(&backing, transport)?,
            desk: match transport {
                Transport::Passthrough => None,
                Transport::Socket => Some(Desk::open()?),
            },
            lingering: Deadlines::default(),
            turns: Deadlines::default(),
            hub,
            backing,
            transport,
            settings,
            mounted: SystemTime::now(),
            table: RwLock::default(),
            files: RwLock::default(),
            next_file: AtomicU64::new(1),
            on_retired: OnceLock::new(),
        })
    }

    pub(crate) fn transport(&self) -> Transport {
        self.transport
    }

    /// Has `tell` called with the inode number of each file that goes.
    pub(crate) fn on_retired(&self, tell: impl Fn(u64) + Clone + Send + Sync + 'static) {
        self.intents.on_gone(tell.clone());
        // Set once, when the session is made.
        let _ = self.on_retired.set(Box::new(tell));
    }

    // --- names ------------------------------------------------------------------------------

    pub(crate) fn lookup(&self, parent: u64, name: &[u8]) -> Result<Attr, Errno> {
        match (parent, name) {
            (ROOT, b".kstate") => Ok(self.directory(CONTROL)),
            (ROOT, _) => {
                let name = StateName::new(name)?;
                let state = self
                    .table()
                    .named(name.as_str())
                    .cloned()
                    .ok_or(Errno::ENOENT)?;
                Attr::of_state(&state)
            }
            (CONTROL, b"registry") => Ok(self.registry_attr()),
            (CONTROL, b"intents") => Ok(self.directory(INTENTS)),
            (INTENTS, _) => {
                let (record, part) = self.intents.named(name).ok_or(Errno::ENOENT)?;
                Ok(self.record_attr(&record, part))
            }
            (CONTROL, _) => Err(Errno::ENOENT),
            _ => Err(Errno::ENOTDIR),
        }
    }

    pub(crate) fn getattr(&self, ino: u64) -> Result<Attr, Errno> {
        match ino {
            ROOT | CONTROL | INTENTS => Ok(self.directory(ino)),
            REGISTRY => Ok(self.registry_attr()),
            FIRST_RECORD_FILE.. => {
                let (record, part) = self.intents.of_file(ino).ok_or(Errno::ESTALE)?;
                Ok(self.record_attr(&record, part))
            }
            _ => Attr::of_state(&*self.state(ino)?),
        }
    }

    /// As `getattr`, through an open file: also of a state that has been deleted since.
    pub(crate) fn getattr_open(&self, ino: u64, file: u64) -> Result<Attr, Errno> {
        match self.file(file) {
            Ok(OpenFile::State(handle)) => Attr::of_state(&handle.state),
            _ => self.getattr(ino),
        }
    }

    pub(crate) fn setattr(
        &self,
        ino: u64,
        file: Option<u64>,
        change: Change,
    ) -> Result<Attr, Errno> {
        if !is_state(ino) {
            return Err(Errno::EPERM);
        }
        let handle = match file.map(|file| self.file(file)) {
            Some(Ok(OpenFile::State(handle))) => Some(handle),
            _ => None,
        };
        let state = match &handle {
            Some(handle) => handle.state.clone(),
            None => self.state(ino)?,
        };
        match (change.size, &handle) {
            (Some(0), Some(handle)) => handle.truncate(),
            // Without an open file there is no next write: nothing to do, as nothing is committed.
            (Some(0), None) | (None, _) => {}
            (Some(size), _) => {
                state.set_capacity(size)?;
            }
        }
        if change.mode.is_some() || change.uid.is_some() || change.gid.is_some() {
            state.set_attributes(|attributes| {
                // No program is ever run from here: set-id bits mean nothing.
                attributes.mode = change.mode.map_or(attributes.mode, |mode| mode & 0o1777);
                attributes.uid = change.uid.unwrap_or(attributes.uid);
                attributes.gid = change.gid.unwrap_or(attributes.gid);
            });
            self.look_after(&state);
        }
        Attr::of_state(&state)
    }

    pub(crate) fn unlink(&self, caller: Caller, parent: u64, name: &[u8]) -> Result<(), Errno> {
        if parent != ROOT || name == b".kstate" {
            return Err(Errno::EPERM);
        }
        let name = StateName::new(name)?;
        let process = process_of(i32::try_from(caller.tid).unwrap_or(0));
        let mut table = self.table_mut();
        let state = table.named(name.as_str()).cloned().ok_or(Errno::ENOENT)?;
        let others = self.files().values().any(|file| match file {
            OpenFile::State(handle) => {
                Arc::ptr_eq(&handle.state, &state)
                    && (handle.opener.is_none() || handle.opener != process)
            }
            _ => false,
        });
        if others {
            return Err(Errno::EBUSY);
        }
        self.retire(&mut table, &state, Cause::Deleted);
        Ok(())
    }

    /// What is in a directory, as it is now.
    pub(crate) fn list(&self, ino: u64) -> Result<Vec<Entry>, Errno> {
        let entry = |ino, kind, name: &str| Entry {
            ino,
            kind,
            name: name.into(),
        };
        let mut entries = vec![
            entry(ino, Kind::Directory, "."),
            entry(ROOT, Kind::Directory, ".."),
        ];
        match ino {
            ROOT => {
                entries.push(entry(CONTROL, Kind::Directory, ".kstate"));
                let table = self.table();
                entries.reserve(table.len());
                entries.extend(
                    table
                        .iter()
                        .map(|s| entry(s.ino(), Kind::File, s.name().as_str())),
                );
            }
            CONTROL => {
                entries.push(entry(REGISTRY, Kind::File, "registry"));
                entries.push(entry(INTENTS, Kind::Directory, "intents"));
            }
            INTENTS => {
                for record in self.intents.all() {
                    let name = record.number().to_string();
                    entries.push(entry(record.ino(Part::Status), Kind::File, &name));
                    let list = format!("{name}.list");
                    entries.push(entry(record.ino(Part::List), Kind::File, &list));
                }
            }
            _ => return Err(Errno::ENOTDIR),
        }
        Ok(entries)
    }

    // --- open files -------------------------------------------------------------------------

    pub(crate) fn create(
        &self,
        caller: Caller,
        parent: u64,
        name: &[u8],
        mode: u32,
        flags: i32,
    ) -> Result<(Attr, Opened), Errno> {
        if parent != ROOT {
            return Err(Errno::EPERM);
        }
        let name = StateName::new(name)?;
        let mut table = self.table_mut();
        if let Some(state) = table.named(name.as_str()).cloned() {
            // Somebody was faster, and the kernel has not checked this file's rights.
            let mode = OpenMode::from_flags(flags);
            return match state.attributes().lets_owner(caller.uid, mode) {
                _ if flags & libc::O_EXCL != 0 => Err(Errno::EEXIST),
                true => {
                    let opened = self.open_state(caller, &state, mode)?;
                    Ok((Attr::of_state(&state)?, opened))
                }
                // Have it look the name up again, which ESTALE makes it do, once.
                false => Err(Errno::ESTALE),
            };
        }
        let ino = table.fresh_ino();
        let length = Geometry::of_this_machine().region_len();
        let file = self.backing.region(ino, length, self.transport)?;
        let attributes = Attributes {
            mode: mode & 0o1777,
            uid: caller.uid,
            gid: caller.gid,
            changed: SystemTime::now(),
            linger: self.settings.linger,
        };
        let state = Arc::new(State::create(
            ino,
            name,
            file,
            self.clock,
            attributes,
            &self.intents,
        )?);
        // Opened before anybody can see it, so that it cannot evaporate in between.
        let opened = self.open_state(caller, &state, OpenMode::from_flags(flags))?;
        let attr = Attr::of_state(&state)?;
        table.insert(state);
        drop(table);
        self.registry.bump();
        Ok((attr, opened))
    }

    pub(crate) fn open(&self, caller: Caller, ino: u64, flags: i32) -> Result<Opened, Errno> {
        let mode = OpenMode::from_flags(flags);
        match ino {
            ROOT | CONTROL | INTENTS => Err(Errno::EISDIR),
            FIRST_RECORD_FILE.. => {
                let (record, part) = self.intents.of_file(ino).ok_or(Errno::ESTALE)?;
                let writable = mode.write;
                let file = self.keep(OpenFile::Record {
                    record,
                    part,
                    writable,
                });
                Ok(Opened { file, ino })
            }
            REGISTRY if mode.write => Err(Errno::EACCES),
            REGISTRY => Ok(Opened {
                file: self.keep(OpenFile::Registry),
                ino,
            }),
            _ => {
                // ESTALE makes the kernel look the name up once more.
                let state = self.state(ino).map_err(|_| Errno::ESTALE)?;
                // A refusal may leave the state without subscriber. Not looked after in
                // `open_state`, which `create` calls with the table locked.
                self.open_state(caller, &state, mode)
                    .inspect_err(|_| self.look_after(&state))
            }
        }
    }

    fn open_state(
        &self,
        caller: Caller,
        state: &Arc<State>,
        mode: OpenMode,
    ) -> Result<Opened, Errno> {
        state.open()?;
        // A program that is not the library's may map the file and look at the live page.
        if !mode.library
            && let Err(error) = state.arm()
        {
            state.close(&self.reaper, 0);
            return Err(error);
        }
        let opener = process_of(i32::try_from(caller.tid).unwrap_or(0));
        let file = self.next_file.fetch_add(1, Ordering::Relaxed);
        let handle = Arc::new(Handle::new(file, state.clone(), mode, opener));
        self.files_mut().insert(file, OpenFile::State(handle));
        Ok(Opened {
            file,
            ino: state.ino(),
        })
    }

    pub(crate) fn release(&self, file: u64) {
        let Some(OpenFile::State(handle)) = self.files_mut().remove(&file) else {
            return;
        };
        handle.state.close(&self.reaper, handle.id);
        self.look_after(&handle.state);
    }

    pub(crate) fn open_directory(&self, ino: u64) -> Result<u64, Errno> {
        let entries = Arc::new(self.list(ino)?);
        Ok(self.keep(OpenFile::Directory(entries)))
    }

    /// The entries as they were when the directory was opened.
    pub(crate) fn entries(&self, file: u64) -> Result<Arc<Vec<Entry>>, Errno> {
        match self.file(file)? {
            OpenFile::Directory(entries) => Ok(entries),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// What the kernel maps for programs that map the open file.
    pub(crate) fn region_of(&self, opened: &Opened) -> Result<Region<'_>, Errno> {
        match self.file(opened.file)? {
            OpenFile::State(handle) => Ok(Region::State(handle.state.clone())),
            OpenFile::Registry => Ok(Region::Registry(&self.registry)),
            OpenFile::Record { record, part, .. } => Ok(Region::Record(record, part)),
            OpenFile::Directory(_) => Err(Errno::EISDIR),
        }
    }

    // --- through an open file ---------------------------------------------------------------

    pub(crate) fn read(&self, file: u64, offset: u64, size: usize) -> Result<Vec<u8>, Errno> {
        match self.file(file)? {
            OpenFile::State(handle) if handle.mode.read => handle.read(offset, size),
            OpenFile::State(_) => Err(Errno::EBADF),
            OpenFile::Registry | OpenFile::Record { .. } => Ok(Vec::new()),
            OpenFile::Directory(_) => Err(Errno::EISDIR),
        }
    }

    pub(crate) fn write(&self, file: u64, offset: u64, data: &[u8]) -> Result<(), Errno> {
        match self.file(file)? {
            OpenFile::State(handle) => handle.write(&self.reaper, offset, data),
            _ => Err(Errno::EBADF),
        }
    }

    pub(crate) fn ioctl(
        &self,
        caller: Caller,
        file: u64,
        command: u32,
        argument: &[u8],
    ) -> Result<Vec<u8>, Errno> {
        match self.file(file)? {
            OpenFile::State(handle) => ioctl::on_state(self, &handle, caller, command, argument),
            OpenFile::Registry => ioctl::on_registry(self, caller, file, command, argument),
            OpenFile::Record {
                record,
                part,
                writable,
            } => ioctl::on_record(self, &record, part, writable, caller, file, command),
            OpenFile::Directory(_) => Err(Errno::ENOTTY),
        }
    }

    /// Whether the file is readable now. If not, `poller` is called when it is.
    pub(crate) fn poll(&self, file: u64, poller: Option<Poller>) -> Result<Readiness, Errno> {
        match self.file(file)? {
            OpenFile::State(handle) => {
                let kept = poller.is_some();
                let found = handle.state.poll(&handle, poller)?;
                if kept && found != PollState::Gone {
                    self.hub.watch(&handle.state);
                }
                Ok(Readiness {
                    readable: found != PollState::Idle,
                    writable: handle.mode.write,
                    gone: found == PollState::Gone,
                })
            }
            _ => Ok(Readiness {
                readable: true,
                writable: false,
                gone: false,
            }),
        }
    }

    // --- attributes -------------------------------------------------------------------------

    pub(crate) fn get_xattr(&self, ino: u64, name: &str) -> Result<Vec<u8>, Errno> {
        if !is_state(ino) {
            return Err(Errno::ENODATA);
        }
        xattr::get(&*self.state(ino)?, name)
    }

    pub(crate) fn list_xattr(&self, ino: u64) -> Result<Vec<u8>, Errno> {
        if !is_state(ino) {
            Ok(Vec::new())
        } else {
            Ok(xattr::list(&*self.state(ino)?))
        }
    }

    pub(crate) fn set_xattr(
        &self,
        caller: Caller,
        ino: u64,
        name: &str,
        value: &[u8],
    ) -> Result<(), Errno> {
        if !is_state(ino) {
            return Err(Errno::EOPNOTSUPP);
        }
        let state = self.state(ino)?;
        // The kernel asks for write permission; what decides how long a state stays is its
        // owner's to set, as with the ioctl.
        if caller.uid != 0 && caller.uid != state.attributes().uid {
            return Err(Errno::EPERM);
        }
        xattr::set(&state, name, value)?;
        // It may have to go sooner, or later, than it would have.
        self.look_after(&state);
        Ok(())
    }

    /// Space of the backing tmpfs, and how many states there are.
    pub(crate) fn space(&self) -> Result<(Space, u64), Errno> {
        Ok((self.backing.space()?, self.table().len() as u64))
    }

    // --- lifetime ---------------------------------------------------------------------------

    /// Lets a state evaporate, at once or after its time to linger, if nobody is subscribed.
    pub(crate) fn look_after(&self, state: &Arc<State>) {
        match state.abandoned_for() {
            Some(Duration::ZERO) => self.evaporate(state.ino()),
            Some(linger) => self.lingering.schedule(state.ino(), linger),
            None => {}
        }
    }

    /// A state's time to linger has passed, or had when this was scheduled.
    pub(crate) fn look_again(&self, ino: u64) {
        if let Ok(state) = self.state(ino) {
            self.look_after(&state);
        }
    }

    /// A turn may be over.
    pub(crate) fn end_turn_in_time(&self, ino: u64) {
        if let Ok(state) = self.state(ino)
            && let Some(left) = state.end_turn_in_time()
        {
            self.turns.schedule(ino, left);
        }
    }

    /// Removes the state if it is still abandoned.
    fn evaporate(&self, ino: u64) {
        let mut table = self.table_mut();
        if let Some(state) = table.numbered(ino).cloned() {
            self.retire(&mut table, &state, Cause::Abandoned);
        }
    }

    fn retire(&self, table: &mut Table, state: &State, cause: Cause) {
        if state.retire(cause) {
            table.remove(state);
            tracing::debug!(name = %state.name(), ?cause, "state gone");
            if let Some(tell) = self.on_retired.get() {
                tell(state.ino());
            }
            self.lingering.forget(state.ino());
            self.turns.forget(state.ino());
            self.reaper.forget_state(state.ino());
            self.registry.bump();
        }
    }

    // --- parts ------------------------------------------------------------------------------

    fn directory(&self, ino: u64) -> Attr {
        Attr {
            ino,
            kind: Kind::Directory,
            mode: if ino == ROOT {
                self.settings.root_mode
            } else {
                0o555
            },
            uid: self.settings.uid,
            gid: self.settings.gid,
            size: 0,
            modified: self.mounted,
            changed: self.mounted,
            block: page_size(),
        }
    }

    fn registry_attr(&self) -> Attr {
        let directory = self.directory(REGISTRY);
        Attr {
            kind: Kind::File,
            mode: 0o444,
            ..directory
        }
    }

    fn record_attr(&self, record: &IntentRecord, part: Part) -> Attr {
        let (uid, gid) = record.user();
        Attr {
            ino: record.ino(part),
            kind: Kind::File,
            mode: match part {
                Part::Status => 0o644,
                Part::List => 0o600,
            },
            uid,
            gid,
            ..self.directory(CONTROL)
        }
    }

    fn state(&self, ino: u64) -> Result<Arc<State>, Errno> {
        self.table().numbered(ino).cloned().ok_or(Errno::ESTALE)
    }

    fn file(&self, file: u64) -> Result<OpenFile, Errno> {
        self.files().get(&file).cloned().ok_or(Errno::EBADF)
    }

    fn keep(&self, file: OpenFile) -> u64 {
        let number = self.next_file.fetch_add(1, Ordering::Relaxed);
        self.files_mut().insert(number, file);
        number
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

const fn is_state(ino: u64) -> bool {
    FIRST_STATE <= ino && ino < FIRST_RECORD_FILE
}
