//! The examples do what they say.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::PathBuf;
use std::process::Command;

use kstate_tests::{Daemon, Running};

fn example(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .join("examples")
        .join(name)
}

#[test]
fn what_python_publishes_python_watches() {
    let daemon = Daemon::start();
    let state = daemon.file("demo.position");
    // So that the watcher finds it, whoever is first.
    let _keep = std::fs::File::create(&state).unwrap();
    let mut watcher = Running::start(Command::new(example("watch.py")).arg(&state).arg("3"));
    let mut publisher = Command::new(example("publish.py"));
    let mut publisher = Running::start(publisher.arg(&state).arg("30"));
    let steps: Vec<u64> = (0..3)
        .map(|_| watcher.line().split(':').next().unwrap().parse().unwrap())
        .collect();
    assert!(steps.is_sorted() && steps[2] < 30, "{steps:?}");
    assert!(watcher.finish().success());
    assert!(publisher.finish().success());
}

#[test]
fn shells_incrementing_a_counter_lose_nothing() {
    let daemon = Daemon::start();
    let counter = daemon.file("visits");
    let _keep = std::fs::File::create(&counter).unwrap();
    let shells: Vec<_> = (0..8)
        .map(|_| {
            Command::new(example("increment.sh"))
                .arg(&counter)
                .spawn()
                .unwrap()
        })
        .collect();
    for mut shell in shells {
        assert!(shell.wait().unwrap().success());
    }
    assert_eq!(std::fs::read_to_string(&counter).unwrap(), "8\n");
}
