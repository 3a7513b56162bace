//! Several processes do at random what a program can do with states, one thing at a time, and each answer is
//! what a sequential reference says: values, generations, outcomes, who was in the way, and whether
//! anything was written.
//!
//! `PROPTEST_CASES` says how many cases; each takes some milliseconds. A failure is shown as a short
//! list of what the processes were told, and their answers.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "model/reference.rs"]
mod reference;
#[path = "model/stage.rs"]
mod stage;
#[path = "model/step.rs"]
mod step;

use std::cell::{Cell, RefCell};

use kstate::{BeginError, Trapping};
use kstate_tests::{Daemon, Setup, eventually};
use proptest::test_runner::{Config, TestRunner};

use stage::Stage;

/// The ways to begin a transaction that this machine has.
fn ways(daemon: &Daemon) -> Vec<&'static str> {
    let probe = daemon.library().subscribe("probe").write().bytes().unwrap();
    let mut ways = vec!["soft", "soft", "software"];
    for (trapping, name) in [
        (Trapping::Thread, "thread"),
        (Trapping::Signal, "signal"),
        (Trapping::Kernel, "kernel"),
    ] {
        probe.set_trapping(trapping);
        match probe.begin_raw() {
            Ok(raw) if raw.trapping() == trapping => ways.push(name),
            Ok(_) | Err(BeginError::Trap { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    ways
}

fn play(daemon: &Daemon) {
    let ways = ways(daemon);
    let config = Config {
        // What `PROPTEST_CASES` says, or proptest's own number.
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..Config::default()
    };
    let stage = RefCell::new(None);
    let case = Cell::new(0);
    let result = TestRunner::new(config).run(&step::steps(), |steps| {
        let number = case.replace(case.get() + 1);
        // Left empty by a failure, and by a panic.
        let mut playing = stage.take().unwrap_or_else(|| Stage::new(daemon, number));
        playing.play(number, &ways, &steps)?;
        stage.replace(Some(playing));
        Ok(())
    });
    drop(stage);
    if let Err(error) = result {
        panic!("{error}");
    }
    eventually("nothing is left of the processes", || {
        let names = daemon.library().names().unwrap();
        let records = std::fs::read_dir(daemon.file(".kstate/intents")).unwrap();
        (names.is_empty() && records.count() == 0).then_some(())
    });
}

#[test]
fn every_answer_is_the_references_with_passthrough() {
    play(&Daemon::start());
}

#[test]
fn every_answer_is_the_references_without_passthrough() {
    play(&Setup::default().with("--passthrough=off").start());
}
