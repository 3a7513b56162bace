//! The command line as a whole: options for every subcommand, and which subcommand runs.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::{CommandError, Exit};
use crate::{
    announce, completions, demo, doctor, export, feed, get, import, inspect, ls, man, mount,
    output, persist, rm, set, stat, sync, umount, watch,
};

/// Live states shared between processes: named, typed, versioned values of at most a page
///
/// A state is a file in a kstate file system. One process publishes it as often as it likes, others
/// read it, wait for it to change, or look at it a few times a second. This command mounts such a
/// file system and does all of that from a shell; programs use the library `kstate`, or plain file
/// calls.
#[derive(Debug, Parser)]
#[command(
    name = "kstate",
    version,
    after_help = "\
Start here:
  kstate demo                       everything at work for ten seconds, nothing to set up
  kstate doctor                     what this machine and this user can do

Exit status: 0 done; 1 failed; 2 wrong usage; 3 no such state, or no value in it yet;
4 timed out; 5 in use, or changed by another.

`kstate COMMAND --help` has examples.",
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(flatten)]
    context: Context,

    #[command(subcommand)]
    command: Command,
}

/// What every subcommand may want to know.
#[derive(Debug, clap::Args)]
pub(crate) struct Context {
    /// The kstate file system to use
    ///
    /// Without it: $KSTATE_MOUNT where that is set and not empty, or else /run/kstate, or
    /// $XDG_RUNTIME_DIR/kstate for an ordinary user.
    // The variable is not clap's to look at, which takes an empty one for a wrong argument.
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        help_heading = "For every command"
    )]
    mount: Option<PathBuf>,

    /// Write JSON for programs, one object a line
    #[arg(long, global = true, help_heading = "For every command")]
    json: bool,
}

impl Context {
    /// The file system to use.
    ///
    /// # Errors
    ///
    /// There is none where it should be.
    pub(crate) fn mount(&self) -> Result<kstate::Mount, CommandError> {
        Ok(match &self.mount {
            Some(directory) => kstate::Mount::at(directory)?,
            None => kstate::Mount::find()?,
        })
    }

    /// Where the file system to use is, or would be.
    pub(crate) fn mount_point(&self) -> PathBuf {
        let named = || std::env::var_os(kstate::MOUNT_VARIABLE).map(PathBuf::from);
        self.mount
            .clone()
            .or_else(|| named().filter(|path| !path.as_os_str().is_empty()))
            .unwrap_or_else(kstate::Mount::default_path)
    }

    /// Whether a program reads the output.
    pub(crate) fn json(&self) -> bool {
        self.json
    }
}

/// A subcommand with its arguments.
pub(crate) trait Run {
    /// Does what the subcommand is for.
    ///
    /// # Errors
    ///
    /// What made it impossible, with the exit status that says so to a script.
    fn run(self, context: &Context) -> Result<(), CommandError>;
}

/// Declares the subcommands once: variant and module, whose `Arguments` know how to [`Run`].
macro_rules! commands {
    ($($(#[$attribute:meta])* $variant:ident($module:ident),)+) => {
        #[derive(Debug, Subcommand)]
        enum Command {
            $($(#[$attribute])* $variant($module::Arguments),)+
        }

        impl Run for Command {
            fn run(self, context: &Context) -> Result<(), CommandError> {
                match self {
                    $(Self::$variant(arguments) => arguments.run(context),)+
                }
            }
        }
    };
}

commands! {
    Mount(mount),
    Umount(umount),
    Ls(ls),
    Stat(stat),
    Get(get),
    Set(set),
    Watch(watch),
    Rm(rm),
    Announce(announce),
    Persist(persist),
    Sync(sync),
    Feed(feed),
    Export(export),
    Import(import),
    Inspect(inspect),
    Doctor(doctor),
    Demo(demo),
    Completions(completions),
    Man(man),
}

/// Runs the command line of this process.
pub(crate) fn main() -> ExitCode {
    if let Some(exit) = demo::run_as_part() {
        return exit;
    }
    let cli = Cli::parse();
    match cli.command.run(&cli.context) {
        Ok(()) => Exit::Done.into(),
        Err(error) => {
            output::report(&cli.context, &error);
            error.exit().into()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_subcommand_teaches_with_an_example() {
        for command in Cli::command().get_subcommands() {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            let name = command.get_name();
            assert!(
                help.contains(&format!("kstate {name}")),
                "{name} has no example"
            );
            assert!(
                command.get_about().is_some(),
                "{name} does not say what it is for"
            );
        }
    }
}
