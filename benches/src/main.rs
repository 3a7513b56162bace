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
mod c;
mod case;
mod commit;
mod durable;
mod file;
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

use crate::case::Case;

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
    /// A process of a measurement
    #[command(hide = true)]
    Worker(setup::Worker),
}

/// How a question is asked and answered.
#[derive(Args, Clone, Copy, Debug)]
struct Options {
    /// Print an array of objects {case, ours_ns, limit_ns, ratio, bound, …} instead of a table
    #[arg(long)]
    json: bool,
    /// Exit 1 when a ratio is over its bound, and name it
    #[arg(long)]
    check: bool,
    /// Pairs of blocks a case, one of ours and one of the limit
    #[arg(long, default_value_t = 400)]
    blocks: usize,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let (options, cases) = match cli.question {
        Question::Read(options) => (options, read::run(options.blocks)),
        Question::Commit(options) => (options, commit::run(options.blocks)),
        Question::Transaction(options) => (options, transaction::run(options.blocks)),
        Question::Several(options) => (options, several::run(options.blocks)),
        Question::File(options) => (options, file::run(options.blocks)),
        Question::C(options) => (options, c::run(options.blocks)),
        Question::Wake(options) => (options, wake::run(options.blocks)),
        Question::Durable { options, directory } => {
            (options, durable::run(options.blocks, directory.as_deref()))
        }
        Question::Retry { json } => return contests(json),
        Question::Worker(worker) => return setup::work(&worker),
    };
    let cases = match cases {
        Ok(cases) => cases,
        Err(error) => {
            eprintln!("kstate-benches: {error}");
            return ExitCode::FAILURE;
        }
    };
    if options.json {
        match serde_json::to_string_pretty(&cases) {
            Ok(text) => println!("{text}"),
            Err(error) => {
                eprintln!("kstate-benches: {error}");
                return ExitCode::FAILURE;
            }
        }
    } else {
        case::print_table(&cases);
    }
    let over: Vec<&Case> = cases.iter().filter(|case| case.is_over()).collect();
    for case in &over {
        eprintln!("over its bound: {case}");
    }
    if options.check && !over.is_empty() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
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
