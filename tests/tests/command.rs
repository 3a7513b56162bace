//! The command `kstate` on a mounted file system.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::Write;
use std::process::{Child, Command, Output, Stdio};

use kstate_tests::{Daemon, eventually, kstate, output_of};
use nix::sys::signal::Signal;

fn start(daemon: &Daemon, arguments: &[&str]) -> Child {
    let mut command = Command::new(kstate());
    command.args(arguments).arg("--mount").arg(daemon.mount());
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command.stderr(Stdio::piped()).spawn().unwrap()
}

fn run(daemon: &Daemon, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = start(daemon, arguments);
    // A command that refuses its input does not read all of it.
    let _ = child.stdin.take().unwrap().write_all(input);
    output_of(child)
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn names(daemon: &Daemon) -> Vec<String> {
    let names = daemon.library().names().unwrap();
    names.iter().map(ToString::to_string).collect()
}

#[test]
fn a_value_or_record_that_is_refused_leaves_no_state_behind() {
    let daemon = Daemon::start();
    for (arguments, input) in [
        (&["set", "x", "--keep", "--as", "raw"][..], &[0; 70_000][..]),
        (&["set", "x", "--keep"], &[0; 70_000]),
        (&["set", "x", "123456", "--keep", "--capacity", "3"], b""),
        (
            &["set", "x", "123456", "--linger", "1h", "--capacity", "3"],
            b"",
        ),
        (&["feed", "x", "--record-size", "4", "--keep"], b"y"),
        (&["feed", "x", "--as", "hex", "--keep"], b"no hex\n"),
    ] {
        let output = run(&daemon, arguments, input);
        assert!(!output.status.success(), "{arguments:?}");
        eventually("it has gone", || names(&daemon).is_empty().then_some(()));
    }
}

#[test]
fn what_is_fed_or_set_stays_as_long_as_was_asked() {
    let daemon = Daemon::start();
    let commands = [
        (&["set", "set", "1", "--keep"][..], &b""[..]),
        (&["feed", "fed", "--keep"], b"1\n2\n"),
        (&["feed", "lingers", "--linger", "1h"], b"1\n"),
    ];
    for (arguments, input) in commands {
        let output = run(&daemon, arguments, input);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
        assert_eq!(text(&output), "");
    }
    assert_eq!(names(&daemon), ["fed", "lingers", "set"]);
    assert!(daemon.library().info("fed").unwrap().kept);
    assert!(!daemon.library().info("lingers").unwrap().kept);
}

#[test]
fn hexadecimal_text_of_standard_input_is_read_whole() {
    let daemon = Daemon::start();
    let input = "ab ".repeat(4096);
    let output = run(
        &daemon,
        &["set", "x", "--keep", "--as", "hex"],
        input.as_bytes(),
    );
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(daemon.library().info("x").unwrap().length, 4096);
}

#[test]
fn a_command_that_runs_on_ends_when_the_daemon_has_died() {
    let mut daemon = Daemon::start();
    let watching = start(&daemon, &["watch", "x", "y"]);
    let mut feeding = start(&daemon, &["feed", "z", "--stats"]);
    let input = feeding.stdin.take();
    input.as_ref().unwrap().write_all(b"1\n").unwrap();
    eventually("both are at work", || {
        let there = names(&daemon);
        let info = |name: &str| daemon.library().info(name).unwrap();
        let at_work = || {
            let wait = ["x", "y"].iter().all(|name| info(name).waiters == 1);
            wait && info("z").length == 1
        };
        (there == ["x", "y", "z"] && at_work()).then_some(())
    });
    daemon.process().signal(Signal::SIGKILL);
    for child in [watching, feeding] {
        let output = output_of(child);
        assert_eq!(output.status.code(), Some(3), "{}", text(&output));
        assert!(text(&output).contains("has died"), "{}", text(&output));
    }
    drop(input);
}

#[test]
fn a_command_that_runs_on_bears_a_daemon_that_pauses() {
    let mut daemon = Daemon::start();
    let state = daemon.library().subscribe("x").write().bytes().unwrap();
    state.publish(b"1").unwrap();
    let mut watching = start(&daemon, &["watch", "x", "--count", "2"]);
    let waits = || daemon.library().info("x").unwrap().waiters == 1;
    eventually("it waits", || waits().then_some(()));
    daemon.process().stop();
    // Longer than it leaves between two looks.
    std::thread::sleep(std::time::Duration::from_secs(3));
    let is_there = watching.try_wait().unwrap().is_none();
    state.publish(b"2").unwrap();
    // Without its daemon, too, it is told of what is published.
    let ended = eventually("it ends", || watching.try_wait().unwrap());
    daemon.process().signal(Signal::SIGCONT);
    assert!(is_there, "a pause is no death");
    assert!(ended.success());
}

#[test]
fn what_is_overdue_is_shown() {
    let daemon = Daemon::start();
    let arguments = ["set", "x", "value", "--keep", "--deadline", "1h"];
    assert!(run(&daemon, &arguments, b"").status.success());
    let is_overdue = || daemon.library().info("x").unwrap().overdue;
    let printed = |arguments: &[&str]| {
        let output = run(&daemon, arguments, b"");
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(!is_overdue(), "who set it is no publisher that has gone");
    assert!(!printed(&["stat", "x"]).contains("overdue"));
    assert!(run(&daemon, &["set", "x", "value"], b"").status.success());
    assert!(!is_overdue());
    let arguments = ["set", "x", "value", "--deadline", "1ms"];
    assert!(run(&daemon, &arguments, b"").status.success());
    eventually("its deadline passes", || is_overdue().then_some(()));
    for arguments in [
        &["stat", "x"][..],
        &["ls", "--long"],
        &["watch", "x", "--count", "1"],
    ] {
        let printed = printed(arguments);
        assert!(printed.contains("overdue"), "{arguments:?}: {printed}");
    }
    let line = printed(&["watch", "x", "--count", "1", "--json"]);
    assert!(line.contains("\"overdue\":true"), "{line}");
}

#[test]
fn a_state_is_exported_and_imported_with_its_layout() {
    let daemon = Daemon::start();
    let state = daemon
        .library()
        .subscribe("pair")
        .write()
        .typed::<[u32; 2]>();
    let state = state.unwrap();
    state.publish(&[7, 8]).unwrap();
    state.publish(&[9, 10]).unwrap();
    let exported = run(&daemon, &["export", "pair"], b"");
    assert!(exported.status.success(), "{}", text(&exported));
    let document: serde_json::Value = serde_json::from_slice(&exported.stdout).unwrap();
    assert_eq!(document["generation"], 2);
    assert_eq!(document["layout"]["text"], "[u32;2]");
    assert_eq!(document["hex"], "090000000a000000");
    assert!(document["time"].as_str().unwrap().starts_with("20"));
    let raw = run(&daemon, &["export", "pair", "--raw"], b"");
    assert_eq!(raw.stdout, [9, 0, 0, 0, 10, 0, 0, 0]);

    let imported = run(&daemon, &["import", "copy", "--keep"], &exported.stdout);
    assert!(imported.status.success(), "{}", text(&imported));
    let copy = daemon
        .library()
        .subscribe("copy")
        .typed::<[u32; 2]>()
        .unwrap();
    assert_eq!(copy.snapshot().unwrap().value, [9, 10]);
    let info = daemon.library().info("copy").unwrap();
    assert_eq!(
        (info.generation.0, info.layout.unwrap().text.as_str()),
        (1, "[u32;2]")
    );
    assert!(info.kept);

    let imported = run(&daemon, &["import", "bytes", "--raw", "--keep"], b"any\n");
    assert!(imported.status.success(), "{}", text(&imported));
    let raw = run(&daemon, &["export", "bytes", "--raw"], b"");
    assert_eq!(raw.stdout, b"any\n");
}

#[test]
fn a_state_of_another_layout_refuses_an_import_and_stays_as_it_is() {
    let daemon = Daemon::start();
    let library = daemon.library();
    let pair = library
        .subscribe("pair")
        .write()
        .typed::<[u32; 2]>()
        .unwrap();
    pair.publish(&[7, 8]).unwrap();
    let other = library.subscribe("other").write().typed::<u64>().unwrap();
    other.publish(&1).unwrap();
    let exported = run(&daemon, &["export", "pair"], b"");
    let imported = run(&daemon, &["import", "other"], &exported.stdout);
    assert_eq!(imported.status.code(), Some(1));
    for part in ["`other`", "[u32;2]", "u64", "--raw"] {
        assert!(text(&imported).contains(part), "{}", text(&imported));
    }
    assert_eq!(other.snapshot().unwrap().value, 1);
    assert_eq!(
        run(&daemon, &["export", "absent"], b"").status.code(),
        Some(3)
    );
    let _empty = library.subscribe("empty").write().bytes().unwrap();
    assert_eq!(
        run(&daemon, &["export", "empty"], b"").status.code(),
        Some(3)
    );
}

#[test]
fn a_state_is_kept_in_a_file_and_it_is_shown_how_far() {
    let daemon = Daemon::start();
    let file = daemon.home().join("file");
    let shown = file.to_str().unwrap();
    let out = |arguments: &[&str]| {
        let output = run(&daemon, arguments, b"");
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(
        run(&daemon, &["set", "x", "7", "--keep"], b"")
            .status
            .success()
    );
    assert_eq!(out(&["persist", "x"]), "x is in no file\n");
    let refused = run(&daemon, &["sync", "x"], b"");
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        text(&refused).contains("not persistent"),
        "{}",
        text(&refused)
    );
    out(&["persist", "x", shown, "--within", "1h"]);
    assert!(run(&daemon, &["set", "x", "8"], b"").status.success());
    assert_eq!(out(&["sync", "x"]), "x: version 2 is in its file\n");
    out(&["persist", "x", "--each"]);
    let told: serde_json::Value = serde_json::from_str(&out(&["persist", "x", "--json"])).unwrap();
    assert_eq!(told["persistent"]["file"], shown);
    assert_eq!(told["persistent"]["within_ns"], 0);
    assert_eq!(told["persistent"]["durable_generation"], 2);
    for arguments in [&["persist", "x"][..], &["stat", "x"]] {
        let text = out(arguments);
        assert!(
            text.contains(shown) && text.contains("the newest"),
            "{text}"
        );
    }
    assert!(out(&["ls", "-l"]).contains("persistent"));
    let other = run(
        &daemon,
        &["persist", "x", "/tmp/no/such/directory/file"],
        b"",
    );
    assert!(!other.status.success());
}
