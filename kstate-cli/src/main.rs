//! The `kstate` command: mount, look at, set, watch and feed live states; and a demo.

mod announce;
mod cli;
mod completions;
mod daemon;
mod demo;
mod doctor;
mod duration;
mod encoding;
mod error;
mod export;
mod exported;
mod feed;
mod get;
mod import;
mod inspect;
mod instant;
mod keeping;
mod ls;
mod man;
mod mount;
mod once;
mod output;
mod persist;
mod recorded;
mod rm;
mod set;
mod signals;
mod stat;
mod sync;
mod umount;
mod value;
mod watch;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
