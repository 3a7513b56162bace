//! What plain system calls on a state file mean: `docs/semantics.md`, a test a paragraph, a file a
//! subject.
//!
//! Nearly all of it is the same with passthrough and without, and is tested both ways; where a
//! machine has no passthrough, the first way is the second.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use kstate_tests::{Daemon, Running, create, output_of, replace};

/// Makes a test of each function for each way to get at a region.
macro_rules! both_ways {
    ($($test:ident),+ $(,)?) => {
        mod passthrough_auto {
            $(
                #[test]
                fn $test() {
                    super::$test(kstate_tests::Setup::default());
                }
            )+
        }
        mod passthrough_off {
            $(
                #[test]
                fn $test() {
                    super::$test(kstate_tests::Setup::default().with("--passthrough=off"));
                }
            )+
        }
    };
}

mod appending;
mod attributes;
mod capacity;
mod changes;
mod copying;
mod counting;
mod descriptors;
mod evaporating;
mod lifetime;
mod listing;
mod liveness;
mod locks;
mod mapping;
mod names;
mod notifying;
mod opening;
mod polling;
mod reading;
mod reports;
mod socket;
mod truncating;
mod views;
mod waiting_views;
mod writing;
mod xattrs;

/// The newest value, read by a descriptor of its own.
fn value(daemon: &Daemon, name: &str) -> Vec<u8> {
    std::fs::read(daemon.file(name)).unwrap()
}

/// How many versions were published.
fn generation(daemon: &Daemon, name: &str) -> u64 {
    let state = daemon.library().subscribe(name).bytes().unwrap();
    state.snapshot().unwrap().generation().0
}

fn errno<T: Debug>(result: io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

/// What is said of a change in `.kstate`, `errno` by the daemon. But the kernel asks it only on behalf of
/// those whom the directory's mode bits, which let nobody write, do not keep out: root.
fn in_control(errno: &str) -> &str {
    match nix::unistd::geteuid().is_root() {
        true => errno,
        false => "EACCES",
    }
}

/// What every Python program of these tests begins with. `said` gives what a call returns or the
/// name of its errno, `call` is a function of the C library.
const PRELUDE: &str = "
import ctypes, errno, fcntl, mmap, os, select, socket, stat, struct, sys
path = sys.argv[1]
libc = ctypes.CDLL(None, use_errno=True)
def said(work):
    try: return work()
    except OSError as error: return errno.errorcode[error.errno]
def call(name, *arguments):
    done = getattr(libc, name)(*arguments)
    if done < 0: raise OSError(ctypes.get_errno(), name)
    return done
def replace(value):
    file = os.open(path, os.O_WRONLY | os.O_TRUNC)
    os.write(file, value)
    os.close(file)
def forked(work):
    child = os.fork()
    if child == 0:
        said_there = said(work)
        print(said_there, flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
";

fn python_with(program: &str, path: &Path) -> Command {
    let mut python = Command::new("python3");
    let program = format!("{PRELUDE}{program}");
    python.args(["-I", "-c", &program]).arg(path);
    python
}

/// A Python program to talk with, given the path of a file.
#[track_caller]
fn start_python(program: &str, path: &Path) -> Running {
    Running::start(&mut python_with(program, path))
}

/// What a Python program prints, given the path of a file.
#[track_caller]
fn python(program: &str, path: &Path) -> String {
    output(&mut python_with(program, path))
}

/// What a shell prints, given the path of a file as `$1`.
#[track_caller]
fn shell(script: &str, path: &Path) -> String {
    output(Command::new("bash").args(["-c", script, "bash"]).arg(path))
}

#[track_caller]
fn output(command: &mut Command) -> String {
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = output_of(command.spawn().unwrap());
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}
