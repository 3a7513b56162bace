//! The command as a shell sees it, as far as it needs no mounted file system.

use std::io::Write;
use std::process::{Command, Output, Stdio};

const SUBCOMMANDS: [&str; 17] = [
    "mount",
    "umount",
    "ls",
    "stat",
    "get",
    "set",
    "watch",
    "rm",
    "announce",
    "feed",
    "export",
    "import",
    "inspect",
    "doctor",
    "demo",
    "completions",
    "man",
];

/// Where no kstate file system can be.
const NOWHERE: &str = "/sys/no-kstate-here";

fn kstate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kstate"))
        .args(arguments)
        .env("KSTATE_MOUNT", NOWHERE)
        .stdin(Stdio::null())
        .output()
        .expect("the command was built with this test")
}

fn stdout(output: &Output) -> &str {
    str::from_utf8(&output.stdout).expect("text")
}

fn stderr(output: &Output) -> &str {
    str::from_utf8(&output.stderr).expect("text")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("no signal ended it")
}

#[test]
fn every_help_says_what_it_is_for_and_has_examples() {
    let all = kstate(&["--help"]);
    assert_eq!(code(&all), 0);
    for subcommand in SUBCOMMANDS {
        assert!(
            stdout(&all).contains(&format!("  {subcommand} ")),
            "{subcommand}"
        );
        let help = kstate(&[subcommand, "--help"]);
        assert_eq!(code(&help), 0);
        let text = stdout(&help);
        assert!(
            text.contains("Examples:") && text.contains("Usage: kstate"),
            "{text}"
        );
    }
    assert!(
        !stdout(&all).contains("demo-part"),
        "what is hidden is not shown"
    );
    assert!(stdout(&all).contains("Exit status: 0 done; 1 failed; 2 wrong usage"));
}

