//! Persistence files from the command line, without a mounted file system.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use std::{fs, io::Write};

use kstate_sys::name::StateName;
use kstatefs::persist::{Image, StateFile};
use serde_json::Value;

/// Runs the command where there is no file system to use.
fn kstate(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kstate"))
        .args(arguments)
        .env("KSTATE_MOUNT", "/sys/no-kstate-here")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that refuses its arguments reads nothing.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn good(arguments: &[&str], input: &[u8]) -> String {
    let output = kstate(arguments, input);
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        stderr(&output)
    );
    assert_eq!(stderr(&output), "");
    String::from_utf8(output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    str::from_utf8(&output.stderr).unwrap()
}

fn image(generation: u64) -> Image {
    Image {
        name: StateName::new("robot.gps").unwrap(),
        generation,
        ceiling: generation + 100,
        clean: false,
        mode: 0o640,
        uid: 1000,
        gid: 100,
        capacity: 64,
        layout: Some((0xabc, "Fix{lat:f64@0,sats:u32@8,hdop:f32@12}#16".into())),
        linger: Duration::from_secs(60),
        deadline: Some(Duration::from_millis(250)),
        announce: 1,
        within: Duration::from_millis(10),
        time: Some(Duration::new(1_795_664_832, 123_456_789)),
        value: [
            &48.125f64.to_le_bytes()[..],
            &9u32.to_le_bytes(),
            &0.1f32.to_le_bytes(),
        ]
        .concat(),
    }
}

/// A file with generations 40 and 41.
fn make(directory: &Path) -> PathBuf {
    let path = directory.join("gps");
    let file = fs::File::create_new(&path).unwrap();
    let mut file = StateFile::initialise(file, &image(40)).unwrap();
    file.save(&image(41)).unwrap();
    path
}

fn recovered(path: &Path) -> Image {
    StateFile::recover(fs::File::open(path).unwrap()).unwrap().1
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_file_is_exported_and_imported_to_an_equal_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = make(directory.path());
    let (document, copy) = (
        directory.path().join("gps.json"),
        directory.path().join("copy"),
    );
    let printed = good(&["export", "--file", text(&path)], b"");
    assert_eq!(
        good(
            &["export", "--file", text(&path), "-o", text(&document)],
            b""
        ),
        ""
    );
    assert_eq!(fs::read_to_string(&document).unwrap(), printed);
    good(
        &[
            "import",
            "robot.gps",
            text(&document),
            "--file",
            text(&copy),
        ],
        b"",
    );
    assert_eq!(recovered(&copy), image(41));
    // From standard input, and under another name.
    good(
        &["import", "other", "--file", text(&copy), "--force"],
        printed.as_bytes(),
    );
    let other = Image {
        name: StateName::new("other").unwrap(),
        ..image(41)
    };
    assert_eq!(recovered(&copy), other);
    let left: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(left.len(), 3, "nothing is left beside them: {left:?}");
}

#[test]
fn raw_export_is_the_bytes_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = make(directory.path());
    let output = kstate(&["export", "--raw", "--file", text(&path)], b"");
    assert_eq!(output.stdout, image(41).value);
}

#[test]
fn a_file_that_is_there_is_not_written_over_unless_forced() {
    let directory = tempfile::tempdir().unwrap();
    let path = make(directory.path());
    let before = fs::read(&path).unwrap();
    let document = good(&["export", "--file", text(&path)], b"");
    let output = kstate(&["import", "x", "--file", text(&path)], document.as_bytes());
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("--force"), "{}", stderr(&output));
    let output = kstate(&["import", "x", "--file", text(&path), "--force"], b"{}");
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert_eq!(
        fs::read(&path).unwrap(),
        before,
        "what is refused changes nothing"
    );
}

#[test]
fn inspection_shows_both_copies_and_the_state() {
    let directory = tempfile::tempdir().unwrap();
    let path = make(directory.path());
    let before = fs::read(&path).unwrap();
    let shown = good(&["inspect", text(&path)], b"");
    for part in [
        "first copy   whole, sequence 2, generation 40\n",
        "second copy  whole, sequence 3, generation 41; counts\n",
        "name         robot.gps\n",
        "ceiling      141; a later version may have been given out",
        "owner        user 1000, group 100, mode 0640\n",
        "layout       Fix{lat:f64@0,sats:u32@8,hdop:f32@12}#16",
        "committed    2026-11-26T03:47:12.123456789Z\n",
        "value        lat=48.125 sats=9 hdop=0.1\n",
        "verdict      good: generation 41 can be restored\n",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let line: Value =
        serde_json::from_str(&good(&["inspect", "--json", text(&path)], b"")).unwrap();
    assert_eq!(line["usable"], true);
    assert_eq!(line["counts"], 1);
    assert_eq!(line["copies"][0]["generation"], 40);
    assert_eq!(line["state"]["value"]["sats"], 9);
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn inspection_tells_damage_by_its_exit_status_and_shows_the_other_files_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = make(directory.path());
    let mut bytes = fs::read(&path).unwrap();
    let half = bytes.len() / 2;
    bytes[half + 200] ^= 1;
    fs::write(&path, &bytes).unwrap();
    // One copy is left, and serves.
    let shown = good(&["inspect", text(&path)], b"");
    assert!(shown.contains("second copy  has the checksum"), "{shown}");
    assert!(shown.contains("generation 40 can be restored"), "{shown}");
    bytes[200] ^= 1;
    let (damaged, other) = (
        directory.path().join("damaged"),
        directory.path().join("other"),
    );
    fs::write(&damaged, &bytes).unwrap();
    fs::write(&other, "#!/bin/sh\n").unwrap();
    let absent = directory.path().join("absent");
    let files = [
        text(&absent),
        text(&other),
        text(directory.path()),
        text(&damaged),
        text(&path),
    ];
    let output = kstate(&[&["inspect", "--json"], &files[..]].concat(), b"");
    assert_eq!(output.status.code(), Some(1));
    let lines = String::from_utf8(output.stdout.clone()).unwrap();
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let usable: Vec<_> = lines
        .iter()
        .map(|line| line["usable"].as_bool().unwrap())
        .collect();
    assert_eq!(usable, [false, false, true]);
    assert!(
        lines[0]["error"]
            .as_str()
            .unwrap()
            .contains("not the file of a state")
    );
    assert!(lines[1]["error"].as_str().unwrap().contains("damaged"));
    assert!(stderr(&output).contains("absent"), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("not a regular file"),
        "{}",
        stderr(&output)
    );
    let output = kstate(&["export", "--file", text(&damaged)], b"");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("damaged"), "{}", stderr(&output));
}

#[test]
fn inspection_writes_nothing_where_it_could_not() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = make(directory.path());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    good(&["inspect", text(&path)], b"");
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before);
}

#[test]
fn arguments_that_contradict_each_other_are_refused() {
    for arguments in [
        &["export"][..],
        &["export", "x", "--file", "y"],
        &["import", "x", "--raw", "--file", "y"],
        &["import", "x", "--force"],
        &["import", "x", "--file", "y", "--keep"],
        &["import", "a b"],
        &["inspect"],
    ] {
        let output = kstate(arguments, b"");
        assert_eq!(
            output.status.code(),
            Some(2),
            "{arguments:?}: {}",
            stderr(&output)
        );
    }
    let output = kstate(&["import", "x"], &b"x".repeat(10));
    assert!(stderr(&output).contains("not JSON"), "{}", stderr(&output));
    let output = kstate(&["import", "x", "--raw"], &b"x".repeat(70_000));
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("at most"), "{}", stderr(&output));
}
