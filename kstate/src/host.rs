#![expect(unsafe_code, reason = "asks the loader which file this code is in")]
//! Starting a daemon where there is none: programs that need one then run with nothing set up.
//!
//! The daemon is a process of its own, the *host*. It belongs to none of the programs: whichever comes first starts it,
//! it serves all that come, outlives each of them, and ends when nobody has needed it for a while. Of programs that
//! come at the same moment each starts one; the first that gets to the mount point serves, and the others end and
//! leave their programs to that one. If it is killed, whichever of these programs needs a daemon next starts another,
//! which takes the states over.

use std::ffi::{CStr, OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kstate_sys::fork::Lock;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::errno;
use crate::mount::{Mount, MountError};

/// The environment variable that says whether programs start a daemon where there is none: `1` for yes.
pub const HOST_VARIABLE: &str = "KSTATE_EMBED";
/// The environment variable that names the daemon's program.
const PROGRAM_VARIABLE: &str = "KSTATE_DAEMON";
/// What the daemon's program is called.
const PROGRAM: &str = "kstatefs";
/// Where it is, seen from the directory of this code: beside it where it was built, and as it is installed.
const BESIDE: [&str; 5] = [
    "kstatefs",
    "../kstatefs",
    "../libexec/kstate/kstatefs",
    // Of a library's directory that is named by the machine.
    "../../libexec/kstate/kstatefs",
    "../bin/kstatefs",
];
/// Where it is installed besides, for programs that have the library's code within and lie elsewhere.
const INSTALLED: [&str; 2] = ["/usr/local/libexec/kstate", "/usr/libexec/kstate"];
/// Of those that come at the same moment one serves. That one may end before the others look.
const MAX_ATTEMPTS: u32 = 3;
/// Longer before each: not at the rate at which a program can fail.
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(20);
/// After a failure nobody tries for so long: each would take as long to fail.
const PAUSE: Duration = Duration::from_secs(1);
/// What is read of what a daemon that did not start has to say, in bytes.
const MOST_SAID: u64 = 4096;

/// How to start a daemon.
///
/// ```no_run
/// // For a program that shall run whether or not somebody has mounted kstate before:
/// kstate::Host::new().start()?;
/// let speed = kstate::subscribe("robot.speed").write().typed::<f64>()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// With `KSTATE_EMBED=1` in the environment programs do so by themselves wherever they find no daemon, as after
/// [`Host::where_absent`].
///
/// Programs that run with more rights than who started them (set-user-ID, file capabilities) heed no variable
/// of the environment here, and look for no program along `$PATH`.
#[derive(Clone, Debug)]
pub struct Host {
    program: Option<Program>,
    stays: Duration,
}

/// What is run.
#[derive(Clone, Debug)]
struct Program {
    path: PathBuf,
    /// In front of the daemon's arguments.
    before: Vec<OsString>,
}

/// Why there is no daemon.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// The directory to mount on could not be made, or something is in it.
    #[error("cannot mount kstate on the directory {path}: {source}; name another one with $KSTATE_MOUNT", path = path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The daemon's program was not found, or cannot be run.
    #[error(
        "cannot start the daemon {program}: {source}; install kstate, or name the program with \
         $KSTATE_DAEMON", program = program.display()
    )]
    Program {
        /// What was tried to run.
        program: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The daemon did not mount.
    #[error("the daemon {program} did not mount: {said}", program = program.display())]
    Refused {
        /// The daemon's program.
        program: PathBuf,
        /// What it said.
        said: String,
    },
    /// What is mounted cannot be used.
    #[error(transparent)]
    Mount(#[from] MountError),
}

/// The one that this process starts where there is none.
static WHERE_ABSENT: Lock<Option<Host>> = Lock::new(None);
/// What is run in this process unless something else is said.
static DEFAULT: Lock<Option<Program>> = Lock::new(None);
/// When starting one has last failed.
static FAILED: Lock<Option<Instant>> = Lock::new(None);

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// By the program that `$KSTATE_DAEMON` names, else the one beside this code or installed with it, else `kstatefs` on
    /// `$PATH`; which stays for ten seconds after its last use.
    #[must_use]
    pub fn new() -> Self {
        Self {
            program: None,
            stays: Duration::from_secs(10),
        }
    }

    /// By this program, which takes the arguments of `kstatefs`.
    #[must_use]
    pub fn program(mut self, path: impl Into<PathBuf>) -> Self {
        self.program = Some(Program {
            path: path.into(),
            before: Vec::new(),
        });
        self
    }

    /// With one more argument for the program that was said, in front of those of `kstatefs`: for one that is more than
    /// that.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        if let Some(program) = &mut self.program {
            program.before.push(argument.into());
        }
        self
    }

    /// It ends when nobody has used a state for so long; never for [`Duration::MAX`].
    #[must_use]
    pub fn stays(mut self, unused: Duration) -> Self {
        self.stays = unused;
        self
    }

    /// Sees to it that there is a daemon where [`Mount::find`] looks for one; makes the directory if there is none.
    ///
    /// # Errors
    ///
    /// [`HostError`].
    ///
    /// # Cost
    ///
    /// That of [`Mount::at`] if there is one; else a process and some 50 ms. The calling process gets a child that ends
    /// at once, and no descriptor, thread or signal.
    pub fn start(&self) -> Result<Mount, HostError> {
        self.start_at(Mount::place())
    }

    /// The same for the mount point `path`.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn start_at(&self, path: impl AsRef<Path>) -> Result<Mount, HostError> {
        let path = path.as_ref();
        let mut attempts = 0;
        loop {
            match Mount::at(path) {
                Err(error) if error.may_come_back() => {}
                there => return Ok(there?),
            }
            make_directory(path)?;
            // It has mounted, or another one was there first; and either may have ended by now.
            let refused = match self.run(path) {
                Ok(program) => HostError::Refused {
                    program,
                    said: "it said that it had mounted, and nothing is there".into(),
                },
                Err(refused @ HostError::Refused { .. }) => refused,
                Err(error) => return Err(error),
            };
            attempts += 1;
            if attempts == MAX_ATTEMPTS {
                return Mount::at(path).map_err(|_| refused);
            }
            std::thread::sleep(BETWEEN_ATTEMPTS * (attempts - 1));
        }
    }

    /// From now on this process starts such a daemon where [`Mount::find`] finds none, and in the place of one
    /// that has died.
    pub fn where_absent(self) {
        *WHERE_ABSENT.lock() = Some(self);
    }

    /// From now on this process runs that program wherever it is to start a daemon and nothing else is said: neither
    /// here, nor by `$KSTATE_DAEMON`. For those that carry the daemon with them.
    pub fn by_default(self) {
        *DEFAULT.lock() = self.program;
    }

    /// Runs the program, which goes to the background once it has mounted; says which one that was.
    fn run(&self, mount: &Path) -> Result<PathBuf, HostError> {
        let Program {
            path: program,
            before,
        } = self.program.clone().unwrap_or_else(find_program);
        let failed = |source| HostError::Program {
            program: program.clone(),
            source,
        };
        let mut command = Command::new(&program);
        command.args(before).arg("--hosted");
        // More nanoseconds than a number has are for ever.
        if u64::try_from(self.stays.as_nanos()).is_ok() {
            command.arg("--exit-when-unused");
            command.arg(format!("{}ms", self.stays.as_millis()));
        }
        command.arg("--").arg(mount);
        command.env_remove(HOST_VARIABLE);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.stderr(Stdio::piped()).spawn().map_err(failed)?;
        let errors = child.stderr.take();
        // Where the program has its children reaped by the kernel, or does it itself, nobody knows how this one ended.
        let is_well = child.wait().is_ok_and(|status| status.success());
        if is_well {
            return Ok(program);
        }
        Err(HostError::Refused {
            said: errors.map_or_else(String::new, said),
            program,
        })
    }
}

