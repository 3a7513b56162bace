//! What each process does, until it is killed.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;
use kstate::{
    CommitManyError, DurableError, Generation, ManyOutcome, Mount, Notifier, Outcome, Reader,
    State, TouchError, TransactManyError, Wait, cut, transact_many,
};
use kstate_tests::{Board, Checked, bytes_of, checked, number_of, number_of_bytes};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::note::{Note, STATES, Seen};
use super::{Part, Result};

const PUBLISHED: usize = 0;
pub(crate) const ADDED: usize = 1;
pub(crate) const PAIR: [usize; 2] = [2, 3];
pub(crate) const DURABLE: usize = 4;
pub(crate) const FILED: usize = 5;

/// Between two commits of a writer, so that others get to run on a small machine.
const PAUSE: Duration = Duration::from_micros(200);
/// How long one waits before it looks whether there is a daemon again.
const ALONE: Duration = Duration::from_millis(2);
/// A wait that ends by itself: who writes may have been killed.
const WAIT: Duration = Duration::from_millis(500);

/// What a process is for.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// Publishes.
    Publisher,
    /// Adds one, by a transaction.
    Adder,
    /// Adds one to two states at once.
    Pair,
    /// Publishes durably.
    Durable,
    /// Writes a plain file.
    Filer,
    /// Takes snapshots and cuts.
    Reader,
    /// Waits in a thread.
    Waiter,
    /// Waits by a notifier.
    Notified,
    /// Polls and reads a plain file.
    Poller,
}

impl Role {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Publisher => "publisher",
            Self::Adder => "adder",
            Self::Pair => "pair",
            Self::Durable => "durable",
            Self::Filer => "filer",
            Self::Reader => "reader",
            Self::Waiter => "waiter",
            Self::Notified => "notified",
            Self::Poller => "poller",
        }
    }
}

/// The main of a process.
pub(crate) fn take(part: &Part) -> Result {
    let board: Board<Note> = Board::open(&part.board)?;
    let note = board.entry(part.index).ok_or("no such note")?;
    let mount = find(&part.mount, note);
    match part.role {
        Role::Publisher => publish(&subscribe(&mount, PUBLISHED, note)?, note),
        Role::Adder => add(&subscribe(&mount, ADDED, note)?, note),
        Role::Pair => {
            let pair = [PAIR[0], PAIR[1]].map(|state| subscribe(&mount, state, note));
            let [a, b] = pair;
            add_to_both(&a?, &b?, note)
        }
        Role::Durable => publish_durably(&subscribe(&mount, DURABLE, note)?, note),
        Role::Filer => write_file(&part.mount.join(STATES[FILED]), note),
        Role::Reader => read(&mount, note),
        Role::Waiter => wait(&mount, note),
        Role::Notified => be_notified(&mount, note),
        Role::Poller => poll_file(&part.mount.join(STATES[ADDED]), note),
    }
}

/// The mount, as soon as a daemon serves it.
fn find(path: &Path, note: &Note) -> Mount {
    loop {
        match Mount::at(path) {
            Ok(mount) => return mount,
            Err(_) => {
                note.alone();
                std::thread::sleep(ALONE);
            }
        }
    }
}

/// Whether it was refused for want of a daemon.
fn is_alone(errno: i32) -> bool {
    // Of a mount that has just been detached the path leads to what is below.
    matches!(
        errno,
        libc::ENOTCONN | libc::ECONNABORTED | libc::ENOENT | libc::EINTR
    )
}

/// Asks again and again until there is a daemon.
fn asked<T, E: Into<kstate::Error>>(
    note: &Note,
    mut ask: impl FnMut() -> std::result::Result<T, E>,
) -> Result<T> {
    loop {
        match ask() {
            Ok(done) => return Ok(done),
            Err(error) => await_daemon(note, error)?,
        }
    }
}

