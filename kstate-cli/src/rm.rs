//! `kstate rm`: deletes states.

use crate::cli::{Context, Run};
use crate::error::CommandError;
use crate::output;

/// Delete states, kept ones too
///
/// A state that another process is subscribed to stays: exit status 5.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kstate rm robot.gps
  kstate rm $(kstate ls old.)                   everything below `old`")]
pub(crate) struct Arguments {
    /// The states to delete
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

impl Run for Arguments {
    fn run(self, context: &Context) -> Result<(), CommandError> {
        let mount = context.mount()?;
        output::for_each_name(context, &self.names, |name| Ok(mount.remove(name)?))
    }
}
