//! `kstatefs`: serves a kstate file system, from a shell, from fstab or under systemd.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use kstatefs::config::Arguments;

/// Serve live states as files: a FUSE file system in which every file is a named, typed,
/// versioned value shared between processes
#[derive(Parser, Debug)]
#[command(name = "kstatefs", version = VERSION, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    mount: Arguments,

    /// Stay in the foreground even when called the way mount(8) does
    #[arg(short, long)]
    foreground: bool,

    /// Go to the background once mounted
    #[arg(short, long, conflicts_with = "foreground")]
    daemon: bool,
}

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (region ABI 1)");

const EXAMPLES: &str = "\
Examples:
  kstatefs /run/kstate                 serve until Ctrl-C or umount
  kstatefs --daemon /run/kstate        the same from the background
  kstatefs --linger 2s /run/kstate     states outlive their last subscriber by two seconds

From fstab, with kstatefs linked as /sbin/mount.fuse.kstatefs:
  kstatefs  /run/kstate  fuse.kstatefs  allow_other,linger=2s  0 0

Set KSTATE_LOG=debug to see what it does. Exit codes: 0 unmounted, 1 failed, 2 usage.";

fn main() -> ExitCode {
    kstatefs::log_to_stderr();
    let (arguments, as_mount_helper) = mount_helper_form(std::env::args_os().collect());
    let cli = Cli::parse_from(arguments);
    let background = cli.daemon || (as_mount_helper && !cli.foreground);
    let config = match cli.mount.into_config() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("kstatefs: {error}");
            return ExitCode::from(2);
        }
    };
    let result = if background {
        kstatefs::daemonize::run(config).map_err(|error| error.to_string())
    } else {
        kstatefs::serve(config, |mounted| {
            tracing::info!(path = %mounted.path.display(), transport = ?mounted.transport, "mounted");
        })
        .map_err(|error| error.to_string())
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kstatefs: {error}");
            ExitCode::FAILURE
        }
    }
}

/// mount(8) calls its helpers with a source first, `helper SOURCE DIR [-sfnv] [-o OPTIONS] [-t
/// TYPE]`, and expects them to return once mounted. Two positional arguments are that form; the
/// source and the flags that mean nothing here are dropped.
fn mount_helper_form(arguments: Vec<std::ffi::OsString>) -> (Vec<std::ffi::OsString>, bool) {
    let mut positional: Vec<PathBuf> = Vec::new();
    let mut kept = Vec::new();
    let mut rest = arguments.iter().skip(1);
    while let Some(argument) = rest.next() {
        match argument.to_str() {
            Some("-o") => {
                kept.push(argument.clone());
                kept.extend(rest.next().cloned());
            }
            Some("-t") => {
                rest.next();
            }
            Some("-s" | "-n" | "-v" | "-f" | "-sf" | "-nv") => {}
            Some(option) if option.starts_with('-') => return (arguments, false),
            _ => positional.push(argument.into()),
        }
    }
    match <[PathBuf; 2]>::try_from(positional) {
        Ok([_source, directory]) => {
            let program = arguments.first().cloned().unwrap_or_default();
            let mut form = vec![program];
            form.extend(kept);
            form.push(directory.into());
            (form, true)
        }
        Err(_) => (arguments, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(arguments: &[&str]) -> (Vec<String>, bool) {
        let (form, helper) = mount_helper_form(arguments.iter().map(Into::into).collect());
        (
            form.into_iter().map(|a| a.into_string().unwrap()).collect(),
            helper,
        )
    }

    #[test]
    fn the_form_of_mount_8_is_told_from_ours() {
        let theirs = [
            "kstatefs",
            "none",
            "/mnt",
            "-n",
            "-o",
            "rw,linger=2s",
            "-t",
            "fuse.kstatefs",
        ];
        let expected = ["kstatefs", "-o", "rw,linger=2s", "/mnt"]
            .map(String::from)
            .to_vec();
        assert_eq!(form(&theirs), (expected, true));
        let ours = ["kstatefs", "--linger", "2s", "/mnt"];
        assert_eq!(form(&ours), (ours.map(String::from).to_vec(), false));
        let short = ["kstatefs", "/mnt"];
        assert_eq!(form(&short), (short.map(String::from).to_vec(), false));
    }
}
