//! Waiting until a version is in the state's file for good.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use kstate_sys::futex::Deadline;
use kstate_sys::ioctl::call;
use kstate_sys::name::StateName;
use kstate_sys::region::Generation;

use crate::errno::{self, Refusal};
use crate::reader::{Reader, Untyped};
use crate::sleep;

/// How long a daemon that dies while it is asked is waited for, as another may take its states over.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked whether it is there.
const LOOK: Duration = Duration::from_millis(20);

/// Why a version is not known to be in a file for good. The state is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SyncError {
    /// There is no file.
    #[error("state `{name}` is not persistent; make it so with a file first")]
    NotPersistent {
        /// The state's name.
        name: StateName,
    },
    /// Nobody has committed it yet.
    #[error(
        "state `{name}` has no version {generation} yet, which could be written; commit it first"
    )]
    NotThere {
        /// The state's name.
        name: StateName,
        /// The generation.
        generation: Generation,
    },
    /// The state was deleted.
    #[error("state `{name}` was deleted, and is not kept in a file any more")]
    Deleted {
        /// Its name.
        name: StateName,
    },
    /// Nobody is there to write.
    #[error(
        "the daemon of state `{name}` has died, which would have written its versions; run `kstate \
         mount`"
    )]
    DaemonDied {
        /// The state's name.
        name: StateName,
    },
    /// What the file's medium or the daemon said.
    #[error("the file of state `{name}` cannot be written: {source}")]
    Io {
        /// The state's name.
        name: StateName,
        /// The operating system's error.
        source: io::Error,
    },
}

impl<T> Reader<T> {
    /// Waits until the version that is the newest now, or a later one, is in the state's file for good, and says
    /// which is.
    ///
    /// # Errors
    ///
    /// [`SyncError`].
    ///
    /// # Cost
    ///
    /// As [`sync_to`](Self::sync_to).
    pub fn sync(&self) -> Result<Generation, SyncError> {
        self.sync_to(self.generation())
    }

    /// Waits until the version of `generation`, or a later one, is in the state's file for good, and says which
    /// is.
    ///
    /// A signal handler does not end it, as it does not end `fsync(2)`. A daemon that dies meanwhile is waited for
    /// some seconds, and the one that follows asked again.
    ///
    /// # Errors
    ///
    /// [`SyncError`]: the version may be in the file, or not.
    ///
    /// # Cost
    ///
    /// One FUSE request, which lasts until the medium has answered, and less if others have waited for it.
    pub fn sync_to(&self, generation: Generation) -> Result<Generation, SyncError> {
        sync_to(self.as_of(), generation)
    }
}

/// As [`Reader::sync_to`].
pub(super) fn sync_to(
    reader: &Reader<Untyped>,
    generation: Generation,
) -> Result<Generation, SyncError> {
    let subscription = reader.subscription();
    let mut durable = generation.0;
    let mut ask = |state: BorrowedFd<'_>| {
        durable = generation.0;
        call::sync(state, &mut durable)
    };
    let mut asked = errno::uninterrupted(|| ask(subscription.descriptor()));
    // Without one at the beginning there is nothing to wait for.
    let patience = match &asked {
        Err(error) if errno::is_cut_off(error) => PATIENCE,
        _ => Duration::ZERO,
    };
    let until = Deadline::after(patience);
    while let Err(error) = &asked
        && errno::refusal(error) == Refusal::DaemonDied
    {
        asked = subscription.request(&mut ask);
        match &asked {
            Err(error) if errno::may_come_back(error) && !until.has_passed() => {
                // A signal shortens it, and no more.
                sleep::for_time(Deadline::after(LOOK), None);
            }
            _ => break,
        }
    }
    let name = || reader.name().clone();
    match asked {
        Ok(()) => {
            subscription.note_persistent();
            Ok(Generation(durable))
        }
        Err(source) => Err(match errno::refusal(&source) {
            Refusal::NotOurs => SyncError::NotPersistent { name: name() },
            Refusal::Deleted => SyncError::Deleted { name: name() },
            Refusal::Invalid => SyncError::NotThere {
                name: name(),
                generation,
            },
            Refusal::DaemonDied => SyncError::DaemonDied { name: name() },
            _ => SyncError::Io {
                name: name(),
                source,
            },
        }),
    }
}
