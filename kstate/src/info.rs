//! What the daemon knows of a state.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use kstate_sys::announce::Sinks;
use kstate_sys::ioctl::{self, call, info_flags, outcome};
use kstate_sys::name::{NameError, StateName};
use kstate_sys::region::Generation;

use crate::errno;
use crate::mount::MountError;
use crate::persist::Persistence;

/// A state as the daemon sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Info {
    /// The state's inode number.
    pub state_id: u64,
    /// The newest generation.
    pub generation: Generation,
    /// Time since the newest commit; `None` when never written or not stamped.
    pub age: Option<Duration>,
    /// Length of the newest version in bytes.
    pub length: u32,
    /// Room of the state in bytes.
    pub capacity: u32,
    /// The layout its first typed subscriber recorded.
    pub layout: Option<RecordedLayout>,
    /// Open descriptors, the one that asked included.
    pub subscribers: u32,
    /// Slot groups that writers have claimed, and files that programs without the library have open for
    /// writing.
    pub writers: u32,
    /// Processes that wait, plus descriptors polled.
    pub waiters: u32,
    /// How long the state outlives its last subscriber.
    pub linger: Duration,
    /// How long after a commit the next one is expected.
    pub deadline: Option<Duration>,
    /// Whether that has passed, or the last writer has gone.
    pub overdue: bool,
    /// Where commits are announced.
    pub announced: Sinks,
    /// Whether the sticky bit keeps the state until unmount.
    pub kept: bool,
    /// Whether the live page is kept fresh.
    pub armed: bool,
    /// What is in its file, if it is persistent.
    pub persistent: Option<Persistence>,
}

/// A layout as it was recorded with a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedLayout {
    /// See [`Layout::id`](crate::Layout::id).
    pub id: u64,
    /// See [`Layout::describe`](crate::Layout::describe); at most 960 bytes of it.
    pub text: String,
}

/// Why nothing can be said of a state.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InfoError {
    /// No state can have that name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The file system could not be used.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// There is none.
    #[error("there is no state `{name}`; `kstate ls` shows those there are")]
    NotFound {
        /// Its name.
        name: StateName,
    },
    /// The state may not be read.
    #[error("state `{name}` may not be read by this user; its owner can allow it with chmod")]
    Denied {
        /// Its name.
        name: StateName,
    },
    /// What the kernel or the daemon said.
    #[error("cannot ask about state `{name}`: {source}")]
    Io {
        /// Its name.
        name: StateName,
        /// The operating system's error.
        source: io::Error,
    },
}

/// Asks the daemon about the state open as `file`.
///
/// # Errors
///
/// What the daemon says.
///
/// # Cost
///
/// Two FUSE requests; four more of a persistent state.
pub(crate) fn ask(file: BorrowedFd<'_>) -> io::Result<Info> {
    let mut info = ioctl::Info::default();
    errno::uninterrupted(|| call::info(file, &mut info))?;
    let mut subscribe = ioctl::Subscribe::default();
    errno::uninterrupted(|| call::subscribe(file, &mut subscribe))?;
    let layout = match (subscribe.outcome, subscribe.layout_id) {
        (outcome::OK, id) if id != 0 => Some(RecordedLayout {
            id,
            text: subscribe.layout_text().unwrap_or("?").to_owned(),
        }),
        _ => None,
    };
    let has = |flag| info.flags & flag != 0;
    let kbus = has(info_flags::KBUS).then_some(Sinks::KBUS);
    let dbus = has(info_flags::DBUS).then_some(Sinks::DBUS);
    let persistent = match has(info_flags::PERSISTENT) {
        true => Some(Persistence::ask(file, Generation(info.durable))?),
        false => None,
    };
    Ok(Info {
        state_id: info.state_id,
        generation: Generation(info.generation),
        age: (info.age_ns != u64::MAX).then_some(Duration::from_nanos(info.age_ns)),
        length: info.length,
        capacity: info.capacity,
        layout,
        subscribers: info.subscribers,
        writers: info.writers,
        waiters: info.waiters,
        linger: Duration::from_millis(info.linger_ms),
        deadline: (info.deadline_ns != 0).then_some(Duration::from_nanos(info.deadline_ns)),
        overdue: has(info_flags::OVERDUE),
        announced: kbus.unwrap_or_default() | dbus.unwrap_or_default(),
        kept: has(info_flags::KEPT),
        armed: has(info_flags::ARMED),
        persistent,
    })
}
