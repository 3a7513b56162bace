//! Ways of waiting: ours as a program would have it, and the barest by the same means.

use std::fmt;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use clap::ValueEnum;
use kstate::{Generation, Reader};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::board::Looking;
use super::waiter::{Wait, is_whole};
use crate::bare_wake::{BareValue, BareWord, from_bytes};
use crate::case::Bound;
use crate::setup::Result;

/// A way of waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Way {
    /// `Reader::wait`, beside futex(2) on a word.
    Futex,
    /// poll(2) on the file of a state, beside the barest FUSE file system.
    FusePoll,
    /// Looking again and again, beside doing so at a word. Both pause between two looks, as who
    /// shares a core with others must: without, a value is seen some 50 ns sooner.
    Spin,
}

impl Way {
    pub(super) const ALL: [Self; 3] = [Self::Futex, Self::FusePoll, Self::Spin];

    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Futex => "futex wait",
            Self::FusePoll => "FUSE poll, read",
            Self::Spin => "spin",
        }
    }

    /// How writer and reader of this way await each other.
    pub(super) const fn looking(self) -> Looking {
        match self {
            Self::Futex | Self::FusePoll => Looking::Sleeping,
            Self::Spin => Looking::Spinning,
        }
    }

    /// At how many addresses it is measured, in turn. Between two processors a cache line takes up
    /// to twice as long at one address as at another, for the whole of a run.
    pub(super) const fn addresses(self) -> usize {
        match self {
            Self::Futex | Self::FusePoll => 1,
            Self::Spin => 32,
        }
    }

    /// What the median may be beside the limit's.
    pub(super) const fn bound(self) -> Bound {
        match self {
            Self::Futex | Self::FusePoll | Self::Spin => Bound::Times(1.15),
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::setup::name_of(self))
    }
}

/// What the state, and the file of the limit, are called at that address.
pub(super) fn name_at(name: &str, address: usize) -> String {
    format!("{name}.{address}")
}

/// Where the value of that number is: ours and the limit's, which have numbers in turn, go round
/// together.
pub(super) fn address_of(number: u64, addresses: usize) -> usize {
    let pair = usize::try_from(number.saturating_sub(1) / 2).unwrap_or(0);
    pair % addresses
}

pub(super) fn futex(reader: Reader<BareValue>) -> Wait {
    let mut seen = Generation::NEVER;
    Box::new(move |number| {
        loop {
            let _ = reader.wait(seen, None)?;
            let snapshot = reader.snapshot()?;
            seen = snapshot.generation();
            if is_whole(&snapshot.value, number) {
                return Ok(snapshot.value);
            }
        }
    })
}

pub(super) fn bare_futex(path: &Path) -> Result<Wait> {
    let word = BareWord::open(path)?;
    let mut seen = word.version();
    Ok(Box::new(move |number| {
        loop {
            while word.version() == seen {
                word.wait(seen)?;
            }
            seen = word.version();
            let value = word.read();
            if is_whole(&value, number) {
                return Ok(value);
            }
        }
    }))
}

/// The same for ours and the limit: it is the file systems that differ.
pub(super) fn fuse_poll(path: &Path) -> Result<Wait> {
    let file = File::open(path)?;
    Ok(Box::new(move |number| {
        let mut bytes = [0; size_of::<BareValue>()];
        loop {
            let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::NONE)?;
            file.read_exact_at(&mut bytes, 0)?;
            let value = from_bytes(&bytes);
            if is_whole(&value, number) {
                return Ok(value);
            }
        }
    }))
}

pub(super) fn spin(reader: Reader<BareValue>) -> Wait {
    let mut seen = Generation::NEVER;
    Box::new(move |number| {
        loop {
            while !reader.changed_since(seen) {
                std::hint::spin_loop();
            }
            let snapshot = reader.snapshot()?;
            seen = snapshot.generation();
            if is_whole(&snapshot.value, number) {
                return Ok(snapshot.value);
            }
        }
    })
}

pub(super) fn bare_spin(path: &Path) -> Result<Wait> {
    let word = BareWord::open(path)?;
    let mut seen = word.version();
    Ok(Box::new(move |number| {
        loop {
            while word.version() == seen {
                std::hint::spin_loop();
            }
            seen = word.version();
            let value = word.read();
            if is_whole(&value, number) {
                return Ok(value);
            }
        }
    }))
}
