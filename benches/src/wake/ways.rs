//! Ways of waiting: ours as a program would have it, and the barest by the same means.

use std::fmt;
use std::fs::File;
use std::future::poll_fn;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;
use futures_core::Stream as _;
use kstate::{Generation, Notifier, Reader, Wait};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::runtime::Runtime;

use super::board::Looking;
use super::waiter::{Waiter, is_whole};
use crate::bare_wake::{BareEvent, BareValue, BareWord, from_bytes};
use crate::setup::Result;

/// Longer than any value is waited for.
const SPIN: Duration = Duration::from_secs(60);

/// A way of waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Way {
    /// `Reader::wait`, beside futex(2) on a word.
    Futex,
    /// A `Notifier` in poll(2), beside an eventfd(2) in it.
    Descriptor,
    /// `Reader::changes` on tokio's current thread, beside an eventfd(2) on it.
    Stream,
    /// poll(2) on the file of a state, beside the barest FUSE file system.
    FusePoll,
    /// Looking again and again, beside doing so at a word. Both pause between two looks, as who
    /// shares a core with others must: without, a value is seen some 50 ns sooner.
    Spin,
}

impl Way {
    pub(super) const ALL: [Self; 5] = [
        Self::Futex,
        Self::Descriptor,
        Self::Stream,
        Self::FusePoll,
        Self::Spin,
    ];

    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Futex => "futex wait",
            Self::Descriptor => "descriptor, poll",
            Self::Stream => "tokio stream",
            Self::FusePoll => "FUSE poll, read",
            Self::Spin => "spin",
        }
    }

    /// How writer and reader of this way await each other.
    pub(super) const fn looking(self) -> Looking {
        match self {
            Self::Spin => Looking::Spinning,
            _ => Looking::Sleeping,
        }
    }

    /// At how many addresses it is measured, in turn. Between two processors a cache line takes up
    /// to twice as long at one address as at another, for the whole of a run.
    pub(super) const fn addresses(self) -> usize {
        match self {
            Self::Spin => 32,
            _ => 1,
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

pub(super) fn futex(reader: Reader<BareValue>) -> Waiter {
    let mut seen = Generation::NEVER;
    Box::new(move |number, held| {
        loop {
            let _ = reader.wait(seen, None)?;
            let snapshot = reader.snapshot()?;
            seen = snapshot.generation();
            if is_whole(&snapshot.value, number) {
                held(&snapshot.value);
                return Ok(());
            }
        }
    })
}

pub(super) fn bare_futex(path: &Path) -> Result<Waiter> {
    let word = BareWord::open(path)?;
    let mut seen = word.version();
    Ok(Box::new(move |number, held| {
        loop {
            while word.version() == seen {
                word.wait(seen)?;
            }
            seen = word.version();
            let value = word.read();
            if is_whole(&value, number) {
                held(&value);
                return Ok(());
            }
        }
    }))
}

pub(super) fn descriptor(reader: Reader<BareValue>) -> Result<Waiter> {
    let mut notifier = Notifier::new()?;
    let _ = notifier.add(&reader)?;
    Ok(Box::new(move |number, held| {
        loop {
            await_readable(&notifier)?;
            let events = notifier.changed()?;
            if events.is_empty() {
                continue;
            }
            let value = reader.snapshot()?.value;
            if is_whole(&value, number) {
                held(&value);
                return Ok(());
            }
        }
    }))
}

pub(super) fn bare_descriptor(path: &Path, event: BareEvent) -> Result<Waiter> {
    let word = BareWord::open(path)?;
    Ok(Box::new(move |number, held| {
        loop {
            await_readable(&event)?;
            event.take()?;
            let value = word.read();
            if is_whole(&value, number) {
                held(&value);
                return Ok(());
            }
        }
    }))
}

pub(super) fn stream(reader: &Reader<BareValue>) -> Result<Waiter> {
    let runtime = current_thread()?;
    let inside = runtime.enter();
    let mut changes = Box::pin(reader.changes()?);
    drop(inside);
    Ok(Box::new(move |number, held| {
        runtime.block_on(async {
            loop {
                let next = poll_fn(|context| changes.as_mut().poll_next(context)).await;
                let snapshot = next.ok_or("the stream has ended")??;
                if is_whole(&snapshot.value, number) {
                    held(&snapshot.value);
                    return Ok(());
                }
            }
        })
    }))
}

pub(super) fn bare_stream(path: &Path, event: BareEvent) -> Result<Waiter> {
    let word = BareWord::open(path)?;
    let runtime = current_thread()?;
    let inside = runtime.enter();
    let event = event.register()?;
    drop(inside);
    Ok(Box::new(move |number, held| {
        runtime.block_on(async {
            loop {
                let mut readable = event.readable().await?;
                // Where it would block, this forgets that it was readable.
                let Ok(taken) = readable.try_io(|event| event.get_ref().take()) else {
                    continue;
                };
                taken?;
                let value = word.read();
                if is_whole(&value, number) {
                    held(&value);
                    return Ok(());
                }
            }
        })
    }))
}

fn current_thread() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
}

fn await_readable(descriptor: &impl AsFd) -> Result<()> {
    let mut fds = [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::NONE)?;
    Ok(())
}

/// The same for ours and the limit: it is the file systems that differ.
pub(super) fn fuse_poll(path: &Path) -> Result<Waiter> {
    let file = File::open(path)?;
    Ok(Box::new(move |number, held| {
        let mut bytes = [0; size_of::<BareValue>()];
        loop {
            await_readable(&file)?;
            file.read_exact_at(&mut bytes, 0)?;
            let value = from_bytes(&bytes);
            if is_whole(&value, number) {
                held(&value);
                return Ok(());
            }
        }
    }))
}

pub(super) fn spin(reader: Reader<BareValue>) -> Waiter {
    let mut seen = Generation::NEVER;
    Box::new(move |number, held| {
        loop {
            let _ = Wait::new().spin(SPIN).for_change(&reader, seen)?;
            let snapshot = reader.snapshot()?;
            seen = snapshot.generation();
            if is_whole(&snapshot.value, number) {
                held(&snapshot.value);
                return Ok(());
            }
        }
    })
}

pub(super) fn bare_spin(path: &Path) -> Result<Waiter> {
    let word = BareWord::open(path)?;
    let mut seen = word.version();
    Ok(Box::new(move |number, held| {
        loop {
            while word.version() == seen {
                std::hint::spin_loop();
            }
            seen = word.version();
            let value = word.read();
            if is_whole(&value, number) {
                held(&value);
                return Ok(());
            }
        }
    }))
}
