//! Announcements: messages outside after commits. KBUS is a file system of the test's own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod choosing;
mod device;
mod dropping;
mod sending;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use kstate_tests::{Daemon, Setup, eventually, kstate, output_of};
use tempfile::TempDir;

use device::Device;

/// Both ways to get at a region.
const WAYS: [&str; 2] = ["--passthrough=auto", "--passthrough=off"];

/// A directory to mount a device on.
fn place() -> TempDir {
    let mut builder = tempfile::Builder::new();
    builder.prefix("kstate-test-kbus-").tempdir().unwrap()
}

/// For a daemon that announces by the device in `directory`, be it there or not.
fn announcing(directory: &Path) -> Setup {
    let device = Device::path_in(directory);
    Setup::default().with(format!("--kbus={}", device.display()))
}

/// A figure of `.kstate/metrics`, by its name with labels.
fn figure(daemon: &Daemon, name: &str) -> u64 {
    let text = std::fs::read_to_string(daemon.file(".kstate/metrics")).unwrap();
    let values = text.lines().filter_map(|line| line.rsplit_once(' '));
    let mut values = values.filter(|(found, _)| *found == name);
    let (_, value) = values.next().unwrap_or_else(|| panic!("{name} in {text}"));
    value.parse().unwrap()
}

fn sent(daemon: &Daemon) -> u64 {
    figure(daemon, "kstate_announcements_total{sink=\"kbus\"}")
}

fn dropped(daemon: &Daemon, cause: &str) -> u64 {
    let name = "kstate_announcements_dropped_total";
    figure(
        daemon,
        &format!("{name}{{sink=\"kbus\",cause=\"{cause}\"}}"),
    )
}

#[track_caller]
fn await_dropped(daemon: &Daemon, cause: &str, count: u64) {
    let what = format!("{count} are dropped, being {cause}");
    eventually(&what, || (dropped(daemon, cause) == count).then_some(()));
}

/// The command on a daemon's mount.
fn command(daemon: &Daemon, arguments: &[&str]) -> Command {
    let mut command = Command::new(kstate());
    command.args(arguments).arg("--mount").arg(daemon.mount());
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(Stdio::piped());
    command
}

#[track_caller]
fn run(daemon: &Daemon, arguments: &[&str]) -> Output {
    output_of(command(daemon, arguments).spawn().unwrap())
}

/// What a Python program prints, given the path of a file; `said` names the errno of what fails.
#[track_caller]
fn python(program: &str, path: &Path) -> String {
    let prelude = "
import errno, os, sys
path, name = sys.argv[1], 'user.kstate.announce'
def said(work):
    try: return work()
    except OSError as error: return errno.errorcode[error.errno]
";
    let mut python = Command::new("python3");
    python.args(["-I", "-c", &format!("{prelude}{program}")]);
    python.arg(path).stdout(Stdio::piped());
    let output = output_of(python.stderr(Stdio::piped()).spawn().unwrap());
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}
