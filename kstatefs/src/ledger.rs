//! What a daemon notes in its private directory, so that the one after it can take its states over when it
//! was killed: which states there are, and who holds what of them.
//!
//! What the regions themselves say is not noted, and what they say is not believed where a daemon decides:
//! whoever may write a state can write anything there.
//!
//! Lock order: the ledger's lock comes last of all.

mod event;
mod file;
mod label;
mod model;
mod wire;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

pub(crate) use event::{Event, Head};
pub(crate) use label::{Label, VERSION};
pub(crate) use model::{GroupNote, Model, StateNote};

use file::LedgerFile;

/// The ledger of a mount, or none where nobody will take over.
#[derive(Debug)]
pub(crate) struct Ledger {
    kept: Option<Mutex<Kept>>,
    /// Left to another daemon: nothing is noted any more, and nothing may go.
    left: AtomicBool,
}

#[derive(Debug)]
struct Kept {
    file: LedgerFile,
    model: Model,
}

impl Ledger {
    /// None: all that is noted is forgotten.
    pub(crate) fn none() -> Self {
        Self {
            kept: None,
            left: AtomicBool::new(false),
        }
    }

    /// A fresh one in `directory`.
    ///
    /// # Errors
    ///
    /// `ENOSPC`, and what else the kernel says.
    pub(crate) fn create(directory: &Path, head: Head) -> io::Result<Self> {
        let model = Model::new(head);
        let file = LedgerFile::create(directory, &model)?;
        Ok(Self::of(Kept { file, model }))
    }

    /// That of a dead daemon in `directory`; what holds for the mount as a whole is as `change` has it from
    /// now on.
    ///
    /// # Errors
    ///
    /// `InvalidData` for one that is damaged or of another version, and what the kernel says.
    pub(crate) fn resume(directory: &Path, change: impl FnOnce(&mut Head)) -> io::Result<Self> {
        let (file, model) = LedgerFile::open(directory)?;
        let mut head = model.head.clone();
        change(&mut head);
        let ledger = Self::of(Kept { file, model });
        // On a tmpfs that is full there is room for it in the old file.
        ledger.note_end(Event::Head(head));
        Ok(ledger)
    }

    /// What is noted in `directory`, for who only looks.
    ///
    /// # Errors
    ///
    /// As [`Ledger::resume`].
    pub(crate) fn look(directory: &Path) -> io::Result<Model> {
        LedgerFile::look(directory)
    }

    /// Whose the one in `directory` is, of whatever version.
    ///
    /// # Errors
    ///
    /// `InvalidData` when it does not say so, and what the kernel says.
    pub(crate) fn label(directory: &Path) -> io::Result<Label> {
        LedgerFile::label(directory)
    }

    /// Whether there is one in `directory`, in whatever shape.
    pub(crate) fn is_in(directory: &Path) -> bool {
        LedgerFile::is_in(directory)
    }

    /// When something was noted last in `directory`.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(crate) fn modified(directory: &Path) -> io::Result<SystemTime> {
        LedgerFile::modified(directory)
    }

    /// Has the one in `directory` be noted in just now.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(crate) fn touch(directory: &Path) -> io::Result<()> {
        LedgerFile::touch(directory)
    }

    /// Removes the one in `directory`, so that nobody takes over what is being removed.
    pub(crate) fn remove(directory: &Path) {
        LedgerFile::remove(directory);
    }

    fn of(kept: Kept) -> Self {
        Self {
            kept: Some(Mutex::new(kept)),
            left: AtomicBool::new(false),
        }
    }

    /// Notes what begins or changes, before anybody is told of it.
    ///
    /// # Errors
    ///
    /// `ENOSPC`; `ENOTCONN` once the mount is left to another daemon. Nothing was noted then.
    ///
    /// # Cost
    ///
    /// One `write` of some tens of bytes, 1 to 2 microseconds.
    pub(crate) fn note(&self, event: Event) -> io::Result<()> {
        let Some(mut kept) = self.lock() else {
            return Ok(());
        };
        if self.is_left() {
            return Err(io::Error::from_raw_os_error(libc::ENOTCONN));
        }
        let kept = &mut *kept;
        kept.file.append(&event, &kept.model)?;
        kept.model.apply(event);
        kept.file.shorten(&kept.model);
        Ok(())
    }

    /// Notes the end of something, for which there is always room.
    pub(crate) fn note_end(&self, event: Event) {
        let Some(mut kept) = self.lock() else { return };
        if self.is_left() {
            return;
        }
        let kept = &mut *kept;
        if let Err(error) = kept.file.append_end(&event) {
            tracing::error!(%error, ?event, "not noted for a later daemon");
        }
        kept.model.apply(event);
        kept.file.shorten(&kept.model);
    }

    /// Of the device numbers it was mounted under only these count any more.
    pub(crate) fn keep_minors(&self, kept: impl Fn(u64) -> bool) {
        if let Some(mut held) = self.lock() {
            held.model.head.minors.retain(|minor| kept(*minor));
        }
    }

    /// What it says, where there is one.
    pub(crate) fn model<R>(&self, look: impl FnOnce(&Model) -> R) -> Option<R> {
        self.lock().map(|kept| look(&kept.model))
    }

    /// Notes nothing from now on: another daemon is to find it as it is.
    pub(crate) fn leave(&self) {
        // Whoever notes something has the lock.
        let _kept = self.lock();
        self.left.store(true, Ordering::Relaxed);
    }

    /// Whether it was left. Then states must not go either.
    pub(crate) fn is_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }

    fn lock(&self) -> Option<MutexGuard<'_, Kept>> {
        let kept = self.kept.as_ref()?;
        Some(kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
