//! States whose values outlive the daemon, and the machine's power.

mod durable;
mod error;
mod figures;
mod file;
mod sync;

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use kstate_sys::ioctl::call;
use kstate_sys::persist::USUAL_WITHIN_NS;

pub use durable::DurableError;
pub use error::PersistError;
pub use figures::Persistence;
pub use sync::SyncError;

use crate::content::Content;
use crate::errno;
use crate::reader::Reader;
use file::Chosen;

/// How soon behind a commit its version is in the file of a persistent state.
///
/// It is the daemon that writes, beside the commits: none of them takes longer for it. For a commit that does
/// not return before its version is there, whatever was chosen here, see
/// [`State::publish_durable`](crate::State::publish_durable).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// In no more than so long: what a loss of power takes is no more than was committed in that time. Versions
    /// that others follow sooner are not written. A second, unless said otherwise.
    Within(Duration),
    /// As soon as can be, each time: as fast as the medium is.
    Each,
}

impl Default for Durability {
    fn default() -> Self {
        Self::Within(Duration::from_nanos(USUAL_WITHIN_NS))
    }
}

impl Durability {
    fn nanoseconds(self) -> u64 {
        match self {
            Self::Each => 0,
            // 0 would be something else.
            Self::Within(time) => u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1),
        }
    }
}

impl<T: Content> Reader<T> {
    /// Backs the state by the file at `path` from now on: the daemon writes its versions there, in no more than a
    /// second, and a daemon that finds the file gives the state its value again.
    ///
    /// The file is opened here, with the rights of this process, and created if it is absent; a symbolic link is
    /// not followed. One that is there holds this state already, or nothing; if it has a value and the state has
    /// none, the state gets it. The same file again is no error. The state stays without subscribers from now on,
    /// until it is [deleted](crate::State::delete).
    ///
    /// # Errors
    ///
    /// [`PersistError`]; the state is then as it was, and a file that this would have created is not there.
    ///
    /// # Cost
    ///
    /// Some milliseconds: room is made in the file, and the medium waited for.
    pub fn set_persistent(&self, path: impl AsRef<Path>) -> Result<(), PersistError> {
        self.set_persistent_so(path, Durability::default())
    }

    /// As [`set_persistent`](Self::set_persistent), with another durability than the usual.
    ///
    /// # Errors
    ///
    /// As [`set_persistent`](Self::set_persistent).
    pub fn set_persistent_so(
        &self,
        path: impl AsRef<Path>,
        durability: Durability,
    ) -> Result<(), PersistError> {
        let subscription = self.subscription();
        let owner = subscription.request(file::owner_of);
        let opened = owner.and_then(|owner| Chosen::open(path.as_ref(), owner));
        let about = error::About {
            name: self.name(),
            path: path.as_ref(),
        };
        let chosen = opened.map_err(|source| about.cannot_open(source))?;
        let asked = subscription.request(|state: BorrowedFd<'_>| {
            file::ask(
                state,
                chosen.file.as_fd(),
                &chosen.path,
                durability.nanoseconds(),
            )
        });
        let refused = match asked.map(|answer| about.refused(answer)) {
            Ok(Ok(())) => {
                subscription.note_persistent();
                return Ok(());
            }
            Ok(Err(refused)) => refused,
            Err(source) => about.not_asked(source),
        };
        chosen.remove_if_created();
        Err(refused)
    }

    /// How soon behind a commit its version is to be in the file of this persistent state, from now on.
    ///
    /// # Errors
    ///
    /// [`PersistError::NotPersistent`], [`PersistError::NotOwner`] and what a daemon may not do.
    ///
    /// # Cost
    ///
    /// One FUSE request.
    pub fn set_durability(&self, durability: Durability) -> Result<(), PersistError> {
        let nanoseconds = durability.nanoseconds();
        let set = |state: BorrowedFd<'_>| call::set_durability(state, nanoseconds);
        self.subscription().request(set).map_err(|source| {
            let name = self.name().clone();
            match errno::refusal(&source) {
                errno::Refusal::NotOurs => PersistError::NotPersistent { name },
                errno::Refusal::Denied => PersistError::NotOwner { name },
                errno::Refusal::Deleted => PersistError::Deleted { name },
                errno::Refusal::DaemonDied => PersistError::DaemonDied { name },
                _ => PersistError::Io { name, source },
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_time_is_taken_for_each() {
        assert_eq!(Durability::Within(Duration::ZERO).nanoseconds(), 1);
        assert_eq!(Durability::Each.nanoseconds(), 0);
        assert_eq!(Durability::default().nanoseconds(), 1_000_000_000);
        assert_eq!(Durability::Within(Duration::MAX).nanoseconds(), u64::MAX);
    }
}
