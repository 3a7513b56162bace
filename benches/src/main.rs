//! Questions of speed, one a subcommand, each answered against the bare limit in the same run.
//!
//! Ours and the limit are measured in turn, block by block, so that what the machine does
//! meanwhile meets both; compared are medians over the blocks. Absolute times on a shared machine
//! mean little, ratios within a run mean something.

mod alternate;
mod bare;
mod bare_fuse;
mod bare_trap;
mod bare_wake;
mod bounds;
mod c;
mod case;
mod commit;
mod durable;
mod file;
mod instructions;
mod place;
mod read;
mod retry;
mod setup;
mod several;
mod transaction;
mod value;
mod wake;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::bounds::Bounds;
use crate::case::Case;
use crate::setup::Result;

/// Measure kstate against the bare limit
#[derive(Parser, Debug)]
#[command(
    name = "kstate-benches",
    after_help = "\
Examples:
  cargo run --release -p kstate-benches -- read
  cargo run --release -p kstate-benches -- commit --check
  cargo run --release -p kstate-benches -- wake --blocks 100
  cargo run --release -p kstate-benches -- read --json > read.json"
)]
struct Cli {
    #[command(subcommand)]
    question: Question,
}

#[derive(Subcommand, Debug)]
enum Question {
    /// What a consistent snapshot costs beside a plain copy out of a ring
    Read(Options),
    /// What publishing costs beside a plain copy and compare-and-swap
    Commit(Options),
    /// What transactions cost: in software, by a trapped page, against each other
    Transaction(Options),
    /// What committing and reading several states at once costs beside one by one
    Several(Options),
    /// What files cost beside a file system that answers from a buffer: read, write, poll
    File(Options),
    /// What waking costs: until one who sleeps holds a value, each way of waiting beside the barest
    /// one, on the writer's processor and on another, medians and 99th percentiles; and for the
    /// writer, with up to a hundred asleep
    Wake(Options),
    /// What keeping a state in a file costs its writer: nothing in the background, in time, instructions and
    /// system calls; durably beside bare fdatasync; and what is written to the medium
    Durable {
        #[command(flatten)]
        options: Options,
        /// Where files are made, on the disk that is asked about [default: the temporary directory]
        #[arg(long, value_name = "DIR")]
        directory: Option<PathBuf>,
    },
    /// What a call from C costs beside the same from Rust
    C(Options),
    /// How often transactions are tried before they commit, and how long that takes
    Retry {
        /// Print an array of objects {case, commits, given_up, attempts_p50, …} instead of a table
        #[arg(long)]
        json: bool,
    },
    /// How many instructions the hot paths take, counted by callgrind (takes valgrind); exit 1 when a count is not as
    /// benches/instructions.toml pins it, within 5 %
    Instructions {
        /// Print an array of objects {path, instructions, pinned, change} instead of a table
        #[arg(long)]
        json: bool,
    },
    /// A process of a measurement
    #[command(hide = true)]
    Worker(setup::Worker),
    /// A path taken under callgrind
    #[command(hide = true)]
    Taken(instructions::Taken),
}

/// How a question is asked and answered.
#[derive(Args, Clone, Copy, Debug)]
struct Options {
    /// Print an array of objects {case, ours_ns, limit_ns, ratio, bound, …} instead of a table
    #[arg(long)]
    json: bool,
    /// Exit 1 when a ratio is over its bound (benches/bounds.toml) at each attempt, and name it
    #[arg(long)]
    check: bool,
    /// Exit 1 when a ratio is past its guard at each attempt: it has become worse than it is known to be
    #[arg(long, conflicts_with = "check")]
    guard: bool,
    /// With --check or --guard, how often the question is asked while ratios are too high: a machine is not always quiet
    #[arg(long, value_name = "N", default_value_t = 3)]
    attempts: usize,
    /// Pairs of blocks a case, one of ours and one of the limit
    #[arg(long, default_value_t = 400)]
    blocks: usize,
}

/// What answers a question, as often as it is asked.
type Ask = Box<dyn Fn() -> Result<Vec<Case>>>;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let (options, name, ask): (Options, _, Ask) = match cli.question {
        Question::Read(options) => (options, "read", Box::new(move || read::run(options.blocks))),
        Question::Commit(options) => (
            options,
            "commit",
            Box::new(move || commit::run(options.blocks)),
        ),
        Question::Transaction(options) => (
            options,
            "transaction",
            Box::new(move || transaction::run(options.blocks)),
        ),
        Question::Several(options) => (
            options,
            "several",
            Box::new(move || several::run(options.blocks)),
        ),
        Question::File(options) => (options, "file", Box::new(move || file::run(options.blocks))),
        Question::C(options) => (options, "c", Box::new(move || c::run(options.blocks))),
        Question::Wake(options) => (options, "wake", Box::new(move || wake::run(options.blocks))),
        Question::Durable { options, directory } => (
            options,
            "durable",
            Box::new(move || durable::run(options.blocks, directory.as_deref())),
        ),
        Question::Retry { json } => return contests(json),
        Question::Instructions { json } => return ended(instructions::run(json)),
        Question::Taken(taken) => return instructions::take(&taken),
        Question::Worker(worker) => return setup::work(&worker),
    };
    ended(answer(options, name, &*ask))
}

/// How the program ends: well only if all is right.
fn ended(answered: Result<bool>) -> ExitCode {
    match answered {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("kstate-benches: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Asks, shows, and holds against the bounds; whether that is all right.
fn answer(options: Options, name: &str, ask: &dyn Fn() -> Result<Vec<Case>>) -> Result<bool> {
    let fails = |case: &Case| match options.guard {
        true => case.is_past_guard(),
        false => options.check && case.is_over(),
    };
    let bounds = Bounds::of(name)?;
    let mut cases = ask()?;
    bounds.apply(&mut cases)?;
    for _ in 1..options.attempts {
        if !cases.iter().any(fails) {
            break;
        }
        let mut again = ask()?;
        bounds.apply(&mut again)?;
        for case in cases.iter_mut().filter(|case| fails(case)) {
            if let Some(better) = again
                .iter()
                .find(|again| again.case == case.case && again.ratio < case.ratio)
            {
                *case = better.clone();
            }
        }
    }
    match options.json {
        true => println!("{}", serde_json::to_string_pretty(&cases)?),
        false => case::print_table(&cases),
    }
    for case in cases.iter().filter(|case| case.is_over()) {
        let how = if case.is_past_guard() {
            "over its bound and past its guard"
        } else {
            "over its bound"
        };
        eprintln!("{how}: {case}");
    }
    Ok(!cases.iter().any(fails))
}

fn contests(json: bool) -> ExitCode {
    let shown = retry::run().and_then(|rows| {
        match json {
            true => println!("{}", serde_json::to_string_pretty(&rows)?),
            false => retry::print_table(&rows),
        }
        Ok(())
    });
    match shown {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kstate-benches: {error}");
            ExitCode::FAILURE
        }
    }
}
