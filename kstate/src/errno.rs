//! The one file of the library that knows errno values.

use std::io;

use crate::error::Error;
use crate::{
    AddError, AnnounceError, BeginError, CapacityError, ClaimError, CommitError, CommitManyError,
    CutError, DurableError, HostError, InfoError, LiveError, MountError, NotifyError, PersistError,
    PublishError, ReadError, ReconnectError, RemoveError, SubscribeError, SyncError, TouchError,
    TransactError, TransactManyError, TrapError, WaitError, WatchError,
};

/// What a refused system call means here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No such file.
    NotFound,
    /// A path runs through something that is no directory.
    NotDirectory,
    /// Rights.
    Denied,
    /// In use.
    Busy,
    /// Nobody serves the file system any more.
    DaemonDied,
    /// No memory on the file system.
    NoSpace,
    /// The daemon, or the system, has no descriptor or mapping left.
    Full,
    /// More than a page.
    TooBig,
    /// All slot groups are taken.
    TooManyWriters,
    /// The descriptor was not opened for that.
    WrongMode,
    /// The argument is not possible.
    Invalid,
    /// The file is none of a kstate daemon's.
    NotOurs,
    /// The state was deleted.
    Deleted,
    /// The descriptor cannot be mapped.
    NotMappable,
    /// The daemon cannot see the calling process.
    Unseen,
    /// Anything else.
    Other,
}

/// Sorts an error of the operating system.
pub(crate) fn refusal(error: &io::Error) -> Refusal {
    match error.raw_os_error() {
        Some(libc::ENOENT) => Refusal::NotFound,
        Some(libc::ENOTDIR) => Refusal::NotDirectory,
        Some(libc::EACCES | libc::EPERM | libc::EROFS) => Refusal::Denied,
        Some(libc::EBUSY) => Refusal::Busy,
        // In flight when the daemon died: ECONNABORTED; afterwards: ENOTCONN. `replaced`: the library's own.
        Some(libc::ENOTCONN | libc::ECONNABORTED | libc::ECONNRESET) => Refusal::DaemonDied,
        Some(libc::ENOSPC | libc::ENOMEM | libc::EDQUOT) => Refusal::NoSpace,
        Some(libc::ENFILE) => Refusal::Full,
        Some(libc::EFBIG) => Refusal::TooBig,
        Some(libc::EUSERS) => Refusal::TooManyWriters,
        Some(libc::EBADF) => Refusal::WrongMode,
        Some(libc::EINVAL) => Refusal::Invalid,
        Some(libc::ENOTTY | libc::ENOSYS | libc::EOPNOTSUPP) => Refusal::NotOurs,
        Some(libc::ESTALE) => Refusal::Deleted,
        Some(libc::ENODEV) => Refusal::NotMappable,
        Some(libc::ESRCH) => Refusal::Unseen,
        _ => Refusal::Other,
    }
}

/// Makes a request of the daemon again for as long as signals interrupt it: FUSE gives up a
/// request that the daemon has not begun, and does not restart it.
pub(crate) fn uninterrupted<R>(mut request: impl FnMut() -> io::Result<R>) -> io::Result<R> {
    loop {
        match request() {
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            answer => return answer,
        }
    }
}

/// The answer of a mount that is no longer there.
pub(crate) fn daemon_died() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOTCONN)
}

/// What a daemon would answer that has begun afresh, if it were asked of a state of the one before.
pub(crate) fn replaced() -> io::Error {
    io::Error::from_raw_os_error(libc::ECONNRESET)
}

/// The answer for a state that is no more.
pub(crate) fn deleted() -> io::Error {
    io::Error::from_raw_os_error(libc::ESTALE)
}

/// Whether a daemon is missing that another one may follow which takes its states over: worth waiting.
pub(crate) fn may_come_back(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    matches!(code, Some(libc::ENOTCONN | libc::ECONNABORTED))
}

/// Whether a daemon died while it was being asked.
pub(crate) fn is_cut_off(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ECONNABORTED)
}

/// Whether a file lacks the attribute asked for, or any.
pub(crate) fn has_no_attribute(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    matches!(code, Some(libc::ENODATA | libc::EOPNOTSUPP))
}

/// A directory in which something is.
pub(crate) fn not_empty() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOTEMPTY)
}

