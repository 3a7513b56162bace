#![expect(unsafe_code, reason = "gives mappings their lifetime")]
//! The records through which processes commit several states, and settling for those that cannot.
//!
//! Lock order: a record's lock, then a state's, then the reaper's, then the table of records.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use kstate_sys::abi::page_size;
use kstate_sys::region::{
    Decision, IntentList, IntentRef, MAX_RECORD, Recorded, Records, Round, StatusWord,
};
use memmap2::{MmapOptions, MmapRaw};

use crate::backing::{Backing, RegionFile, Transport};
use crate::guard::Guard;
use crate::inode::Node;
use crate::ledger::{Event, Ledger};
use crate::process::Identity;
use crate::reaper::Process;
use crate::region::without_children;
use crate::state::State;

/// How long a commit may be undecided before it is given up for somebody who asks.
const PATIENCE: Duration = Duration::from_millis(1);

/// Which of the two pages of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The status, which everybody may read.
    Status,
    /// The list, the owner's and the daemon's.
    List,
}

/// All records that are in use.
pub(crate) struct Intents {
    records: RwLock<Numbered>,
    ledger: Arc<Ledger>,
    /// Told the inode numbers of files that go.
    on_gone: OnceLock<Box<dyn Fn(u64) + Send + Sync>>,
}

#[derive(Debug, Default)]
struct Numbered {
    by_number: BTreeMap<u32, Arc<IntentRecord>>,
    last: u32,
}

/// A record of one process.
#[derive(Debug)]
pub(crate) struct IntentRecord {
    number: u32,
    owner: Process,
    uid: u32,
    gid: u32,
    status: Page,
    list: Page,
    /// Its numbers name nothing any more.
    gone: AtomicBool,
    /// One settles at a time. In it: the round that somebody has asked to have settled, and since
    /// when.
    asked: Mutex<Option<(Round, Instant)>>,
}

/// A page shared with a client, which may do anything to it.
///
/// # Invariants
///
/// 1. `mapping` is one shared, writable page that lives as long as the value, guarded, and only
///    reached as the atomics it begins with.
#[derive(Debug)]
struct Page {
    // Dropped before the mapping, as in `RegionMapping`.
    _guard: Guard,
    mapping: MmapRaw,
    file: Arc<RegionFile>,
}

impl Page {
    fn new(backing: &Backing, ino: u64, transport: Transport) -> io::Result<Self> {
        Self::of(backing.region(ino, page_size() as usize, transport)?)
    }

    /// One that the daemon before this one has left.
    fn inherit(backing: &Backing, ino: u64, transport: Transport) -> io::Result<Self> {
        Self::of(backing.inherit(ino, page_size() as usize, transport)?)
    }

    fn of(file: RegionFile) -> io::Result<Self> {
        let length = page_size() as usize;
        file.allocate(0, length)?;
        let mapping = file.with(|fd| MmapOptions::new().len(length).map_raw(fd.as_raw_fd()))?;
        without_children(&mapping)?;
        let guard = Guard::new(mapping.as_ptr(), length)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENFILE))?;
        // INVARIANT: 1.
        Ok(Self {
            _guard: guard,
            mapping,
            file: Arc::new(file),
        })
    }

    fn start<T>(&self) -> NonNull<T> {
        const { assert!(size_of::<T>() <= 4096 && align_of::<T>() <= 4096) };
        NonNull::new(self.mapping.as_mut_ptr().cast()).unwrap_or(NonNull::dangling())
    }
}

impl IntentRecord {
    /// With the pages that `page` gives for their inode numbers.
    fn new(
        number: u32,
        owner: Process,
        (uid, gid): (u32, u32),
        page: impl Fn(u64) -> io::Result<Page>,
    ) -> io::Result<Arc<Self>> {
        let page = |part| page(Node::Record(number, part).ino());
        Ok(Arc::new(Self {
            number,
            owner,
            uid,
            gid,
            status: page(Part::Status)?,
            list: page(Part::List)?,
            gone: AtomicBool::new(false),
            asked: Mutex::default(),
        }))
    }

    fn status(&self) -> &StatusWord {
        // SAFETY: invariant 1 of `Page`; it fits a page, and any bytes are a value of an atomic.
        unsafe { self.status.start().as_ref() }
    }