/// Waits a moment after `error`, which must be for want of a daemon.
fn await_daemon(note: &Note, error: impl Into<kstate::Error>) -> Result {
    let error = error.into();
    if !is_alone(error.errno()) {
        return Err(error.into());
    }
    note.alone();
    std::thread::sleep(ALONE);
    Ok(())
}

fn subscribe(mount: &Mount, state: usize, note: &Note) -> Result<State<Checked>> {
    asked(note, || {
        mount.subscribe(STATES[state]).existing().write().typed()
    })
}

fn reader(mount: &Mount, state: usize, note: &Note) -> Result<Reader<Checked>> {
    let state = asked(note, || mount.subscribe(STATES[state]).existing().typed())?;
    Ok(state.reader())
}

fn publish(state: &State<Checked>, note: &Note) -> Result {
    loop {
        let next = state.generation().0 + 1;
        let generation = state.publish(&checked(next))?;
        note.commit(PUBLISHED, generation.0);
        std::thread::sleep(PAUSE);
    }
}

fn add(state: &State<Checked>, note: &Note) -> Result {
    loop {
        let added = state.try_transact(|value| -> std::result::Result<(), &str> {
            let number = number_of(&*value).ok_or("torn")?;
            *value = checked(number + 1);
            Ok(())
        });
        match added.map_err(|error| format!("{error:?}"))?.outcome {
            Outcome::Committed { generation } => note.commit(ADDED, generation.0),
            other => return Err(format!("{other:?}").into()),
        }
        std::thread::sleep(PAUSE);
    }
}

fn add_to_both(a: &State<Checked>, b: &State<Checked>, note: &Note) -> Result {
    loop {
        let added = transact_many(|tx| {
            tx.add(a)?;
            tx.add(b)?;
            for state in [a, b] {
                let value = tx.get_mut(state)?;
                let number = number_of(&*value).ok_or(TransactManyError::Aborted("torn"))?;
                *value = checked(number + 1);
            }
            Ok::<_, TransactManyError<&str>>(())
        });
        let added = match added {
            Ok(added) => added,
            // Its peer was killed together with the daemon, who alone could settle what it left.
            Err(TransactManyError::Touch(TouchError::Read(error))) => {
                await_daemon(note, error)?;
                continue;
            }
            // Its first commit, of which there is no record yet, came when the daemon was killed.
            Err(TransactManyError::Commit(error @ CommitManyError::Record { .. })) => {
                await_daemon(note, error)?;
                continue;
            }
            Err(error) => return Err(format!("{error:?}").into()),
        };
        match added.outcome {
            ManyOutcome::Committed { generations } => {
                for (state, generation) in PAIR.into_iter().zip(generations.iter()) {
                    note.commit(state, generation.0);
                }
            }
            other => return Err(format!("{other:?}").into()),
        }
        std::thread::sleep(PAUSE);
    }
}

