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

fn transact(state: Subscribe) -> Result<Operation> {
    let state = state.write().typed::<Checked>()?;
    Ok(Box::new(move |_| {
        let done = marked(|| {
            state.transact(|value| {
                let next = number_of(value)? + 1;
                *value = words(next);
                Some(next)
            })
        })?;
        let next = done.value.ok_or("torn")?;
        Ok(vec![(committed(done.outcome)?, next)])
    }))
}

fn transact_bytes(state: Subscribe) -> Result<Operation> {
    let state = state.write().bytes()?;
    Ok(Box::new(move |_| {
        let done = marked(|| {
            state.transact(|value| {
                let next = number_of_bytes(value)? + 1;
                *value = bytes_of(next, value.len());
                Some(next)
            })
        })?;
        let next = done.value.ok_or("torn")?;
        Ok(vec![(committed(done.outcome)?, next)])
    }))
}

/// Through a pointer, as code does that knows nothing of transactions.
fn transact_raw(state: Subscribe) -> Result<Operation> {
    let state = state.write().typed::<Page>()?;
    state.set_trapping(Trapping::Signal);
    let attempt = move || -> Result<Option<Version>> {
        let mut tx = state.begin_raw()?;
        let page = tx.as_mut_ptr().cast::<Page>();
        // SAFETY: a page that is this transaction's, and aligned as one; any bytes are a value.
        let value = unsafe { page.read_volatile() };
        // What a doomed transaction shows is whole as well.
        let next = number_of(&value).ok_or("torn")? + 1;
        // SAFETY: as above.
        unsafe { page.write_volatile(words(next)) };
        Ok(match tx.commit()? {
            Outcome::Conflict { .. } => None,
            outcome => Some((committed(outcome)?, next)),
        })
    };
    Ok(Box::new(move |_| {
        marked(|| {
            loop {
                if let Some(version) = attempt()? {
                    return Ok(vec![version]);
                }
            }
        })
    }))
}

fn transact_many(x: Subscribe, y: Subscribe, z: Subscribe) -> Result<Operation> {
    let x = x.write().typed::<Small>()?;
    let y = y.write().typed::<Small>()?;
    let z = z.typed::<Small>()?;
    Ok(Box::new(move |_| {
        let done = marked(|| {
            kstate::transact_many(|tx| {
                tx.add(&x)?;
                tx.add(&y)?;
                tx.add_reading(&z)?;
                let read = number_of(tx.get(&z)?);
                let mut next = [0; 2];
                for (state, next) in [&x, &y].into_iter().zip(&mut next) {
                    let value = tx.get_mut(state)?;
                    let number = number_of(value).zip(read);
                    *next = number.ok_or(TransactManyError::Aborted("torn"))?.0 + 1;
                    *value = words(*next);
                }
                Ok(next)
            })
        })?;
        match done.outcome {
            ManyOutcome::Committed { generations } => {
                Ok(generations.into_iter().zip(done.value).collect())
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
