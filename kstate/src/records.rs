#![expect(unsafe_code, reason = "lends mapped pages to the protocol")]
//! The records that decide commits of several states: everybody's, to read what they say, and this
//! process's own, to commit through.

use core::ptr::NonNull;
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use kstate_sys::abi::{O_LIBRARY, page_size};
use kstate_sys::fork::{Lock, Process};
use kstate_sys::ioctl::{self, call};
use kstate_sys::region::{
    self, Decision, IntentList, IntentRef, MAX_ROUND, Record, Recorded, Round, StatusWord,
};
use memmap2::{MmapOptions, MmapRaw};

use crate::errno::{self, Refusal};
use crate::mount;
use crate::ticket;

/// What is remembered of others' records before all of it is forgotten, to be asked for again.
const MAX_KNOWN: usize = 1024;

/// The records of one mount, as far as this process knows them.
///
/// What a forked child finds locked it starts afresh: others' records are asked for again, and its
/// parent's own are not for it.
pub(crate) struct Records {
    root: PathBuf,
    /// Which mount, for all daemons that serve it one after the other.
    mount_id: u64,
    /// The kernel's number of the one that was found there last, 0 for none yet.
    device: AtomicU64,
    known: Lock<HashMap<u32, Known>>,
    own: Lock<Vec<Pooled>>,
}

/// A record in hand or in the pool: a word, since it goes to and fro.
pub(crate) type Pooled = Box<OwnRecord>;

#[derive(Debug)]
enum Known {
    Mapped(Page),
    Gone,
}

/// A page of a record.
///
/// # Invariants
///
/// 1. `0` is one shared page, only reached as the atomics it begins with.
#[derive(Debug)]
struct Page(MmapRaw);

/// A record of this process.
///
/// # Invariants
///
/// 1. `process` claimed it. One thread at a time has it.
/// 2. `last` is the last round, all of whose heads are put back or finished, and what it came to.
#[derive(Debug)]
pub(crate) struct OwnRecord {
    number: u32,
    status: Page,
    list: Page,
    process: Process,
    pub(crate) last: (Round, Decision),
}

impl Records {
    /// Those of the mount at `root`, which its daemon calls `mount_id`.
    pub(crate) fn of(root: &Path, mount_id: u64) -> Arc<Self> {
        static MOUNTS: Lock<Vec<Weak<Records>>> = Lock::new(Vec::new());
        let mut mounts = MOUNTS.lock();
        mounts.retain(|records| records.strong_count() > 0);
        let mut known = mounts.iter().filter_map(Weak::upgrade);
        if let Some(records) = known.find(|records| records.mount_id == mount_id) {
            return records;
        }
        let records = Arc::new(Self {
            root: root.to_owned(),
            mount_id,
            device: AtomicU64::new(0),
            known: Lock::default(),
            own: Lock::default(),
        });
        mounts.push(Arc::downgrade(&records));
        records
    }

    /// Whether these are the same mount's. There can be two of one: a child that was forked while
    /// the list of them was locked makes another.
    pub(crate) fn are_of_the_mount_of(&self, other: &Self) -> bool {
        self.mount_id == other.mount_id
    }

    /// Maps the record `number`, or learns that it is gone.
    ///
    /// # Errors
    ///
    /// What the daemon or the kernel says.
    ///
    /// # Cost
    ///
    /// An `open` and an `mmap`, some 200 µs.
    #[cold]
    pub(crate) fn map(&self, number: u32) -> io::Result<()> {
        // Not under the lock, which others wait for.
        let file = ioctl::record_file(number);
        let page = mount::open_below(&self.root, self.mount_id, || self.page(&file, false));
        let found = match page {
            Ok(page) => Known::Mapped(page),
            Err(error) => match errno::refusal(&error) {
                Refusal::NotFound | Refusal::Deleted => Known::Gone,
                _ => return Err(error),
            },
        };
        let mut known = self.known.lock();
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(number, found);
        Ok(())
    }

    /// A record of this process that serves nobody at the moment.
    ///
    /// # Errors
    ///
    /// What the daemon or the kernel says.
    ///
    /// # Cost
    ///
    /// None but a lock; the first time, and for each thread more that commits at the same time,
    /// some requests to the daemon, 1 ms.
    pub(crate) fn take(&self) -> io::Result<Pooled> {
        loop {
            // Not under the lock while it is looked at.
            let free = self.own.lock().pop();
            match free {
                // A parent's are the parent's, and a record that has served all its rounds is done.
                Some(own) if !own.process.is_current() || own.last.0 >= MAX_ROUND => {}
                Some(own) => return Ok(own),
                None => return self.claim().map(Box::new),
            }
        }
    }