fn publish_durably(state: &State<Checked>, note: &Note) -> Result {
    loop {
        let next = state.generation().0 + 1;
        let published = match state.publish_durable(&checked(next)) {
            Ok(generation) => generation,
            // It is there, and the daemon died before it was in the file.
            Err(DurableError::NotDurable { generation, .. }) => {
                note.commit(DURABLE, generation.0);
                asked(note, || state.sync_to(generation))?;
                generation
            }
            Err(error @ DurableError::Unknown { .. }) => {
                await_daemon(note, error)?;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        note.commit(DURABLE, published.0);
        note.durable(published.0);
        std::thread::sleep(PAUSE);
    }
}

/// A plain file that is opened again when its daemon has died.
struct Plain<'a> {
    path: &'a Path,
    write: bool,
    note: &'a Note,
    file: Option<File>,
}

impl<'a> Plain<'a> {
    fn new(path: &'a Path, write: bool, note: &'a Note) -> Self {
        Self {
            path,
            write,
            note,
            file: None,
        }
    }

    /// None if there is no daemon, for a moment.
    fn with<R>(&mut self, work: impl FnOnce(&File) -> io::Result<R>) -> Result<Option<R>> {
        let open = || {
            OpenOptions::new()
                .read(true)
                .write(self.write)
                .open(self.path)
        };
        let file = match self.file.take() {
            Some(file) => Ok(file),
            None => open(),
        };
        let done = file.and_then(|file| Ok((work(&file)?, file)));
        match done {
            Ok((done, file)) => {
                self.file = Some(file);
                Ok(Some(done))
            }
            Err(error) if error.raw_os_error().is_some_and(is_alone) => {
                self.note.alone();
                std::thread::sleep(ALONE);
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn value_of(file: &File) -> io::Result<Vec<u8>> {
    let mut value = vec![0; size_of::<Checked>()];
    let length = file.read_at(&mut value, 0)?;
    value.truncate(length);
    Ok(value)
}

/// Each write is validated against what was read. One that finds no daemon any more may have come to pass.
fn write_file(path: &Path, note: &Note) -> Result {
    let mut plain = Plain::new(path, true, note);
    loop {
        let written = plain.with(|file| {
            let number = number_of_bytes(&value_of(file)?).ok_or(io::ErrorKind::InvalidData)?;
            file.write_all_at(&bytes_of(number + 1, size_of::<Checked>()), 0)?;
            Ok(number + 1)
        })?;
        if let Some(generation) = written {
            note.commit(FILED, generation);
        }
        std::thread::sleep(PAUSE);
    }
}

fn read(mount: &Mount, note: &Note) -> Result {
    let readers: Vec<_> = (0..STATES.len())
        .map(|state| reader(mount, state, note))
        .collect::<Result<_>>()?;
    let (mut seen, mut seen_in_cuts) = (Seen::default(), Seen::default());
    loop {
        for (state, reader) in readers.iter().enumerate() {
            let now = asked(note, || reader.snapshot())?;
            seen.look(note, state, now.generation().0, number_of(&now.value));
        }
        let (a, b) = asked(note, || cut((&readers[PAIR[0]], &readers[PAIR[1]])))?;
        for (state, now) in PAIR.into_iter().zip([&a, &b]) {
            seen_in_cuts.look(note, state, now.generation().0, number_of(&now.value));
        }
        if a.value != b.value {
            note.torn();
        }
        std::thread::sleep(PAUSE);
    }
}

fn wait(mount: &Mount, note: &Note) -> Result {
    let reader = reader(mount, ADDED, note)?;
    let mut seen = Seen::default();
    let mut last = Generation::NEVER;
    loop {
        let _ = asked(note, || Wait::new().timeout(WAIT).for_change(&reader, last))?;
        let now = asked(note, || reader.snapshot())?;
        last = now.generation();
        seen.look(note, ADDED, last.0, number_of(&now.value));
    }
}

fn be_notified(mount: &Mount, note: &Note) -> Result {
    let followed = [PUBLISHED, ADDED, DURABLE];
    let readers: Vec<_> = followed
        .map(|state| reader(mount, state, note))
        .into_iter()
        .collect::<Result<_>>()?;
    let mut notifier = Notifier::new()?;
    for reader in &readers {
        asked(note, || notifier.add(reader))?;
    }
    let mut seen = Seen::default();
    loop {
        asked(note, || notifier.wait(Some(WAIT)).map(drop))?;
        for (state, reader) in followed.into_iter().zip(&readers) {
            let now = asked(note, || reader.snapshot())?;
            seen.look(note, state, now.generation().0, number_of(&now.value));
        }
    }
}

fn poll_file(path: &Path, note: &Note) -> Result {
    let mut plain = Plain::new(path, false, note);
    let mut last = 0;
    loop {
        let read = plain.with(|file| {
            let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(WAIT).unwrap_or(PollTimeout::ZERO);
            poll(&mut fds, timeout)?;
            value_of(file)
        })?;
        let Some(value) = read else { continue };
        match number_of_bytes(&value) {
            Some(number) if number < last => note.backwards(),
            Some(number) => last = number,
            None => note.torn(),
        }
        note.work();
    }
}
