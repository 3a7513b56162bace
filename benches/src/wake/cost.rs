//! What a publish costs its writer while so many sleep until there is one.
//!
//! Each who sleeps has a subscription of its own, and of the limit a mapping of its own. All sleep
//! again before the next publish, and are on another processor than the writer if there is one.

use std::cell::RefCell;
use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kstate::{Mount, Reader, State};
use kstate_sys::clock::Clock;

use super::asleep::{Task, await_asleep};
use super::board::Board;
use crate::alternate::alternate_single;
use crate::bare_wake::{BareValue, BareWord};
use crate::case::Case;
use crate::setup::{IDLE, Result, Role, Setup, Worker, await_end, await_line, end, worker};

/// How many sleep.
const SIZES: [usize; 4] = [0, 1, 10, 100];
/// Publishes a block: each is one of ours and one of the limit.
const PUBLISHES_A_BLOCK: usize = 5;
/// What is published.
const VALUE: BareValue = [7; 8];
/// Small beside the megabytes that a thread gets unasked.
const STACK_BYTES: usize = 256 * 1024;

/// All cases, who sleeps being on that processor.
pub(super) fn measure(processor: usize, blocks: usize) -> Result<Vec<Case>> {
    let setup = Setup::start_on(Some(processor))?;
    let pairs = SIZES
        .into_iter()
        .map(|size| Pair::start(&setup, size, processor))
        .collect::<Result<Vec<_>>>()?;
    let mut cases = Vec::new();
    for pair in &pairs {
        let (ours, limit) =
            alternate_single(blocks * PUBLISHES_A_BLOCK, || pair.ours(), || pair.limit())?;
        let title = format!("publish, {} asleep", pair.size);
        cases.push(Case::new(title, ours, limit));
    }
    // A cost that grows with those who sleep makes ten times this one's; it has no bound, because
    // it is ours that it stands beside.
    if let [.., ten, hundred] = pairs.as_slice() {
        let (more, less) =
            alternate_single(blocks * PUBLISHES_A_BLOCK, || hundred.ours(), || ten.ours())?;
        let title = format!("ours, {} asleep beside {}", hundred.size, ten.size);
        cases.push(Case::new(title, more, less));
    }
    Ok(cases)
}

/// A state and a bare word on each of which so many sleep.
struct Pair {
    size: usize,
    state: State<BareValue>,
    word: BareWord,
    on_state: RefCell<Crowd>,
    on_word: RefCell<Crowd>,
    clock: Clock,
}

impl Pair {
    fn start(setup: &Setup, size: usize, processor: usize) -> Result<Self> {
        let name = format!("wake.cost.{size}");
        let word = setup.bare_path(&name);
        let state = setup.state::<8>(&name)?;
        // A first version, so that nothing is done for the first time when it is timed.
        state.publish(&VALUE)?;
        Ok(Self {
            size,
            state,
            word: BareWord::open(&word)?,
            on_state: RefCell::new(Crowd::start(setup, &name, size, processor, None)?),
            on_word: RefCell::new(Crowd::start(setup, &name, size, processor, Some(word))?),
            clock: Clock::calibrate(),
        })
    }

    /// Nanoseconds in one publish of ours.
    fn ours(&self) -> Result<f64> {
        self.on_state.borrow_mut().await_asleep()?;
        let start = self.clock.now();
        let published = self.state.publish(&VALUE);
        let end = self.clock.now();
        published?;
        Ok(self.clock.between(start, end).as_secs_f64() * 1e9)
    }

    /// Nanoseconds in one of the limit.
    fn limit(&self) -> Result<f64> {
        self.on_word.borrow_mut().await_asleep()?;
        let start = self.clock.now();
        let woken = self.word.publish(&VALUE);
        let end = self.clock.now();
        if woken != self.size {
            return Err(format!("{woken} slept, not {}", self.size).into());
        }
        Ok(self.clock.between(start, end).as_secs_f64() * 1e9)
    }
}

/// A process so many of whose threads wait.
struct Crowd {
    child: Child,
    tasks: Vec<Task>,
    board: Board,
    size: u64,
    wakes: u64,
}

impl Crowd {
    fn start(
        setup: &Setup,
        name: &str,
        size: usize,
        processor: usize,
        bare: Option<PathBuf>,
    ) -> Result<Self> {
        let side = match bare {
            None => "ours",
            Some(_) => "limit",
        };
        let path = setup.bare_path(&format!("{name}.{side}.board"));
        let board = Board::open(&path)?;
        let mut child = worker(&Worker {
            role: Role::Crowd,
            path: setup.mount().path().to_owned(),
            bare,
            board: Some(path),
            name: name.to_owned(),
            size,
            processor: Some(processor),
            ..IDLE
        })?;
        let tasks = await_line(&mut child, "ready").and_then(|()| Ok(Task::all_of(child.id())?));
        match tasks {
            Ok(tasks) => Ok(Self {
                child,
                tasks,
                board,
                size: size as u64,
                wakes: 0,
            }),
            Err(error) => {
                end(&mut child);
                Err(error)
            }
        }
    }

    /// Returns when all sleep again after the last publish, before the next one.
    fn await_asleep(&mut self) -> Result<()> {
        self.wakes += 1;
        let waits = self.wakes * self.size;
        await_asleep(&self.tasks, || {
            self.board.waiting.load(Ordering::Relaxed) == waits
        })
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// The main of a process whose threads wait.
pub(crate) fn wait_in_crowd(worker: &Worker) -> Result<()> {
    let board = Arc::new(Board::open(
        worker.board.as_ref().ok_or("--board is missing")?,
    )?);
    let mount = Mount::at(&worker.path)?;
    for _ in 0..worker.size {
        let board = board.clone();
        let wait: Box<dyn FnOnce() -> Result<()> + Send> = match &worker.bare {
            None => {
                let reader = mount.subscribe(&worker.name).typed()?.reader();
                Box::new(move || follow(&reader, &board))
            }
            Some(path) => {
                let word = BareWord::open(path)?;
                Box::new(move || follow_bare(&word, &board))
            }
        };
        std::thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn(move || {
                if let Err(error) = wait() {
                    eprintln!("kstate-benches: one who waited has ended: {error}");
                }
            })?;
    }
    println!("ready");
    Ok(await_end()?)
}

fn follow(reader: &Reader<BareValue>, board: &Board) -> Result<()> {
    let mut seen = reader.generation();
    loop {
        board.waiting.fetch_add(1, Ordering::Relaxed);
        while !reader.changed_since(seen) {
            let _ = reader.wait(seen, None)?;
        }
        seen = reader.generation();
    }
}

fn follow_bare(word: &BareWord, board: &Board) -> Result<()> {
    let mut seen = word.version();
    loop {
        board.waiting.fetch_add(1, Ordering::Relaxed);
        while word.version() == seen {
            word.wait(seen)?;
        }
        seen = word.version();
    }
}
