//! One state, as the daemon knows it: attributes, capacity, claims, waiters, its region.
//!
//! Lock order: an open file's lock, then a record's, then the state's, then the reaper's.

mod adopt;
mod announce;
mod capacity;
mod claims;
mod deadline;
mod intents;
mod interest;
mod live;
mod persist;
mod turn;
mod value;
mod waits;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use kstate_sys::abi::{Class, Geometry};
use kstate_sys::clock::Clock;
use kstate_sys::name::StateName;
use kstate_sys::region::{self, Generation, Head, Memory, Writer};

pub(crate) use adopt::mark_deleted;
use announce::Announced;
use claims::Owner;
use deadline::Deadline;
pub(crate) use deadline::NextLook;
use interest::Kept;
pub(crate) use interest::{Interest, Purpose, Untold};
use turn::Turns;
pub(crate) use value::{Edit, Expectation};
use waits::Waits;

use crate::backing::RegionFile;
use crate::changes::Streams;
use crate::errno::Errno;
use crate::handle::OpenMode;
use crate::intents::Intents;
use crate::ledger::{Event, Ledger};
use crate::persist::{Figures, Store};
use crate::poll::Pollers;
use crate::reaper::{Process, Reaper};
use crate::region::RegionMapping;
use crate::timer::Timer;

/// Who may do what, and how long the state stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// Permission bits and the sticky bit.
    pub(crate) mode: u32,
    /// Owner.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
    /// Last change of attributes.
    pub(crate) changed: SystemTime,
    /// How long the state outlives its last subscriber.
    pub(crate) linger: Duration,
}

impl Attributes {
    /// Whether user `uid` is root or the owner, and as such may open the state so.
    pub(crate) const fn lets_owner(&self, uid: u32, open: OpenMode) -> bool {
        let read = !open.read || self.mode & libc::S_IRUSR != 0;
        let write = !open.write || self.mode & libc::S_IWUSR != 0;
        uid == 0 || (uid == self.uid && read && write)
    }

    /// Whether the sticky bit keeps the state until unmount.
    pub(crate) const fn is_kept(&self) -> bool {
        self.mode & libc::S_ISVTX != 0
    }
}

/// A layout as the first typed subscriber recorded it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Hash of the text.
    pub(crate) id: u64,
    /// What the layout is, for people.
    pub(crate) text: String,
}

/// Why a state goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Somebody deleted it.
    Deleted,
    /// Its last subscriber has gone, and the time it lingers has passed.
    Abandoned,
}

/// Counts for those who ask.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) subscribers: u32,
    pub(crate) writers: u32,
    pub(crate) waiters: u32,
}

/// What one state can add to a total, whatever its writers have written there: so many that it is years'
/// worth, and few enough for many states.
const MOST_COUNTED: u64 = 1 << 48;

/// What has happened to a state, or to all there were.
///
/// Conflicts and wakes are counted by those who commit, who could write anything there.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) commits: u64,
    pub(crate) conflicts: u64,
    pub(crate) reads: u64,
    pub(crate) wakes: u64,
    /// Of its file.
    pub(crate) flushed: Figures,
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.commits = self.commits.saturating_add(other.commits);
        self.conflicts = self.conflicts.saturating_add(other.conflicts);
        self.reads = self.reads.saturating_add(other.reads);
        self.wakes = self.wakes.saturating_add(other.wakes);
        self.flushed += other.flushed;
    }
}

/// What all states of a mount have in common.
#[derive(Clone, Debug)]
pub(crate) struct Common {
    pub(crate) clock: Clock,
    pub(crate) intents: Arc<Intents>,
    pub(crate) streams: Arc<Streams>,
    pub(crate) timer: Arc<Timer>,
    pub(crate) ledger: Arc<Ledger>,
}

