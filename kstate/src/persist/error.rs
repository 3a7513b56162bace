//! Why a state is not backed by a file.

use std::io;
use std::path::{Path, PathBuf};

use kstate_sys::name::StateName;
use kstate_sys::persist::{Answer, outcome};

use crate::errno::{self, Refusal};

/// Why a state is not backed by a file, or not as was asked. It is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PersistError {
    /// Only the owner decides.
    #[error("only the owner of state `{name}` and root can have it kept in a file")]
    NotOwner {
        /// The state's name.
        name: StateName,
    },
    /// It is in none.
    #[error("state `{name}` is not persistent; make it so with a file first")]
    NotPersistent {
        /// The state's name.
        name: StateName,
    },
    /// It is in another one.
    #[error(
        "state `{name}` was to be kept in {path}, and is kept in another file already; `kstate \
         persist {name}` says in which",
        path = path.display()
    )]
    OtherFile {
        /// The state's name.
        name: StateName,
        /// The file asked for.
        path: PathBuf,
    },
    /// Nothing that can hold it.
    #[error(
        "state `{name}` cannot be kept in {path}: that is no regular file, or no path leads to it; \
         name a file, or one to be created, in a directory of a disk",
        path = path.display()
    )]
    NoFile {
        /// The state's name.
        name: StateName,
        /// The file asked for.
        path: PathBuf,
    },
    /// It would have to hold itself.
    #[error(
        "state `{name}` cannot be kept in {path}, which is in the file system of the states itself; \
         name a file on a disk",
        path = path.display()
    )]
    OnTheMount {
        /// The state's name.
        name: StateName,
        /// The file asked for.
        path: PathBuf,
    },
    /// Another state is in it.
    #[error(
        "state `{name}` cannot be kept in {path}: another state is, of this mount or another; name \
         another file",
        path = path.display()
    )]
    InUse {
        /// The state's name.
        name: StateName,
        /// The file asked for.
        path: PathBuf,
    },
    /// Something else is in it.
    #[error(
        "state `{name}` cannot be kept in {path}, which holds something that is no state; name \
         another file, or empty it",
        path = path.display()
    )]
    NotEmpty {
        /// The state's name.
        name: StateName,
        /// The file asked for.
        path: PathBuf,
    },
    /// No copy in it is whole. It stays as it is.
    #[error(
        "state `{name}` cannot be kept in {path}: a state was, and none of its two copies is whole; \
         bring back a backup, or move it away",
        path = path.display()
    )]
    Damaged {
        /// The state's name.
        name: StateName,
        /// The file asked for.
        path: PathBuf,
    },
    /// It was written by another version.
    #[error(
        "state `{name}` cannot be kept in {path}, which a daemon of another version has written; use \
         that one, or another file",
        path = path.display()
    )]
    Version {
        /// The state's name.
        name: StateName,
        /// The file asked for.
        path: PathBuf,
    },
    /// It is the file of a state with another name.
    #[error(
        "state `{name}` cannot be kept in {path}, which is the file of a state with another name; \
         name another file, or subscribe to that state",
        path = path.display()
    )]
    OtherState {
        /// The state's name.
        name: StateName,
        /// The file asked for.
        path: PathBuf,
    },
    /// Both have a value.
    #[error(
        "state `{name}` has a value, and so has the file {path}; make it persistent before it is \
         written, or name another file",
        path = path.display()
    )]
    TwoValues {
        /// The state's name.
        name: StateName,
        /// The file asked for.
        path: PathBuf,
    },
    /// The value in it has another layout.
    #[error(
        "the value in {path} has another layout than state `{name}`; use the definition it was \
         written with, or another file",
        path = path.display()
    )]
    Layout {
        /// The state's name.
        name: StateName,
        /// The file asked for.
        path: PathBuf,
    },
    /// It is somebody else's.
    #[error(
        "state `{name}` cannot be kept in {path}, which its owner does not own; chown the file, or \
         name another",
        path = path.display()
    )]
    OtherOwner {
        /// The state's name.
        name: StateName,
        /// The file asked for.
        path: PathBuf,
    },
    /// This process cannot open it.
    #[error(
        "state `{name}` cannot be kept in {path}: {source}",
        path = path.display()
    )]
    Open {
        /// The state's name.
        name: StateName,
        /// The file asked for.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The state was deleted.
    #[error("state `{name}` was deleted; subscribe again to create it anew")]
    Deleted {
        /// Its name.
        name: StateName,
    },
    /// Nobody is there to write a file.
    #[error("the daemon of state `{name}` has died; run `kstate mount`")]
    DaemonDied {
        /// The state's name.
        name: StateName,
    },
    /// What the kernel, the daemon or the file's medium said.
    #[error("state `{name}` was not made persistent: {source}")]
    Io {
        /// The state's name.
        name: StateName,
        /// The operating system's error.
        source: io::Error,
    },
}

/// What was asked, for the message.
#[derive(Clone, Copy, Debug)]
pub(super) struct About<'a> {
    pub(super) name: &'a StateName,
    pub(super) path: &'a Path,
}

impl About<'_> {
    /// What the daemon has answered.
    pub(super) fn refused(self, answer: Answer) -> Result<(), PersistError> {
        let (name, path) = (self.name.clone(), self.path.to_owned());
        Err(match answer.outcome {
            outcome::OK if answer.errno == 0 => return Ok(()),
            outcome::NOT_OWNER => PersistError::NotOwner { name },
            outcome::OTHER_FILE => PersistError::OtherFile { name, path },
            outcome::NO_FILE => PersistError::NoFile { name, path },
            outcome::ON_THE_MOUNT => PersistError::OnTheMount { name, path },
            outcome::IN_USE => PersistError::InUse { name, path },
            outcome::NOT_EMPTY => PersistError::NotEmpty { name, path },
            outcome::DAMAGED => PersistError::Damaged { name, path },
            outcome::VERSION => PersistError::Version { name, path },
            outcome::OTHER_STATE => PersistError::OtherState { name, path },
            outcome::TWO_VALUES => PersistError::TwoValues { name, path },
            outcome::LAYOUT => PersistError::Layout { name, path },
            outcome::OTHER_OWNER => PersistError::OtherOwner { name, path },
            _ => self.not_asked(errno::from_code(answer.errno)),
        })
    }

    /// No answer was had, or one that says what a system call would.
    pub(super) fn not_asked(self, source: io::Error) -> PersistError {
        let name = self.name.clone();
        match errno::refusal(&source) {
            Refusal::Deleted => PersistError::Deleted { name },
            Refusal::DaemonDied => PersistError::DaemonDied { name },
            _ => PersistError::Io { name, source },
        }
    }

    /// The file was not opened.
    pub(super) fn cannot_open(self, source: io::Error) -> PersistError {
        match errno::refusal(&source) {
            Refusal::Deleted | Refusal::DaemonDied => self.not_asked(source),
            _ => PersistError::Open {
                name: self.name.clone(),
                path: self.path.to_owned(),
                source,
            },
        }
    }
}
