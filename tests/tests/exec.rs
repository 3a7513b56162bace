//! `kstate watch --exec`: a command for each change.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use kstate::{Bytes, State};
use kstate_tests::{Daemon, PATIENCE, eventually, kstate, output_of};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn start(daemon: &Daemon, arguments: &[&str]) -> Child {
    let mut command = Command::new(kstate());
    command.arg("watch").args(arguments);
    command.arg("--mount").arg(daemon.mount());
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(Stdio::piped()).spawn().unwrap()
}

fn run(daemon: &Daemon, arguments: &[&str]) -> Output {
    output_of(start(daemon, arguments))
}

fn state(daemon: &Daemon, name: &str) -> State<Bytes> {
    daemon.library().subscribe(name).write().bytes().unwrap()
}

/// What a command has written to a file beside the mount, line by line.
fn lines(file: &PathBuf) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn printed(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn said(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

#[test]
fn a_command_has_the_value_and_what_is_known_of_it() {
    let daemon = Daemon::start();
    let state = state(&daemon, "door");
    // Bytes that are no text, and no end of line.
    state.publish(b"a\0\xff\n\n").unwrap();
    let command = "od -An -tx1; echo $KSTATE_NAME $KSTATE_GENERATION $KSTATE_LENGTH $KSTATE_OVERDUE; \
                   echo $KSTATE_MOUNT; echo $KSTATE_TIME_NS; date +%s%N";
    let output = run(&daemon, &["door", "--count", "1", "--exec", command]);
    assert!(output.status.success(), "{output:?}");
    let mut lines = printed(&output).lines();
    assert_eq!(lines.next(), Some(" 61 00 ff 0a 0a"));
    assert_eq!(lines.next(), Some("door 1 5 0"));
    assert_eq!(lines.next(), daemon.mount().to_str());
    let times: Vec<u64> = lines.map(|line| line.parse().unwrap()).collect();
    let [committed, now] = times[..] else {
        panic!("{output:?}")
    };
    assert!(committed <= now + 10_000_000 && now - committed < 60_000_000_000);
}

#[test]
fn changes_come_together_while_a_command_runs_and_the_last_is_never_missed() {
    let daemon = Daemon::start();
    let states = ["a", "b"].map(|name| state(&daemon, name));
    let [seen, go] = ["seen", "go"].map(|name| daemon.home().join(name));
    let command = format!(
        "echo $KSTATE_NAME $KSTATE_GENERATION $(cat) >> {seen}; until [ -e {go} ]; do sleep 0.01; done",
        seen = seen.display(),
        go = go.display(),
    );
    states[0].publish(b"first").unwrap();
    let mut watch = start(&daemon, &["a", "b", "--exec", &command]);
    eventually("the first one runs", || {
        (lines(&seen) == ["a 1 first"]).then_some(())
    });
    for _ in 0..1000 {
        for state in &states {
            state.publish(b"more").unwrap();
        }
    }
    for state in &states {
        state.publish(b"last").unwrap();
    }
    std::fs::write(&go, b"").unwrap();
    eventually("both last ones are run", || {
        let lines = lines(&seen);
        let has = |line: &str| lines.iter().any(|found| found == line);
        (has("a 1002 last") && has("b 1001 last")).then_some(())
    });
    assert_eq!(
        lines(&seen).len(),
        3,
        "one at a time, and none for what is old"
    );
    kill(pid(&watch), Signal::SIGTERM).unwrap();
    assert!(watch.wait().unwrap().success());
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap())
}

#[test]
fn a_command_that_fails_is_told_of_and_the_next_one_is_run() {
    let daemon = Daemon::start();
    let state = state(&daemon, "x");
    let seen = daemon.home().join("seen");
    let command = format!(
        "echo $KSTATE_GENERATION >> {}; [ $KSTATE_GENERATION != 2 ] || kill -9 $$; exit 3",
        seen.display()
    );
    let watch = start(&daemon, &["x", "--count", "3", "--exec", &command]);
    for count in 1..=3 {
        state.publish(b"1").unwrap();
        eventually("it is run", || (lines(&seen).len() == count).then_some(()));
    }
    let output = output_of(watch);
    assert!(output.status.success());
    let expected = "kstate: the command ended with status 3 for generation 1 of `x`\n\
                    kstate: the command was ended by signal 9 for generation 2 of `x`\n\
                    kstate: the command ended with status 3 for generation 3 of `x`\n";
    assert_eq!(said(&output), expected);
}

#[test]
fn a_command_need_not_read_its_input() {
    let daemon = Daemon::start();
    let state = state(&daemon, "x");
    let page = vec![b'x'; kstate_sys::abi::page_size() as usize];
    state.publish(&page).unwrap();
    let command = "exec <&-; echo done";
    let output = run(&daemon, &["x", "--count", "1", "--exec", command]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!((printed(&output), said(&output)), ("done\n", ""));
}

#[test]
fn it_is_run_no_more_often_than_the_rate_allows() {
    let daemon = Daemon::start();
    let state = state(&daemon, "x");
    let arguments = [
        "x",
        "--max-rate",
        "100ms",
        "--count",
        "3",
        "--exec",
        "date +%s%N",
    ];
    let watch = start(&daemon, &arguments);
    let mut watch = Some(watch);
    let output = loop {
        state.publish(b"1").unwrap();
        if watch.as_mut().unwrap().try_wait().unwrap().is_some() {
            break output_of(watch.take().unwrap());
        }
        std::thread::park_timeout(Duration::from_millis(1));
    };
    let times: Vec<u64> = printed(&output)
        .lines()
        .map(|l| l.parse().unwrap())
        .collect();
    let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
    // From one start of a shell to the next, which may take longer for the first.
    assert!(
        times.len() == 3 && gaps.clone().all(|gap| gap > 60_000_000),
        "{times:?}"
    );
    assert!(times[2] - times[0] > 160_000_000, "{times:?}");
}

#[test]
fn it_ends_when_nothing_changes_for_so_long() {
    let daemon = Daemon::start();
    let state = state(&daemon, "x");
    state.publish(b"1").unwrap();
    // The command's own time does not count.
    let arguments = ["x", "--timeout", "50ms", "--exec", "sleep 0.2; echo run"];
    let output = run(&daemon, &arguments);
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert_eq!(printed(&output), "run\n");
}

#[test]
fn a_signal_ends_the_command_and_then_this() {
    let daemon = Daemon::start();
    let state = state(&daemon, "x");
    state.publish(b"1").unwrap();
    for (signal, command) in [
        (Signal::SIGINT, "echo started; sleep 1000 | cat"),
        (Signal::SIGTERM, "echo started; sleep 1000 | cat"),
        (Signal::SIGHUP, "echo started; exec sleep 1000"),
        // It does not want to.
        (
            Signal::SIGTERM,
            "trap '' TERM; echo started; sleep 1000; sleep 1000",
        ),
    ] {
        let mut watch = start(&daemon, &["x", "--exec", command]);
        let mut output = watch.stdout.take().unwrap();
        let mut started = [0; 8];
        output.read_exact(&mut started).unwrap();
        assert_eq!(&started, b"started\n");
        let begin = Instant::now();
        kill(pid(&watch), signal).unwrap();
        let status = eventually("it ends", || watch.try_wait().unwrap());
        assert!(status.success() && status.signal().is_none(), "{status}");
        assert!(begin.elapsed() < PATIENCE / 2);
        // Nobody holds it open: all that was started has ended.
        let mut rest = Vec::new();
        output.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty());
    }
    // Without a command that runs.
    let mut watch = start(&daemon, &["none", "--exec", "true"]);
    eventually("it watches", || daemon.file("none").exists().then_some(()));
    kill(pid(&watch), Signal::SIGTERM).unwrap();
    let status = eventually("it ends", || watch.try_wait().unwrap());
    assert!(status.success(), "{status}");
}

#[test]
fn what_a_command_left_in_the_background_goes_on() {
    let daemon = Daemon::start();
    let state = state(&daemon, "x");
    state.publish(b"1").unwrap();
    let command = "sleep 1000 > /dev/null & echo $!";
    let mut watch = start(&daemon, &["x", "--exec", command]);
    let mut output = BufReader::new(watch.stdout.take().unwrap()).lines();
    let left = |line: Option<std::io::Result<String>>| {
        let left: i32 = line.unwrap().unwrap().parse().unwrap();
        Pid::from_raw(left)
    };
    let first = left(output.next());
    // The next one runs once the first has ended.
    state.publish(b"2").unwrap();
    let second = left(output.next());
    kill(pid(&watch), Signal::SIGTERM).unwrap();
    let status = eventually("it ends", || watch.try_wait().unwrap());
    assert!(status.success(), "{status}");
    kill(first, Signal::SIGKILL).unwrap();
    // It may have been in time for the signal.
    let _ = kill(second, Signal::SIGKILL);
}

#[test]
fn what_is_shown_cannot_be_chosen_besides() {
    let daemon = Daemon::start();
    for more in [&["--json"][..], &["--as", "hex"], &["--format", "u8"]] {
        let arguments = [&["x", "--exec", "cat"][..], more].concat();
        let output = run(&daemon, &arguments);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
}
