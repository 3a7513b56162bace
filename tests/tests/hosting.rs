//! Programs that find no daemon and start one: who of several does, and what becomes of it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use kstate::{Host, HostError, Mount};
use kstate_tests::{Place, Running, eventually, kstatefs, output_of};
use nix::sys::signal::{Signal, kill};

fn is_mounted(path: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    table
        .lines()
        .any(|line| line.split(' ').nth(4) == path.to_str())
}

#[test]
fn a_program_runs_with_nothing_set_up() {
    let place = Place::new();
    place.done(&["set", "position", "7", "--keep"]);
    assert_eq!(place.done(&["get", "position"]), "7");
    let host = place.host();
    // Of its own session: what ends the program's terminal or group does not end it.
    let session = nix::unistd::getsid(Some(host)).unwrap();
    assert_ne!(session, nix::unistd::getsid(None).unwrap());
}

#[test]
fn without_being_asked_no_program_starts_one() {
    let place = Place::new();
    for value in [None, Some(""), Some("0")] {
        let mut command = place.kstate(&["ls"]);
        command.env_remove("KSTATE_EMBED");
        if let Some(value) = value {
            command.env("KSTATE_EMBED", value);
        }
        let output = command.output().unwrap();
        assert!(!output.status.success());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("no kstate file system is mounted"), "{said}");
    }
    assert!(!place.mount().exists());
}