    /// Takes it back.
    pub(crate) fn put_back(&self, own: Pooled) {
        self.own.lock().push(own);
    }

    fn claim(&self) -> io::Result<OwnRecord> {
        let process = Process::current()?;
        let mut number = 0;
        let open = || self.open(".kstate/registry", false);
        let registry = mount::open_below(&self.root, self.mount_id, open)?;
        errno::uninterrupted(|| call::record(&registry, &mut number))?;
        let status = self.page(&ioctl::record_file(number), true)?;
        let list = self.page(&ioctl::record_list_file(number), true)?;
        let mut own = OwnRecord {
            number,
            status,
            list,
            process,
            last: (Round(0), Decision::Aborted),
        };
        own.note_last();
        Ok(own)
    }

    fn open(&self, file: &str, writable: bool) -> io::Result<File> {
        let file = File::options()
            .read(true)
            .write(writable)
            .custom_flags(O_LIBRARY)
            .open(self.root.join(file))?;
        // Another mount's records have the same numbers.
        let device = file.metadata()?.dev();
        if device != self.device.load(Ordering::Relaxed) {
            let (mount_id, found) = mount::identity(&self.root)?;
            if (mount_id, found) != (self.mount_id, device) {
                return Err(errno::replaced());
            }
            // ORDERING: Relaxed: a number of the kernel's, which stands for itself.
            self.device.store(device, Ordering::Relaxed);
        }
        Ok(file)
    }

    fn page(&self, file: &str, writable: bool) -> io::Result<Page> {
        let file = self.open(file, writable)?;
        let mut options = MmapOptions::new();
        options.len(page_size() as usize);
        let map = |fd: i32| match writable {
            true => options.map_raw(fd),
            false => options.map_raw_read_only(fd),
        };
        let page = match map(file.as_raw_fd()) {
            Err(error) if errno::refusal(&error) == Refusal::NotMappable => {
                map(ticket::redeem(&file)?.as_raw_fd())?
            }
            page => page?,
        };
        // INVARIANT: 1.
        Ok(Page(page))
    }
}

impl region::Records for Records {
    fn status(&self, record: u32) -> Recorded {
        let known = self.known.lock();
        match known.get(&record) {
            Some(Known::Mapped(page)) => Recorded::Known(page.status().load()),
            Some(Known::Gone) => Recorded::Gone,
            None => Recorded::Unmapped,
        }
    }
}

impl Page {
    fn status(&self) -> &StatusWord {
        let start = NonNull::new(self.0.as_mut_ptr()).unwrap_or(NonNull::dangling());
        // SAFETY: invariant 1: a page, which lives as long as `self`; any bytes are a value. Never
        // null, because `mmap` without MAP_FIXED places nothing at 0.
        unsafe { start.cast().as_ref() }
    }

    fn list(&self) -> &IntentList {
        let start = NonNull::new(self.0.as_mut_ptr()).unwrap_or(NonNull::dangling());
        // SAFETY: as for the status; a list is no longer than the smallest page.
        unsafe { start.cast().as_ref() }
    }
}

impl OwnRecord {
    /// Notes what the word says, all of which is settled.
    pub(crate) fn note_last(&mut self) {
        let status = self.status.status().load();
        self.last = (status.round(), status.decision());
    }

    /// The commit that the word tells of.
    pub(crate) fn commit(&self) -> IntentRef {
        IntentRef::new(self.number, self.status.status().load().round())
    }
}

impl Record for OwnRecord {
    fn number(&self) -> u32 {
        self.number
    }

    fn status(&self) -> &StatusWord {
        self.status.status()
    }

    fn list(&self) -> &IntentList {
        self.list.list()
    }
}

/// Gives this process's records back: it may come to subscribe again, and has a bounded number.
impl Drop for Records {
    fn drop(&mut self) {
        let own = std::mem::take(&mut *self.own.lock());
        let mut own = own.into_iter().filter(|own| own.process.is_current());
        let Some(first) = own.next() else { return };
        // An unmounted daemon has forgotten them.
        let Ok(registry) = self.open(".kstate/registry", false) else {
            return;
        };
        for own in std::iter::once(first).chain(own) {
            let _ = errno::uninterrupted(|| call::release_record(&registry, own.number));
        }
    }
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}
