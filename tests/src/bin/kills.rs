//! Processes killed at random, the daemon among them, while others go on: nothing that was committed is
//! lost, nothing is torn, nothing goes backwards, nothing is left behind. If any of that does not hold the
//! exit code is 1.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser;
use kstatefs::config::Passthrough;
use nix::sys::signal::{SigSet, Signal};

#[path = "kills/findings.rs"]
mod findings;
#[path = "kills/leaks.rs"]
mod leaks;
#[path = "kills/note.rs"]
mod note;
#[path = "kills/part.rs"]
mod part;
#[path = "soak/random.rs"]
#[expect(dead_code, reason = "words by chance are for the other soak")]
mod random;
#[path = "kills/scene.rs"]
mod scene;

use findings::Findings;
use part::Role;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Kill a random process again and again, the daemon too, and look at the states after each
///
/// Writers commit by the library, by transactions of one and of two states, durably, and through plain files;
/// readers read, wait and poll. What was killed is started again, the daemon on what it has left. Ends early
/// when it is interrupted, with what it has by then.
#[derive(Parser, Debug)]
#[command(after_help = "\
Exit status: 0 nothing is wrong; 1 something is, named in the last lines.

Examples:
  cargo run --release -p kstate-tests --bin kills
  cargo run --release -p kstate-tests --bin kills -- --kills 10000
  cargo run --release -p kstate-tests --bin kills -- --passthrough off --json | jq .faults")]
struct Cli {
    /// Processes to kill
    #[arg(long, value_name = "N", default_value_t = 200)]
    kills: u64,

    /// Let the kernel pass maps through if it can (auto) or fail, or use the daemon's socket (off)
    #[arg(long, value_enum, default_value_t)]
    passthrough: Passthrough,

    /// Print one JSON object, and nothing while it runs
    #[arg(long)]
    json: bool,

    /// The rest is for the processes that it starts
    #[command(flatten)]
    part: Option<Part>,
}

#[derive(clap::Args, Debug)]
struct Part {
    #[arg(long, hide = true, required = false)]
    mount: PathBuf,
    #[arg(long, hide = true, required = false)]
    board: PathBuf,
    #[arg(long, hide = true, required = false)]
    index: usize,
    #[arg(long, hide = true, required = false, value_enum)]
    role: Role,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let failed = |error: &dyn std::fmt::Display| {
        eprintln!("kills: {error}");
        ExitCode::FAILURE
    };
    if let Some(part) = &cli.part {
        return match part::take(part) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error),
        };
    }
    match run(&cli) {
        Ok(findings) => {
            match cli.json {
                true => println!("{}", findings.json()),
                false => findings.print(),
            }
            match findings.passed() {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            }
        }
        Err(error) => failed(&error),
    }
}

fn run(cli: &Cli) -> Result<Findings> {
    let interrupted = when_interrupted()?;
    let mut scene = scene::Scene::start(cli.passthrough)?;
    for round in 0..cli.kills {
        if interrupted.load(Ordering::Relaxed) || scene.findings.is_hopeless() {
            break;
        }
        scene.round(round)?;
        if !cli.json && round % 100 == 99 {
            eprintln!("{} killed", round + 1);
        }
    }
    scene.end()
}

/// Set once somebody interrupts.
fn when_interrupted() -> Result<Arc<AtomicBool>> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    let interrupted = Arc::new(AtomicBool::new(false));
    let theirs = interrupted.clone();
    std::thread::spawn(move || {
        if signals.wait().is_ok() {
            theirs.store(true, Ordering::Relaxed);
        }
    });
    Ok(interrupted)
}