#[derive(Debug)]
pub(crate) struct State {
    ino: u64,
    name: StateName,
    file: Arc<RegionFile>,
    geometry: Geometry,
    common: Common,
    created: SystemTime,
    mapping: RwLock<Arc<RegionMapping>>,
    /// The generation that is overdue plus one, 0 for none: looked at without the lock.
    overdue: AtomicU64,
    /// `read(2)`s answered.
    reads: AtomicU64,
    /// Held while it is made persistent.
    persisting: Mutex<()>,
    /// The head of a state that has gone, which is sealed then; looked at without the lock.
    last: OnceLock<Head>,
    /// Whether the daemon has sealed the region, or is about to: a seal without it is forged.
    sealing: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    attributes: Attributes,
    capacity: u32,
    /// The biggest class that any writer was ever given: how far versions can lie.
    reach: Class,
    /// Whether anybody has said what the capacity shall be.
    capacity_chosen: bool,
    layout: Option<Layout>,
    /// Open files.
    open: u32,
    /// Those of programs without the library that may write.
    open_for_writing: u32,
    /// When the last file was closed.
    closed_at: Instant,
    /// Who was subscribed when the daemon before this one ended, and has not opened the state again yet.
    absent: BTreeSet<Process>,
    /// Until when more of them may come, of whom nothing is known.
    awaited_until: Option<Instant>,
    /// Deleted or evaporated: in no table any more.
    gone: bool,
    groups: BTreeMap<u8, Owner>,
    waits: Waits,
    /// What is waited for, by the file it is waited for through.
    interests: BTreeMap<(u64, Purpose), Kept>,
    /// Whether somebody waits on the head for them.
    watched: bool,
    deadline: Deadline,
    announced: Announced,
    /// Its file, once it is persistent.
    store: Option<Arc<Store>>,
    /// When the version that was asked for last was committed, which stays as it was told once.
    modified: Option<(Generation, SystemTime)>,
    armed: bool,
    turn: Turns,
    /// The daemon's own writer, once it has had to write.
    writer: Option<Writer>,
}

impl Inner {
    fn new(attributes: Attributes, capacity: u32) -> Self {
        Self {
            attributes,
            capacity,
            reach: Class::B64,
            capacity_chosen: false,
            layout: None,
            open: 0,
            open_for_writing: 0,
            closed_at: Instant::now(),
            absent: BTreeSet::new(),
            awaited_until: None,
            gone: false,
            groups: BTreeMap::new(),
            waits: Waits::default(),
            interests: BTreeMap::new(),
            watched: false,
            deadline: Deadline::default(),
            announced: Announced::default(),
            store: None,
            modified: None,
            armed: false,
            turn: Turns::default(),
            writer: None,
        }
    }

    fn abandoned_for(&self) -> Option<Duration> {
        let is_open = self.open > 0 || !self.absent.is_empty();
        (!is_open && !self.is_kept() && !self.gone).then(|| {
            let awaited = self.awaited_until.map_or(Duration::ZERO, |until| {
                until.saturating_duration_since(Instant::now())
            });
            let linger = self.attributes.linger;
            linger.saturating_sub(self.closed_at.elapsed()).max(awaited)
        })
    }
}

impl State {
    /// A fresh state with its header page allocated.
    ///
    /// # Errors
    ///
    /// `ENOSPC`, `ENFILE`.
    pub(crate) fn create(
        ino: u64,
        name: StateName,
        file: RegionFile,
        attributes: Attributes,
        common: &Common,
    ) -> io::Result<Self> {
        let geometry = Geometry::of_this_machine();
        let page = geometry.page();
        file.allocate(geometry.header(), page as usize)?;
        // Reaches everything until the capacity is chosen to be more.
        let mapping = Arc::new(RegionMapping::new(
            &file,
            geometry,
            Class::B64,
            common.intents.clone(),
        )?);
        region::initialise(mapping.mapped().mapped(), ino, page, &common.clock);
        let created = SystemTime::now();
        common.ledger.note(Event::StateCreated {
            ino,
            name: name.clone(),
            attributes,
            capacity: page,
            reach: Class::B64,
            created,
        })?;
        let inner = Inner::new(attributes, page);
        Ok(Self {
            ino,
            name,
            file: Arc::new(file),
            geometry,
            common: common.clone(),
            created,
            mapping: RwLock::new(mapping),
            overdue: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            persisting: Mutex::default(),
            last: OnceLock::new(),
            sealing: AtomicBool::new(false),
            inner: Mutex::new(inner),
        })
    }

