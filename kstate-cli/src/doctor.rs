//! `kstate doctor`: what this kernel, container and user can do, and which way kstate goes.

mod mounting;
mod ways;

use std::io::{self, Write};

use kstate_sys::probe::{self, Capability, Report, Status};
use serde_json::{Value, json};

pub(crate) use self::mounting::Mounting;
use self::ways::Ways;
use crate::cli::{Context, Run};
use crate::error::{CommandError, Exit};
use crate::output;

/// Say what this kernel, container and user can do, which way kstate goes, and what to change
///
/// Everything is tried, not guessed from version numbers. Exit status 1 when no file system can be
/// mounted here.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kstate doctor
  sudo kstate doctor                            what root could do here
  kstate doctor --json | jq -r .ways.mounting.way")]
pub(crate) struct Arguments {}

impl Run for Arguments {
    fn run(self, context: &Context) -> Result<(), CommandError> {
        let report = probe::probe();
        let ways = Ways::of(&report, nix::unistd::geteuid().is_root());
        let mut output = io::stdout().lock();
        if context.json() {
            let capabilities: Vec<Value> = report.iter().map(capability).collect();
            let line = json!({
                "can_mount": ways.can_mount(),
                "ways": ways.to_json(),
                "capabilities": capabilities,
            });
            output::json_line(&mut output, &line)?;
        } else {
            ways.write(&mut output)?;
            write_table(&mut output, &report)?;
        }
        match ways.can_mount() {
            true => Ok(()),
            false => Err(CommandError::Reported(Exit::Failed)),
        }
    }
}

fn capability(capability: &Capability) -> Value {
    json!({
        "name": capability.name,
        "status": status(capability),
        "detail": capability.detail,
        "consequence": capability.consequence,
        "advice": capability.advice,
    })
}

fn status(capability: &Capability) -> &'static str {
    match capability.status {
        Status::Available => "yes",
        Status::Unavailable => "no",
        Status::Unknown => "unknown",
    }
}

/// One feature after the other; what follows from it and what to change where it is missing.
fn write_table(mut output: impl Write, report: &Report) -> io::Result<()> {
    writeln!(output, "\nWhat was tried:")?;
    for capability in report {
        let mark = match capability.status {
            Status::Available => "yes",
            Status::Unavailable => "NO",
            Status::Unknown => "?",
        };
        writeln!(
            output,
            "  {mark:<4} {:<26} {}",
            capability.name, capability.detail
        )?;
        if !capability.is_available() {
            writeln!(output, "{:33} so: {}", "", capability.consequence)?;
        }
        if let Some(advice) = capability.advice {
            writeln!(output, "{:33} to change it: {advice}", "")?;
        }
    }
    Ok(())
}