/// Longer than any path may be.
pub(crate) fn path_too_long() -> io::Error {
    io::Error::from_raw_os_error(libc::ENAMETOOLONG)
}

/// Whether a Unix socket is left over from a process that has ended.
pub(crate) fn is_deserted(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    matches!(code, Some(libc::ECONNREFUSED | libc::ENOENT))
}

/// An errno with no text of its own, for what a peer got wrong.
pub(crate) fn protocol_violation() -> io::Error {
    io::Error::from_raw_os_error(libc::EPROTO)
}

/// The error that the errno `code` stands for.
pub(crate) fn from_code(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

fn code(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

impl Error {
    /// The errno that a C program gets for this error.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Mount(error) => mount(error),
            Self::Host(error) => host(error),
            Self::Subscribe(error) => subscribe(error),
            Self::Read(error) => read(error),
            Self::Publish(error) => publish(error),
            Self::Begin(error) => begin(error),
            Self::Commit(error) => commit(error),
            Self::Transact(error) => match error {
                TransactError::Begin(error) => begin(error),
                TransactError::Read(error) => read(error),
                TransactError::Commit(error) => commit(error),
                TransactError::Exhausted { .. } => libc::EAGAIN,
                TransactError::Aborted(_) => libc::ECANCELED,
            },
            Self::Add(error) => add(error),
            Self::Touch(error) => touch(error),
            Self::CommitMany(error) => commit_many(error),
            Self::TransactMany(error) => match error {
                TransactManyError::Add(error) => add(error),
                TransactManyError::Touch(error) => touch(error),
                TransactManyError::Commit(error) => commit_many(error),
                TransactManyError::Exhausted { .. } => libc::EAGAIN,
                TransactManyError::Aborted(_) => libc::ECANCELED,
            },
            Self::Cut(error) => match error {
                CutError::Read(error) => read(error),
                CutError::Unstable { .. } => libc::EAGAIN,
            },
            Self::Wait(error) => wait(error),
            Self::Notify(error) => notify(error),
            Self::Watch(error) => match error {
                WatchError::Wait(error) => wait(error),
                WatchError::Read(error) => read(error),
                WatchError::Interrupted => libc::EINTR,
            },
            Self::Capacity(error) => match error {
                CapacityError::ReadOnly { .. } => libc::EBADF,
                CapacityError::TooBig { .. } => libc::EFBIG,
                CapacityError::Shrinks { .. } => libc::EINVAL,
                CapacityError::NoSpace { .. } => libc::ENOSPC,
                CapacityError::Io { source, .. } => code(source),
            },
            Self::Live(error) => match error {
                LiveError::NoSpace { .. } => libc::ENOSPC,
                LiveError::Refresh { source, .. } => notify(source),
                LiveError::Io { source, .. } => code(source),
            },
            Self::Remove(error) => match error {
                RemoveError::Name(error) => error.errno(),
                RemoveError::Mount(error) => mount(error),
                RemoveError::NotFound { .. } => libc::ENOENT,
                RemoveError::Subscribed { .. } => libc::EBUSY,
                RemoveError::Denied { .. } => libc::EACCES,
                RemoveError::Io { source, .. } => code(source),
            },
            Self::Announce(error) => announce(error),
            Self::Persist(error) => persist(error),
            Self::Sync(error) => sync(error),
            Self::Durable(error) => match error {
                DurableError::Refused(never) => match *never {},
                DurableError::NotPersistent { .. } => libc::EOPNOTSUPP,
                DurableError::Unknown { source } | DurableError::NotDurable { source, .. } => {
                    sync(source)
                }
            },
            Self::Reconnect(error) => match error {
                ReconnectError::Deleted { .. } => libc::ESTALE,
                ReconnectError::DaemonDied { .. } => libc::ENOTCONN,
                ReconnectError::Replaced { .. } => libc::ECONNRESET,
                ReconnectError::Denied { .. } => libc::EACCES,
                ReconnectError::Io { source, .. } => code(source),
            },
            Self::Info(error) => match error {
                InfoError::Name(error) => error.errno(),
                InfoError::Mount(error) => mount(error),
                InfoError::NotFound { .. } => libc::ENOENT,
                InfoError::Denied { .. } => libc::EACCES,
                InfoError::Io { source, .. } => code(source),
            },
        }
    }
}

