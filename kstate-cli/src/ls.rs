//! `kstate ls`: which states there are.

use std::io::{self, Write};
use std::time::Duration;

use crate::cli::{Context, Run};
use crate::duration;
use crate::error::{CommandError, Exit};
use crate::output::{self, Columns};
use crate::stat;

/// List the states
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kstate ls
  kstate ls robot.                              those whose names begin so
  kstate ls -l                                  with generation, age, length and who is there")]
pub(crate) struct Arguments {
    /// Only states whose names begin so
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,

    /// Show more of each
    #[arg(short, long)]
    long: bool,
}

impl Run for Arguments {
    fn run(self, context: &Context) -> Result<(), CommandError> {
        let mount = context.mount()?;
        let names = mount.names()?;
        let names = names
            .iter()
            .map(AsRef::as_ref)
            .filter(|name: &&str| name.starts_with(&self.prefix));
        let mut columns = Columns::new(&[0, 1, 2, 3, 4, 5]);
        columns.push(HEADINGS);
        let mut output = io::stdout().lock();
        for name in names {
            if !self.long && !context.json() {
                writeln!(output, "{name}")?;
                continue;
            }
            let info = match mount.info(name).map_err(CommandError::from) {
                Ok(info) => info,
                // It has gone since it was listed.
                Err(error) if error.exit() == Exit::NotFound => continue,
                Err(error) => return Err(error),
            };
            if context.json() {
                output::json_line(&mut output, &stat::to_json(name, &info))?;
                continue;
            }
            let kept = match info.linger {
                _ if info.persistent.is_some() => "persistent",
                _ if info.kept => "kept",
                Duration::ZERO => "",
                _ => "lingers",
            };
            let late = if info.overdue { "overdue" } else { "" };
            let remarks = [kept, late].join(" ");
            columns.push([
                info.generation.to_string(),
                info.age.map_or_else(|| "-".to_owned(), duration::show),
                format!("{}/{}", info.length, info.capacity),
                stat::others(&info).to_string(),
                info.writers.to_string(),
                info.waiters.to_string(),
                name.to_owned(),
                remarks.trim().to_owned(),
            ]);
        }
        if self.long && !context.json() {
            columns.write(&mut output)?;
        }
        Ok(())
    }
}

const HEADINGS: [&str; 8] = [
    "GENERATION",
    "AGE",
    "LENGTH",
    "SUBSCRIBED",
    "WRITERS",
    "WAITERS",
    "NAME",
    "",
];