    pub(crate) fn ino(&self) -> u64 {
        self.ino
    }

    pub(crate) fn name(&self) -> &StateName {
        &self.name
    }

    pub(crate) fn page(&self) -> u32 {
        self.geometry.page()
    }

    /// The region file, for the kernel's passthrough or for a ticket.
    pub(crate) fn region_file(&self) -> &Arc<RegionFile> {
        &self.file
    }

    pub(crate) fn attributes(&self) -> Attributes {
        self.lock().attributes
    }

    /// Changes attributes; returns what they are then.
    ///
    /// # Errors
    ///
    /// `ENOSPC`; nothing was changed then.
    pub(crate) fn set_attributes(
        &self,
        change: impl FnOnce(&mut Attributes),
    ) -> Result<Attributes, Errno> {
        let mut inner = self.lock();
        let mut attributes = inner.attributes;
        change(&mut attributes);
        attributes.changed = SystemTime::now();
        self.note(&inner, Event::Attributes(self.ino, attributes))?;
        inner.attributes = attributes;
        inner.note_change();
        Ok(attributes)
    }

    /// Notes a change for a later daemon, unless there will be no such state. The argument shows that the
    /// lock is held.
    fn note(&self, inner: &Inner, event: Event) -> Result<(), Errno> {
        match inner.gone {
            true => Ok(()),
            false => Ok(self.common.ledger.note(event)?),
        }
    }

    /// Whether it was deleted or has evaporated.
    pub(crate) fn is_gone(&self) -> bool {
        self.lock().gone
    }

    /// Whether any file of it is open.
    pub(crate) fn is_open(&self) -> bool {
        self.lock().open > 0
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.lock().capacity
    }

    pub(crate) fn layout(&self) -> Option<Layout> {
        self.lock().layout.clone()
    }

    pub(crate) fn is_armed(&self) -> bool {
        self.lock().armed
    }

    pub(crate) fn counts(&self) -> Counts {
        let inner = self.lock();
        let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        Counts {
            subscribers: inner.open,
            writers: inner.writers(),
            waiters: count(inner.waits.len() + inner.programs_interested()),
        }
    }

    /// Counts one more open file; `ESTALE` when the state has gone meanwhile.
    pub(crate) fn open(&self, mode: OpenMode) -> Result<(), Errno> {
        let mut inner = self.lock();
        if inner.gone {
            return Err(Errno::ESTALE);
        }
        inner.open += 1;
        inner.open_for_writing += u32::from(mode.is_writer());
        Ok(())
    }

    /// Counts one open file less, and forgets what was waited for through it and held. A writer is
    /// `missed` who has gone on writing, unlike a program that opens, writes and closes each time.
    pub(crate) fn close(&self, reaper: &Reaper, handle: u64, mode: OpenMode, missed: bool) {
        self.losing_writers(|inner| {
            inner.open = inner.open.saturating_sub(1);
            let written = u32::from(mode.is_writer());
            inner.open_for_writing = inner.open_for_writing.saturating_sub(written);
            inner.closed_at = Instant::now();
            self.let_go_of_file(inner, reaper, handle);
            self.forget_interests_of(inner, handle);
            (missed, ())
        });
    }

    /// If nobody is subscribed and nothing keeps the state: how long it still lingers.
    pub(crate) fn abandoned_for(&self) -> Option<Duration> {
        self.lock().abandoned_for()
    }

