//! What comes of calls beside a hostile writer, told apart by the error's variant.

use kstate::{
    AddError, BeginError, CommitError, CommitManyError, CutError, ManyOutcome, Outcome,
    PublishError, ReadError, SubscribeError, TouchError, TransactError, TransactManyError,
    WaitError, Waited,
};

use super::board::Entry;

/// As many as an entry of the board counts.
pub(crate) const OUTCOMES: usize = 32;

/// What can come of a call. The last is for what should not.
const NAMES: [&str; 29] = [
    "fine",
    "changed",
    "timed out",
    "conflict",
    "read: length",
    "read: too long",
    "read: damaged",
    "read: deleted",
    "read: unstable",
    "read: undecided",
    "read: map",
    "wait: deleted",
    "wait: io",
    "deleted",
    "undecided",
    "contended",
    "generations used up",
    "attempts used up",
    "too long",
    "claim",
    "cut: unstable",
    "commit: record",
    "commit: settle",
    "subscribe",
    "io",
    "file: refused",
    "file: read",
    "info: refused",
    "info",
];

const _: () = assert!(NAMES.len() <= OUTCOMES);

/// Which outcome a value is.
pub(crate) trait Named {
    /// One of [`NAMES`].
    fn name(&self) -> &'static str;
}

/// Counts what came of a call, and says what is not expected of any.
pub(crate) fn note<T: Named + std::fmt::Debug>(entry: &Entry, what: &T) -> super::Result {
    let name = what.name();
    let Some(index) = NAMES.iter().position(|known| *known == name) else {
        return Err(format!("beside a hostile writer: {what:?}").into());
    };
    Entry::add(entry.outcome(index), 1);
    entry.did(1);
    Ok(())
}

/// Those that came, of several entries, with how often.
pub(crate) fn counted<'e>(entries: impl Iterator<Item = &'e Entry>) -> Vec<(&'static str, u64)> {
    use std::sync::atomic::Ordering::Relaxed;
    let mut counts = NAMES.map(|name| (name, 0));
    for entry in entries {
        for (index, (_, count)) in counts.iter_mut().enumerate() {
            *count += entry.outcome(index).load(Relaxed);
        }
    }
    counts.into_iter().filter(|(_, count)| *count > 0).collect()
}

/// No name that is known.
const UNEXPECTED: &str = "unexpected";

impl<T: Named, E: Named> Named for Result<T, E> {
    fn name(&self) -> &'static str {
        match self {
            Ok(value) => value.name(),
            Err(error) => error.name(),
        }
    }
}

impl Named for () {
    fn name(&self) -> &'static str {
        "fine"
    }
}

impl Named for ReadError {
    fn name(&self) -> &'static str {
        match self {
            Self::Length { .. } => "read: length",
            Self::TooLong { .. } => "read: too long",
            Self::Damaged { .. } => "read: damaged",
            Self::Deleted { .. } => "read: deleted",
            Self::Unstable { .. } => "read: unstable",
            Self::Undecided { .. } => "read: undecided",
            Self::Map { .. } => "read: map",
            _ => UNEXPECTED,
        }
    }
}

impl Named for Waited {
    fn name(&self) -> &'static str {
        match self {
            Self::Changed(_) => "changed",
            _ => "timed out",
        }
    }
}

impl Named for WaitError {
    fn name(&self) -> &'static str {
        match self {
            Self::Deleted { .. } => "wait: deleted",
            Self::Io { .. } => "wait: io",
            _ => UNEXPECTED,
        }
    }
}

impl Named for CutError {
    fn name(&self) -> &'static str {
        match self {
            Self::Read(error) => error.name(),
            Self::Unstable { .. } => "cut: unstable",
            _ => UNEXPECTED,
        }
    }
}

impl Named for PublishError {
    fn name(&self) -> &'static str {
        match self {
            Self::Claim(_) => "claim",
            Self::TooLong { .. } => "too long",
            Self::Deleted { .. } => "deleted",
            Self::Undecided { .. } => "undecided",
            Self::Contended { .. } => "contended",
            Self::Exhausted { .. } => "generations used up",
            Self::Io { .. } => "io",
            _ => UNEXPECTED,
        }
    }
}

impl Named for BeginError {
    fn name(&self) -> &'static str {
        match self {
            Self::Deleted { .. } => "deleted",
            Self::Undecided { .. } => "undecided",
            Self::Io { .. } => "io",
            _ => UNEXPECTED,
        }
    }
}

impl Named for CommitError {
    fn name(&self) -> &'static str {
        match self {
            Self::Claim(_) => "claim",
            Self::TooLong { .. } => "too long",
            Self::Deleted { .. } => "deleted",
            Self::Read(error) => error.name(),
            Self::Exhausted { .. } => "generations used up",
            Self::Io { .. } => "io",
            _ => UNEXPECTED,
        }
    }
}

impl Named for Outcome {
    fn name(&self) -> &'static str {
        match self {
            Self::Conflict { .. } => "conflict",
            _ => "fine",
        }
    }
}

impl Named for ManyOutcome {
    fn name(&self) -> &'static str {
        match self {
            Self::Conflict { .. } => "conflict",
            _ => "fine",
        }
    }
}

impl<E> Named for TransactError<E> {
    fn name(&self) -> &'static str {
        match self {
            Self::Begin(error) => error.name(),
            Self::Read(error) => error.name(),
            Self::Commit(error) => error.name(),
            Self::Exhausted { .. } => "attempts used up",
            _ => UNEXPECTED,
        }
    }
}

impl Named for CommitManyError {
    fn name(&self) -> &'static str {
        match self {
            Self::State(error) => error.name(),
            Self::Record { .. } => "commit: record",
            Self::Settle { .. } => "commit: settle",
            _ => UNEXPECTED,
        }
    }
}

impl<E> Named for TransactManyError<E> {
    fn name(&self) -> &'static str {
        match self {
            Self::Add(AddError::Begin(error)) => error.name(),
            Self::Touch(TouchError::Read(error)) => error.name(),
            Self::Commit(error) => error.name(),
            Self::Exhausted { .. } => "attempts used up",
            _ => UNEXPECTED,
        }
    }
}

impl Named for SubscribeError {
    fn name(&self) -> &'static str {
        match self {
            Self::Io { .. } | Self::Claim(_) | Self::AbiVersion { .. } | Self::NotKstate { .. } => {
                "subscribe"
            }
            _ => UNEXPECTED,
        }
    }
}

impl Named for std::io::Error {
    fn name(&self) -> &'static str {
        match self.raw_os_error() {
            Some(libc::EIO) => "file: refused",
            _ => UNEXPECTED,
        }
    }
}

impl Named for kstate::InfoError {
    fn name(&self) -> &'static str {
        match self {
            Self::Io { source, .. } if source.raw_os_error() == Some(libc::EIO) => "info: refused",
            _ => UNEXPECTED,
        }
    }
}

impl Named for kstate::Info {
    fn name(&self) -> &'static str {
        "info"
    }
}

impl Named for Vec<u8> {
    fn name(&self) -> &'static str {
        "file: read"
    }
}
