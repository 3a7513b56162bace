//! Calls through an open file: opening, reading, writing, polling, closing.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use kstate_sys::abi::Geometry;
use kstate_sys::name::StateName;

use super::{Caller, Entry, Shared};
use crate::attr::Attr;
use crate::backing::RegionFile;
use crate::blocked::{self, BlockedRead, BlockedReads, Given};
use crate::changes::Stream;
use crate::errno::Errno;
use crate::handle::{Handle, OpenMode, Place};
use crate::inode::{Node, Report};
use crate::intents::{IntentRecord, Part};
use crate::ioctl;
use crate::ledger::Event;
use crate::poll::{Poller, Readiness};
use crate::process::process_of;
use crate::registry::RegistryFile;
use crate::report;
use crate::rights::Credentials;
use crate::state::{Attributes, State};
use crate::timer::Look;
use crate::view::View;

#[derive(Clone, Debug)]
pub(super) enum OpenFile {
    State(Arc<Handle>),
    Registry,
    Record {
        record: Arc<IntentRecord>,
        part: Part,
        writable: bool,
    },
    Report(Arc<OpenReport>),
    Changes(Arc<Stream>),
    Directory(Arc<OpenDirectory>),
}

impl OpenFile {
    /// The reads that wait there, of one whose reads can.
    fn blocked(&self) -> Option<&BlockedReads> {
        match self {
            Self::State(handle) => Some(handle.blocked()),
            Self::Changes(stream) => Some(stream.blocked()),
            _ => None,
        }
    }
}

/// A directory, as it was when its beginning was read.
#[derive(Debug)]
pub(super) struct OpenDirectory {
    ino: u64,
    entries: Mutex<Arc<Vec<Entry>>>,
}

/// Reports that one user can have open: each keeps its text.
const MOST_REPORTS: usize = 64;

/// A report, as it was when its beginning was read.
#[derive(Debug)]
pub(super) struct OpenReport {
    report: Report,
    reader: Credentials,
    text: Mutex<Vec<u8>>,
}

/// A file just opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opened {
    pub(crate) file: u64,
    pub(crate) ino: u64,
    /// Whether the kernel may map its region.
    pub(crate) mappable: bool,
    /// Whether it is read on and on, and has no offsets.
    pub(crate) stream: bool,
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

impl Shared {
    pub(crate) fn create(
        &self,
        caller: Caller,
        parent: u64,
        name: &[u8],
        mode: u32,
        flags: i32,
    ) -> Result<(Attr, Opened), Errno> {
        if Node::from_ino(parent) != Node::Root {
            return Err(Errno::EPERM);
        }
        if View::split(name)?.is_some() {
            // There is a view of a state as soon as there is the state.
            return Err(Errno::ENOENT);
        }
        let name = StateName::new(name)?;
        let mut table = self.table_mut();
        if let Some(state) = table.named(name.as_str()).cloned() {
            // Somebody was faster, and the kernel has not checked this file's rights.
            let mode = OpenMode::from_flags(flags);
            return match state.attributes().lets_owner(caller.uid, mode) {
                _ if flags & libc::O_EXCL != 0 => Err(Errno::EEXIST),
                true => {
                    let opened = self.open_state(caller, &state, mode, None)?;
                    Ok((Attr::of_state(&state), opened))
                }
                // Have it look the name up again, which ESTALE makes it do, once.
                false => Err(Errno::ESTALE),
            };
        }
        let ino = table.fresh_ino().ok_or(Errno::ENFILE)?;
        let length = Geometry::of_this_machine().region_len();
        let file = self.backing.region(ino, length, self.transport)?;
        let attributes = Attributes {
            mode: mode & 0o1777,
            uid: caller.uid,
            gid: caller.gid,
            changed: SystemTime::now(),
            linger: self.settings.linger,
        };
        let state = Arc::new(State::create(ino, name, file, attributes, &self.common)?);
        // Opened before anybody can see it, so that it cannot evaporate in between.
        let opened = self.open_state(caller, &state, OpenMode::from_flags(flags), None);
        let opened = opened.inspect_err(|_| {
            self.common.ledger.note_end(Event::StateGone(ino));
        })?;
        let attr = Attr::of_state(&state);
        self.common.streams.created(&state);
        table.insert(state);
        drop(table);
        self.registry.bump();
        Ok((attr, opened))
    }

