#![expect(unsafe_code, reason = "fork(2)")]
//! Serving from the background: the caller returns once the file system is mounted.

use std::io::{PipeWriter, Read, Write};
use std::os::fd::AsFd;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{ForkResult, fork, setsid};

use crate::config::Config;
use crate::service::{ServiceManager, status};
use crate::session::{ServeError, Server};

/// What the daemon says once it is mounted, before its process id, a space and its status; anything else is an
/// error's text.
const MOUNTED: &str = "mounted ";

/// Why there is no daemon.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DaemonizeError {
    /// The daemon could not serve; this is what it said.
    #[error("{0}")]
    Serve(String),
    /// It ended without a word.
    #[error("the daemon ended before the file system was mounted")]
    Silent,
    /// The process could not be split.
    #[error("cannot go to the background: {0}")]
    System(#[from] std::io::Error),
}

/// Mounts and serves from a process of its own, in a session of its own, with its standard
/// streams on `/dev/null` (errors go to standard error until it is mounted). Returns in the caller
/// once the file system can be used, when `manager` has been told which process serves now: it listens to
/// the one that it has started.
///
/// # Errors
///
/// What the daemon could not do; nothing is left mounted or running then.
///
/// # Panics
///
/// Never; but it must be called before any thread is started, as with any fork.
pub fn run(config: Config, manager: &ServiceManager) -> Result<(), DaemonizeError> {
    let done = split_off(config, manager);
    done.inspect_err(|error| manager.failed(error))
}

/// Those that nothing can be done about, and those that the runtime has set as it needs them.
const FIXED: [Signal; 5] = [
    Signal::SIGKILL,
    Signal::SIGSTOP,
    Signal::SIGPIPE,
    Signal::SIGSEGV,
    Signal::SIGBUS,
];
/// What would end a daemon, or keep it from its work.
const LIMITS: [Resource; 4] = [
    Resource::RLIMIT_CPU,
    Resource::RLIMIT_FSIZE,
    Resource::RLIMIT_AS,
    Resource::RLIMIT_DATA,
];

/// Lets go of what a process is given by whichever program happens to start it: descriptors beyond the standard
/// streams, which would stay open for as long as the daemon lives, and a scheduling that is meant for that program.
/// To be called first of all, before anything is opened.
pub fn leave_starter() {
    // Since Linux 5.9. An older kernel's daemon keeps them open.
    // SAFETY: nothing of this process is open yet but the standard streams, by the contract above.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    // Whatever program this is the daemon of.
    // SAFETY: a string, of which the kernel copies no more than it keeps.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"kstatefs".as_ptr()) };
    // Signals as any program has them at first: one that is blocked that a fault raises ends the daemon.
    let _ = SigSet::empty().thread_set_mask();
    for signal in Signal::iterator().filter(|signal| !FIXED.contains(signal)) {
        // SAFETY: sets no handler.
        let _ = unsafe {
            sigaction(
                signal,
                &SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty()),
            )
        };
    }
    // What is left of limits that were lowered for that program alone; a hard one stays.
    for limit in LIMITS {
        let _ = getrlimit(limit).and_then(|(_, hard)| setrlimit(limit, hard, hard));
    }
    let ordinary = libc::sched_param { sched_priority: 0 };
    // SAFETY: reads the structure. Nobody is refused it.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const ordinary) };
    // SAFETY: only numbers. To be less nice than the starter is refused to most.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 0) };
}

fn split_off(config: Config, manager: &ServiceManager) -> Result<(), DaemonizeError> {
    let (mut reader, writer) = std::io::pipe()?;
    // SAFETY: the caller has no other thread, by the contract above, so the child may do
    // whatever a process may.
    match unsafe { fork() }.map_err(std::io::Error::from)? {
        ForkResult::Parent { child } => {
            drop(writer);
            let mut said = String::new();
            reader.read_to_string(&mut said)?;
            // The child has split off the daemon and ended, or will in a moment.
            let _ = nix::sys::wait::waitpid(child, None);
            let mounted = said.strip_prefix(MOUNTED);
            let daemon = mounted.and_then(|said| said.split_once(' '));
            match (daemon, said.as_str()) {
                (Some((daemon, status)), _) => {
                    if let Ok(daemon) = daemon.parse() {
                        manager.handed_over(daemon, status);
                    }
                    Ok(())
                }
                (None, "") => Err(DaemonizeError::Silent),
                (None, error) => Err(DaemonizeError::Serve(error.trim_end().to_owned())),
            }
        }
        ForkResult::Child => {
            drop(reader);
            std::process::exit(match split(config, manager, writer) {
                Ok(()) => 0,
                Err(_) => 1,
            })
        }
    }
}

/// In the child: a session of its own, then a second fork, so that no terminal can be gained.
/// What becomes of it goes to `tell`: that it is mounted, or why not.
fn split(config: Config, manager: &ServiceManager, tell: PipeWriter) -> Result<(), ServeError> {
    let failed = |error: nix::errno::Errno| ServeError::System {
        doing: "cannot go to the background",
        source: error.into(),
    };
    setsid().map_err(failed)?;
    // SAFETY: as in `run`: still a single thread.
    if let ForkResult::Parent { .. } = unsafe { fork() }.map_err(failed)? {
        return Ok(());
    }
    // A caller that has gone does not need to know.
    let say = |mut tell: PipeWriter, text: &str| drop(tell.write_all(text.as_bytes()));
    let server = match Server::start(config) {
        Ok(server) => server,
        Err(error) => {
            say(tell, &error.to_string());
            return Err(error);
        }
    };
    // The mount point is kept as an absolute path; no other directory is held busy.
    let _ = std::env::set_current_dir("/");
    if let Ok(null) = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
    {
        let null = null.as_fd();
        let _ = nix::unistd::dup2_stdin(null);
        let _ = nix::unistd::dup2_stdout(null);
        let _ = nix::unistd::dup2_stderr(null);
    }
    let (own, status) = (std::process::id(), status(server.mounted()));
    say(tell, &format!("{MOUNTED}{own} {status}"));
    manager.watch_over(server)
}
