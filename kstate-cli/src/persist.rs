//! `kstate persist`: keeps states in files, and shows which are.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use kstate::{Durability, Info, Persistence};
use serde_json::{Value, json};

use crate::cli::{Context, Run};
use crate::duration;
use crate::error::CommandError;
use crate::output::{self, Columns};

/// Keep a state in a file, so that it outlives the daemon and the machine, or show where it is kept
///
/// Without FILE: shows the file and how far it is written; with --within or --each, changes how soon that is done.
/// With FILE: keeps the state there from now on, as its owner. The file is opened with your rights, and created if it
/// is absent; a value that it has from an earlier time comes back if the state has none. The daemon writes beside the
/// commits, which are as fast as before; what is in the file for good `kstate sync` says. The state stays without
/// subscribers then, until it is deleted; the file stays even so.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kstate persist robot.pose                     where it is kept, and how far that is written
  kstate persist robot.pose /var/lib/robot/pose
  kstate persist robot.pose /var/lib/robot/pose --within 100ms
  kstate persist robot.pose --each              from now on each commit as soon as can be")]
pub(crate) struct Arguments {
    /// The state
    #[arg(value_name = "NAME")]
    name: String,

    /// The file
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,

    /// Write a version no later than so behind its commit, such as 250ms or 5s; a second without this
    #[arg(long, value_name = "TIME", value_parser = duration::parse, conflicts_with = "each")]
    within: Option<Duration>,

    /// Write each commit as soon as can be
    #[arg(long)]
    each: bool,
}

impl Run for Arguments {
    fn run(self, context: &Context) -> Result<(), CommandError> {
        let mount = context.mount()?;
        let durability = match (self.within, self.each) {
            (Some(Duration::ZERO), _) | (None, true) => Some(Durability::Each),
            (Some(within), _) => Some(Durability::Within(within)),
            (None, false) => None,
        };
        if self.file.is_none() && durability.is_none() {
            return show(context, &self.name, &mount.info(&self.name)?);
        }
        // A state that is in the file alone comes back by being subscribed to.
        let subscribe = mount.subscribe(&self.name);
        let subscribe = match self.file {
            Some(_) => subscribe,
            None => subscribe.existing(),
        };
        let state = subscribe.bytes();
        let state = state.map_err(|error| CommandError::of_existing(&self.name, error))?;
        match self.file {
            Some(file) => state.set_persistent_so(file, durability.unwrap_or_default())?,
            None => state.set_durability(durability.unwrap_or_default())?,
        }
        Ok(())
    }
}

fn show(context: &Context, name: &str, info: &Info) -> Result<(), CommandError> {
    let mut output = io::stdout().lock();
    if context.json() {
        let persistent = info.persistent.as_ref().map(to_json);
        let line = json!({"name": name, "generation": info.generation.0, "persistent": persistent});
        return Ok(output::json_line(&mut output, &line)?);
    }
    let Some(persistence) = &info.persistent else {
        return Ok(writeln!(output, "{name} is in no file")?);
    };
    let mut columns = Columns::new(&[]);
    let mut line = |label: &str, text: String| columns.push([format!("  {label}"), text]);
    line("file", file(persistence));
    line("written", durability(persistence));
    line("in the file", behind(info, persistence));
    let count = |count: Option<u64>| count.map_or_else(|| "unknown".to_owned(), |n| n.to_string());
    line("bytes", count(persistence.written));
    line("failures", count(persistence.failures));
    writeln!(output, "{name}")?;
    Ok(columns.write(&mut output)?)
}

/// All of it in a line.
pub(crate) fn summary(info: &Info, persistence: &Persistence) -> String {
    format!("{}, {}", file(persistence), behind(info, persistence))
}

/// What is known of the file, for programs.
pub(crate) fn to_json(persistence: &Persistence) -> Value {
    let within = persistence.durability.map(|durability| match durability {
        Durability::Within(within) => duration::nanoseconds(within),
        _ => 0,
    });
    json!({
        "file": persistence.file,
        "within_ns": within,
        "durable_generation": persistence.durable.0,
        "written_bytes": persistence.written,
        "failures": persistence.failures,
    })
}

fn file(persistence: &Persistence) -> String {
    let file = persistence.file.as_ref();
    file.map_or_else(|| "unknown".to_owned(), |file| file.display().to_string())
}

fn durability(persistence: &Persistence) -> String {
    match persistence.durability {
        Some(Durability::Within(within)) => format!("within {}", duration::show(within)),
        Some(_) => "each commit as soon as can be".to_owned(),
        None => "unknown".to_owned(),
    }
}

fn behind(info: &Info, persistence: &Persistence) -> String {
    match info.generation.0.saturating_sub(persistence.durable.0) {
        0 => format!("version {}, the newest", persistence.durable),
        behind => format!(
            "version {}, {behind} behind the newest",
            persistence.durable
        ),
    }
}
