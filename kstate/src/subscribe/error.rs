//! Why there is no subscription.

use std::io;
use std::time::Duration;

use kstate_sys::access::Access;
use kstate_sys::name::{NameError, StateName};

use crate::announce::AnnounceError;
use crate::claim::ClaimError;
use crate::mount::MountError;
use crate::persist::PersistError;
use crate::wait::WaitError;

/// Why there is no subscription.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The file system could not be used.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// No state can have that name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// There is no such state, and it was not to be created.
    #[error(
        "there is no state `{name}`; start its publisher first, wait for it, or let the \
         subscription create it"
    )]
    NotFound {
        /// Its name.
        name: StateName,
    },
    /// Nobody created the state and wrote to it in time.
    #[error("nobody wrote to state `{name}` within {waited:?}; is its publisher running?")]
    TimedOut {
        /// Its name.
        name: StateName,
        /// How long was waited.
        waited: Duration,
    },
    /// A signal handler ran during the wait.
    #[error("the wait for state `{name}` was interrupted by a signal")]
    Interrupted {
        /// Its name.
        name: StateName,
    },
    /// The mode bits of the state do not allow it.
    #[error(
        "state `{name}` may not be opened to {verb} by this user; its owner can allow it with \
         chmod",
        verb = if access.is_write() { "write" } else { "read" }
    )]
    Denied {
        /// Its name.
        name: StateName,
        /// What was asked for.
        access: Access,
    },
    /// Only the owner decides how long a state lives.
    #[error("only the owner of state `{name}` can have it kept, let it linger or set its deadline")]
    NotOwner {
        /// Its name.
        name: StateName,
    },
    /// Another layout is recorded with the state.
    #[error(
        "state `{name}` holds {found} (layout {found_id:#018x}), this program expects {expected} \
         (layout {expected_id:#018x}); use one definition, or another state"
    )]
    Layout {
        /// The state's name.
        name: StateName,
        /// Description of the layout recorded with the state.
        found: String,
        /// Its id.
        found_id: u64,
        /// Description of the layout asked for.
        expected: String,
        /// Its id.
        expected_id: u64,
    },
    /// The daemon is of another version.
    #[error(
        "the daemon speaks ABI version {daemon}, this program version {library}; run a daemon \
         and programs of one version"
    )]
    AbiVersion {
        /// The daemon's version.
        daemon: u32,
        /// This library's version.
        library: u32,
    },
    /// More than a state can have.
    #[error("state `{name}` was asked to hold {wanted} bytes; a state holds at most {page}")]
    TooBig {
        /// The state's name.
        name: StateName,
        /// Bytes wanted.
        wanted: u32,
        /// The machine's page, in bytes.
        page: u32,
    },
    /// The daemon's memory is used up.
    #[error("no memory is left for state `{name}`; delete states or enlarge the daemon's tmpfs")]
    NoSpace {
        /// The state's name.
        name: StateName,
    },
    /// The daemon has a mapping for each state, and may have no more of them or of descriptors.
    #[error(
        "the daemon has no descriptor or mapping left for state `{name}`; delete states, or raise its limit of open \
         files or vm.max_map_count"
    )]
    Full {
        /// The state's name.
        name: StateName,
    },
    /// It was to be written, and there are no slots to write to.
    #[error(transparent)]
    Claim(ClaimError),
    /// It cannot be announced as was asked.
    #[error(transparent)]
    Announce(#[from] AnnounceError),
    /// It cannot be kept in a file as was asked.
    #[error(transparent)]
    Persist(#[from] PersistError),
    /// The file belongs to no daemon.
    #[error("`{name}` is a file that no kstate daemon serves")]
    NotKstate {
        /// The state's name.
        name: StateName,
    },
    /// The first version could not be waited for.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// What the kernel or the daemon said.
    #[error("cannot subscribe to state `{name}`: {source}")]
    Io {
        /// The state's name.
        name: StateName,
        /// The operating system's error.
        source: io::Error,
    },
}

/// No memory is one error, whichever request found it missing.
impl From<ClaimError> for SubscribeError {
    fn from(error: ClaimError) -> Self {
        match error {
            ClaimError::NoSpace { name } => Self::NoSpace { name },
            error => Self::Claim(error),
        }
    }
}
