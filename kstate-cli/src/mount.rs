//! `kstate mount`: serves a kstate file system.

use kstatefs::{ServiceManager, Transport};

use crate::cli::{Context, Run};
use crate::error::CommandError;
use crate::output;

/// Mount a kstate file system on a directory and serve it, in the foreground
///
/// Serves until it is unmounted, or ended by Ctrl-C or `kill`. With --daemon it returns as soon as
/// the file system is there. `kstatefs DIR` is the same program for fstab and service managers.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kstate mount /run/kstate --daemon             as root, where all commands look for it
  kstate mount $XDG_RUNTIME_DIR/kstate          as an ordinary user, likewise
  kstate mount /tmp/states                      elsewhere; then: export KSTATE_MOUNT=/tmp/states

`kstate doctor` says what an ordinary user needs to mount.")]
#[group(skip)]
pub(crate) struct Arguments {
    #[command(flatten)]
    daemon: kstatefs::config::Arguments,

    /// Go to the background once mounted
    #[arg(long = "daemon")]
    in_background: bool,
}

impl Run for Arguments {
    fn run(self, _context: &Context) -> Result<(), CommandError> {
        kstatefs::log_to_stderr();
        let config = self.daemon.into_config().map_err(CommandError::Usage)?;
        let manager = ServiceManager::of_environment();
        if self.in_background {
            return Ok(kstatefs::daemonize::run(config, &manager)?);
        }
        Ok(manager.serve(config, |mounted| {
            let place = mounted.path.display();
            let maps = match mounted.transport {
                Transport::Passthrough => "maps are passed through",
                Transport::Socket => "maps come from the daemon's socket",
            };
            output::note(format_args!(
                "mounted on {place}, {maps}; Ctrl-C or `kstate umount {place}` ends it"
            ));
        })?)
    }
}
