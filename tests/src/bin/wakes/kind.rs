//! The kinds of waiters, and their waiting.

use std::fs::File;
use std::future::poll_fn;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::OnceLock;
use std::time::Duration;

use clap::ValueEnum;
use futures_core::Stream as _;
use kstate::{
    Change, Generation, Interrupt, Mount, Notifier, NotifyBy, NotifyError, Reader, Wait, Waitable,
    Waited, WatchError,
};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::resource::{UsageWho, getrusage};
use tokio::runtime::Builder;

use super::Result;
use super::note::{Note, STATES};

/// States that a notifier over several has beside those that change.
const IDLE: usize = 30;

/// A wait that nothing ends is no longer; by then a wake that was lost has been found out.
const LONG: Duration = Duration::from_secs(10);

/// Between two versions of a watch with a rate.
const PERIOD: Duration = Duration::from_millis(2);

/// How a waiter waits.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Wait::for_change
    Change,
    /// Wait::for_any, of two states
    Any,
    /// Wait::for_change, which spins before it sleeps
    Spin,
    /// A watch
    Watch,
    /// A watch with a rate
    Rate,
    /// A notifier of one state, by io_uring
    Uring,
    /// By a thread
    Thread,
    /// By the states' files
    Files,
    /// A notifier of many states, by io_uring
    UringMany,
    /// By a thread
    ThreadMany,
    /// By the states' files
    FilesMany,
    /// A stream of changes, on tokio
    Stream,
    /// poll(2) of the state's file
    Poll,
    /// epoll of the state's file, edge-triggered
    Edge,
    /// Reads of NAME@wait that block
    Read,
    /// Reads of NAME@1khz,wait that block
    ReadRate,
    /// Reads of .kstate/changes that block
    Changes,
}

/// What ends waits with the input.
#[derive(Debug)]
struct Stop {
    interrupt: Interrupt,
    /// Readable from then on.
    event: EventFd,
}

static STOP: OnceLock<Stop> = OnceLock::new();

/// To be called before anybody waits.
pub(crate) fn prepare() -> Result {
    let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?;
    let interrupt = Interrupt::new();
    let stop = Stop { interrupt, event };
    STOP.set(stop).map_err(|_| "prepared twice".into())
}

fn stopping() -> Result<&'static Stop> {
    Ok(STOP.get().ok_or("not prepared")?)
}

pub(crate) fn stop() -> Result {
    let stop = stopping()?;
    stop.interrupt.raise();
    stop.event.write(1)?;
    Ok(())
}

fn goes_on() -> bool {
    STOP.get().is_some_and(|stop| !stop.interrupt.is_raised())
}

impl Kind {
    /// What it is called.
    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// How many of the states it follows, from the first.
    pub(crate) fn follows(self) -> usize {
        match self {
            Self::Any | Self::UringMany | Self::ThreadMany | Self::FilesMany | Self::Changes => 2,
            _ => 1,
        }
    }

    /// Whether it sleeps where nothing but a version or the end of its process ends it.
    pub(crate) fn blocks(self) -> bool {
        use Kind::{Change, Changes, Read, ReadRate, Stream, Watch};
        matches!(self, Change | Watch | Stream | Read | ReadRate | Changes)
    }
}

/// The name of a state that is committed to.
pub(crate) fn name(state: usize) -> String {
    format!("wakes.{state}")
}

/// The states that never change.
pub(crate) fn idle_names() -> impl Iterator<Item = String> {
    (0..IDLE).map(|number| format!("idle.{number}"))
}

/// A reader of each state.
pub(crate) fn readers(mount: &Path) -> Result<[Reader<u64>; STATES]> {
    let mount = Mount::at(mount)?;
    let open = |state| -> Result<Reader<u64>> {
        let subscribe = mount.subscribe(name(state)).existing();
        Ok(subscribe.typed::<u64>()?.reader())
    };
    Ok([open(0)?, open(1)?])
}