/// What was written there, of which the writer has ended.
fn said(mut errors: std::process::ChildStderr) -> String {
    // Somebody else may still have it open.
    let _ = fcntl(&errors, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
    let mut said = Vec::new();
    let _ = errors.by_ref().take(MOST_SAID).read_to_end(&mut said);
    let said = String::from_utf8_lossy(&said);
    match said.trim() {
        "" => "it ended without a word".into(),
        said => said.trim_start_matches("kstatefs: ").to_owned(),
    }
}

/// Makes the directory if nothing is there. What is in one that is there would be hidden.
fn make_directory(path: &Path) -> Result<(), HostError> {
    let mut builder = std::fs::DirBuilder::new();
    let made = match builder.recursive(true).mode(0o755).create(path) {
        // The mount of a dead daemon cannot be looked at, but is there.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    };
    let has_entries = || std::fs::read_dir(path).is_ok_and(|mut found| found.next().is_some());
    // Unless another program's daemon has mounted there since it was looked for, or has ended meanwhile.
    let is_used = || has_entries() && Mount::at(path).is_err() && has_entries();
    let made = made.and_then(|()| match is_used() {
        true => Err(errno::not_empty()),
        false => Ok(()),
    });
    made.map_err(|source| HostError::Directory {
        path: path.to_owned(),
        source,
    })
}

fn find_program() -> Program {
    let is_trusted = !is_privileged();
    let named = std::env::var_os(PROGRAM_VARIABLE).filter(|name| is_trusted && !name.is_empty());
    let by_itself = |path| Program {
        path,
        before: Vec::new(),
    };
    if let Some(named) = named {
        return by_itself(named.into());
    }
    if let Some(default) = DEFAULT.lock().clone() {
        return default;
    }
    let places = [own_file(), std::env::current_exe().ok()];
    let beside = places.into_iter().flatten().flat_map(|file| {
        let directory = file.parent().map(Path::to_owned).unwrap_or_default();
        BESIDE.map(|place| directory.join(place))
    });
    let installed = INSTALLED.map(|place| Path::new(place).join(PROGRAM));
    let mut all = beside.chain(installed);
    let found = all.find(|place| is_safe_to_run(place));
    by_itself(found.unwrap_or_else(|| match is_trusted {
        // Of no directory: looked for along `$PATH`.
        true => PROGRAM.into(),
        false => Path::new("/usr/bin").join(PROGRAM),
    }))
}

/// Whether it is a file that nobody put there but this user or root: the program may lie where everybody can write.
fn is_safe_to_run(file: &Path) -> bool {
    const OTHERS_WRITE: u32 = 0o002;
    let user = nix::unistd::geteuid().as_raw();
    std::fs::metadata(file).is_ok_and(|found| {
        let is_owned = found.uid() == user || found.uid() == 0;
        file.is_absolute() && found.is_file() && is_owned && found.mode() & OTHERS_WRITE == 0
    })
}

/// The file that this code was loaded from.
fn own_file() -> Option<PathBuf> {
    let mut found = core::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    let here = (own_file as fn() -> Option<PathBuf>) as *const libc::c_void;
    // SAFETY: an address of this program's code, and room for the answer.
    if unsafe { libc::dladdr(here, found.as_mut_ptr()) } == 0 {
        return None;
    }
    // SAFETY: all zeros, or filled in.
    let name = unsafe { found.assume_init() }.dli_fname;
    if name.is_null() {
        return None;
    }
    // SAFETY: a string of the loader's, which stays as long as this code is loaded.
    let name = unsafe { CStr::from_ptr(name) };
    let path = Path::new(OsStr::from_bytes(name.to_bytes()));
    path.canonicalize().ok()
}

/// Whether this process has rights that who started it has not (getauxval(3), `AT_SECURE`).
fn is_privileged() -> bool {
    // SAFETY: only a number goes in and out.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// The host that this process starts where there is none, if it does.
fn wanted() -> Option<Host> {
    if let Some(host) = WHERE_ABSENT.lock().clone() {
        return Some(host);
    }
    let asked = std::env::var_os(HOST_VARIABLE)?;
    (asked == "1" && !is_privileged()).then(Host::new)
}

/// Starts one at `path`, where [`Mount::find`] looks, because there is none and this process wants one.
///
/// # Errors
///
/// `None` if it wants none, or none there, or has failed just now.
pub(crate) fn start_where_absent(path: &Path) -> Option<Result<Mount, HostError>> {
    let host = wanted()?;
    // What is looked for elsewhere is somebody else's to mount.
    let (path, place) = (
        std::path::absolute(path),
        std::path::absolute(Mount::place()),
    );
    let path = path
        .ok()
        .filter(|path| place.is_ok_and(|place| place == *path))?;
    let failed = *FAILED.lock();
    if failed.is_some_and(|failed| failed.elapsed() < PAUSE) {
        return None;
    }
    let started = host.start_at(&path);
    *FAILED.lock() = started.is_err().then(Instant::now);
    Some(started)
}

/// Has another daemon follow the one that has died at `root`, if this process starts daemons there; whether there
/// is one now.
pub(crate) fn follow(root: &Path, died: &io::Error) -> bool {
    errno::may_come_back(died) && matches!(start_where_absent(root), Some(Ok(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_none_is_named_with_advice() {
        let place = std::env::temp_dir().join(format!("kstate-host-{}", std::process::id()));
        let host = Host::new().program("/nonexistent/kstatefs");
        let error = host.start_at(&place).unwrap_err();
        assert!(matches!(error, HostError::Program { .. }), "{error:?}");
        assert!(error.to_string().contains("$KSTATE_DAEMON"), "{error}");
        std::fs::remove_dir(place).unwrap();
    }

    #[test]
    fn what_a_daemon_says_that_does_not_mount_is_passed_on() {
        let place = std::env::temp_dir().join(format!("kstate-host-said-{}", std::process::id()));
        let error = Host::new().program("/bin/sh").argument("-c");
        let error = error.argument("echo 'kstatefs: no, never' >&2; exit 1");
        let error = error.start_at(&place).unwrap_err();
        assert!(
            matches!(&error, HostError::Refused { said, .. } if said == "no, never"),
            "{error:?}"
        );
        let error = Host::new()
            .program("/bin/true")
            .start_at("/dev/null/kstate");
        assert!(
            matches!(error, Err(HostError::Directory { .. })),
            "{error:?}"
        );
        // It says that all is well, and is not believed for ever.
        let error = Host::new().program("/bin/true").start_at(&place);
        assert!(
            matches!(&error, Err(HostError::Refused { said, .. }) if said.contains("nothing is there")),
            "{error:?}"
        );
        // What is there would be hidden.
        std::fs::write(place.join("something"), "").unwrap();
        let error = Host::new().program("/bin/true").start_at(&place);
        assert!(
            matches!(&error, Err(HostError::Directory { source, .. }) if source.kind() == io::ErrorKind::DirectoryNotEmpty),
            "{error:?}"
        );
        std::fs::remove_dir_all(place).unwrap();
    }

    #[test]
    fn what_others_may_have_put_there_is_not_run() {
        use std::os::unix::fs::PermissionsExt;
        let file = std::env::temp_dir().join(format!("kstate-host-safe-{}", std::process::id()));
        std::fs::write(&file, "").unwrap();
        for (mode, expected) in [(0o755, true), (0o775, true), (0o757, false)] {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_safe_to_run(&file), expected, "{mode:o}");
        }
        std::fs::remove_file(&file).unwrap();
        assert!(!is_safe_to_run(&file) && !is_safe_to_run(&std::env::temp_dir()));
    }

    #[test]
    fn the_file_of_this_code_is_known() {
        assert_eq!(own_file(), std::env::current_exe().ok());
        assert!(!is_privileged());
    }
}