    pub(crate) fn open(&self, caller: Caller, ino: u64, flags: i32) -> Result<Opened, Errno> {
        let mode = OpenMode::from_flags(flags);
        let node = Node::from_ino(ino);
        // These have no write permission, but root is not asked for that.
        let is_text = matches!(
            node,
            Node::Registry | Node::Report(_) | Node::Changes(_) | Node::View(..)
        );
        if is_text && mode.write {
            return Err(Errno::EACCES);
        }
        let opened = |file, mappable, stream| Opened {
            file,
            ino,
            mappable,
            stream,
        };
        match node {
            Node::Root | Node::Control | Node::Intents => Err(Errno::EISDIR),
            Node::Unknown => Err(Errno::ESTALE),
            Node::Registry => Ok(opened(self.keep(OpenFile::Registry), true, false)),
            Node::Record(number, part) => {
                let record = self.common.intents.get(number).ok_or(Errno::ESTALE)?;
                let writable = mode.write;
                let file = self.keep(OpenFile::Record {
                    record,
                    part,
                    writable,
                });
                Ok(opened(file, true, false))
            }
            Node::Report(report) => {
                let reader = Credentials::of(caller);
                let theirs = |open: &&OpenFile| match open {
                    OpenFile::Report(open) => open.reader.uid() == reader.uid(),
                    _ => false,
                };
                if self.files().values().filter(theirs).count() >= MOST_REPORTS {
                    return Err(Errno::ENFILE);
                }
                let file = self.keep(OpenFile::Report(Arc::new(OpenReport {
                    report,
                    reader,
                    text: Mutex::default(),
                })));
                Ok(opened(file, false, false))
            }
            Node::Changes(ino) => {
                let prefix = self.prefixes.of(ino).ok_or(Errno::ESTALE)?;
                Ok(opened(self.open_changes(caller, prefix)?, false, true))
            }
            Node::State(ino) => self.open_numbered(caller, ino, mode, None),
            Node::View(ino, view) => self.open_numbered(caller, ino, mode, Some(view)),
        }
    }

    fn open_numbered(
        &self,
        caller: Caller,
        ino: u64,
        mode: OpenMode,
        view: Option<View>,
    ) -> Result<Opened, Errno> {
        // ESTALE makes the kernel look the name up once more.
        let state = self.state(ino)?;
        // A refusal may leave the state without subscriber. Not looked after in `open_state`, which
        // `create` calls with the table locked.
        self.open_state(caller, &state, mode, view)
            .inspect_err(|_| self.closed(&state))
    }

    /// A file of the state is open no more: it may evaporate, or be forgotten if it has gone already.
    fn closed(&self, state: &Arc<State>) {
        self.look_after(state);
        if state.is_gone() && !state.is_open() {
            self.table_mut().forget(state.ino());
        }
    }

    fn open_state(
        &self,
        caller: Caller,
        state: &Arc<State>,
        mode: OpenMode,
        view: Option<View>,
    ) -> Result<Opened, Errno> {
        state.open(mode)?;
        // A program that is not the library's may map the file and look at the live page.
        if !mode.library
            && view.is_none()
            && let Err(error) = state.arm()
        {
            state.close(&self.reaper, 0, mode, false);
            return Err(error);
        }
        let opener = process_of(i32::try_from(caller.tid).unwrap_or(0));
        let file = self.next_file.fetch_add(1, Ordering::Relaxed);
        let handle = Arc::new(Handle::new(file, state.clone(), mode, view, opener));
        let opened = Opened {
            file,
            ino: view
                .map_or(Node::State(state.ino()), |v| Node::View(state.ino(), v))
                .ino(),
            mappable: view.is_none(),
            stream: handle.is_stream(),
        };
        self.files_mut().insert(file, OpenFile::State(handle));
        Ok(opened)
    }

    fn open_changes(&self, caller: Caller, prefix: String) -> Result<u64, Errno> {
        let file = self.next_file.fetch_add(1, Ordering::Relaxed);
        let reader = Credentials::of(caller);
        let stream = Stream::new(file, prefix, reader, self.hub.clone());
        let table = self.table();
        self.common.streams.open(&stream, table.iter())?;
        drop(table);
        self.files_mut().insert(file, OpenFile::Changes(stream));
        Ok(file)
    }

    pub(crate) fn release(&self, file: u64) {
        // The lock is not held while it is closed.
        let closed = self.files_mut().remove(&file);
        match closed {
            Some(OpenFile::State(handle)) => {
                handle.close(&self.reaper);
                self.closed(&handle.state);
            }
            Some(OpenFile::Changes(stream)) => self.common.streams.close(&stream),
            _ => {}
        }
    }

    pub(crate) fn open_directory(&self, ino: u64) -> Result<u64, Errno> {
        let entries = Mutex::default();
        Ok(self.keep(OpenFile::Directory(Arc::new(OpenDirectory {
            ino,
            entries,
        }))))
    }

