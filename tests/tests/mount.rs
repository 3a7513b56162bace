//! Mounting and unmounting: what is said when it cannot be done, and that nothing is left.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use kstate_tests::{Daemon, Running, Setup, eventually, kstate, kstatefs, output_of};
use nix::sys::signal::Signal;

fn run(directory: &Path) -> Output {
    Command::new(kstatefs())
        .arg(directory)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn says(output: &Output, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.trim_end().lines().count(), 1, "one line: {text}");
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

/// Runs a command to its end, which has to come.
fn finish(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    output_of(command.stderr(Stdio::piped()).spawn().unwrap())
}

fn is_mounted(path: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    table
        .lines()
        .any(|line| line.split(' ').nth(4) == path.to_str())
}

/// Directories of daemons, in the places where they make them.
fn directories_of(pid: i32) -> Vec<String> {
    let mut found = Vec::new();
    for parent in ["/dev/shm", "/run", "/tmp"] {
        for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(&format!("kstatefs-{pid}-")) {
                found.push(format!("{parent}/{name}"));
            }
        }
    }
    found
}

#[test]
fn an_absent_mount_point_says_how_to_make_it() {
    let home = tempfile::tempdir().unwrap();
    says(
        &run(&home.path().join("absent")),
        &["no such directory", "mkdir -p"],
    );
}

#[test]
fn a_mount_point_that_is_no_directory_is_said_to_be_none() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("file");
    std::fs::write(&file, "").unwrap();
    says(&run(&file), &["not a directory"]);
}

#[test]
fn of_two_daemons_on_one_mount_point_one_wins_and_the_other_says_so() {
    let daemon = Daemon::start();
    says(
        &run(daemon.mount()),
        &["mounted there already", "kstate umount"],
    );
    assert!(
        daemon.mount().join(".kstate/registry").exists(),
        "the first one still serves"
    );
}

#[test]
fn a_backing_directory_that_is_no_tmpfs_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(kstatefs());
    let output = command
        .args(["--backing", "/proc"])
        .arg(home.path())
        .output()
        .unwrap();
    says(&output, &["/proc", "tmpfs", "--backing"]);
    let mut command = Command::new(kstatefs());
    command.args(["--backing", "/nonexistent"]).arg(home.path());
    let output = command.output().unwrap();
    says(&output, &["/nonexistent", "tmpfs", "--backing"]);
    assert!(!is_mounted(home.path()));
}

#[test]
fn each_of_three_signals_unmounts_and_leaves_nothing() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        for arguments in [&[][..], &["--passthrough=off"]] {
            let setup = arguments
                .iter()
                .fold(Setup::default(), |setup, a| setup.with(*a));
            let mut daemon = setup.start();
            let mount = daemon.mount().to_owned();
            std::fs::write(mount.join("kept"), "x").ok();
            let pid = daemon.process().pid().as_raw();
            assert!(!directories_of(pid).is_empty());
            daemon.process().signal(signal);
            assert_eq!(daemon.process().finish().code(), Some(0), "{signal}");
            assert!(!is_mounted(&mount));
            assert_eq!(directories_of(pid), [""; 0]);
        }
    }
}

#[test]
fn a_signal_ends_the_daemon_even_while_files_are_open() {
    let mut daemon = Daemon::start();
    let open = std::fs::File::create(daemon.file("x")).unwrap();
    let pid = daemon.process().pid().as_raw();
    daemon.process().signal(Signal::SIGTERM);
    assert_eq!(daemon.process().finish().code(), Some(0));
    assert!(!is_mounted(daemon.mount()));
    assert_eq!(directories_of(pid), [""; 0]);
    let error = std::os::unix::fs::FileExt::write_at(&open, b"x", 0).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
}

#[test]
fn unmounting_from_outside_ends_the_daemon() {
    let mut daemon = Daemon::start();
    let unmounted = Command::new(kstate())
        .arg("umount")
        .arg(daemon.mount())
        .output();
    assert!(
        unmounted.as_ref().unwrap().status.success(),
        "{unmounted:?}"
    );
    assert_eq!(daemon.process().finish().code(), Some(0));
}

#[test]
fn a_daemon_that_does_not_answer_is_said_not_to_and_can_be_unmounted_at_once() {
    for how in [&[][..], &["--lazy"]] {
        let mut daemon = Daemon::start();
        let mount = daemon.mount().to_owned();
        daemon.process().stop();
        let again = finish(Command::new(kstate()).arg("mount").arg(&mount));
        let unmounted = finish(Command::new(kstate()).arg("umount").args(how).arg(&mount));
        daemon.process().signal(Signal::SIGCONT);
        let text = String::from_utf8_lossy(&again.stderr);
        assert_eq!(again.status.code(), Some(5), "{text}");
        assert!(text.contains("does not answer"), "{text}");
        assert!(text.contains("kstate umount --lazy"), "{text}");
        assert!(unmounted.status.success(), "{how:?}: {unmounted:?}");
        assert!(!is_mounted(&mount), "{how:?}");
        assert_eq!(daemon.process().finish().code(), Some(0));
    }
}

