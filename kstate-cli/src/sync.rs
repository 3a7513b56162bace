//! `kstate sync`: waits until states are in their files.

use std::io::{self, Write};

use serde_json::json;

use crate::cli::{Context, Run};
use crate::error::CommandError;
use crate::output;

/// Wait until what is in states now is in their files for good
///
/// Says which version is. A state that `kstate persist` has not been told of is an error.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kstate sync robot.pose
  kstate sync $(kstate ls robot.) && reboot")]
pub(crate) struct Arguments {
    /// The states
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

impl Run for Arguments {
    fn run(self, context: &Context) -> Result<(), CommandError> {
        let mount = context.mount()?;
        output::for_each_name(context, &self.names, |name| {
            let state = mount.subscribe(name).existing().bytes();
            let state = state.map_err(|error| CommandError::of_existing(name, error))?;
            let durable = state.sync()?;
            let mut output = io::stdout().lock();
            if context.json() {
                let line = json!({"name": name, "durable_generation": durable.0});
                return Ok(output::json_line(&mut output, &line)?);
            }
            Ok(writeln!(
                output,
                "{name}: version {durable} is in its file"
            )?)
        })
    }
}