#[test]
fn wrong_usage_is_status_2_and_says_what_was_expected() {
    for (arguments, expected) in [
        (&[][..], "Usage: kstate"),
        (&["get"], "<NAME>"),
        (&["get", "x", "--as", "xml"], "raw, text, hex, json"),
        (&["get", "x", "--format", "u33"], "u8 to u128"),
        (
            &["get", "x", "--wait=2"],
            "`2` has no unit; write for example `2s` or `2ms`",
        ),
        (
            &["get", "x", "--as", "hex", "--format", "u8"],
            "cannot be used with",
        ),
        (&["set", "x", "1", "--linger", "soon"], "250ms"),
        (&["set", "x", "1", "--mode", "999"], "three octal digits"),
        (&["set", "x", "1", "--capacity", "0"], "0"),
        (&["watch", "x", "--max-rate", "4"], "4hz"),
        (&["feed", "x", "tcp:1"], "unix:PATH"),
        (
            &["feed", "x", "--record-size", "0"],
            "a record has at least one byte",
        ),
        (&["feed", "x", "udp:0.0.0.0:9"], "other machines"),
        (
            &["feed", "x", "--record-size", "8", "--format", "u8"],
            "cannot be used with",
        ),
        (&["demo", "--seconds", "0"], "0"),
        (
            &["mount", "/tmp", "-o", "nonsense"],
            "unknown mount option `nonsense`",
        ),
        (
            &["mount", "/tmp", "--kbus-prefix", "x"],
            "$.KState.Committed",
        ),
        (&["mount", "/tmp", "--dbus", "nowhere"], "dbus"),
    ] {
        let output = kstate(arguments);
        assert_eq!(code(&output), 2, "{arguments:?}: {}", stderr(&output));
        assert!(
            stderr(&output).contains(expected),
            "{arguments:?}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn a_value_that_does_not_match_its_format_is_refused_before_anything_is_touched() {
    let output = kstate(&["set", "fix", "7 abc", "--format", "<u32 f64"]);
    assert_eq!(code(&output), 2);
    assert_eq!(
        stderr(&output),
        "kstate: item 2 `f64`: `abc` is not a number; expected `<u32 f64` (12 bytes), e.g. \
         `1 2.5`\n"
    );
}

#[test]
fn a_value_or_record_that_no_state_can_hold_is_refused_before_anything_is_touched() {
    // More than the largest page.
    let long = "x".repeat((64 << 10) + 1);
    let output = kstate(&["set", "big", "--keep", "--as", "raw", &long]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("`big`"), "{}", stderr(&output));
    assert!(stderr(&output).contains("at most"), "{}", stderr(&output));
    let output = kstate(&["feed", "x", "--record-size", "9", "--capacity", "8"]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("9 bytes"), "{}", stderr(&output));
}

#[test]
fn an_empty_variable_for_the_mount_is_as_good_as_none() {
    for arguments in [&["ls"][..], &["get", "x"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_kstate"))
            .args(arguments)
            .env("KSTATE_MOUNT", "")
            // Where users look; root looks at /run/kstate.
            .env("XDG_RUNTIME_DIR", NOWHERE)
            .output()
            .unwrap();
        // There may be a file system there, without the state; but usage was not wrong.
        assert_ne!(code(&output), 2, "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn a_missing_file_system_is_status_3_and_says_what_to_do() {
    for arguments in [
        &["ls"][..],
        &["get", "x"],
        &["set", "x", "1"],
        &["watch", "x"],
        &["rm", "x"],
        &["stat", "x"],
    ] {
        let output = kstate(arguments);
        assert_eq!(code(&output), 3, "{arguments:?}");
        assert!(
            stderr(&output).contains("run `kstate mount "),
            "{}",
            stderr(&output)
        );
        assert_eq!(stdout(&output), "");
    }
    let output = kstate(&["umount"]);
    assert_eq!(code(&output), 3, "{}", stderr(&output));
    assert!(stderr(&output).contains(NOWHERE), "{}", stderr(&output));
}

#[test]
fn with_json_an_error_is_an_object_too() {
    let output = kstate(&["get", "x", "--json"]);
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["exit"], 3);
    assert!(error["error"].as_str().unwrap().contains(NOWHERE));
}

#[test]
fn doctor_tells_what_was_found_and_which_way_it_goes() {
    let output = kstate(&["doctor", "--json"]);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let can_mount = found["can_mount"].as_bool().unwrap();
    assert_eq!(code(&output), if can_mount { 0 } else { 1 });
    for subject in [
        "mounting",
        "mapping",
        "waiting",
        "file_polls",
        "deaths",
        "commit_time",
    ] {
        assert!(
            found["ways"][subject]["way"].is_string(),
            "{subject}: {found}"
        );
    }
    let capabilities = found["capabilities"].as_array().unwrap();
    for name in [
        "fuse-passthrough",
        "userfaultfd",
        "io-uring-futex",
        "pidfd-open",
    ] {
        let capability = capabilities
            .iter()
            .find(|capability| capability["name"] == name);
        let status = capability.unwrap()["status"].as_str().unwrap();
        assert!(
            ["yes", "no", "unknown"].contains(&status),
            "{name}: {status}"
        );
    }
    let table = kstate(&["doctor"]);
    assert!(stdout(&table).starts_with("Which way kstate goes here:\n  mounting "));
}

#[test]
fn completions_know_the_subcommands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = kstate(&["completions", shell]);
        assert_eq!(code(&script), 0);
        for subcommand in SUBCOMMANDS {
            assert!(
                stdout(&script).contains(subcommand),
                "{shell}: {subcommand}"
            );
        }
        assert!(!stdout(&script).contains("demo-part"));
    }
}

#[test]
fn manual_pages_are_one_a_subcommand() {
    let page = kstate(&["man"]);
    assert!(stdout(&page).contains(".TH kstate 1"), "{}", stdout(&page));
    let directory = tempfile::tempdir().unwrap();
    let below = directory.path().join("man1");
    let pages = kstate(&["man", below.to_str().unwrap()]);
    assert_eq!(code(&pages), 0, "{}", stderr(&pages));
    for subcommand in SUBCOMMANDS {
        let page = std::fs::read_to_string(below.join(format!("kstate-{subcommand}.1"))).unwrap();
        assert!(page.contains("Examples:"), "{page}");
        assert!(page.contains("kstate"), "{page}");
    }
    assert!(
        std::fs::read_to_string(below.join("kstate.1"))
            .unwrap()
            .contains("kstate")
    );
}

#[test]
fn output_that_nobody_reads_ends_the_command_quietly() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kstate"))
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(stderr(&output), "");
    assert_eq!(code(&output), 0);
}

#[test]
fn a_part_of_the_demo_whose_demo_has_gone_ends_at_once() {
    // Process 1 is not what started it.
    let output = kstate(&["demo-part", "publisher", NOWHERE, "1000", "1"]);
    assert_eq!(code(&output), 1);
    assert!(
        stdout(&output).contains("the demo has ended"),
        "{}",
        stdout(&output)
    );
}

#[test]
fn a_value_comes_from_standard_input_as_well() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kstate"))
        .args(["set", "fix", "--format", "<u32 f64"])
        .env("KSTATE_MOUNT", NOWHERE)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"1 2 3\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 2);
    assert!(
        stderr(&output).contains("found 3 values, wanted 2"),
        "{}",
        stderr(&output)
    );
}
