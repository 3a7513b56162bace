#![expect(unsafe_code, reason = "touches a page through a pointer")]
//! A process that does one thing between two marks, to be stepped along by a tracer, which stops or
//! kills it there.
//!
//! All that is done once in a process is done before it says that it is ready: claims, records, the
//! trap of raw pages, and the operation itself. For each line of input it then does it once more,
//! and prints what came of it: generation and number of each version that it wrote, or read.

use std::io::{BufRead, Write, stdin, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use kstate::{
    Bytes, Generation, ManyOutcome, Mount, Outcome, Subscribe, TransactManyError, Trapping,
};
use kstate_tests::{Checked, bytes_of, number_of, number_of_bytes, words};
use nix::sys::signal::{SigHandler, Signal, raise, signal};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// What it does for a line of input.
type Operation = Box<dyn FnMut(u64) -> Result<Vec<Version>>>;

/// A version, and the number its value carries.
type Version = (Generation, u64);

type Small = [u64; 8];
type Page = [u64; 512];

/// A process that does one thing between two marks
#[derive(Parser, Debug)]
struct Cli {
    mount: PathBuf,
    name: String,
    operation: Kind,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum Kind {
    /// Publishes 64 bytes that carry the number given
    PublishSmall,
    /// Publishes half a kilobyte
    Publish,
    /// Publishes a page
    PublishPage,
    /// Adds one to the number, by a transaction on a type
    Transact,
    /// The same on bytes
    TransactBytes,
    /// The same through a pointer, whose first touch is a signal
    TransactRaw,
    /// Adds one to the numbers of two states, of which a third is read
    TransactMany,
    /// Takes a snapshot
    Snapshot,
    /// Takes a cut of two states
    Cut,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stepped: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result {
    // A tracer sees it all the same; without one, as for the first time below, it is nothing.
    // SAFETY: no handler.
    unsafe { signal(MARK, SigHandler::SigIgn) }?;
    let mut operation = prepare(cli)?;
    operation(1)?;
    say("ready")?;
    for line in stdin().lock().lines() {
        let versions = operation(line?.parse()?)?;
        let words = versions
            .iter()
            .flat_map(|(generation, n)| [generation.0, *n]);
        let words: Vec<String> = words.map(|word| word.to_string()).collect();
        say(&words.join(" "))?;
    }
    Ok(())
}

const MARK: Signal = Signal::SIGUSR1;

/// Does `work` between two marks.
fn marked<R>(work: impl FnOnce() -> R) -> R {
    // Raising a signal that is ignored cannot fail.
    let _ = raise(MARK);
    let done = work();
    let _ = raise(MARK);
    done
}

fn prepare(cli: &Cli) -> Result<Operation> {
    let mount = Mount::at(&cli.mount)?;
    let state = |suffix| {
        let name = format!("{}.{suffix}", cli.name);
        mount.subscribe(name).existing()
    };
    match cli.operation {
        Kind::PublishSmall => publish::<8>(state("x")),
        Kind::Publish => publish::<64>(state("x")),
        Kind::PublishPage => publish::<512>(state("x")),
        Kind::Transact => transact(state("x")),
        Kind::TransactBytes => transact_bytes(state("x")),
        Kind::TransactRaw => transact_raw(state("x")),
        Kind::TransactMany => transact_many(state("x"), state("y"), state("z")),
        Kind::Snapshot => snapshot(state("x")),
        Kind::Cut => cut(state("x"), state("y")),
    }
}

fn publish<const N: usize>(state: Subscribe) -> Result<Operation>
where
    [u64; N]: kstate::Layout,
{
    let state = state.write().typed::<[u64; N]>()?;
    Ok(Box::new(move |number| {
        let value = words(number);
        let generation = marked(|| state.publish(&value))?;
        Ok(vec![(generation, number)])
    }))
}

/// Adding one to a number, so that little is done between the marks but what the library does.
struct Addition<V> {
    from: V,
    to: V,
    told: u64,
}

impl<const N: usize> Addition<[u64; N]> {
    /// To the number before the one that is `told`, or to what is there instead.
    fn to_be(told: u64) -> Self {
        Self {
            from: words(told - 1),
            to: words(told),
            told,
        }
    }

    /// The number after that; `None` if the value is torn.
    fn apply(&self, value: &mut [u64; N]) -> Option<u64> {
        if *value == self.from {
            *value = self.to;
            return Some(self.told);
        }
        let next = number_of(value)? + 1;
        *value = words(next);
        Some(next)
    }
}

impl Addition<Vec<u8>> {
    fn to_be(told: u64, length: usize) -> Self {
        Self {
            from: bytes_of(told - 1, length),
            to: bytes_of(told, length),
            told,
        }
    }

    fn apply(&self, value: &mut Vec<u8>) -> Option<u64> {
        if *value == self.from {
            value.copy_from_slice(&self.to);
            return Some(self.told);
        }
        let next = number_of_bytes(value)? + 1;
        *value = bytes_of(next, value.len());
        Some(next)
    }
}

fn transact(state: Subscribe) -> Result<Operation> {
    let state = state.write().typed::<Checked>()?;
    Ok(Box::new(move |told| {
        let addition = Addition::<Checked>::to_be(told);
        let done = marked(|| state.transact(|value| addition.apply(value)))?;
        let next = done.value.ok_or("torn")?;
        Ok(vec![(committed(done.outcome)?, next)])
    }))
}

fn transact_bytes(state: Subscribe) -> Result<Operation> {
    let state = state.write().bytes()?;
    Ok(Box::new(move |told| {
        let length = state.snapshot()?.value.len();
        let addition = Addition::<Vec<u8>>::to_be(told, length);
        let done = marked(|| state.transact(|value| addition.apply(value)))?;
        let next = done.value.ok_or("torn")?;
        Ok(vec![(committed(done.outcome)?, next)])
    }))
}

/// Through a pointer, as code does that knows nothing of transactions.
fn transact_raw(state: Subscribe) -> Result<Operation> {
    let state = state.write().typed::<Page>()?;
    state.set_trapping(Trapping::Signal);
    Ok(Box::new(move |told| {
        let addition = Addition::<Page>::to_be(told);
        marked(|| {
            loop {
                let mut tx = state.begin_raw()?;
                let page = tx.as_mut_ptr().cast::<Page>();
                // SAFETY: a page that is this transaction's, and aligned as one; any bytes are a
                // value. Nothing else refers to it before the commit.
                let page = unsafe { &mut *page };
                // What a doomed transaction shows is whole as well.
                let next = addition.apply(page).ok_or("torn")?;
                match tx.commit()? {
                    Outcome::Conflict { .. } => {}
                    outcome => return Ok(vec![(committed(outcome)?, next)]),
                }
            }
        })
    }))
}

fn transact_many(x: Subscribe, y: Subscribe, z: Subscribe) -> Result<Operation> {
    let x = x.write().typed::<Small>()?;
    let y = y.write().typed::<Small>()?;
    let z = z.typed::<Small>()?;
    Ok(Box::new(move |told| {
        let addition = Addition::<Small>::to_be(told);
        let done = marked(|| {
            kstate::transact_many(|tx| {
                tx.add(&x)?;
                tx.add(&y)?;
                tx.add_reading(&z)?;
                let torn = || TransactManyError::Aborted("torn");
                let read = number_of(tx.get(&z)?).ok_or_else(torn)?;
                let first = addition.apply(tx.get_mut(&x)?).ok_or_else(torn)?;
                let second = addition.apply(tx.get_mut(&y)?).ok_or_else(torn)?;
                Ok([first, second, read])
            })
        })?;
        match done.outcome {
            ManyOutcome::Committed { generations } => {
                // A transaction does not say which one it has read.
                let read = std::iter::once(Generation::NEVER);
                let generations = generations.iter().copied().chain(read);
                Ok(generations.zip(done.value).collect())
            }
            other => Err(format!("{other:?}").into()),
        }
    }))
}

fn snapshot(state: Subscribe) -> Result<Operation> {
    let state = state.typed::<Page>()?;
    Ok(Box::new(move |_| {
        let snapshot = marked(|| state.snapshot())?;
        let number = number_of(&snapshot.value).ok_or("torn")?;
        Ok(vec![(snapshot.generation(), number)])
    }))
}

fn cut(x: Subscribe, y: Subscribe) -> Result<Operation> {
    let (x, y) = (x.typed::<Small>()?, y.bytes()?);
    Ok(Box::new(move |_| {
        let (x, y) =
            marked(|| kstate::cut::<(&kstate::Reader<_>, &kstate::Reader<Bytes>)>((&x, &y)))?;
        let numbers = (number_of(&x.value), number_of_bytes(&y.value));
        let (Some(first), Some(second)) = numbers else {
            return Err("torn".into());
        };
        Ok(vec![(x.generation(), first), (y.generation(), second)])
    }))
}

fn committed(outcome: Outcome) -> Result<Generation> {
    match outcome {
        Outcome::Committed { generation } => Ok(generation),
        other => Err(format!("{other:?}").into()),
    }
}

fn say(line: &str) -> Result {
    let mut output = stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()?;
    Ok(())
}
