//! Getting a slot group: a handle's right to write without asking.

use std::io;

use kstate_sys::abi::Class;
use kstate_sys::fork::Process;
use kstate_sys::name::StateName;
use kstate_sys::region::{Group, Memory, Notice, Writer};

use crate::errno::{self, Refusal};
use crate::reader::Reader;

/// Why a handle got no slots to write to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// The subscription is for reading.
    #[error("state `{name}` was subscribed to for reading; subscribe with `.write()`")]
    ReadOnly {
        /// The state's name.
        name: StateName,
    },
    /// All slot groups are taken.
    #[error("state `{name}` has 255 writing handles already, which is the bound; drop some")]
    TooManyWriters {
        /// The state's name.
        name: StateName,
    },
    /// The daemon's memory is used up.
    #[error(
        "no memory is left for one more writer of state `{name}`; delete states or enlarge the \
         daemon's tmpfs"
    )]
    NoSpace {
        /// The state's name.
        name: StateName,
    },
    /// The state was deleted.
    #[error("state `{name}` was deleted; subscribe again to create it anew")]
    Deleted {
        /// Its name.
        name: StateName,
    },
    /// Nobody is there to give a group out.
    #[error("the daemon of state `{name}` has died; run `kstate mount` and subscribe again")]
    DaemonDied {
        /// The state's name.
        name: StateName,
    },
    /// The daemon could not watch over this process, and so would not know of its end.
    #[error(
        "the daemon of state `{name}` cannot see this process, which is in another pid namespace \
         (a container's, perhaps); run `kstate mount` in this one, or share the host's"
    )]
    Unseen {
        /// The state's name.
        name: StateName,
    },
    /// What the kernel or the daemon said.
    #[error("cannot become a writer of state `{name}`: {source}")]
    Io {
        /// The state's name.
        name: StateName,
        /// The operating system's error.
        source: io::Error,
    },
}

/// A slot group of this process.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub(crate) writer: Writer,
    pub(crate) process: Process,
}

/// Claims a slot group for the calling process and makes its pages present.
///
/// # Errors
///
/// [`ClaimError`]; nothing is claimed then.
///
/// # Cost
///
/// One FUSE request.
pub(crate) fn claim<T>(reader: &Reader<T>) -> Result<Claimed, ClaimError> {
    let name = || reader.name().clone();
    if !reader.access().is_write() {
        return Err(ClaimError::ReadOnly { name: name() });
    }
    let claimed = || {
        let process = Process::current()?;
        let claim = reader.subscription().link().claim()?;
        let group = match u8::try_from(claim.group) {
            Ok(group) if group != Group::DAEMON.0 => Group(group),
            _ => return Err(errno::protocol_violation()),
        };
        let class = Class::from_raw(claim.class).ok_or_else(errno::protocol_violation)?;
        reader.grow(class).inspect_err(|_| release(reader, group))?;
        reader.current().populate_group(group, class);
        if reader.memory().header().notice().contains(Notice::ARMED) {
            reader.current().populate_live();
        }
        let writer = Writer::claimed(reader.memory(), group, class);
        Ok(Claimed { writer, process })
    };
    claimed().map_err(|source: io::Error| match errno::refusal(&source) {
        Refusal::TooManyWriters => ClaimError::TooManyWriters { name: name() },
        Refusal::NoSpace => ClaimError::NoSpace { name: name() },
        Refusal::Deleted => ClaimError::Deleted { name: name() },
        Refusal::DaemonDied => ClaimError::DaemonDied { name: name() },
        Refusal::WrongMode => ClaimError::ReadOnly { name: name() },
        Refusal::Unseen => ClaimError::Unseen { name: name() },
        _ => ClaimError::Io {
            name: name(),
            source,
        },
    })
}

/// Gives `group` back. The caller's process claimed it and writes through it no more.
pub(crate) fn release<T>(reader: &Reader<T>, group: Group) {
    reader.subscription().link().release(group);
}
