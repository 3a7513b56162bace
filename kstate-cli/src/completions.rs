//! `kstate completions`: scripts by which a shell completes command lines.

use std::io::{self, Write};

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::{Cli, Context, Run};
use crate::error::CommandError;

/// Write the script by which a shell completes `kstate` command lines
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kstate completions bash > ~/.local/share/bash-completion/completions/kstate
  kstate completions zsh > ~/.zfunc/_kstate
  kstate completions fish > ~/.config/fish/completions/kstate.fish")]
pub(crate) struct Arguments {
    /// The shell the script is for
    shell: Shell,
}

impl Run for Arguments {
    fn run(self, _context: &Context) -> Result<(), CommandError> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "kstate", &mut script);
        Ok(io::stdout().write_all(&script)?)
    }
}
