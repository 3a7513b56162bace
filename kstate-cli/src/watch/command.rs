#![expect(unsafe_code, reason = "what a child does before it runs is unsafe")]
//! The command that `kstate watch --exec` runs for each change.

use std::io::{self, ErrorKind, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use super::Change;
use crate::duration;
use crate::output;
use crate::signals::{self, Ending};

/// How long a command that is told to end has for it.
const GRACE: Duration = Duration::from_secs(2);

/// Runs a shell command, one at a time, until this process is told to end.
pub(super) struct Runner {
    command: String,
    mount: PathBuf,
    current: Arc<Current>,
}

/// The command that runs now.
#[derive(Default)]
struct Current {
    /// Its process group, which has its number until it is waited for.
    ///
    /// # Invariants
    ///
    /// 1. The process that leads it has not been waited for.
    group: Mutex<Option<Pid>>,
    changed: Condvar,
    is_asked_to_end: AtomicBool,
}

impl Current {
    fn lock(&self) -> MutexGuard<'_, Option<Pid>> {
        self.group.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has what runs end, and nothing else begin.
    fn end(&self) {
        self.is_asked_to_end.store(true, Ordering::SeqCst);
        let group = self.lock();
        if let Some(group) = *group {
            // Fails where it has ended just now. Waited for it was not: Current 1.
            let _ = killpg(group, Signal::SIGTERM);
        }
        let runs = |group: &mut Option<Pid>| group.is_some();
        let waited = self.changed.wait_timeout_while(group, GRACE, runs);
        let (group, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if let Some(group) = *group {
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

impl Runner {
    /// From now on the signals that end this process end a command first. `ended` is called when one came.
    /// To be called before any thread is started.
    ///
    /// # Errors
    ///
    /// The kernel refuses a descriptor or a thread.
    pub(super) fn new(
        command: String,
        mount: PathBuf,
        ended: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let ending = Ending::catch()?;
        let current = Arc::new(Current::default());
        let theirs = current.clone();
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                let mut polled = [PollFd::new(ending.descriptor(), PollFlags::POLLIN)];
                while let Err(Errno::EINTR) = poll(&mut polled, PollTimeout::NONE) {}
                theirs.end();
                ended();
            })?;
        Ok(Self {
            command,
            mount,
            current,
        })
    }

    /// Whether a signal came.
    pub(super) fn is_asked_to_end(&self) -> bool {
        self.current.is_asked_to_end.load(Ordering::SeqCst)
    }

    /// Runs the command for a change of the state `name`, and says so where it fails.
    ///
    /// # Errors
    ///
    /// There is no shell, or no process for one.
    pub(super) fn run(&self, name: &str, change: &Change) -> io::Result<()> {
        let Some(mut child) = self.start(name, change)? else {
            return Ok(());
        };
        let result = give(&mut child, &change.value);
        // Looked at without being waited for, so that its number stays its own until it is
        // taken out.
        let leader = i32::try_from(child.id()).map_err(io::Error::other)?;
        let looked = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        while let Err(Errno::EINTR) = waitid(Id::Pid(Pid::from_raw(leader)), looked) {}
        *self.current.lock() = None;
        self.current.changed.notify_all();
        let status = child.wait()?;
        result?;
        if !status.success() && !self.is_asked_to_end() {
            let generation = change.generation;
            output::note(format_args!(
                "the command {} for generation {generation} of `{name}`",
                how_it_ended(status)
            ));
        }
        Ok(())
    }

    /// None where this process was told to end.
    fn start(&self, name: &str, change: &Change) -> io::Result<Option<Child>> {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &self.command])
            .env("KSTATE_NAME", name)
            .env("KSTATE_GENERATION", change.generation.to_string())
            .env("KSTATE_LENGTH", change.value.len().to_string())
            .env("KSTATE_TIME_NS", time_ns(change))
            .env("KSTATE_OVERDUE", u8::from(change.overdue).to_string())
            .env(kstate::MOUNT_VARIABLE, &self.mount)
            .stdin(Stdio::piped())
            // A signal is for what it has started as well.
            .process_group(0);
        // SAFETY: two system calls, which pthread_sigmask(3) and fork(2) allow there; nothing is
        // allocated.
        unsafe { shell.pre_exec(signals::allow) };
        // A signal that came before is seen here; who brings one later waits for the lock, and finds
        // the group.
        let mut group = self.current.lock();
        if self.is_asked_to_end() {
            return Ok(None);
        }
        let child = shell.spawn()?;
        // INVARIANT: Current 1: just started.
        *group = i32::try_from(child.id()).ok().map(Pid::from_raw);
        Ok(Some(child))
    }
}

/// Gives a command the value. One that does not want it, or all of it, is none the worse.
fn give(child: &mut Child, value: &[u8]) -> io::Result<()> {
    let Some(mut stdin) = child.stdin.take() else {
        return Ok(());
    };
    match stdin.write_all(value) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// When the version was committed, since the epoch; nothing where that is not known.
fn time_ns(change: &Change) -> String {
    let at = change
        .age
        .and_then(|age| SystemTime::now().checked_sub(age));
    let since = at.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    since.map_or_else(String::new, |since| {
        duration::nanoseconds(since).to_string()
    })
}

fn how_it_ended(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}
