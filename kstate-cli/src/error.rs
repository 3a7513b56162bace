//! Why a command did not do what it was asked to, and the exit status that says so.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use kstate::{
    AnnounceError, InfoError, MountError, PersistError, PublishError, ReadError, RemoveError,
    SubscribeError, SyncError, WaitError, WatchError,
};
use kstatefs::ServeError;
use kstatefs::daemonize::DaemonizeError;
use kstatefs::mountpoint::MountPointError;
use kstatefs::persist::FileError;

use crate::demo::DemoError;
use crate::duration;
use crate::feed::{FeedError, OpenError};
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
    State(kstate::Error),
    /// There is no such state.
    #[error(
        "there is no state `{name}`; `kstate ls` shows those there are, `kstate get --wait` waits \
         for it"
    )]
    NoState {
        /// Its name.
        name: String,
    },
    /// The state is there, but nobody has published to it.
    #[error("state `{name}` has no value yet; --wait waits for the first")]
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
    /// No state could hold the value; nothing was written.
    #[error(
        "nothing was published to `{name}`: the value has more than the {page} bytes that a state \
         holds at most"
    )]
    TooLong {
        /// The state.
        name: String,
        /// The greatest length, in bytes.
        page: usize,
    },
    /// A value is not what its format says; nothing was written.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// The records to feed cannot be had from there.
    #[error(transparent)]
    Source(#[from] OpenError),
    /// A record to feed could not be had.
    #[error(transparent)]
    Record(#[from] FeedError),
    /// Nothing can be mounted or unmounted there.
    #[error(transparent)]
    MountPoint(#[from] MountPointError),
    /// The file system could not be served.
    #[error(transparent)]
    Serve(ServeError),
    /// It could not be served from the background.
    #[error(transparent)]
    Daemonize(#[from] DaemonizeError),
    /// There was no demo.
    #[error(transparent)]
    Demo(#[from] DemoError),
    /// Arguments that contradict each other, or what is there.
    #[error("{0}")]
    Usage(String),
    /// A file, directory or state that the kernel refuses.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file that is not, or cannot be made, the file of a state.
    #[error("{path}: {source}", path = path.display())]
    StateFile {
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: FileError,
    },
    /// A file that is not to be written over.
    #[error("{path} is there already, and was left as it is; --force replaces it", path = path.display())]
    Exists {
        /// Which one.
        path: PathBuf,
    },
    /// The value is of another type than the state's.
    #[error(
        "nothing was imported: the value is of the layout {wanted}, and state `{name}` holds {found}; \
         import it into another state, or its bytes with --raw"
    )]
    Layout {
        /// The state.
        name: String,
        /// Description of its layout.
        found: String,
        /// Description of the value's.
        wanted: String,
    },
    /// Something else that the kernel refuses.
    #[error("{0}")]
    System(io::Error),
    /// Standard output, mostly.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
    /// A signal came before there was anything to show.
    #[error("ended before it began")]
    Ended,
    /// Failures that have been told already.
    #[error("some of it failed")]
    Reported(Exit),
}

impl CommandError {
    /// Why a state that should be there could not be subscribed to.
    pub(crate) fn of_existing(name: &str, error: SubscribeError) -> Self {
        match error {
            SubscribeError::NotFound { .. } => Self::NoState {
                name: name.to_owned(),
            },
            error => error.into(),
        }
    }

    /// The exit status that says so.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::State(error) => exit_of(error),
            Self::NoState { .. } | Self::NoValue { .. } => Exit::NotFound,
            Self::NoChange { .. } => Exit::TimedOut,
            Self::Value(_) | Self::Usage(_) => Exit::Usage,
            Self::MountPoint(error) | Self::Serve(ServeError::MountPoint(error)) => match error {
                MountPointError::NotMounted(_) | MountPointError::Absent(_) => Exit::NotFound,
                MountPointError::Busy(_)
                | MountPointError::Silent(_)
                | MountPointError::Covered(_)
                | MountPointError::InUse(_) => Exit::Conflict,
                _ => Exit::Failed,
            },
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
            Self::Reported(exit) => *exit,
            _ => Exit::Failed,
        }
    }

    /// Whether one record to feed is refused, and the next may be good.
    pub(crate) fn is_about_one_record(&self) -> bool {
        match self {
            Self::Value(_) => true,
            Self::Record(error) => error.is_one_record(),
            Self::State(kstate::Error::Publish(error)) => {
                matches!(error, PublishError::TooLong { .. })
            }
            _ => false,
        }
    }
}

fn exit_of(error: &kstate::Error) -> Exit {
    use kstate::Error as E;
    match error {
        E::Mount(error) | E::Subscribe(SubscribeError::Mount(error)) => match error {
            MountError::NotMounted { .. } | MountError::DaemonDied { .. } => Exit::NotFound,
            _ => Exit::Failed,
        },
        E::Subscribe(SubscribeError::NotFound { .. })
        | E::Info(InfoError::NotFound { .. })
        | E::Remove(RemoveError::NotFound { .. })
        | E::Wait(WaitError::Deleted { .. } | WaitError::DaemonDied { .. })
        | E::Watch(WatchError::Wait(WaitError::Deleted { .. } | WaitError::DaemonDied { .. })) => {
            Exit::NotFound
        }
        E::Subscribe(SubscribeError::Name(_))
        | E::Announce(AnnounceError::Name { .. })
        | E::Info(InfoError::Name(_))
        | E::Remove(RemoveError::Name(_)) => Exit::Usage,
        E::Subscribe(SubscribeError::TimedOut { .. }) => Exit::TimedOut,
        E::Remove(RemoveError::Subscribed { .. })
        | E::Persist(
            PersistError::InUse { .. }
            | PersistError::OtherFile { .. }
            | PersistError::TwoValues { .. },
        ) => Exit::Conflict,
        _ => Exit::Failed,
    }
}

impl From<ServeError> for CommandError {
    fn from(error: ServeError) -> Self {
        Self::Serve(error)
    }
}

/// Each operation of the library has an error of its own; to a command they are one.
macro_rules! from_library {
    ($($error:ty),+ $(,)?) => {$(
        impl From<$error> for CommandError {
            fn from(error: $error) -> Self {
                Self::State(error.into())
            }
        }
    )+};
}

from_library!(
    kstate::Error,
    AnnounceError,
    InfoError,
    MountError,
    PersistError,
    SyncError,
    PublishError,
    ReadError,
    RemoveError,
    SubscribeError,
    WaitError,
    WatchError,
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_can_tell_failures_apart() {
        let name = || kstate::StateName::new("x").unwrap();
        let exit = |error: CommandError| error.exit().code();
        assert_eq!(exit(RemoveError::NotFound { name: name() }.into()), 3);
        assert_eq!(exit(RemoveError::Subscribed { name: name() }.into()), 5);
        assert_eq!(exit(MountError::NotMounted { path: "/x".into() }.into()), 3);
        let bad_name = kstate::StateName::new("a b").unwrap_err();
        assert_eq!(exit(SubscribeError::Name(bad_name).into()), 2);
        let waited = Duration::from_secs(1);
        assert_eq!(
            exit(
                SubscribeError::TimedOut {
                    name: name(),
                    waited
                }
                .into()
            ),
            4
        );
        assert_eq!(exit(MountPointError::InUse("/x".into()).into()), 5);
        assert_eq!(exit(io::Error::from(io::ErrorKind::BrokenPipe).into()), 0);
    }
}
