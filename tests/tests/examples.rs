//! The examples do what they say, in every language beside every other, with passthrough and without.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use kstate_tests::{Daemon, Running, Setup, both_transports, eventually, output_of};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

const PUBLISHERS: [&str; 4] = ["publish.sh", "publish.py", "publish.c", "publish.js"];
/// Those that use files alone.
const WATCHERS: [&str; 4] = ["watch.sh", "watch.py", "watch.c", "watch.js"];
/// Those that map the state, which takes passthrough.
const MAPPERS: [&str; 2] = ["map.py", "map.c"];

/// An example, to be run on a state. A missing interpreter or compiler is a failure.
fn example(name: &str, state: &Path) -> Command {
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../examples")
        .join(name);
    let program = match name.strip_suffix(".c") {
        Some(name) => compiled().join(name),
        None => source,
    };
    let mut command = Command::new(program);
    command.arg(state);
    command
}

/// Where the examples in C are, compiled.
fn compiled() -> &'static Path {
    static COMPILED: OnceLock<PathBuf> = OnceLock::new();
    COMPILED.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        // Of its own for each process of tests: a program that is running cannot be replaced.
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("examples");
        fs::create_dir_all(&directory).unwrap();
        for name in ["publish", "watch", "map"] {
            let unfinished = directory.join(format!("{name}.{}", std::process::id()));
            let mut compiler = Command::new("cc");
            compiler.args([
                "-std=c11",
                "-O1",
                "-Wall",
                "-Wextra",
                "-Wpedantic",
                "-Werror",
            ]);
            compiler.arg("-I").arg(root.join("kstate-sys/include"));
            compiler.arg("-o").arg(&unfinished);
            compiler.arg(root.join("examples").join(format!("{name}.c")));
            let status = compiler.arg("-lm").status();
            assert!(status.expect("cc starts").success(), "{name}.c");
            fs::rename(unfinished, directory.join(name)).unwrap();
        }
        directory
    })
}

fn maps_are_passed_through(daemon: &Daemon) -> bool {
    let version = fs::read_to_string(daemon.file(".kstate/version")).unwrap();
    version.contains("transport passthrough")
}

/// Takes a line of a watcher apart, and finds the position whole: where that step is.
fn step_of(line: &str) -> u32 {
    let number = |text: &str| text.parse::<f64>().unwrap_or_else(|_| panic!("`{line}`"));
    let (step, position) = line.split_once(": ").unwrap_or_else(|| panic!("`{line}`"));
    let (x, y) = position.split_once(' ').unwrap();
    let angle = number(step) / 10.0;
    let near = |a: f64, b: f64| (a - b).abs() < 0.001;
    assert!(
        near(number(x), angle.cos()) && near(number(y), angle.sin()),
        "`{line}` is torn"
    );
    step.parse().unwrap()
}

#[test]
fn what_any_example_publishes_any_other_watches() {
    both_transports(|daemon| {
        let maps = maps_are_passed_through(daemon);
        let mappers = MAPPERS.iter().filter(|_| maps);
        let watchers: Vec<_> = WATCHERS.iter().chain(mappers).collect();
        for publisher in PUBLISHERS {
            let state = daemon.file(&publisher.replace('.', "_"));
            // So that the watchers find it, whoever is first.
            let _keep = File::create(&state).unwrap();
            let mut running: Vec<_> = watchers
                .iter()
                .map(|watcher| Running::start(example(watcher, &state).arg("3")))
                .collect();
            let _publisher = Running::start(&mut example(publisher, &state));
            for (watcher, running) in watchers.iter().zip(&mut running) {
                let steps = [(); 3].map(|()| step_of(&running.line()));
                let goes_on = steps.is_sorted_by(|a, b| a < b);
                assert!(goes_on, "{watcher} on {publisher}: {steps:?}");
                assert!(running.finish().success(), "{watcher}");
            }
        }
    });
}

#[test]
fn a_view_makes_any_watcher_slower() {
    both_transports(|daemon| {
        let state = daemon.file("position");
        let _keep = File::create(&state).unwrap();
        let view = daemon.file("position@1h");
        let mut running =
            WATCHERS.map(|watcher| Running::start(example(watcher, &view).process_group(0)));
        let _publisher = Running::start(&mut example("publish.py", &state));
        for watcher in &mut running {
            step_of(&watcher.line());
        }
        // Three more are published, which nobody is shown.
        let mut fast = Running::start(example("watch.py", &state).arg("4"));
        assert!(fast.finish().success());
        for watcher in &mut running {
            interrupt(watcher.pid());
            assert_eq!(watcher.line(), "");
        }
    });
}

/// What a terminal does for Ctrl-C: tells a whole group of processes.
fn interrupt(group: Pid) {
    killpg(group, Signal::SIGINT).unwrap();
}

#[test]
fn counting_examples_lose_nothing() {
    both_transports(|daemon| {
        let counter = daemon.file("visits");
        let _keep = File::create(&counter).unwrap();
        let shells = (0..8).map(|_| Running::start(&mut example("increment.sh", &counter)));
        let pythons = (0..3).map(|_| Running::start(example("increment.py", &counter).arg("50")));
        let counting: Vec<_> = shells.chain(pythons).collect();
        for mut counting in counting {
            assert!(counting.finish().success());
        }
        assert_eq!(fs::read_to_string(&counter).unwrap(), "158\n");
    });
}

