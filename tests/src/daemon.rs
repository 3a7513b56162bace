//! A daemon on a directory of its own.

use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use clap::ValueEnum;
use kstate::Mount;
use kstatefs::config::Passthrough;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::binary::{kstatefs, own};
use crate::deadline::PATIENCE;
use crate::filter::{refuse, refuse_gaining_execution};
use crate::process::Running;

/// How a daemon is started.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    arguments: Vec<String>,
    apart: bool,
    descriptors: Option<u32>,
    refused: Vec<libc::c_long>,
    errno: i32,
    environment: Vec<(String, PathBuf)>,
    capabilities: Option<Vec<String>>,
}

impl Setup {
    /// With one more argument of `kstatefs`.
    #[must_use]
    pub fn with(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// In a process group of its own, so that an interrupt from the terminal does not end it.
    #[must_use]
    pub fn apart(mut self) -> Self {
        self.apart = true;
        self
    }

    /// With no more than `limit` descriptors, which it cannot raise.
    #[must_use]
    pub fn descriptors(mut self, limit: u32) -> Self {
        self.descriptors = Some(limit);
        self
    }

    /// Under a filter that answers these system calls with `errno`.
    #[must_use]
    pub fn refusing(mut self, calls: &[libc::c_long], errno: i32) -> Self {
        self.refused.extend(calls);
        self.errno = errno;
        self
    }

    /// With a variable of the environment that names a path.
    #[must_use]
    pub fn environment(mut self, name: &str, path: impl Into<PathBuf>) -> Self {
        self.environment.push((name.into(), path.into()));
        self
    }

    /// With these capabilities at most (`CAP_…`), no new privileges, and no memory that is both written and run, as
    /// by a service manager; takes setpriv(1) and root.
    #[must_use]
    pub fn confined_to(mut self, capabilities: &[&str]) -> Self {
        let names = capabilities.iter();
        let names = names.map(|name| name.trim_start_matches("CAP_").to_lowercase());
        self.capabilities = Some(names.collect());
        self
    }

    fn command(&self, mount: &Path) -> Command {
        let mut command = match (&self.capabilities, self.descriptors) {
            (Some(capabilities), _) => confined(capabilities),
            (None, None) => Command::new(kstatefs()),
            (None, Some(limit)) => {
                // Of a shell, which becomes the daemon: both limits are inherited.
                let mut shell = Command::new("sh");
                shell.args(["-c", "ulimit -n \"$1\"; shift; exec \"$@\"", "sh"]);
                shell.arg(limit.to_string()).arg(kstatefs());
                shell
            }
        };
        command.args(&self.arguments).arg(mount);
        let environment = self.environment.iter();
        command.envs(environment.map(|(name, path)| (name, path)));
        if self.apart {
            command.process_group(0);
        }
        if !self.refused.is_empty() {
            refuse(&mut command, &self.refused, self.errno);
        }
        command
    }

    /// Starts it.
    ///
    /// # Panics
    ///
    /// When it does not mount.
    #[track_caller]
    pub fn start(self) -> Daemon {
        let home = tempfile::Builder::new()
            .prefix("kstate-test-")
            .tempdir()
            .expect("a directory");
        Daemon::start_in(home, &self)
    }
}

/// The daemon under setpriv(1).
fn confined(capabilities: &[String]) -> Command {
    let bound = capabilities.iter().map(|name| format!(",+{name}"));
    let bound = format!("--bounding-set=-all{}", bound.collect::<String>());
    let mut command = Command::new("setpriv");
    command.args([&bound, "--inh-caps=-all", "--no-new-privs"]);
    command.arg(kstatefs());
    refuse_gaining_execution(&mut command);
    command
}

/// The argument of `kstatefs` that says so.
///
/// # Panics
///
/// Never: each of these has a name.
pub fn passthrough(how: Passthrough) -> String {
    let value = how.to_possible_value().expect("none is hidden");
    format!("--passthrough={}", value.get_name())
}

/// Both ways to get at a region.
pub fn both_transports(test: impl Fn(&Daemon)) {
    test(&Daemon::start());
    test(&Setup::default().with("--passthrough=off").start());
}

/// A running daemon; stopped, and its mount undone, when dropped.
#[derive(Debug)]
pub struct Daemon {
    running: Running,
    setup: Setup,
    mount: PathBuf,
    // Removed after everything else.
    home: Option<TempDir>,
}

impl Daemon {
    /// Starts one with its defaults.
    ///
    /// # Panics
    ///
    /// When it does not mount.
    #[track_caller]
    pub fn start() -> Self {
        Setup::default().start()
    }

    #[track_caller]
    fn start_in(home: TempDir, setup: &Setup) -> Self {
        let mount = home.path().join("mount");
        if !std::fs::exists(&mount).unwrap_or(true) {
            std::fs::create_dir(&mount).expect("an empty directory");
        }
        let mut running = Running::start(&mut setup.command(&mount));
        await_mount(&mount, &mut running);
        Self {
            running,
            setup: setup.clone(),
            mount,
            home: Some(home),
        }
    }

    /// Where it is mounted.
    pub fn mount(&self) -> &Path {
        &self.mount
    }

    /// The file of a state.
    pub fn file(&self, name: &str) -> PathBuf {
        self.mount.join(name)
    }

    /// The mount as the library finds it.
    ///
    /// # Panics
    ///
    /// When it does not.
    #[track_caller]
    pub fn library(&self) -> Mount {
        Mount::at(&self.mount).expect("a mount that serves")
    }

    /// A process of `kstate-worker` in a role on the state `name`.
    ///
    /// # Panics
    ///
    /// When it does not start.
    #[track_caller]
    pub fn worker(&self, name: &str, role: &[&str]) -> Running {
        let mut command = Command::new(own("kstate-worker"));
        command.arg(&self.mount).arg(name).args(role);
        Running::start(&mut command)
    }

