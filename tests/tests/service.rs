//! What a service manager is told of the daemon, by sd_notify(3).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use kstate_tests::{
    Running, ServiceManager, eventually, kstate, kstatefs, output_of, refuse, unmount,
};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tempfile::TempDir;

/// A directory to mount on, beside a manager's socket.
struct Place {
    home: TempDir,
}

impl Place {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("mount")).unwrap();
        Self { home }
    }

    fn mount(&self) -> std::path::PathBuf {
        self.home.path().join("mount")
    }

    fn serves(&self) -> bool {
        self.mount().join(".kstate/registry").exists()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        unmount(&self.mount());
    }
}

fn under(manager: &ServiceManager, program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("NOTIFY_SOCKET", &manager.name);
    command
}

/// That nothing more comes from a daemon that has ended.
#[track_caller]
fn nothing_more(manager: &ServiceManager) {
    assert_eq!(manager.told_within(Duration::from_millis(1)), None);
}

#[test]
fn it_is_told_that_the_mount_can_be_used_and_that_it_ends() {
    for listen in [ServiceManager::at_path, ServiceManager::abstractly] {
        for program in [vec![], vec!["mount"]] {
            let place = Place::new();
            let manager = listen(place.home.path());
            let path = if program.is_empty() {
                kstatefs()
            } else {
                kstate()
            };
            let mut command = under(&manager, &path);
            let mut daemon = Running::start(command.args(program).arg(place.mount()));
            let ready = manager.told();
            assert!(place.serves(), "at once");
            assert!(ready.has("READY=1"), "{ready:?}");
            let status = ready.value("STATUS").unwrap();
            assert!(status.contains(place.mount().to_str().unwrap()), "{status}");
            assert_eq!(ready.pid, daemon.pid().as_raw());
            daemon.signal(Signal::SIGTERM);
            let stopping = manager.told();
            assert!(stopping.has("STOPPING=1"), "{stopping:?}");
            assert_eq!(daemon.finish().code(), Some(0));
            nothing_more(&manager);
        }
    }
}

#[test]
fn an_unmount_from_outside_is_told_as_an_end() {
    let place = Place::new();
    let manager = ServiceManager::at_path(place.home.path());
    let mut daemon = Running::start(under(&manager, &kstatefs()).arg(place.mount()));
    assert!(manager.told().has("READY=1"));
    unmount(&place.mount());
    assert!(manager.told().has("STOPPING=1"));
    assert_eq!(daemon.finish().code(), Some(0));
}

#[test]
fn a_mount_that_fails_is_told_with_its_reason_and_never_as_ready() {
    for way in [&[][..], &["--daemon"]] {
        let place = Place::new();
        let manager = ServiceManager::at_path(place.home.path());
        let mut command = under(&manager, &kstatefs());
        command.args(way).arg(place.home.path().join("absent"));
        let output = output_of(command.stderr(Stdio::piped()).spawn().unwrap());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let told = manager.told();
        assert!(told.value("STATUS").unwrap().contains("no such directory"));
        assert!(!told.has("READY=1"), "{told:?}");
        nothing_more(&manager);
    }
}