#[test]
fn who_waits_for_a_state_is_told_of_its_life() {
    both_transports(|daemon| {
        let state = daemon.file("position");
        let mut follower = Running::start(&mut example("changes.py", &state));
        eventually("it has the stream open", || {
            let stream = daemon.file(".kstate/changes@position");
            has_open(follower.pid().as_raw().unsigned_abs(), &stream).then_some(())
        });
        // A name that only begins alike is not meant.
        let other = File::create(daemon.file("position2")).unwrap();
        let mut publisher = Running::start(example("publish.c", &state).arg("3"));
        assert!(publisher.finish().success());
        drop(other);
        let mut lines = Vec::new();
        while lines.last().is_none_or(|line| line != "deleted") {
            lines.push(follower.line());
            assert_ne!(lines.last().unwrap(), "", "{lines:?}");
        }
        assert!(lines[0].starts_with("created"), "{lines:?}");
        assert!(lines.contains(&"changed 3".to_owned()), "{lines:?}");
        assert!(follower.finish().success());
    });
}

/// Whether a process has a file open whose path begins so.
fn has_open(process: u32, path: &Path) -> bool {
    let Ok(open) = fs::read_dir(format!("/proc/{process}/fd")) else {
        return false;
    };
    open.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok())
        .any(|file| file.starts_with(path))
}

/// Runs an example to its end, whatever it prints.
fn ended(command: &mut Command) -> Output {
    command.stdin(Stdio::null());
    output_of(
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    )
}

#[test]
fn watchers_say_when_a_state_is_overdue_and_go_on() {
    both_transports(|daemon| {
        let state = daemon.file("position");
        let _keep = File::create(&state).unwrap();
        let mut watchers = WATCHERS.map(|watcher| {
            // Their errors in the order of what they print.
            let mut command = Command::new("sh");
            command.args(["-c", "exec \"$@\" 2>&1", "sh"]);
            let example = example(watcher, &state);
            command.arg(example.get_program()).args(example.get_args());
            Running::start(command.arg("2"))
        });
        // This one sets a deadline.
        let mut publish = example("publish.py", &state);
        publish.arg("1");
        assert!(ended(&mut publish).status.success());
        for watcher in &mut watchers {
            assert_eq!(watcher.line(), "0: 1.000 0.000");
            assert!(watcher.line().starts_with("overdue"));
        }
        assert!(ended(&mut publish).status.success());
        for watcher in &mut watchers {
            assert_eq!(watcher.line(), "0: 1.000 0.000");
            assert!(watcher.finish().success());
        }
    });
}

#[test]
fn interrupted_an_example_ends_without_a_word() {
    both_transports(|daemon| {
        let maps = maps_are_passed_through(daemon);
        let mappers = MAPPERS.iter().filter(|_| maps);
        let all = PUBLISHERS.iter().chain(&WATCHERS).chain(mappers);
        for name in all.chain(&["changes.py"]) {
            // One of its own: a publisher leaves a deadline behind, of which a watcher says
            // rightly that nothing came by it.
            let state = daemon.file(name);
            let _keep = File::create(&state).unwrap();
            let mut command = example(name, &state);
            command.stdin(Stdio::null()).process_group(0);
            let child = command.stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = child.spawn().unwrap();
            let pid = Pid::from_raw(child.id().try_into().unwrap());
            eventually("it has a file of the mount open", || {
                has_open(child.id(), daemon.mount()).then_some(())
            });
            // One that comes between an interpreter's look for signals and its read waits for the read to end:
            // again, as a user would.
            let mut next = Instant::now();
            eventually("it ends", || {
                if next <= Instant::now() && child.try_wait().unwrap().is_none() {
                    interrupt(pid);
                    next += Duration::from_secs(2);
                }
                child.try_wait().unwrap()
            });
            let output = output_of(child);
            let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
            assert!(
                signal == Some(libc::SIGINT) || output.status.code() == Some(130),
                "{name}: {output:?}"
            );
            assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{name}");
        }
    });
}

#[test]
fn what_is_wrong_is_said_in_a_line() {
    let nothing = Path::new("/nowhere/position");
    for name in PUBLISHERS.iter().chain(&WATCHERS).chain(&MAPPERS).chain(&[
        "changes.py",
        "increment.sh",
        "increment.py",
    ]) {
        let output = ended(&mut example(name, nothing));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{name}: {said}");
        assert_eq!(said.lines().count(), 1, "{name}: {said}");
        assert!(said.contains("/nowhere/position"), "{name}: {said}");
        let output = ended(&mut Command::new(example(name, nothing).get_program()));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{name}: {said}");
        assert!(said.starts_with("usage: "), "{name}: {said}");
    }
}

#[test]
fn a_mapper_without_passthrough_says_so() {
    let daemon = Setup::default().with("--passthrough=off").start();
    let state = daemon.file("position");
    let _keep = File::create(&state).unwrap();
    for name in MAPPERS {
        let output = ended(&mut example(name, &state));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{name}: {said}");
        assert!(said.contains("no passthrough"), "{name}: {said}");
    }
}

#[test]
fn examples_end_with_the_daemon() {
    let mut daemon = Daemon::start();
    let state = daemon.file("position");
    let _keep = File::create(&state).unwrap();
    let all = || PUBLISHERS.iter().chain(&WATCHERS).chain(&["changes.py"]);
    let running: Vec<_> = all()
        .map(|name| {
            let mut command = example(name, &state);
            command.stdin(Stdio::null()).stdout(Stdio::null());
            (name, command.stderr(Stdio::piped()).spawn().unwrap())
        })
        .collect();
    for (_, child) in &running {
        eventually("it has a file of the mount open", || {
            has_open(child.id(), daemon.mount()).then_some(())
        });
    }
    daemon.process().signal(Signal::SIGTERM);
    for (name, child) in running {
        let output = output_of(child);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{name}: {said}");
        assert_eq!(said.lines().count(), 1, "{name}: {said}");
    }
    // Nobody has gone on in the directory below.
    assert!(!state.exists());
}