/// Waits as `kind` until the input ends.
pub(crate) fn wait(kind: Kind, mount: &Path, readers: &[Reader<u64>; 2], note: &Note) -> Result {
    note.begin([readers[0].generation().0, readers[1].generation().0]);
    let long = Wait::new().timeout(LONG);
    let ended = long.clone().interrupted_by(&stopping()?.interrupt);
    match kind {
        Kind::Change => change(&readers[0], &long, note),
        Kind::Spin => change(&readers[0], &ended.spin(Duration::from_micros(30)), note),
        Kind::Any => any(readers, &ended, note),
        Kind::Watch => watch(&readers[0], Duration::ZERO, note),
        Kind::Rate => watch(&readers[0], PERIOD, note),
        Kind::Uring => listen(NotifyBy::Uring, &readers[..1], mount, note),
        Kind::Thread => listen(NotifyBy::Thread, &readers[..1], mount, note),
        Kind::Files => listen(NotifyBy::Files, &readers[..1], mount, note),
        Kind::UringMany => listen(NotifyBy::Uring, readers, mount, note),
        Kind::ThreadMany => listen(NotifyBy::Thread, readers, mount, note),
        Kind::FilesMany => listen(NotifyBy::Files, readers, mount, note),
        Kind::Stream => stream(&readers[0], note),
        Kind::Poll => poll_file(&File::open(mount.join(name(0)))?, note),
        Kind::Edge => edge(&File::open(mount.join(name(0)))?, note),
        Kind::Read => read(File::open(mount.join(name(0) + "@wait"))?, note),
        Kind::ReadRate => read(File::open(mount.join(name(0) + "@1khz,wait"))?, note),
        Kind::Changes => changes(File::open(mount.join(".kstate/changes@wakes."))?, note),
    }
}

/// How often this thread has slept.
fn sleeps() -> Result<u64> {
    let slept = getrusage(UsageWho::RUSAGE_THREAD)?.voluntary_context_switches();
    Ok(u64::try_from(slept)?)
}

/// Counts the sleeps of calls that wait, which are to be no more than what they told of.
struct Sleeps<'n> {
    note: &'n Note,
    before: u64,
}

impl<'n> Sleeps<'n> {
    fn new(note: &'n Note) -> Result<Self> {
        let before = sleeps()?;
        Ok(Self { note, before })
    }

    /// After a call, which may have slept so often.
    fn called(&mut self, times: u64) -> Result {
        let now = sleeps()?;
        let more = (now - self.before).saturating_sub(times);
        self.note.slept_in_vain(more);
        self.before = now;
        Ok(())
    }
}

fn change(reader: &Reader<u64>, wait: &Wait, note: &Note) -> Result {
    let mut seen = Generation::NEVER;
    let mut sleeps = Sleeps::new(note)?;
    while goes_on() {
        let waited = wait.for_change(reader, seen)?;
        sleeps.called(1)?;
        match waited {
            Waited::Changed(newest) => {
                note.woke(note.saw(0, newest.0));
                seen = newest;
            }
            Waited::TimedOut | Waited::Interrupted => {}
            ended => return Err(format!("a wait ended with {ended:?}").into()),
        }
    }
    Ok(())
}

fn any(readers: &[Reader<u64>; STATES], wait: &Wait, note: &Note) -> Result {
    let mut seen = [Generation::NEVER; STATES];
    let mut sleeps = Sleeps::new(note)?;
    while goes_on() {
        let all = [0, 1].map(|state| (&readers[state] as &dyn Waitable, seen[state]));
        let waited = wait.for_any(&all)?;
        sleeps.called(1)?;
        match waited {
            (state, Waited::Changed(newest)) => {
                note.woke(note.saw(state, newest.0));
                seen[state] = newest;
                // The first that has changed is told, and it might be so each time.
                let other = readers[1 - state].generation();
                if other > seen[1 - state] {
                    note.saw(1 - state, other.0);
                    seen[1 - state] = other;
                }
            }
            (_, Waited::TimedOut | Waited::Interrupted) => {}
            (_, ended) => return Err(format!("a wait ended with {ended:?}").into()),
        }
    }
    Ok(())
}

fn watch(reader: &Reader<u64>, period: Duration, note: &Note) -> Result {
    let mut watch = reader.watch().at_most_every(period);
    if !period.is_zero() {
        watch = watch.interrupted_by(&stopping()?.interrupt);
    }
    let mut sleeps = Sleeps::new(note)?;
    while goes_on() {
        let next = match watch.next(Some(LONG)) {
            Err(WatchError::Interrupted) => None,
            next => next?,
        };
        sleeps.called(if period.is_zero() { 1 } else { 2 })?;
        if let Some(snapshot) = next {
            note.woke(note.saw(0, snapshot.generation().0));
            if snapshot.value != snapshot.generation().0 {
                return Err(format!("{} in {}", snapshot.value, snapshot.generation()).into());
            }
        }
    }
    Ok(())
}

