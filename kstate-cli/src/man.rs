//! `kstate man`: manual pages, generated from what the command line knows of itself.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::CommandFactory;
use clap_mangen::Man;

use crate::cli::{Cli, Context, Run};
use crate::error::CommandError;

/// Write the manual page of `kstate`, or the pages of all its subcommands into a directory
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kstate man | man -l -                         read it now
  kstate man ~/.local/share/man/man1            install one page a subcommand")]
pub(crate) struct Arguments {
    /// Where to put the pages kstate.1, kstate-get.1 and so on; made if it is not there
    directory: Option<PathBuf>,
}

impl Run for Arguments {
    fn run(self, _context: &Context) -> Result<(), CommandError> {
        let mut command = Cli::command();
        let Some(directory) = self.directory else {
            return Ok(io::stdout().write_all(&page(command)?)?);
        };
        let refused = |source| CommandError::File {
            path: directory.clone(),
            source,
        };
        fs::create_dir_all(&directory).map_err(refused)?;
        // Propagates the global options to the subcommands.
        command.build();
        for subcommand in command
            .get_subcommands()
            .filter(|command| !command.is_hide_set())
        {
            let name = format!("kstate-{}", subcommand.get_name());
            let file = directory.join(format!("{name}.1"));
            let subcommand = subcommand.clone().name(name);
            fs::write(file, page(subcommand)?).map_err(refused)?;
        }
        fs::write(directory.join("kstate.1"), page(command)?).map_err(refused)
    }
}

fn page(command: clap::Command) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(command).manual("kstate").render(&mut page)?;
    Ok(page)
}
