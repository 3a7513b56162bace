//! `kstate stat`: what is known of single states.

use std::io::{self, Write};
use std::time::Duration;

use kstate::Info;
use kstate_sys::ioctl::info_flags;
use serde_json::{Value, json};

use crate::cli::{Context, Run};
use crate::duration;
use crate::error::CommandError;
use crate::output::{self, Columns};

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
    line("generation", match info.generation {
        0 => "0, never written".to_owned(),
        generation => generation.to_string(),
    });
    line("age", age(info).map_or_else(|| "unknown".to_owned(), duration::show));
    line("length", format!("{} bytes", info.length));
    line("capacity", format!("{} bytes", info.capacity));
    line("layout", layout(info).unwrap_or_else(|| "none, any bytes".to_owned()));
    line("subscribers", info.subscribers.to_string());
    line("writers", info.writers.to_string());
    line("waiters", info.waiters.to_string());
    line("lifetime", lifetime(info));
    line("live page", (if is_armed(info) { "armed" } else { "not armed" }).to_owned());
    columns
}

/// What is known of a state, for programs.
pub(crate) fn to_json(name: &str, info: &Info) -> Value {
    json!({
        "name": name,
        "state_id": info.state_id,
        "generation": info.generation,
        "age_ns": age(info).map(duration::nanoseconds),
        "length": info.length,
        "capacity": info.capacity,
        "layout_id": layout(info),
        "subscribers": info.subscribers,
        "writers": info.writers,
        "waiters": info.waiters,
        "linger_ms": info.linger_ms,
        "kept": is_kept(info),
        "armed": is_armed(info),
    })
}

/// The age of the newest version, where it is known.
pub(crate) fn age(info: &Info) -> Option<Duration> {
    (info.age_ns != u64::MAX).then(|| Duration::from_nanos(info.age_ns))
}

/// The id of the recorded layout, as text: as a number, JSON would round it.
fn layout(info: &Info) -> Option<String> {
    (info.layout_id != 0).then(|| format!("{:016x}", info.layout_id))
}

/// How long the state lives.
fn lifetime(info: &Info) -> String {
    match info.linger_ms {
        _ if is_kept(info) => "kept until unmount".to_owned(),
        0 => "as long as somebody is subscribed".to_owned(),
        ms => format!("{} behind its last subscriber", duration::show(Duration::from_millis(ms))),
    }
}

/// Whether the sticky bit keeps the state.
pub(crate) fn is_kept(info: &Info) -> bool {
    info.flags & info_flags::KEPT != 0
}

fn is_armed(info: &Info) -> bool {
    info.flags & info_flags::ARMED != 0
}