    /// A process of `kstate-waiter` in a role on the state `name`.
    ///
    /// # Panics
    ///
    /// When it does not start.
    #[track_caller]
    pub fn waiter(&self, name: &str, role: &[&str]) -> Running {
        self.waiter_refused(name, role, &[], 0)
    }

    /// The same under a filter that answers these system calls with `errno`.
    ///
    /// # Panics
    ///
    /// When it does not start.
    #[track_caller]
    pub fn waiter_refused(
        &self,
        name: &str,
        role: &[&str],
        calls: &[libc::c_long],
        errno: i32,
    ) -> Running {
        let mut command = Command::new(own("kstate-waiter"));
        command.arg(&self.mount).arg(name).args(role);
        if !calls.is_empty() {
            refuse(&mut command, calls, errno);
        }
        Running::start(&mut command)
    }

    /// A process of `kstate-forker` in a role.
    ///
    /// # Panics
    ///
    /// When it does not start.
    #[track_caller]
    pub fn forker(&self, role: &[&str]) -> Running {
        let mut command = Command::new(own("kstate-forker"));
        command.arg(&self.mount).args(role);
        Running::start(&mut command)
    }

    /// A process of `kstate-stepped` with an operation on the states whose names begin with `name`.
    ///
    /// # Panics
    ///
    /// When it does not start.
    #[track_caller]
    pub fn stepped(&self, name: &str, operation: &str) -> Running {
        let mut command = Command::new(own("kstate-stepped"));
        command.arg(&self.mount).arg(name).arg(operation);
        Running::start(&mut command)
    }

    /// A process of `kstate-actor`, which is told what to do over `socket`.
    ///
    /// # Panics
    ///
    /// When it does not start.
    #[track_caller]
    pub fn actor(&self, socket: &Path) -> Running {
        let mut command = Command::new(own("kstate-actor"));
        command.arg(&self.mount).arg(socket);
        Running::start(&mut command)
    }

    /// A directory beside the mount that goes with it.
    ///
    /// # Panics
    ///
    /// Never.
    pub fn home(&self) -> &Path {
        self.home.as_ref().expect("taken only when dropped").path()
    }

    /// The daemon's process.
    pub fn process(&mut self) -> &mut Running {
        &mut self.running
    }

    /// Its process.
    pub fn pid(&self) -> nix::unistd::Pid {
        self.running.pid()
    }

    /// Kills it without warning, if it lives.
    pub fn kill(&mut self) {
        if self.running.ended().is_none() {
            self.running.signal(Signal::SIGKILL);
            self.running.finish();
        }
    }

    /// Kills it without warning and starts another on the same, then stale, mount, as it was started.
    ///
    /// # Panics
    ///
    /// When the new one does not mount.
    #[track_caller]
    pub fn kill_and_restart(mut self) -> Self {
        self.kill();
        let home = self.home.take().expect("taken only here and when dropped");
        Self::start_in(home, &self.setup)
    }

    /// Starts another one that takes its place.
    ///
    /// # Panics
    ///
    /// When that does not mount, or this one does not end.
    #[track_caller]
    pub fn replace(mut self) -> Self {
        let setup = self.setup.clone().with("--replace");
        let mut running = Running::start(&mut setup.command(&self.mount));
        let status = self.running.finish();
        assert!(status.success(), "the daemon that was replaced: {status}");
        await_mount(&self.mount, &mut running);
        Self {
            running,
            setup: self.setup.clone(),
            mount: self.mount.clone(),
            home: self.home.take(),
        }
    }

    /// A process of one more daemon for the same mount, started as this one was.
    ///
    /// # Panics
    ///
    /// When it does not start.
    #[track_caller]
    pub fn another(&self) -> Running {
        Running::start(&mut self.setup.command(&self.mount))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Not kept: another daemon has it now.
        if self.home.is_none() {
            return;
        }
        if self.running.ended().is_none() {
            self.running.signal(Signal::SIGTERM);
            let start = Instant::now();
            while self.running.ended().is_none() && start.elapsed() < PATIENCE {
                std::thread::park_timeout(std::time::Duration::from_millis(1));
            }
        }
        unmount(&self.mount);
    }
}

/// Detaches what a daemon has left mounted that was killed or hangs, as root or as the user who
/// mounted it.
pub fn unmount(mount: &Path) {
    use kstatefs::mountpoint::{Unmount, mounted_type, unmount};
    if mounted_type(mount).is_ok_and(|kind| kind.is_some())
        && let Err(error) = unmount(mount, Unmount::Lazy)
    {
        eprintln!("{error}");
    }
}

/// Waits until `mount` can be used. The kernel tells of each change of the mount table by an
/// exceptional condition on the table's file (proc_pid_mountinfo(5)).
#[track_caller]
fn await_mount(mount: &Path, running: &mut Running) {
    let table = std::fs::File::open("/proc/self/mountinfo").expect("the mount table");
    let start = Instant::now();
    loop {
        // Answered once the daemon serves; before that there is no such file, after its death
        // an error.
        if std::fs::metadata(mount.join(".kstate/registry")).is_ok() {
            return;
        }
        if let Some(status) = running.ended() {
            panic!(
                "the daemon ended before it had mounted {}: {status}",
                mount.display()
            );
        }
        assert!(
            start.elapsed() < PATIENCE,
            "{} is not mounted",
            mount.display()
        );
        let mut fds = [PollFd::new(table.as_fd(), PollFlags::POLLPRI)];
        let _ = poll(&mut fds, PollTimeout::from(20_u16));
    }
}