#[test]
fn of_programs_that_start_at_once_one_has_its_daemon_serve_all() {
    let place = Place::new();
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let programs = names.map(|name| {
        let mut command = place.kstate(&["set", name, name, "--keep"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    });
    for program in programs {
        let output = output_of(program);
        assert!(output.status.success(), "{output:?}");
    }
    place.host();
    for name in names {
        assert_eq!(place.done(&["get", name]), name);
    }
}

#[test]
fn the_end_of_who_started_it_is_nobody_elses() {
    let place = Place::new();
    // In a group of its own, all of which is killed: as a shell or a service manager ends a program.
    let mut first = place.kstate(&["watch", "position"]);
    let first = Running::start(first.process_group(0));
    eventually("it has started a daemon", || {
        (place.hosts().len() == 1 && Mount::at(place.mount()).is_ok()).then_some(())
    });
    let mut second = Running::start(&mut place.kstate(&["watch", "position", "--as", "text"]));
    eventually("both watch", || {
        let info = Mount::at(place.mount()).unwrap().info("position");
        // And who asks.
        (info.is_ok_and(|info| info.subscribers >= 3)).then_some(())
    });
    nix::sys::signal::killpg(first.pid(), Signal::SIGKILL).unwrap();
    place.done(&["set", "position", "7"]);
    second.lines_until_contains("7");
    place.host();
}

#[test]
fn when_the_host_is_killed_the_next_program_starts_another_and_no_state_is_lost() {
    for _ in 0..3 {
        let place = Place::new();
        place.done(&["set", "kept", "before", "--keep"]);
        let mut watcher = Running::start(&mut place.kstate(&["watch", "kept", "--as", "text"]));
        watcher.lines_until_contains("before");
        let former = place.host();
        kill(former, Signal::SIGKILL).unwrap();
        // The watcher may have started another one by now.
        eventually("it is gone", || {
            (!place.hosts().contains(&former)).then_some(())
        });
        // Several at once, again.
        let programs = [0; 4].map(|_| {
            let mut command = place.kstate(&["get", "kept"]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().unwrap()
        });
        for program in programs {
            let output = output_of(program);
            assert!(output.status.success(), "{output:?}");
            assert_eq!(output.stdout, b"before\n");
        }
        assert_ne!(place.host(), former);
        place.done(&["set", "kept", "after"]);
        watcher.lines_until_contains("after");
    }
}

#[test]
fn it_ends_once_nobody_uses_it_and_leaves_nothing() {
    let place = Place::new();
    let host = Host::new().program(kstatefs());
    let host = host.stays(Duration::from_millis(300));
    let mount = host.start_at(place.mount()).unwrap();
    // There is one: that will do, whatever is asked.
    let other = Host::new().program("/nonexistent").start_at(place.mount());
    assert_eq!(other.unwrap().path(), mount.path());
    let state = mount.subscribe("position").write().typed::<u64>().unwrap();
    state.publish(&1).unwrap();
    std::thread::park_timeout(Duration::from_millis(1500));
    assert_eq!(state.snapshot().unwrap().value, 1);
    place.host();
    // What lies in a file needs no daemon.
    state.set_persistent(place.home().join("file")).unwrap();
    drop(state);
    eventually("it ends", || place.hosts().is_empty().then_some(()));
    assert!(!is_mounted(&place.mount()));
    let mount = host.start_at(place.mount()).unwrap();
    let subscribe = mount.subscribe("position").write();
    let state = subscribe.persistent(place.home().join("file"));
    assert_eq!(state.typed::<u64>().unwrap().snapshot().unwrap().value, 1);
}

#[test]
fn a_kept_state_and_a_directory_in_use_keep_it() {
    let place = Place::new();
    let host = Host::new().program(kstatefs()).stays(Duration::ZERO);
    let mount = host.start_at(place.mount()).unwrap();
    let state = mount.subscribe("position").write().keep().typed::<u64>();
    drop(state.unwrap());
    std::thread::park_timeout(Duration::from_millis(1500));
    assert_eq!(mount.info("position").unwrap().subscribers, 1);
    let directory = std::fs::File::open(place.mount()).unwrap();
    mount.remove("position").unwrap();
    std::thread::park_timeout(Duration::from_millis(1500));
    place.host();
    drop(directory);
    eventually("it ends", || place.hosts().is_empty().then_some(()));
}

#[test]
fn it_has_nothing_of_what_its_starter_has_open() {
    let place = Place::new();
    let (mut reader, writer) = std::io::pipe().unwrap();
    // Without the flag that a program's descriptors ought to have.
    nix::fcntl::fcntl(
        &writer,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
    )
    .unwrap();
    place.done(&["set", "position", "7", "--keep"]);
    drop(writer);
    assert_eq!(std::io::Read::read(&mut reader, &mut [0]).unwrap(), 0);
    place.host();
}

#[test]
fn the_service_manager_of_its_starter_hears_nothing_of_it() {
    let place = Place::new();
    let socket = place.home().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    let mut program = place.kstate(&["set", "position", "7", "--keep"]);
    assert!(
        program
            .env("NOTIFY_SOCKET", &socket)
            .status()
            .unwrap()
            .success()
    );
    place.host();
    manager.set_nonblocking(true).unwrap();
    let heard = manager.recv(&mut [0; 64]).unwrap_err();
    assert_eq!(heard.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn limits_of_its_starter_are_not_its_own() {
    let place = Place::new();
    // Of a shell, which becomes the program: the soft ones are lowered.
    let mut shell = Command::new("sh");
    shell.args([
        "-c",
        "ulimit -S -t 4000; ulimit -S -f 9000; exec \"$@\"",
        "sh",
    ]);
    let program = place.kstate(&[]);
    shell.arg(program.get_program());
    shell.args(["set", "position", "7", "--keep"]);
    place.prepare(shell.stdin(Stdio::null()));
    assert!(shell.status().unwrap().success());
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", place.host())).unwrap();
    for limit in ["Max cpu time", "Max file size"] {
        let line = limits.lines().find(|line| line.starts_with(limit)).unwrap();
        let words: Vec<_> = line.trim_start_matches(limit).split_whitespace().collect();
        assert_eq!(words[0], words[1], "{line}");
    }
}

#[test]
fn a_daemon_that_cannot_be_started_is_told_of() {
    let place = Place::new();
    let mut command = place.kstate(&["ls"]);
    let output = command
        .env("KSTATE_DAEMON", "/nonexistent/kstatefs")
        .output();
    let said = String::from_utf8(output.unwrap().stderr).unwrap();
    assert!(
        said.contains("/nonexistent/kstatefs") && said.contains("$KSTATE_DAEMON"),
        "{said}"
    );
    // Something else is in its place.
    std::fs::remove_dir(place.mount()).unwrap();
    std::fs::write(place.mount(), "").unwrap();
    let host = Host::new().program(kstatefs()).start_at(place.mount());
    let said = match host {
        Err(HostError::Refused { said, .. }) => said,
        other => panic!("{other:?}"),
    };
    assert!(said.contains("not a directory"), "{said}");
}
