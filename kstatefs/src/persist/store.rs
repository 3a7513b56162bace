//! The file of one state while the state lives: how far it has been written, and who waits for that.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kstate_sys::region::Generation;

use super::{Image, LockedFile, StateFile};
use crate::errno::Errno;

/// How many generations further than the newest one a file allows for: those that may be given out before
/// it is written again. Twenty minutes of commits as fast as they can be, and 100 000 power cuts before numbers are used up.
const AHEAD: u64 = 1 << 36;

/// Told once the version that was waited for is on the medium, with the generation that is, or why it is not.
pub(crate) type Done = Box<dyn FnOnce(Result<Generation, Errno>) + Send>;

/// A state's file.
pub(crate) struct Store {
    path: PathBuf,
    /// Device and inode number.
    identity: (u64, u64),
    /// Nanoseconds behind a commit within which it is written; 0 for as soon as can be.
    within_ns: AtomicU64,
    /// The newest generation that is on the medium.
    durable: AtomicU64,
    /// Counts changes of what is kept besides the value.
    changes: AtomicU64,
    flushes: AtomicU64,
    bytes: AtomicU64,
    errors: AtomicU64,
    /// The last flush failed.
    fails: AtomicBool,
    file: Mutex<Written>,
    waiting: Mutex<Vec<(Generation, Done)>>,
}

/// What was written last.
struct Written {
    /// None when the state has let go of it.
    file: Option<StateFile<LockedFile>>,
    /// The value of `changes` then.
    changes: u64,
    /// Whether the file says that it came to an orderly end.
    clean: bool,
}

/// What has been written of a state since it got its file.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) flushes: u64,
    pub(crate) bytes: u64,
    pub(crate) errors: u64,
}

impl std::ops::AddAssign for Figures {
    fn add_assign(&mut self, other: Self) {
        self.flushes += other.flushes;
        self.bytes += other.bytes;
        self.errors += other.errors;
    }
}

impl Store {
    /// Of a file that has just been written with the version `durable`, and is not `clean`.
    pub(crate) fn new(
        path: PathBuf,
        identity: (u64, u64),
        file: StateFile<LockedFile>,
        within: Duration,
        durable: Generation,
    ) -> Self {
        let store = Self {
            path,
            identity,
            within_ns: AtomicU64::new(0),
            durable: AtomicU64::new(durable.0),
            changes: AtomicU64::new(1),
            flushes: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            fails: AtomicBool::new(false),
            file: Mutex::new(Written {
                file: Some(file),
                changes: 0,
                clean: true,
            }),
            waiting: Mutex::default(),
        };
        store.set_within(within);
        store
    }

    /// Where the file is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Device and inode number of the file.
    pub(crate) fn identity(&self) -> (u64, u64) {
        self.identity
    }

    /// How soon behind a commit its version is to be in the file; zero for as soon as can be.
    pub(crate) fn within(&self) -> Duration {
        Duration::from_nanos(self.within_ns.load(Ordering::Relaxed))
    }

    pub(crate) fn set_within(&self, within: Duration) {
        let ns = u64::try_from(within.as_nanos()).unwrap_or(u64::MAX);
        self.within_ns.store(ns, Ordering::Relaxed);
        self.touch();
    }

    /// Something that is kept besides the value has changed.
    pub(crate) fn touch(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// The newest generation that is on the medium.
    pub(crate) fn durable(&self) -> Generation {
        Generation(self.durable.load(Ordering::Acquire))
    }

    pub(crate) fn figures(&self) -> Figures {
        Figures {
            flushes: self.flushes.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
        }
    }

    /// Has `done` called once `generation` is on the medium, which the next flush sees to.
    pub(crate) fn await_durable(&self, generation: Generation, done: Done) {
        self.waiting().push((generation, done));
    }

    /// Whether there is anything to write, be it only that it is the end.
    pub(crate) fn is_behind(&self, newest: Generation, end: bool) -> bool {
        let written = self.written();
        let changes = self.changes.load(Ordering::Relaxed);
        newest != self.durable() || changes != written.changes || (end && !written.clean)
    }

    /// Writes `image`, its ceiling and end filled in; tells those who waited for it, or that it failed.
    ///
    /// # Errors
    ///
    /// What the medium says; the file has the last version that it had.
    pub(crate) fn save(&self, mut image: Image, end: bool) -> Result<(), Errno> {
        let mut written = self.written();
        // Another thread has written a later one since this was read.
        if image.generation < self.durable().0 {
            return Ok(());
        }
        let changes = self.changes.load(Ordering::Relaxed);
        image.clean = end;
        image.ceiling = ceiling(image.generation, end);
        let Some(file) = &mut written.file else {
            // Let go of, with what was newest then.
            drop(written);
            self.refuse(Errno::ESTALE);
            return Ok(());
        };
        match file.save(&image) {
            Ok(bytes) => {
                written.changes = changes;
                written.clean = end;
                self.fails.store(false, Ordering::Relaxed);
                self.flushes.fetch_add(1, Ordering::Relaxed);
                self.bytes.fetch_add(bytes, Ordering::Relaxed);
                // ORDERING: Release with `durable`: who sees the number finds the file written.
                self.durable.store(image.generation, Ordering::Release);
                if end {
                    // Nothing is written behind the last version.
                    written.file = None;
                }
                drop(written);
                self.tell();
                Ok(())
            }
            Err(error) => {
                drop(written);
                let errno = Errno::from(error);
                self.fail(errno);
                Err(errno)
            }
        }
    }

    /// Whether so many generations were given out since the last flush that the next must not wait.
    pub(crate) fn needs_room(&self, newest: Generation) -> bool {
        newest.0.saturating_sub(self.durable().0) > AHEAD / 2
    }

    /// Whether a flush is not to wait for its time: somebody waits for it, or the last one failed.
    pub(crate) fn is_urgent(&self) -> bool {
        self.fails.load(Ordering::Relaxed) || !self.waiting().is_empty()
    }

    /// Makes the file another user's, as the state is.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(crate) fn give_to(&self, uid: u32, gid: u32) -> std::io::Result<()> {
        match &self.written().file {
            Some(file) => file.medium().give_to(uid, gid),
            None => Ok(()),
        }
    }

    /// Lets go of the file, which another daemon or state may have then.
    pub(crate) fn close(&self) {
        self.written().file = None;
    }

    /// Tells those whose version is on the medium.
    pub(crate) fn tell(&self) {
        let durable = self.durable();
        let ready: Vec<_> = self
            .waiting()
            .extract_if(.., |(wanted, _)| *wanted <= durable)
            .collect();
        for (_, done) in ready {
            done(Ok(durable));
        }
    }

    /// Counts a flush that failed, and tells all who wait.
    pub(crate) fn fail(&self, errno: Errno) {
        self.fails.store(true, Ordering::Relaxed);
        self.errors.fetch_add(1, Ordering::Relaxed);
        self.refuse(errno);
    }

    /// Tells all who wait that it will not be.
    pub(crate) fn refuse(&self, errno: Errno) {
        let waiting = std::mem::take(&mut *self.waiting());
        for (_, done) in waiting {
            done(Err(errno));
        }
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<(Generation, Done)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("path", &self.path)
            .field("durable", &self.durable())
            .finish_non_exhaustive()
    }
}

/// Up to which generation versions may be given out before the file is written again.
pub(crate) fn ceiling(generation: u64, end: bool) -> u64 {
    match end {
        true => generation,
        false => generation.saturating_add(AHEAD),
    }
}
