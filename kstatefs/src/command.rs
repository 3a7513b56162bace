//! The program `kstatefs`, for those that are it: serves a kstate file system, from a shell, from fstab, under systemd, or for
//! a program that has found none.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::config::Arguments;
use crate::daemonize;
use crate::service::ServiceManager;
use clap::Parser;

/// Serve live states as files: a FUSE file system in which every file is a named, typed,
/// versioned value shared between processes
#[derive(Parser, Debug)]
#[command(name = "kstatefs", version = VERSION, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    mount: Arguments,

    /// Stay in the foreground even when called the way mount(8) does (where -f is mount's --fake)
    #[arg(short, long)]
    foreground: bool,

    /// Go to the background once mounted
    #[arg(short, long, conflicts_with = "foreground")]
    daemon: bool,

    /// As a program's library starts it that has found no daemon: in the background, with nothing of what that
    /// program has open, and with ordinary scheduling
    #[arg(long, hide = true, conflicts_with = "foreground")]
    hosted: bool,
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

/// Does what `kstatefs` does with these arguments, the first of them its name, and says how it ended. What cannot be
/// parsed ends the process, with status 2, as `--help` does with 0.
///
/// To be called before any thread is started: to go to the background is to fork.
pub fn run(arguments: Vec<OsString>) -> ExitCode {
    crate::log_to_stderr();
    let misused = |error: String| {
        eprintln!("kstatefs: {error}");
        ExitCode::from(2)
    };
    let call = match Call::of(arguments) {
        Ok(call) => call,
        Err(error) => return misused(error),
    };
    let cli = Cli::parse_from(call.arguments);
    if cli.hosted {
        daemonize::leave_starter();
    }
    let background = cli.daemon || cli.hosted || (call.as_mount_helper && !cli.foreground);
    let config = match cli.mount.into_config() {
        Ok(config) => config,
        Err(error) => return misused(error),
    };
    if call.is_fake {
        return ExitCode::SUCCESS;
    }
    let manager = match cli.hosted {
        true => ServiceManager::nobody(),
        false => ServiceManager::of_environment(),
    };
    let result = if background {
        daemonize::run(config, &manager).map_err(|error| error.to_string())
    } else {
        manager.serve(config, |mounted| {
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

/// How this program was called.
#[derive(Debug, PartialEq, Eq)]
struct Call {
    /// The arguments in our own form.
    arguments: Vec<OsString>,
    /// Whether they came in the form of mount(8), which expects to have its program back.
    as_mount_helper: bool,
    /// Whether mount(8) only wants to know what would be done.
    is_fake: bool,
}

impl Call {
    /// Tells our form from that of mount(8), which names a source first, `helper SOURCE DIR [-sfnvi]
    /// [-o OPTIONS] [-t TYPE] [-N NAMESPACE]`. Two positional arguments are that form; the source
    /// and what means nothing here are dropped.
    ///
    /// # Errors
    ///
    /// A sentence, where mount(8) asks for what cannot be done.
    fn of(arguments: Vec<OsString>) -> Result<Self, String> {
        let mut positional: Vec<OsString> = Vec::new();
        let mut kept = Vec::new();
        let (mut is_fake, mut namespace) = (false, None);
        let mut rest = arguments.iter().skip(1);
        while let Some(argument) = rest.next() {
            let text = argument.to_str().unwrap_or_default();
            // A value stands behind its letter, or is the next argument.
            let mut value_of = |letter: &str| {
                let glued = text.strip_prefix(letter)?;
                match glued.is_empty() {
                    true => rest.next().cloned(),
                    false => Some(glued.into()),
                }
            };
            if let Some(options) = value_of("-o") {
                kept.extend(["-o".into(), options]);
            } else if let Some(name) = value_of("-N") {
                namespace = Some(name);
            } else if text.starts_with("-t") {
                value_of("-t");
            } else if text == "--foreground" {
                kept.push(argument.clone());
            } else if let Some(flags) = text.strip_prefix('-') {
                if flags.is_empty() || !flags.chars().all(|flag| "sfnvi".contains(flag)) {
                    return Ok(Self::ours(arguments));
                }
                is_fake |= flags.contains('f');
            } else {
                positional.push(argument.clone());
            }
        }
        let Ok([_source, directory]) = <[OsString; 2]>::try_from(positional) else {
            return Ok(Self::ours(arguments));
        };
        if let Some(namespace) = namespace {
            return Err(format!(
                "mount option -N {name} is not supported: the daemon has to be started inside, as \
                 by nsenter --mount={name}",
                name = namespace.display()
            ));
        }
        let mut form = vec![arguments.into_iter().next().unwrap_or_default()];
        form.extend(kept);
        form.push(directory);
        Ok(Self {
            arguments: form,
            as_mount_helper: true,
            is_fake,
        })
    }

    fn ours(arguments: Vec<OsString>) -> Self {
        Self {
            arguments,
            as_mount_helper: false,
            is_fake: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(arguments: &[&str]) -> Call {
        Call::of(arguments.iter().map(Into::into).collect()).unwrap()
    }

    fn of_mount(arguments: &[&str], is_fake: bool) -> Call {
        Call {
            arguments: arguments.iter().map(Into::into).collect(),
            as_mount_helper: true,
            is_fake,
        }
    }

    #[test]
    fn the_form_of_mount_8_is_told_from_ours() {
        let theirs = "kstatefs none /mnt -n -o rw,linger=2s -t fuse.kstatefs";
        let theirs: Vec<_> = theirs.split(' ').collect();
        let expected = ["kstatefs", "-o", "rw,linger=2s", "/mnt"];
        assert_eq!(call(&theirs), of_mount(&expected, false));
        for ours in [
            &["kstatefs", "--linger", "2s", "/mnt"][..],
            &["kstatefs", "/mnt"],
            &["kstatefs", "-f", "/mnt"],
            &["kstatefs", "-orw", "/mnt"],
        ] {
            let arguments = ours.iter().map(Into::into).collect();
            assert_eq!(call(ours), Call::ours(arguments));
        }
    }

    #[test]
    fn all_that_mount_8_passes_on_is_known() {
        let theirs = [
            "kstatefs",
            "-sinv",
            "none",
            "/mnt",
            "-orw,nodev",
            "-tfuse.kstatefs",
        ];
        let expected = ["kstatefs", "-o", "rw,nodev", "/mnt"];
        assert_eq!(call(&theirs), of_mount(&expected, false));
        let theirs = ["kstatefs", "none", "/mnt", "-f", "-i", "-s", "-n", "-v"];
        assert_eq!(call(&theirs), of_mount(&["kstatefs", "/mnt"], true));
        let theirs = ["kstatefs", "none", "/mnt", "--foreground"];
        let expected = ["kstatefs", "--foreground", "/mnt"];
        assert_eq!(call(&theirs), of_mount(&expected, false));
        for theirs in [&["-N", "/proc/7/ns/mnt"][..], &["-N/proc/7/ns/mnt"]] {
            let arguments = ["kstatefs", "none", "/mnt"].iter().chain(theirs);
            let error = Call::of(arguments.map(Into::into).collect()).unwrap_err();
            assert!(error.contains("nsenter --mount=/proc/7/ns/mnt"), "{error}");
        }
    }
}
