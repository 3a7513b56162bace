//! Having a state's commits announced outside.

use std::io;
use std::os::fd::BorrowedFd;

use kstate_sys::announce::Sinks;
use kstate_sys::ioctl::call;
use kstate_sys::name::StateName;

use crate::content::Content;
use crate::errno::{self, Refusal};
use crate::reader::Reader;

/// Why a state is announced as before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnnounceError {
    /// Only the owner decides who is told.
    #[error("only the owner of state `{name}` can choose where it is announced")]
    NotOwner {
        /// Its name.
        name: StateName,
    },
    /// The file system was mounted without that sink.
    #[error(
        "state `{name}` cannot be announced on {sinks}: its file system was mounted without; \
         whoever mounts it gives --kbus DEVICE or --dbus BUS"
    )]
    NoSink {
        /// Its name.
        name: StateName,
        /// What was asked for.
        sinks: Sinks,
    },
    /// KBUS knows no such name.
    #[error(
        "state `{name}` cannot be announced on KBUS, whose names have only letters, digits and \
         dots; give it a name without `_` and `-`"
    )]
    Name {
        /// Its name.
        name: StateName,
    },
    /// What the kernel or the daemon said.
    #[error("cannot choose where state `{name}` is announced: {source}")]
    Io {
        /// Its name.
        name: StateName,
        /// The operating system's error.
        source: io::Error,
    },
}

impl<T: Content> Reader<T> {
    /// Has commits announced there from now on, and only there: a message on KBUS or a signal on D-Bus
    /// after each, or one for several that come faster than they can be announced, which tells of the
    /// newest. The last one is never left out. It is the daemon that does it, after the commit and off
    /// its path; what a sink does not take is dropped, and counted in `.kstate/metrics`.
    ///
    /// The choice is the state's, whoever has made it, and ends with the state.
    ///
    /// # Errors
    ///
    /// [`AnnounceError`]; nothing has changed then.
    ///
    /// # Cost
    ///
    /// One FUSE request. An announced state has somebody who waits: each commit makes one system call.
    pub fn announce(&self, sinks: Sinks) -> Result<(), AnnounceError> {
        let set = |descriptor: BorrowedFd<'_>| call::set_announce(descriptor, sinks.bits());
        self.subscription().request(set).map_err(|source| {
            let name = self.name().clone();
            match errno::refusal(&source) {
                Refusal::Denied => AnnounceError::NotOwner { name },
                // A daemon that knows no announcements has no sinks either.
                Refusal::NotOurs => AnnounceError::NoSink { name, sinks },
                Refusal::Invalid => AnnounceError::Name { name },
                _ => AnnounceError::Io { name, source },
            }
        })
    }
}