/// As `setxattr(2)` has them.
fn persist(error: &PersistError) -> i32 {
    match error {
        PersistError::NotOwner { .. } => libc::EPERM,
        PersistError::NotPersistent { .. } => libc::EOPNOTSUPP,
        PersistError::OtherFile { .. } => libc::EEXIST,
        PersistError::NoFile { .. } => libc::EINVAL,
        PersistError::OnTheMount { .. } => libc::EXDEV,
        PersistError::InUse { .. } => libc::EBUSY,
        PersistError::NotEmpty { .. } => libc::ENOTEMPTY,
        PersistError::Damaged { .. } => libc::EUCLEAN,
        PersistError::Version { .. } => libc::EPROTONOSUPPORT,
        PersistError::OtherState { .. } => libc::EADDRINUSE,
        PersistError::TwoValues { .. } => libc::ENOTUNIQ,
        PersistError::Layout { .. } => libc::EPROTOTYPE,
        PersistError::OtherOwner { .. } => libc::EOWNERDEAD,
        PersistError::Deleted { .. } => libc::ESTALE,
        PersistError::DaemonDied { .. } => libc::ENOTCONN,
        PersistError::Open { source, .. } | PersistError::Io { source, .. } => code(source),
    }
}

fn sync(error: &SyncError) -> i32 {
    match error {
        SyncError::NotPersistent { .. } => libc::EOPNOTSUPP,
        SyncError::Deleted { .. } => libc::ESTALE,
        SyncError::NotThere { .. } => libc::EINVAL,
        SyncError::DaemonDied { .. } => libc::ENOTCONN,
        SyncError::Io { source, .. } => code(source),
    }
}

fn announce(error: &AnnounceError) -> i32 {
    match error {
        AnnounceError::NotOwner { .. } => libc::EACCES,
        AnnounceError::NoSink { .. } => libc::EOPNOTSUPP,
        AnnounceError::Name { .. } => libc::EINVAL,
        AnnounceError::Io { source, .. } => code(source),
    }
}

fn add(error: &AddError) -> i32 {
    match error {
        AddError::Begin(error) => begin(error),
        AddError::Twice { .. } => libc::EEXIST,
        AddError::TooMany { .. } => libc::E2BIG,
        AddError::OtherMount { .. } => libc::EXDEV,
    }
}

fn touch(error: &TouchError) -> i32 {
    match error {
        TouchError::NotAdded { .. } => libc::EINVAL,
        TouchError::Read(error) => read(error),
    }
}

fn commit_many(error: &CommitManyError) -> i32 {
    match error {
        CommitManyError::State(error) => commit(error),
        CommitManyError::Record { source } | CommitManyError::Settle { source, .. } => code(source),
    }
}

fn mount(error: &MountError) -> i32 {
    match error {
        MountError::NotMounted { .. } => libc::ENOENT,
        MountError::NotKstate { .. } => libc::ENOTTY,
        MountError::DaemonDied { .. } => libc::ENOTCONN,
        MountError::AbiVersion { .. } => libc::EPROTONOSUPPORT,
        MountError::Host { source, .. } => host(source),
        MountError::Denied { .. } => libc::EACCES,
        MountError::Io { source, .. } => code(source),
    }
}

fn host(error: &HostError) -> i32 {
    match error {
        HostError::Directory { source, .. } | HostError::Program { source, .. } => code(source),
        HostError::Refused { .. } => libc::ENOTCONN,
        HostError::Mount(error) => mount(error),
    }
}

fn subscribe(error: &SubscribeError) -> i32 {
    match error {
        SubscribeError::Mount(error) => mount(error),
        SubscribeError::Name(error) => error.errno(),
        SubscribeError::NotFound { .. } => libc::ENOENT,
        SubscribeError::TimedOut { .. } => libc::ETIMEDOUT,
        SubscribeError::Interrupted { .. } => libc::EINTR,
        SubscribeError::Denied { .. } | SubscribeError::NotOwner { .. } => libc::EACCES,
        SubscribeError::Layout { .. } => libc::EPROTOTYPE,
        SubscribeError::AbiVersion { .. } => libc::EPROTONOSUPPORT,
        SubscribeError::TooBig { .. } => libc::EFBIG,
        SubscribeError::NoSpace { .. } => libc::ENOSPC,
        SubscribeError::Full { .. } => libc::ENFILE,
        SubscribeError::Claim(error) => claim(error),
        SubscribeError::Announce(error) => announce(error),
        SubscribeError::Persist(error) => persist(error),
        SubscribeError::NotKstate { .. } => libc::ENOTTY,
        SubscribeError::Wait(error) => wait(error),
        SubscribeError::Io { source, .. } => code(source),
    }
}

