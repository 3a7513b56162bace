//! `kstate stat`: what is known of single states.

use std::io::{self, Write};
use std::time::Duration;

use kstate::{Generation, Info};
use serde_json::{Value, json};

use crate::cli::{Context, Run};
use crate::duration;
use crate::error::CommandError;
use crate::output::{self, Columns};
use crate::persist;

/// Show what is known of states: generation, age, length, capacity, who is there
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kstate stat robot.gps
  kstate stat --json robot.gps robot.arm")]
pub(crate) struct Arguments {
    /// The states
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

impl Run for Arguments {
    fn run(self, context: &Context) -> Result<(), CommandError> {
        let mount = context.mount()?;
        output::for_each_name(context, &self.names, |name| {
            let info = mount.info(name)?;
            let mut output = io::stdout().lock();
            if context.json() {
                return Ok(output::json_line(&mut output, &to_json(name, &info))?);
            }
            writeln!(output, "{name}")?;
            Ok(describe(&info).write(&mut output)?)
        })
    }
}

fn describe(info: &Info) -> Columns {
    let mut columns = Columns::new(&[]);
    let mut line = |label: &str, text: String| columns.push([format!("  {label}"), text]);
    line(
        "generation",
        match info.generation {
            Generation::NEVER => "0, never written".to_owned(),
            generation => generation.to_string(),
        },
    );
    line(
        "age",
        info.age
            .map_or_else(|| "unknown".to_owned(), duration::show),
    );
    line("length", format!("{} bytes", info.length));
    line("capacity", format!("{} bytes", info.capacity));
    line(
        "layout",
        match &info.layout {
            Some(layout) => layout.text.clone(),
            None => "none, any bytes".to_owned(),
        },
    );
    line("subscribers", others(info).to_string());
    line("writers", info.writers.to_string());
    line("waiters", info.waiters.to_string());
    line("lifetime", lifetime(info));
    line("deadline", deadline(info));
    line("announced", announced(info));
    line("file", file(info));
    line(
        "live page",
        (if info.armed { "armed" } else { "not armed" }).to_owned(),
    );
    columns
}

/// What is known of a state, for programs.
pub(crate) fn to_json(name: &str, info: &Info) -> Value {
    json!({
        "name": name,
        "state_id": info.state_id,
        "generation": info.generation.0,
        "age_ns": info.age.map(duration::nanoseconds),
        "length": info.length,
        "capacity": info.capacity,
        "layout": info.layout.as_ref().map(|layout| &layout.text),
        // As text: many programs round numbers of 64 bits.
        "layout_id": info.layout.as_ref().map(|layout| format!("{:016x}", layout.id)),
        "subscribers": others(info),
        "writers": info.writers,
        "waiters": info.waiters,
        "linger_ns": duration::nanoseconds(info.linger),
        "kept": info.kept,
        "deadline_ns": info.deadline.map(duration::nanoseconds),
        "overdue": info.overdue,
        "announce": info.announced.to_string(),
        "armed": info.armed,
        "persistent": info.persistent.as_ref().map(persist::to_json),
    })
}

/// Open descriptors, less the one that asked.
pub(crate) fn others(info: &Info) -> u32 {
    info.subscribers.saturating_sub(1)
}

/// Where commits are announced.
fn announced(info: &Info) -> String {
    match info.announced.is_empty() {
        true => "nowhere".to_owned(),
        false => format!("on {}", info.announced),
    }
}

/// Where it is kept.
fn file(info: &Info) -> String {
    match &info.persistent {
        None => "none, gone with the file system".to_owned(),
        Some(persistence) => persist::summary(info, persistence),
    }
}

/// How often a value is expected.
fn deadline(info: &Info) -> String {
    let late = if info.overdue { ", and overdue" } else { "" };
    match info.deadline {
        Some(after) => format!("a value each {}{late}", duration::show(after)),
        None => "none".to_owned(),
    }
}

/// How long the state lives.
fn lifetime(info: &Info) -> String {
    match info.linger {
        _ if info.persistent.is_some() => "kept in a file".to_owned(),
        _ if info.kept => "kept until unmount".to_owned(),
        Duration::ZERO => "as long as somebody is subscribed".to_owned(),
        linger => format!("{} behind its last subscriber", duration::show(linger)),
    }
}