#[test]
fn a_daemon_whose_mount_has_gone_leaves_alone_who_mounts_there_next() {
    let mut first = Daemon::start();
    let mount = first.mount().to_owned();
    first.process().stop();
    // Both the path and the device number are free now.
    kstate_tests::unmount(&mount);
    let mut second = Running::start(Command::new(kstatefs()).arg(&mount));
    eventually("it is mounted", || kstate::Mount::at(&mount).ok());
    first.process().signal(Signal::SIGCONT);
    assert_eq!(first.process().finish().code(), Some(0));
    let found = kstate::Mount::at(&mount);
    second.signal(Signal::SIGTERM);
    assert_eq!(second.finish().code(), Some(0));
    assert!(found.is_ok(), "{found:?}");
}

#[test]
fn a_mount_is_found_through_a_symbolic_link_while_its_daemon_does_not_answer() {
    let mut daemon = Daemon::start();
    let link = daemon.home().join("link");
    std::os::unix::fs::symlink("mount/", &link).unwrap();
    daemon.process().stop();
    let unmounted = finish(Command::new(kstate()).arg("umount").arg(&link));
    daemon.process().signal(Signal::SIGCONT);
    assert!(unmounted.status.success(), "{unmounted:?}");
    assert!(!is_mounted(daemon.mount()));
}

#[test]
fn a_mount_left_by_a_killed_daemon_is_replaced_and_its_directory_taken_over() {
    let mut daemon = Daemon::start();
    let held = std::fs::File::create(daemon.file("x")).unwrap();
    let dead = daemon.process().pid().as_raw();
    daemon.process().signal(Signal::SIGKILL);
    assert_eq!(daemon.process().finish().signal(), Some(libc::SIGKILL));
    assert!(
        std::fs::metadata(daemon.mount()).is_err(),
        "the mount is dead"
    );
    let daemon = daemon.kill_and_restart();
    std::fs::write(daemon.file("y"), "alive").unwrap();
    assert_eq!(directories_of(dead).len(), 1);
    drop(daemon);
    assert_eq!(directories_of(dead), [""; 0]);
    drop(held);
}

#[test]
fn in_the_background_the_caller_returns_once_mounted() {
    let home = tempfile::tempdir().unwrap();
    // The form of mount(8): a source first, options behind.
    let mut command = Command::new(kstatefs());
    command
        .arg("none")
        .arg(home.path())
        .args(["-o", "rw,linger=5s", "-t", "fuse.kstatefs"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let guard = Unmount(home.path());
    std::fs::write(home.path().join("x"), "lingers").unwrap();
    assert_eq!(std::fs::read(home.path().join("x")).unwrap(), b"lingers");
    drop(guard);
    eventually("it is unmounted", || {
        (!is_mounted(home.path())).then_some(())
    });
}

#[test]
fn in_the_background_an_error_is_still_the_callers() {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(kstatefs());
    let output = command
        .arg("--daemon")
        .arg(home.path().join("absent"))
        .output()
        .unwrap();
    says(&output, &["no such directory"]);
}

#[test]
fn the_version_names_the_abi_and_usage_errors_are_2() {
    let output = Command::new(kstatefs()).arg("--version").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("ABI 1"), "{text}");
    for wrong in [&["--nonsense", "/x"][..], &[], &["-o", "nonsense", "/x"]] {
        let output = Command::new(kstatefs()).args(wrong).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {output:?}");
    }
}

#[test]
fn another_abi_version_is_refused_with_both_numbers() {
    use kstate_sys::ioctl::{Subscribe, call, outcome};
    let daemon = Daemon::start();
    let file = std::fs::File::create(daemon.file("x")).unwrap();
    let mut asked = Subscribe::default();
    asked.abi_version = 99;
    call::subscribe(&file, &mut asked).unwrap();
    assert_eq!(asked.outcome, outcome::ABI_VERSION);
    assert_eq!(asked.abi_version, kstate_sys::abi::ABI_VERSION);
    let mut version = 0;
    call::version(&file, &mut version).unwrap();
    assert_eq!(version, kstate_sys::abi::ABI_VERSION);
}

struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        kstate_tests::unmount(self.0);
    }
}