fn listen(by: NotifyBy, readers: &[Reader<u64>], mount: &Path, note: &Note) -> Result {
    let mut notifier = Notifier::by(by)?;
    let keys = readers
        .iter()
        .map(|reader| notifier.add(reader))
        .collect::<std::result::Result<Vec<_>, _>>()?;
    let mut idle = Vec::new();
    if readers.len() > 1 {
        let mount = Mount::at(mount)?;
        for name in idle_names() {
            let state = mount.subscribe(name).existing().typed::<u64>()?;
            notifier.add_since(&state, state.generation())?;
            idle.push(state);
        }
    }
    while goes_on() {
        if !await_readable(notifier.as_fd())? {
            continue;
        }
        let events = match notifier.changed() {
            Err(NotifyError::Interrupted) => continue,
            events => events?,
        };
        let mut is_newer = false;
        for event in events {
            let state = keys.iter().position(|key| *key == event.key);
            let (Some(state), Change::To(newest)) = (state, event.change) else {
                return Err(format!("told of {event:?}").into());
            };
            is_newer |= note.saw(state, newest.0);
        }
        note.woke(is_newer);
    }
    Ok(())
}

fn stream(reader: &Reader<u64>, note: &Note) -> Result {
    let runtime = Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let mut changes = reader.changes()?;
        while goes_on() {
            let next = poll_fn(|context| Pin::new(&mut changes).poll_next(context)).await;
            let snapshot = next.ok_or("the stream has ended")??;
            note.woke(note.saw(0, snapshot.generation().0));
            if snapshot.value != snapshot.generation().0 {
                return Err(format!("{} in {}", snapshot.value, snapshot.generation()).into());
            }
        }
        Ok(())
    })
}

/// Takes the value there is, which is its generation.
fn take(file: &File, note: &Note) -> Result {
    let mut bytes = [0; 8];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => note.woke(note.saw(0, u64::from_ne_bytes(bytes))),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn poll_file(file: &File, note: &Note) -> Result {
    while goes_on() {
        if await_readable(file.as_fd())? {
            take(file, note)?;
        }
    }
    Ok(())
}

/// Waits until it is readable; `false` if something else has ended the wait.
fn await_readable(descriptor: BorrowedFd<'_>) -> Result<bool> {
    let mut fds = [
        PollFd::new(descriptor, PollFlags::POLLIN),
        PollFd::new(stopping()?.event.as_fd(), PollFlags::POLLIN),
    ];
    match poll(&mut fds, PollTimeout::NONE) {
        Err(Errno::EINTR) => Ok(false),
        ready => {
            ready?;
            Ok(fds[0].any().unwrap_or(true))
        }
    }
}

fn edge(file: &File, note: &Note) -> Result {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
    epoll.add(file, EpollEvent::new(flags, 1))?;
    epoll.add(&stopping()?.event, EpollEvent::new(EpollFlags::EPOLLIN, 2))?;
    let mut events = [EpollEvent::empty(); 2];
    while goes_on() {
        match epoll.wait(&mut events, EpollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            ready => {
                let told = &events[..ready?];
                if told.iter().any(|event| event.data() == 1) {
                    take(file, note)?;
                }
            }
        }
    }
    Ok(())
}

fn read(mut file: File, note: &Note) -> Result {
    while goes_on() {
        let mut bytes = [0; 8];
        file.read_exact(&mut bytes)?;
        note.woke(note.saw(0, u64::from_ne_bytes(bytes)));
    }
    Ok(())
}

fn changes(mut file: File, note: &Note) -> Result {
    let mut bytes = vec![0; 65536];
    while goes_on() {
        let length = match file.read(&mut bytes) {
            // By being stopped and continued (signal(7)); nothing is lost.
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            length => length?,
        };
        let mut is_newer = false;
        for line in std::str::from_utf8(&bytes[..length])?.lines() {
            let line: serde_json::Value = serde_json::from_str(line)?;
            let state = (0..STATES).find(|state| line["state"] == name(*state));
            if let (Some(state), Some(newest)) = (state, line["generation"].as_u64()) {
                is_newer |= note.saw(state, newest);
            }
        }
        note.woke(is_newer);
    }
    Ok(())
}
