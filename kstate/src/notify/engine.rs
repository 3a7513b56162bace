//! The ways of a notifier, behind one face.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::entry::{Entry, Look};
use super::files::Files;
use super::uring::Uring;
use super::waitv::Waitv;
use super::{NotifyBy, NotifyError};

/// What makes the descriptor readable.
#[derive(Debug)]
pub(super) enum Engine {
    Uring(Box<Uring>),
    Waitv(Waitv),
    Files(Files),
}

impl Engine {
    pub(super) fn new(by: NotifyBy) -> io::Result<Self> {
        Ok(match by {
            NotifyBy::Uring => Self::Uring(Box::new(Uring::new()?)),
            NotifyBy::Thread => Self::Waitv(Waitv::new()?),
            NotifyBy::Files => Self::Files(Files::new()?),
        })
    }

    pub(super) fn first() -> io::Result<Self> {
        Self::new(NotifyBy::Uring)
            .or_else(|_| Self::new(NotifyBy::Thread))
            .or_else(|_| Self::new(NotifyBy::Files))
    }

    pub(super) fn by(&self) -> NotifyBy {
        match self {
            Self::Uring(_) => NotifyBy::Uring,
            Self::Waitv(_) => NotifyBy::Thread,
            Self::Files(_) => NotifyBy::Files,
        }
    }

    /// Has the descriptor readable when there is something to see of an entry behind `look`.
    pub(super) fn arm(
        &mut self,
        id: u64,
        entry: &mut Entry,
        look: Look,
    ) -> Result<(), NotifyError> {
        match self {
            Self::Uring(uring) => uring.arm(id, entry, look),
            Self::Waitv(waitv) => waitv.arm(id, entry, look),
            Self::Files(files) => files.arm(id, entry, look),
        }
    }

    pub(super) fn disarm(&mut self, id: u64) {
        match self {
            Self::Uring(uring) => uring.disarm(id),
            Self::Waitv(waitv) => waitv.disarm(id),
            Self::Files(files) => files.disarm(id),
        }
    }

    /// Hands over what was armed; `false` if some of it is left for another time.
    pub(super) fn submit(&mut self) -> io::Result<bool> {
        match self {
            Self::Uring(uring) => uring.submit(),
            Self::Waitv(_) | Self::Files(_) => Ok(true),
        }
    }

    /// Takes the entries to look whether the daemon wakes them, and of which it is known that it did
    /// not.
    pub(super) fn unwoken(&mut self) -> Vec<(u64, bool)> {
        match self {
            Self::Uring(uring) => uring.unwoken(),
            Self::Waitv(_) | Self::Files(_) => Vec::new(),
        }
    }

    /// Has the descriptor readable, for something that must be tried again.
    pub(super) fn again(&mut self) {
        match self {
            Self::Uring(uring) => uring.again(),
            Self::Waitv(waitv) => waitv.again(),
            Self::Files(files) => files.again(),
        }
    }

    /// Takes the entries to look at.
    pub(super) fn fired(&mut self, into: &mut Vec<u64>) -> io::Result<()> {
        match self {
            Self::Uring(uring) => uring.fired(into),
            Self::Waitv(waitv) => waitv.fired(into),
            Self::Files(files) => files.fired(into),
        }
    }
}

impl AsFd for Engine {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Uring(uring) => uring.as_fd(),
            Self::Waitv(waitv) => waitv.as_fd(),
            Self::Files(files) => files.as_fd(),
        }
    }
}