fn read(error: &ReadError) -> i32 {
    match error {
        ReadError::Length { .. } => libc::EPROTOTYPE,
        ReadError::TooLong { .. } => libc::ERANGE,
        ReadError::Damaged { .. } | ReadError::Unstable { .. } => libc::EIO,
        ReadError::Deleted { .. } | ReadError::Forked { .. } => libc::ESTALE,
        ReadError::Map { source, .. } | ReadError::Undecided { source, .. } => code(source),
    }
}

fn claim(error: &ClaimError) -> i32 {
    match error {
        ClaimError::ReadOnly { .. } => libc::EBADF,
        ClaimError::TooManyWriters { .. } => libc::EUSERS,
        ClaimError::NoSpace { .. } => libc::ENOSPC,
        ClaimError::Deleted { .. } => libc::ESTALE,
        ClaimError::DaemonDied { .. } => libc::ENOTCONN,
        ClaimError::Unseen { .. } => libc::ESRCH,
        ClaimError::Io { source, .. } => code(source),
    }
}

fn publish(error: &PublishError) -> i32 {
    match error {
        PublishError::Claim(error) => claim(error),
        PublishError::TooLong { .. } => libc::EFBIG,
        PublishError::Deleted { .. } => libc::ESTALE,
        PublishError::Undecided { .. } | PublishError::Contended { .. } => libc::EAGAIN,
        PublishError::Exhausted { .. } => libc::EOVERFLOW,
        PublishError::Io { source, .. } => code(source),
    }
}

fn begin(error: &BeginError) -> i32 {
    match error {
        BeginError::ReadOnly { .. } => libc::EBADF,
        BeginError::Deleted { .. } => libc::ESTALE,
        BeginError::Undecided { .. } => libc::EAGAIN,
        BeginError::Trap { source, .. } => match source {
            TrapError::Io(source) => code(source),
            _ => libc::EOPNOTSUPP,
        },
        BeginError::Io { source, .. } => code(source),
    }
}

fn commit(error: &CommitError) -> i32 {
    match error {
        CommitError::Claim(error) => claim(error),
        CommitError::TooLong { .. } => libc::EFBIG,
        CommitError::Deleted { .. } => libc::ESTALE,
        CommitError::Forked { .. } => libc::ESTALE,
        CommitError::Read(error) => read(error),
        CommitError::Exhausted { .. } => libc::EOVERFLOW,
        CommitError::Io { source, .. } => code(source),
    }
}

fn notify(error: &NotifyError) -> i32 {
    match error {
        NotifyError::Wait(error) => wait(error),
        NotifyError::Interrupted => libc::EINTR,
        NotifyError::Forked => libc::ESTALE,
        NotifyError::Io { source } => code(source),
    }
}

fn wait(error: &WaitError) -> i32 {
    match error {
        WaitError::Deleted { .. } => libc::ESTALE,
        WaitError::DaemonDied { .. } => libc::ENOTCONN,
        WaitError::Forked { .. } => libc::ESTALE,
        WaitError::TooMany { .. } => libc::E2BIG,
        WaitError::Io { source, .. } => code(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_daemon_is_recognised_in_flight_and_afterwards() {
        for code in [libc::ENOTCONN, libc::ECONNABORTED] {
            assert_eq!(refusal(&from_code(code)), Refusal::DaemonDied);
        }
        assert_eq!(refusal(&io::Error::other("no errno")), Refusal::Other);
    }

    #[test]
    fn a_name_that_is_too_long_keeps_its_errno() {
        let name = crate::StateName::new("x".repeat(248)).unwrap_err();
        let error = Error::from(SubscribeError::from(name));
        assert_eq!(error.errno(), libc::ENAMETOOLONG);
    }
}
