//! Why a command did not do what it was asked to, and the exit status that says so.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::duration;
use crate::value::ValueError;

/// What a script learns from the exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Everything was done.
    Done,
    /// Something failed.
    Failed,
    /// The command line, or a value on it, makes no sense.
    Usage,
    /// There is no such state or file system, or no value in it yet.
    NotFound,
    /// What was waited for did not happen in time.
    TimedOut,
    /// Somebody else uses it, or came first.
    Conflict,
}

impl Exit {
    /// The number.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::TimedOut => 4,
            Self::Conflict => 5,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// What made it impossible to do as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum CommandError {
    /// The library refused.
    #[error(transparent)]
    State(#[from] kstate::Error),
    /// The state is there, but nobody has published to it.
    #[error("`{name}` has no value yet; --wait waits for the first")]
    NoValue {
        /// The state.
        name: String,
    },
    /// Nothing changed in time.
    #[error("nothing changed for {}", duration::show(*timeout))]
    NoChange {
        /// How long.
        timeout: Duration,
    },
    /// A value is not what its format says; nothing was written.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// A file or directory that is not a state.
    #[error("{path}: {source}")]
    File {
        /// Which one.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Standard output, mostly.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
    /// Failures that have been told already.
    #[error("some of it failed")]
    Reported(Exit),
}

impl CommandError {
    /// The exit status that says so.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::State(_) => Exit::Failed,
            Self::NoValue { .. } => Exit::NotFound,
            Self::NoChange { .. } => Exit::TimedOut,
            Self::Value(_) => Exit::Usage,
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
            Self::File { .. } | Self::Output(_) => Exit::Failed,
            Self::Reported(exit) => *exit,
        }
    }
}