    /// The entries behind `offset`, as they were when those from 0 on were asked for.
    pub(crate) fn entries(&self, file: u64, offset: u64) -> Result<Arc<Vec<Entry>>, Errno> {
        let OpenFile::Directory(open) = self.file(file)? else {
            return Err(Errno::ENOTDIR);
        };
        let mut entries = open.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if offset == 0 {
            *entries = Arc::new(self.list(open.ino)?);
        }
        Ok(entries.clone())
    }

    /// What the kernel maps for programs that map the open file.
    pub(crate) fn region_of(&self, opened: &Opened) -> Result<Region<'_>, Errno> {
        match self.file(opened.file)? {
            OpenFile::State(handle) => Ok(Region::State(handle.state.clone())),
            OpenFile::Registry => Ok(Region::Registry(&self.registry)),
            OpenFile::Record { record, part, .. } => Ok(Region::Record(record, part)),
            OpenFile::Report(_) | OpenFile::Changes(_) => Err(Errno::ENODEV),
            OpenFile::Directory(_) => Err(Errno::EISDIR),
        }
    }

    pub(crate) fn read(&self, file: u64, offset: u64, size: usize) -> Result<Given, Errno> {
        match self.file(file)? {
            OpenFile::State(handle) if handle.mode.read => {
                handle.state.count_read();
                handle.read(offset, size)
            }
            OpenFile::State(_) => Err(Errno::EBADF),
            OpenFile::Registry | OpenFile::Record { .. } => Ok(Given::Bytes(Vec::new())),
            OpenFile::Report(open) => Ok(self.read_report(&open, offset, size)),
            OpenFile::Changes(stream) => Ok(stream.read(size)),
            OpenFile::Directory(_) => Err(Errno::EISDIR),
        }
    }

    /// Keeps a read that has found nothing until there is something.
    pub(crate) fn block(&self, file: u64, read: BlockedRead) {
        match self.file(file) {
            Ok(OpenFile::State(handle)) => handle.block(&self.hub, read),
            Ok(OpenFile::Changes(stream)) => stream.block(read),
            Ok(_) => return read.answer(Err(Errno::EIO)),
            Err(error) => return read.answer(Err(error)),
        }
        self.blocking().insert(file);
        self.common
            .timer
            .schedule_once(Look::Signals, blocked::SOON);
    }

    /// Lets reads go whose threads have been sent a signal. Returns whether some wait still.
    pub(super) fn let_go_signalled(&self) -> bool {
        // The lock is not held meanwhile; what comes in then is looked at next time.
        let files = std::mem::take(&mut *self.blocking());
        let files = files.into_iter();
        let open: Vec<_> = files
            .filter_map(|file| Some((file, self.file(file).ok()?)))
            .collect();
        let reads: Vec<_> = open.iter().filter_map(|(_, open)| open.blocked()).collect();
        blocked::let_go_signalled(&reads);
        let still = open
            .iter()
            .filter(|(_, open)| open.blocked().is_some_and(|reads| reads.len() > 0));
        let mut blocking = self.blocking();
        blocking.extend(still.map(|(file, _)| *file));
        !blocking.is_empty()
    }

    fn blocking(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.blocking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_report(&self, open: &OpenReport, offset: u64, size: usize) -> Given {
        let mut text = open.text.lock().unwrap_or_else(PoisonError::into_inner);
        if offset == 0 {
            *text = report::write(self, open.report, &open.reader);
        }
        Given::part_of(&text, offset, size)
    }

    /// `flags` are those of the open file now.
    pub(crate) fn write(
        &self,
        caller: Caller,
        file: u64,
        offset: u64,
        data: &[u8],
        flags: i32,
    ) -> Result<(), Errno> {
        let place = match flags & libc::O_APPEND != 0 {
            true => Place::End,
            false => Place::At(offset),
        };
        match self.file(file)? {
            OpenFile::State(handle) => handle.write(&self.reaper, caller.tid, place, data),
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
            OpenFile::Report(_) | OpenFile::Changes(_) | OpenFile::Directory(_) => {
                Err(Errno::ENOTTY)
            }
        }
    }

    /// What there is to see of the file now. `poller` is called when there is something new.
    pub(crate) fn poll(&self, file: u64, poller: Option<Poller>) -> Result<Readiness, Errno> {
        let readable = match self.file(file)? {
            OpenFile::State(handle) => return handle.poll(&self.hub, poller),
            OpenFile::Changes(stream) => stream.poll(poller),
            _ => true,
        };
        Ok(Readiness {
            readable,
            ..Readiness::default()
        })
    }

    pub(super) fn file(&self, file: u64) -> Result<OpenFile, Errno> {
        self.files().get(&file).cloned().ok_or(Errno::EBADF)
    }

    fn keep(&self, file: OpenFile) -> u64 {
        let number = self.next_file.fetch_add(1, Ordering::Relaxed);
        self.files_mut().insert(number, file);
        number
    }
}
