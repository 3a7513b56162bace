//! Ending a state for everybody.

use std::os::unix::fs::MetadataExt;

use crate::content::Content;
use crate::errno::{self, Refusal};
use crate::mount::{MountError, RemoveError};
use crate::state::State;

impl<T: Content> State<T> {
    /// Deletes the state, with its value; the file of a persistent one stays, with the last value.
    ///
    /// The handles of this process are no reason against it. From then on each use of them is an error that says
    /// so: reading as well as publishing, committing, beginning, waiting; and of views and notifiers. What lies at
    /// a [live pointer](crate::Live) stays as it is. The name is free.
    ///
    /// # Errors
    ///
    /// [`RemoveError`]; in particular [`RemoveError::Subscribed`] while another process is subscribed. The state is
    /// unchanged then, and so is this handle.
    ///
    /// # Cost
    ///
    /// Two FUSE requests; of a persistent state one write to its file.
    pub fn delete(&self) -> Result<(), RemoveError> {
        let link = self.subscription().link();
        let identity = link.identity();
        let path = identity.root.join(identity.name.as_str());
        let deleted = self.subscription().request(|state| {
            // What has taken its name is not meant.
            let ours = nix::sys::stat::fstat(state)?;
            let there = std::fs::symlink_metadata(&path)?;
            match (there.dev(), there.ino()) == (ours.st_dev, ours.st_ino) && !self.is_deleted() {
                true => std::fs::remove_file(&path),
                false => Err(errno::deleted()),
            }
        });
        let name = || identity.name.clone();
        deleted.map_err(|source| match errno::refusal(&source) {
            Refusal::NotFound | Refusal::Deleted => RemoveError::NotFound { name: name() },
            Refusal::Busy => RemoveError::Subscribed { name: name() },
            Refusal::Denied => RemoveError::Denied { name: name() },
            Refusal::DaemonDied => MountError::DaemonDied {
                path: identity.root.clone(),
            }
            .into(),
            _ => RemoveError::Io {
                name: name(),
                source,
            },
        })
    }
}
