//! kstate beside its peers and the limits of the machine, in one run.
//!
//! `run` asks questions and writes every figure to one file; `report` makes the tables and plots
//! of `docs/performance.md` from that. How it is measured is written in the README beside this.

mod act;
mod bare;
mod board;
mod capability;
mod machine;
mod matrix;
mod peers;
mod place;
mod process;
mod questions;
mod record;
mod redis_server;
mod report;
mod site;
mod stage;
mod task;
mod value;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};

use crate::matrix::Extent;
use crate::peers::{Kind, Peer};
use crate::questions::Asking;
use crate::record::Record;
use crate::stage::Stage;

/// What may go wrong: said, and the run ends.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Measure kstate beside its peers and the limits of the machine
#[derive(Parser, Debug)]
#[command(
    name = "kstate-rivals",
    version,
    after_help = "\
Examples, from the top of the tree:
  cargo run --release --manifest-path benches/rivals/Cargo.toml -- run --out run.json
  cargo run --release --manifest-path benches/rivals/Cargo.toml -- run --short --questions read,wake
  cargo run --release --manifest-path benches/rivals/Cargo.toml -- report run.json --into docs

Exit codes: 0 done; 1 something went wrong; 2 wrong arguments. A peer that cannot do something, or
is missing, is no failure: its cell says so."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Ask questions, all peers in turn, and write every figure to a file
    Run(Run),
    /// Make performance.md and its plots from a run's file
    Report {
        /// What `run` has written
        file: PathBuf,
        /// Where performance.md and the directory performance/ go
        #[arg(long, value_name = "DIR", default_value = "docs")]
        into: PathBuf,
    },
    /// List the questions and the peers
    List,
    /// Serve kstate for a run
    #[command(hide = true)]
    Daemon { mount: PathBuf, backing: PathBuf },
    /// A process of a measurement
    #[command(hide = true)]
    Worker,
}

#[derive(clap::Args, Debug)]
struct Run {
    /// Only these, by their names in `list`, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    questions: Vec<String>,
    /// Only these, by their names in `list`, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    peers: Vec<String>,
    /// A minute and a half instead of six: orders of magnitude
    #[arg(long)]
    short: bool,
    /// As root, install redis-server with apt-get where it is missing
    #[arg(long)]
    install: bool,
    /// Where the figures go
    #[arg(long, value_name = "FILE", default_value = "rivals.json")]
    out: PathBuf,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(run) => run_all(&run),
        Command::Report { file, into } => report::write(&file, &into),
        Command::List => {
            list();
            Ok(())
        }
        Command::Daemon { mount, backing } => worker::be_daemon(&mount, &backing),
        Command::Worker => worker::work(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kstate-rivals: {error}");
            ExitCode::FAILURE
        }
    }
}

fn list() {
    println!("Questions:");
    for question in questions::ALL {
        println!("  {:<12} {}", question.id, question.about);
    }
    println!("Peers:");
    for peer in peers::ALL {
        let kind = match peer.kind() {
            Kind::Kstate => "ours",
            Kind::Between { .. } => "between processes",
            Kind::Within => "within one process",
            Kind::Limit => "limit",
        };
        println!("  {:<12} {} ({kind})", peer.id(), peer.title());
    }
}

/// Those of `all` whose names were given; all where none was.
fn chosen<T: Copy>(all: &[T], names: &[String], id: fn(&T) -> &'static str) -> Result<Vec<T>> {
    if let Some(name) = names
        .iter()
        .find(|name| all.iter().all(|one| id(one) != *name))
    {
        return Err(format!("there is no `{name}`; see `list`").into());
    }
    let wanted = |one: &&T| names.is_empty() || names.iter().any(|name| id(one) == name);
    Ok(all.iter().filter(wanted).copied().collect())
}

fn run_all(run: &Run) -> Result<()> {
    let peers = chosen(peers::ALL, &run.peers, |peer: &&dyn Peer| peer.id())?;
    let all: Vec<&questions::Question> = questions::ALL.iter().collect();
    let asked = chosen(&all, &run.questions, |question| question.id)?;
    if peers.iter().any(|peer| peer.id() == "kstate-c") {
        eprintln!("building libkstate");
        peers::build_libkstate()?;
    }
    let machine = machine::describe();
    let begin = Instant::now();
    let mut stage = Stage::set(run.install)?;
    let server = match stage.redis() {
        Ok(server) => Ok(server.version.clone()),
        Err(why) => Err(why.clone()),
    };
    if let Err(why) = &server {
        eprintln!("{why}");
    }
    let mut asking = Asking {
        stage: &mut stage,
        peers,
        extent: if run.short {
            Extent::SHORT
        } else {
            Extent::FULL
        },
        short: run.short,
    };
    let mut record = Record {
        machine,
        versions: machine::versions(server.ok().as_deref()),
        date: machine::date(),
        command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
        seconds: 0.0,
        short: run.short,
        cells: Vec::new(),
    };
    for question in asked {
        record.cells.append(&mut (question.ask)(&mut asking)?);
        record.seconds = begin.elapsed().as_secs_f64().round();
        // After each, so that what was measured is there whatever comes next.
        std::fs::write(&run.out, serde_json::to_string_pretty(&record)?)?;
    }
    eprintln!(
        "{} cells in {} s: {}",
        record.cells.len(),
        record.seconds,
        run.out.display()
    );
    Ok(())
}
