//! `kstate umount`: ends a kstate file system.

use std::path::PathBuf;

use kstatefs::mountpoint::{self, Unmount};

use crate::cli::{Context, Run};
use crate::error::CommandError;

/// Unmount a kstate file system, which ends its daemon and every state in it
///
/// Programs that have mapped a state keep the last value they can see; nobody gets new ones.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kstate umount                                 the default one
  kstate umount /tmp/states
  kstate umount --lazy /tmp/states              although a program has a state open")]
pub(crate) struct Arguments {
    /// Where it is mounted; without it, where the other commands would look
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,

    /// Detach it now, whoever still uses it
    #[arg(short, long)]
    lazy: bool,
}

impl Run for Arguments {
    fn run(self, context: &Context) -> Result<(), CommandError> {
        let directory = self.directory.unwrap_or_else(|| context.mount_point());
        let how = if self.lazy {
            Unmount::Lazy
        } else {
            Unmount::IfUnused
        };
        Ok(mountpoint::unmount(&directory, how)?)
    }
}