    /// Whether somebody would miss the daemon, did it end in order now: who is subscribed, or the state itself,
    /// if it has not evaporated yet and is not in a file.
    pub(crate) fn needs_daemon(&self) -> bool {
        let inner = self.lock();
        let is_in_file = inner.store.is_some() && !inner.attributes.is_kept();
        inner.open > 0 || !inner.absent.is_empty() || !is_in_file
    }

    /// Marks the state as gone if `cause` still holds. Whoever waits in the kernel is woken to see it;
    /// whoever waits here is to be called.
    pub(crate) fn retire(&self, cause: Cause) -> Option<Pollers> {
        let mut inner = self.lock();
        let holds = match cause {
            Cause::Deleted => true,
            Cause::Abandoned => inner.abandoned_for() == Some(Duration::ZERO),
        };
        // Of a mount that was left to another daemon nothing goes any more.
        if inner.gone || !holds || self.common.ledger.is_left() {
            return None;
        }
        // First: a later daemon that does not know the state marks its region as this one does.
        self.common.ledger.note_end(Event::StateGone(self.ino));
        inner.gone = true;
        let mapping = self.mapping();
        let mapped = mapping.mapped();
        self.sealing.store(true, Ordering::SeqCst);
        let last = mapped.header().seal();
        // Under an intent the version that counts is still to be decided.
        if !last.has_intent() {
            // Once: it was not gone.
            let _ = self.last.set(last);
        }
        self.wake_all();
        Some(inner.take_all(|_| true))
    }

    /// Records `layout`, or says which one is recorded already.
    ///
    /// # Errors
    ///
    /// `ENOSPC`; nothing was recorded then.
    pub(crate) fn record_layout(
        &self,
        layout: &Layout,
        may_record: bool,
    ) -> Result<Result<(), Layout>, Errno> {
        let mut inner = self.lock();
        Ok(match &inner.layout {
            Some(recorded) if recorded.id == layout.id => Ok(()),
            Some(recorded) => Err(recorded.clone()),
            None if may_record => {
                self.note(&inner, Event::Layout(self.ino, layout.clone()))?;
                let mapping = self.mapping();
                let mapped = mapping.mapped();
                mapped
                    .header()
                    .layout_id
                    .store(layout.id, std::sync::atomic::Ordering::Release);
                inner.layout = Some(layout.clone());
                inner.note_change();
                Ok(())
            }
            None => Ok(()),
        })
    }

    /// Notes a `read(2)`.
    pub(crate) fn count_read(&self) {
        self.reads.fetch_add(1, Ordering::Relaxed);
    }

    /// Commits, conflicts and the like since it was created.
    pub(crate) fn totals(&self) -> Totals {
        let mapping = self.mapping();
        let mapped = mapping.mapped();
        let header = mapped.header();
        Totals {
            commits: self.newest().map_or(0, |newest| newest.0).min(MOST_COUNTED),
            conflicts: header.conflicts.load(Ordering::Relaxed).min(MOST_COUNTED),
            reads: self.reads.load(Ordering::Relaxed),
            wakes: header.wakes.load(Ordering::Relaxed).min(MOST_COUNTED),
            flushed: self
                .store()
                .map_or(Figures::default(), |store| store.figures()),
        }
    }

    fn mapping(&self) -> Arc<RegionMapping> {
        self.mapping
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Maps as far as versions can lie. The argument shows that the lock is held.
    fn map_reach(&self, inner: &mut Inner) -> Result<Arc<RegionMapping>, Errno> {
        let reach = inner.reach;
        self.map(inner, reach)
    }

    fn map(&self, _inner: &mut Inner, class: Class) -> Result<Arc<RegionMapping>, Errno> {
        let mapping = self.mapping();
        if mapping.class() >= class {
            return Ok(mapping);
        }
        let intents = self.common.intents.clone();
        let bigger = RegionMapping::new(&self.file, self.geometry, class, intents)?;
        let bigger = Arc::new(bigger);
        let mut mapping = self.mapping.write().unwrap_or_else(PoisonError::into_inner);
        *mapping = bigger.clone();
        Ok(bigger)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
