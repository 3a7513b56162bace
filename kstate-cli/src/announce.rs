//! `kstate announce`: shows and chooses where a state's commits are announced.

use std::io::{self, Write};

use kstate::Sinks;
use serde_json::json;

use crate::cli::{Context, Run};
use crate::error::CommandError;
use crate::output;

/// Have a message sent outside after each commit, or show where that is done
///
/// Without SINK: shows where. With: chooses it, as the state's owner, for as long as the state is there.
/// On KBUS it is a message `$.KState.Committed.NAME`, on D-Bus a signal `Committed` of `org.kstate.State`;
/// both tell generation, length, time and process. Commits that come faster than they can be
/// announced are announced together, by the newest; the last one is never left out. The file system must
/// have been mounted with the sink: `kstate mount --kbus DEVICE` or `--dbus BUS`. KBUS knows no names
/// with `_` or `-`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kstate announce robot.door                    where it is announced
  kstate announce robot.door kbus               on KBUS, as $.KState.Committed.robot.door
  kstate announce robot.door kbus dbus          on both
  kstate announce robot.door off                no more")]
pub(crate) struct Arguments {
    /// The state
    #[arg(value_name = "NAME")]
    name: String,

    /// Where: kbus, dbus, or off
    #[arg(value_name = "SINK", value_parser = str::parse::<Sinks>)]
    sinks: Vec<Sinks>,
}

impl Run for Arguments {
    fn run(self, context: &Context) -> Result<(), CommandError> {
        let mount = context.mount()?;
        if self.sinks.is_empty() {
            let announced = mount.info(&self.name)?.announced;
            let mut output = io::stdout().lock();
            if context.json() {
                let line = json!({"name": self.name, "announce": announced.to_string()});
                return Ok(output::json_line(&mut output, &line)?);
            }
            return Ok(writeln!(output, "{announced}")?);
        }
        if self.sinks.len() > 1 && self.sinks.iter().any(|sinks| sinks.is_empty()) {
            return Err(CommandError::Usage(
                "`off` stands alone: it is what there is without kbus and dbus".into(),
            ));
        }
        let sinks = self.sinks.into_iter();
        let sinks = sinks.fold(Sinks::NONE, |all, more| all | more);
        let state = mount.subscribe(&self.name).existing().bytes();
        let state = state.map_err(|error| CommandError::of_existing(&self.name, error))?;
        Ok(state.announce(sinks)?)
    }
}