/// The daemon as one that may not mount, beside a helper that says what it was given.
fn refused(place: &Place, manager: &ServiceManager) -> String {
    let helper = place.home.path().join("fusermount3");
    let seen = place.home.path().join("seen");
    let script = format!("#!/bin/sh\nenv > {}\nexit 1\n", seen.display());
    std::fs::write(&helper, script).unwrap();
    std::fs::set_permissions(&helper, PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = under(manager, &kstatefs());
    let path = std::env::var("PATH").unwrap();
    command.env("PATH", format!("{}:{path}", place.home.path().display()));
    command.env("WATCHDOG_USEC", "1000000");
    refuse(&mut command, &[libc::SYS_mount], libc::EPERM);
    command.arg(place.mount()).stderr(Stdio::null());
    let output = output_of(command.spawn().unwrap());
    assert_eq!(output.status.code(), Some(1));
    std::fs::read_to_string(seen).unwrap_or_default()
}

#[test]
fn the_kernels_answer_is_told_as_a_number_where_there_is_one() {
    let place = Place::new();
    let manager = ServiceManager::at_path(place.home.path());
    let mut command = under(&manager, &kstatefs());
    refuse(&mut command, &[libc::SYS_mount], libc::ENODEV);
    command.arg(place.mount()).stderr(Stdio::null());
    output_of(command.spawn().unwrap());
    let told = manager.told();
    let number = libc::ENODEV.to_string();
    assert_eq!(told.value("ERRNO"), Some(number.as_str()), "{told:?}");
    nothing_more(&manager);
}

#[test]
fn what_the_daemon_starts_cannot_tell_the_manager_anything() {
    let place = Place::new();
    let manager = ServiceManager::at_path(place.home.path());
    let seen = refused(&place, &manager);
    assert!(
        seen.contains("_FUSE_COMMFD"),
        "the helper was started: {seen}"
    );
    assert!(!seen.contains("NOTIFY_SOCKET"), "{seen}");
    assert!(!seen.contains("WATCHDOG"), "{seen}");
    assert!(manager.told().value("STATUS").is_some());
}

#[test]
fn in_the_background_it_is_told_by_the_process_it_knows_which_one_serves() {
    let place = Place::new();
    let manager = ServiceManager::at_path(place.home.path());
    let mut command = under(&manager, &kstatefs());
    let mut caller = Running::start(command.arg("--daemon").arg(place.mount()));
    let first = manager.told();
    assert_eq!(first.pid, caller.pid().as_raw(), "{first:?}");
    assert!(first.has("READY=1"), "{first:?}");
    assert!(place.serves());
    let daemon: i32 = first.value("MAINPID").unwrap().parse().unwrap();
    assert!(caller.finish().success());
    kill(Pid::from_raw(daemon), Signal::SIGTERM).unwrap();
    let last = manager.told();
    assert!(last.has("STOPPING=1"), "{last:?}");
    assert_eq!(last.pid, daemon);
    nothing_more(&manager);
}

#[test]
fn a_manager_that_cannot_be_reached_keeps_nobody_from_mounting() {
    for name in ["/nonexistent/notify", "@kstate-nobody", "vsock:2:1", ""] {
        let place = Place::new();
        let mut command = Command::new(kstatefs());
        command.env("NOTIFY_SOCKET", name).env("KSTATE_LOG", "off");
        let mut daemon = Running::start(command.arg(place.mount()));
        eventually("it serves", || place.serves().then_some(()));
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.finish().code(), Some(0), "{name}");
    }
}

/// How often the manager wants to hear something; it does twice as often.
const PERIOD: Duration = Duration::from_millis(400);

fn watched(place: &Place, manager: &ServiceManager, process: Option<&str>) -> Running {
    let mut command = under(manager, &kstatefs());
    command.env("WATCHDOG_USEC", PERIOD.as_micros().to_string());
    if let Some(process) = process {
        command.env("WATCHDOG_PID", process);
    }
    let daemon = Running::start(command.arg(place.mount()));
    assert!(manager.told().has("READY=1"));
    daemon
}

#[test]
fn a_watchdog_hears_that_it_serves_and_nothing_while_no_thread_takes_requests() {
    let place = Place::new();
    let manager = ServiceManager::at_path(place.home.path());
    let mut daemon = watched(&place, &manager, None);
    for _ in 0..3 {
        assert!(manager.told().has("WATCHDOG=1"));
    }
    let threads = stop_all_but(daemon.pid(), "kstate-watchdog");
    eventually("what was under way is over and nothing comes", || {
        manager.told_within(PERIOD * 3).is_none().then_some(())
    });
    for thread in threads {
        ptrace::detach(thread, None).unwrap();
    }
    assert!(manager.told().has("WATCHDOG=1"));
    daemon.signal(Signal::SIGTERM);
    eventually("it is told of the end", || {
        manager.told().has("STOPPING=1").then_some(())
    });
    assert_eq!(daemon.finish().code(), Some(0));
    nothing_more(&manager);
}

/// Stops threads of a process one by one, which a signal cannot; they go on when they are let go.
fn stop_all_but(process: Pid, name: &str) -> Vec<Pid> {
    let mut stopped = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{process}/task")).unwrap() {
        let task = task.unwrap();
        let called = std::fs::read_to_string(task.path().join("comm")).unwrap();
        // The kernel keeps 15 bytes of a name.
        if called.trim_end() == &name[..15] {
            continue;
        }
        let number = task.file_name().to_str().unwrap().parse().unwrap();
        let thread = Pid::from_raw(number);
        ptrace::seize(thread, ptrace::Options::empty()).unwrap();
        ptrace::interrupt(thread).unwrap();
        eventually("it is stopped", || {
            let flags = WaitPidFlag::__WALL | WaitPidFlag::WNOHANG;
            let status = waitpid(thread, Some(flags)).unwrap();
            (status != WaitStatus::StillAlive).then_some(())
        });
        stopped.push(thread);
    }
    stopped
}

#[test]
fn a_watchdog_of_another_process_hears_nothing() {
    let place = Place::new();
    let manager = ServiceManager::at_path(place.home.path());
    let mut daemon = watched(&place, &manager, Some("1"));
    assert_eq!(manager.told_within(PERIOD * 3), None);
    daemon.signal(Signal::SIGTERM);
    assert!(manager.told().has("STOPPING=1"));
    daemon.finish();
}
