//! `kstatefs`, the daemon by itself.

use std::process::ExitCode;

fn main() -> ExitCode {
    kstatefs::command::run(std::env::args_os().collect())
}