    fn list(&self) -> &IntentList {
        // SAFETY: as for the status.
        unsafe { self.list.start().as_ref() }
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// The process whose it is.
    pub(crate) fn owner(&self) -> Process {
        self.owner
    }

    /// Who may open its files for writing.
    pub(crate) fn user(&self) -> (u32, u32) {
        (self.uid, self.gid)
    }

    pub(crate) fn file(&self, part: Part) -> &Arc<RegionFile> {
        match part {
            Part::Status => &self.status.file,
            Part::List => &self.list.file,
        }
    }

    /// Inode number of one of its files.
    pub(crate) fn node(&self, part: Part) -> Node {
        Node::Record(self.number, part)
    }

    /// Settles what the owner left, which is dead or has given the record back. `find` knows the states it held groups of.
    pub(crate) fn bury(&self, find: impl Fn(u64) -> Option<Arc<State>>) {
        let _settling = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let round = self.status().load().round();
        if let Some(decision) = self.status().kill(round) {
            self.settle_listed(round, decision, find);
        }
    }

    /// Whether it was removed; an open that began before may still come to it.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Settles `round` for somebody whom it is in the way of, unless it is young; `false` then.
    ///
    /// How long it has been undecided nobody can say but who asks, and who asks may lie: it is
    /// given up a while after it was first asked about.
    fn settle(&self, round: Round, find: impl Fn(u64) -> Option<Arc<State>>) -> bool {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let status = self.status().load();
        if status.round() != round {
            return true;
        }
        let is_over = matches!(status.decision(), Decision::Committed | Decision::Killed);
        let since = asked.filter(|(known, _)| *known == round);
        let is_old = since.is_some_and(|(_, since)| since.elapsed() >= PATIENCE);
        if !is_over && !is_old {
            *asked = Some(since.unwrap_or((round, Instant::now())));
            return false;
        }
        // A committed one is finished by whoever wants to write. Its owner lives and may be
        // writing its next list.
        if self.status().kill(round) == Some(Decision::Killed) {
            self.settle_listed(round, Decision::Killed, find);
        }
        true
    }

    fn settle_listed(
        &self,
        round: Round,
        decision: Decision,
        find: impl Fn(u64) -> Option<Arc<State>>,
    ) {
        let commit = IntentRef::new(self.number, round);
        for listed in self.list().entries() {
            if let Some(state) = find(listed.state) {
                state.settle_listed(self.owner, listed, commit, decision);
            }
        }
    }
}

impl Intents {
    /// None, behind those that `ledger` knows of.
    pub(crate) fn new(ledger: Arc<Ledger>) -> Self {
        let last = ledger.model(|model| model.head.last_record).unwrap_or(0);
        let by_number = BTreeMap::new();
        Self {
            records: RwLock::new(Numbered { by_number, last }),
            ledger,
            on_gone: OnceLock::new(),
        }
    }

    /// A fresh record for the process `owner` of that user.
    ///
    /// # Errors
    ///
    /// `EUSERS` when all numbers are used up, `ENOSPC`.
    pub(crate) fn create(
        &self,
        backing: &Backing,
        transport: Transport,
        owner: Process,
        identity: Identity,
        user: (u32, u32),
    ) -> io::Result<Arc<IntentRecord>> {
        let mut records = self.records.write().unwrap_or_else(PoisonError::into_inner);
        if records.last >= MAX_RECORD {
            return Err(io::Error::from_raw_os_error(libc::EUSERS));
        }
        // Never used again, whatever comes of it: a reader may know it.
        records.last += 1;
        let number = records.last;
        let page = |ino| Page::new(backing, ino, transport);
        let record = IntentRecord::new(number, owner, user, page)?;
        record.status().initialise();
        self.ledger.note(Event::RecordMade {
            number,
            owner: identity,
            user,
        })?;
        records.by_number.insert(number, record.clone());
        Ok(record)
    }

    /// The record `number` of `owner`, as the daemon before this one has left it.
    ///
    /// # Errors
    ///
    /// `ENOENT`, `ENFILE`.
    pub(crate) fn adopt(
        &self,
        backing: &Backing,
        transport: Transport,
        number: u32,
        owner: Process,
        user: (u32, u32),
    ) -> io::Result<Arc<IntentRecord>> {
        let page = |ino| Page::inherit(backing, ino, transport);
        let record = IntentRecord::new(number, owner, user, page)?;
        let mut records = self.records.write().unwrap_or_else(PoisonError::into_inner);
        records.by_number.insert(number, record.clone());
        Ok(record)
    }

    /// Forgets a record all of whose commits are settled.
    pub(crate) fn remove(&self, record: &IntentRecord) {
        self.ledger.note_end(Event::RecordGone(record.number));
        let mut records = self.records.write().unwrap_or_else(PoisonError::into_inner);
        records.by_number.remove(&record.number);
        drop(records);
        // ORDERING: Release before those are told that look at it.
        record.gone.store(true, Ordering::Release);
        if let Some(tell) = self.on_gone.get() {
            tell(record.node(Part::Status).ino());
            tell(record.node(Part::List).ino());
        }
    }

    /// Has `tell` called with the inode numbers of files that go.
    pub(crate) fn on_gone(&self, tell: impl Fn(u64) + Send + Sync + 'static) {
        // Set once, when the session is made.
        let _ = self.on_gone.set(Box::new(tell));
    }

    /// Settles `commit`, unless it is young: `false` then. `find` knows the states that a process
    /// holds groups of.
    pub(crate) fn settle(
        &self,
        commit: IntentRef,
        find: impl Fn(Process, u64) -> Option<Arc<State>>,
    ) -> bool {
        match self.get(commit.record()) {
            Some(record) => record.settle(commit.round(), |ino| find(record.owner, ino)),
            None => true,
        }
    }

    pub(crate) fn get(&self, number: u32) -> Option<Arc<IntentRecord>> {
        self.read().by_number.get(&number).cloned()
    }

    /// The record and page that a file name in `.kstate/intents` stands for.
    pub(crate) fn named(&self, name: &[u8]) -> Option<(Arc<IntentRecord>, Part)> {
        let name = std::str::from_utf8(name).ok()?;
        let (number, part) = match name.strip_suffix(".list") {
            Some(number) => (number, Part::List),
            None => (name, Part::Status),
        };
        let record = self.get(number.parse().ok()?)?;
        (record.number.to_string() == number).then_some((record, part))
    }

    pub(crate) fn all(&self) -> Vec<Arc<IntentRecord>> {
        self.read().by_number.values().cloned().collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, Numbered> {
        self.records.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Records for Intents {
    fn status(&self, record: u32) -> Recorded {
        match self.read().by_number.get(&record) {
            Some(record) => Recorded::Known(record.status().load()),
            None => Recorded::Gone,
        }
    }
}

impl std::fmt::Debug for Intents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Intents").field(&*self.read()).finish()
    }
}
