//! A place where programs that start their daemon find none.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::binary::{kstate, kstatefs};
use crate::daemon::unmount;
use crate::deadline::eventually;
use crate::process::output_of;

/// A place where nothing is mounted, nor any directory; what is at the end is undone.
#[derive(Debug)]
pub struct Place {
    home: TempDir,
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

impl Place {
    /// A new one.
    ///
    /// # Panics
    ///
    /// Without room for it.
    pub fn new() -> Self {
        Self {
            home: tempfile::Builder::new()
                .prefix("kstate-test-")
                .tempdir()
                .expect("a directory"),
        }
    }

    /// A directory that goes with this.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Where states are to be.
    pub fn mount(&self) -> PathBuf {
        self.home.path().join("run/kstate")
    }

    /// A program as by a user who has set nothing up but this.
    pub fn prepare<'c>(&self, program: &'c mut Command) -> &'c mut Command {
        program.env("KSTATE_EMBED", "1");
        program.env("KSTATE_DAEMON", kstatefs());
        program.env("KSTATE_MOUNT", self.mount())
    }

    /// The command so.
    pub fn kstate(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(kstate());
        self.prepare(command.args(arguments).stdin(Stdio::null()));
        command
    }

    /// What the command prints, which must be all right.
    ///
    /// # Panics
    ///
    /// When it is not.
    #[track_caller]
    pub fn done(&self, arguments: &[&str]) -> String {
        let mut command = self.kstate(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = output_of(command.spawn().expect("it starts"));
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout)
            .trim_end()
            .to_owned()
    }

    /// The processes that serve it.
    ///
    /// # Panics
    ///
    /// Without `/proc`.
    pub fn hosts(&self) -> Vec<Pid> {
        let mount = self.mount();
        let processes = std::fs::read_dir("/proc").expect("processes").flatten();
        let is_host = |pid: &Pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = line.split(|byte| *byte == 0);
            words.any(|word| word == b"--hosted")
                && line
                    .windows(mount.as_os_str().len())
                    .any(|part| part == mount.as_os_str().as_encoded_bytes())
                // The process that holds regions is split off by the daemon, and has its arguments.
                && std::fs::read_to_string(format!("/proc/{pid}/comm"))
                    .is_ok_and(|name| name.trim() == "kstatefs")
        };
        let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        numbers.map(Pid::from_raw).filter(is_host).collect()
    }

    /// The one that does.
    ///
    /// # Panics
    ///
    /// When none does, or several go on.
    #[track_caller]
    pub fn host(&self) -> Pid {
        // Those that came too late may not have ended yet.
        eventually("there is one host", || match self.hosts()[..] {
            [host] => Some(host),
            _ => None,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        unmount(&self.mount());
        for host in self.hosts() {
            // It may be about to end.
            let _ = kill(host, Signal::SIGTERM);
        }
    }
}
