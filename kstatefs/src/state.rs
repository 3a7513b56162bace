//! One state, as the daemon knows it: attributes, capacity, claims, waiters, its region.
//!
//! Lock order: an open file's lock, then a record's, then the state's, then the reaper's.

mod capacity;
mod claims;
mod intents;
mod live;
mod pollers;
mod turn;
mod value;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use kstate_sys::abi::{Class, Geometry};
use kstate_sys::clock::Clock;
use kstate_sys::futex;
use kstate_sys::name::StateName;
use kstate_sys::region::{self, Memory, Notice, Writer};

use claims::Owner;
pub(crate) use pollers::PollState;
use pollers::Polled;
use turn::Turns;
pub(crate) use value::Expectation;

use crate::backing::RegionFile;
use crate::errno::Errno;
use crate::handle::OpenMode;
use crate::intents::Intents;
use crate::reaper::{Process, Reaper};
use crate::region::RegionMapping;

/// Who may do what, and how long the state stays.
#[derive(Clone, Copy, Debug)]
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
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    pub(crate) subscribers: u32,
    pub(crate) writers: u32,
    pub(crate) waiters: u32,
}

#[derive(Debug)]
pub(crate) struct State {
    ino: u64,
    name: StateName,
    file: Arc<RegionFile>,
    geometry: Geometry,
    clock: Clock,
    created: SystemTime,
    intents: Arc<Intents>,
    mapping: RwLock<Arc<RegionMapping>>,
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
    /// When the last file was closed.
    closed_at: Instant,
    /// Deleted or evaporated: in no table any more.
    gone: bool,
    groups: BTreeMap<u8, Owner>,
    /// By the process that waits and the file it waits through.
    waits: HashMap<(Process, u64), u32>,
    /// By the file polled.
    pollers: HashMap<u64, Polled>,
    armed: bool,
    turn: Turns,
    /// The daemon's own writer, once it has had to write.
    writer: Option<Writer>,
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
        clock: Clock,
        attributes: Attributes,
        intents: &Arc<Intents>,
    ) -> io::Result<Self> {
        let geometry = Geometry::of_this_machine();
        let page = geometry.page();
        file.allocate(geometry.header(), page as usize)?;
        // Reaches everything until the capacity is chosen to be more.
        let mapping = Arc::new(RegionMapping::new(
            &file,
            geometry,
            Class::B64,
            intents.clone(),
        )?);
        region::initialise(mapping.mapped().mapped(), ino, page, &clock);
        let inner = Inner {
            attributes,
            capacity: page,
            reach: Class::B64,
            capacity_chosen: false,
            layout: None,
            open: 0,
            closed_at: Instant::now(),
            gone: false,
            groups: BTreeMap::new(),
            waits: HashMap::new(),
            pollers: HashMap::new(),
            armed: false,
            turn: Turns::default(),
            writer: None,
        };
        Ok(Self {
            ino,
            name,
            file: Arc::new(file),
            geometry,
            clock,
            created: SystemTime::now(),
            intents: intents.clone(),
            mapping: RwLock::new(mapping),
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

    /// Changes attributes; returns whether the state is now kept by nothing.
    pub(crate) fn set_attributes(&self, change: impl FnOnce(&mut Attributes)) -> Attributes {
        let mut inner = self.lock();
        change(&mut inner.attributes);
        inner.attributes.changed = SystemTime::now();
        inner.attributes
    }

    /// Whether it was deleted or has evaporated.
    pub(crate) fn is_gone(&self) -> bool {
        self.lock().gone
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
            writers: count(
                inner
                    .groups
                    .values()
                    .filter(|owner| owner.is_writer())
                    .count(),
            ),
            waiters: count(inner.waits.len() + inner.pollers.len()),
        }
    }

    /// Counts one more open file; `ESTALE` when the state has gone meanwhile.
    pub(crate) fn open(&self) -> Result<(), Errno> {
        let mut inner = self.lock();
        if inner.gone {
            return Err(Errno::ESTALE);
        }
        inner.open += 1;
        Ok(())
    }

    /// Counts one open file less, and forgets what it polled for and held.
    pub(crate) fn close(&self, reaper: &Reaper, handle: u64) {
        let mut inner = self.lock();
        inner.open = inner.open.saturating_sub(1);
        inner.closed_at = Instant::now();
        inner.pollers.remove(&handle);
        self.let_go_of_file(&mut inner, reaper, handle);
        self.lower_mark_if_unused(&inner);
    }

    /// If nobody is subscribed and nothing keeps the state: how long it still lingers.
    pub(crate) fn abandoned_for(&self) -> Option<Duration> {
        let inner = self.lock();
        (inner.open == 0 && !inner.attributes.is_kept() && !inner.gone).then(|| {
            inner
                .attributes
                .linger
                .saturating_sub(inner.closed_at.elapsed())
        })
    }

    /// Marks the state as gone if `cause` still holds. Whoever waits is woken to see it.
    pub(crate) fn retire(&self, cause: Cause) -> bool {
        let mut inner = self.lock();
        let holds = match cause {
            Cause::Deleted => true,
            Cause::Abandoned => {
                let lingered = inner.closed_at.elapsed() >= inner.attributes.linger;
                inner.open == 0 && !inner.attributes.is_kept() && lingered
            }
        };
        if inner.gone || !holds {
            return false;
        }
        inner.gone = true;
        let mapping = self.mapping();
        let mapped = mapping.mapped();
        mapped.header().raise(Notice::DELETED);
        futex::wake_all(&mapped.header().head);
        true
    }

    /// Records `layout`, or says which one is recorded already.
    pub(crate) fn record_layout(&self, layout: &Layout, may_record: bool) -> Result<(), Layout> {
        let mut inner = self.lock();
        match &inner.layout {
            Some(recorded) if recorded.id == layout.id => Ok(()),
            Some(recorded) => Err(recorded.clone()),
            None if may_record => {
                let mapping = self.mapping();
                let mapped = mapping.mapped();
                mapped
                    .header()
                    .layout_id
                    .store(layout.id, std::sync::atomic::Ordering::Release);
                inner.layout = Some(layout.clone());
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn mapping(&self) -> Arc<RegionMapping> {
        self.mapping
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Maps as far as versions can lie. The argument shows that the lock is held.
    fn map_reach(&self, inner: &mut Inner) -> Result<(), Errno> {
        let reach = inner.reach;
        self.map(inner, reach)
    }

    fn map(&self, _inner: &mut Inner, class: Class) -> Result<(), Errno> {
        if self.mapping().class() >= class {
            return Ok(());
        }
        let intents = self.intents.clone();
        let bigger = RegionMapping::new(&self.file, self.geometry, class, intents)?;
        let bigger = Arc::new(bigger);
        *self.mapping.write().unwrap_or_else(PoisonError::into_inner) = bigger;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
