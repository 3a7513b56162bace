//! What forked children may do and may not, and what their parents notice of it: nothing.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use kstate::{BeginError, Trapping};
use kstate_tests::{Daemon, both_transports, eventually};
use nix::sys::signal::Signal;

/// The ways to trap that this machine has, as the forker is told of them.
fn ways(daemon: &Daemon) -> Vec<&'static str> {
    let probe = daemon.library().subscribe("probe").write().bytes().unwrap();
    let has = |(way, _): &(Trapping, _)| {
        probe.set_trapping(*way);
        match probe.begin_raw() {
            Ok(raw) => raw.trapping() == *way,
            Err(BeginError::Trap { .. }) => false,
            Err(error) => panic!("{error}"),
        }
    };
    let all = [
        (Trapping::Thread, "thread"),
        (Trapping::Signal, "signal"),
        (Trapping::Kernel, "kernel"),
    ];
    all.into_iter().filter(has).map(|(_, name)| name).collect()
}

fn records(daemon: &Daemon) -> usize {
    // Two files each.
    std::fs::read_dir(daemon.file(".kstate/intents"))
        .unwrap()
        .count()
        / 2
}

#[test]
fn a_child_has_pages_of_its_own_and_dies_of_its_parents_which_still_commit() {
    both_transports(|daemon| {
        for way in ways(daemon) {
            for by in ["fork", "clone"] {
                let mut parent = daemon.forker(&["raw", "--by", by, "--trapping", way]);
                assert_eq!(parent.line(), "right", "{by}, {way}");
                assert!(parent.finish().success());
            }
        }
    });
}

#[test]
fn transactions_outlive_programs_that_their_process_runs() {
    let daemon = Daemon::start();
    for way in ways(&daemon) {
        let mut parent = daemon.forker(&["exec", "--trapping", way]);
        assert_eq!(parent.line(), "right", "{way}");
        assert!(parent.finish().success());
    }
}

#[test]
fn a_killed_parents_claims_marks_and_records_go_back_and_its_child_goes_on() {
    both_transports(|daemon| {
        for by in ["fork", "clone"] {
            let mut parent = daemon.forker(&["stay", "--by", by]);
            assert!(parent.line().starts_with("child "), "{by}");
            let mount = daemon.library();
            let held = || {
                let info = mount.info("x").unwrap();
                (info.writers, info.waiters, records(daemon))
            };
            assert_eq!(held(), (2, 2, 2), "{by}");
            parent.signal(Signal::SIGKILL);
            parent.finish();
            eventually("what was the parent's is given back", || {
                (held() == (1, 1, 1)).then_some(())
            });
            parent.say("5");
            assert_eq!(parent.line(), "7 7", "{by}");
            assert_eq!(held(), (1, 1, 1), "{by}");
            parent.close_input();
            eventually("the states go with the child", || {
                (mount.names().unwrap().is_empty() && records(daemon) == 0).then_some(())
            });
        }
    });
}

#[test]
fn a_child_goes_on_with_its_copy_of_handles_that_its_parent_drops() {
    both_transports(|daemon| {
        let mut parent = daemon.forker(&["stay", "--by", "fork", "--drop"]);
        assert!(parent.line().starts_with("child "));
        let mount = daemon.library();
        eventually("the parent has given back what was its own", || {
            let info = mount.info("x").unwrap();
            ((info.writers, info.waiters, records(daemon)) == (1, 1, 1)).then_some(())
        });
        parent.say("5");
        assert_eq!(parent.line(), "7 7");
        parent.close_input();
        assert_eq!(parent.line(), "dropped");
        assert!(parent.finish().success());
    });
}

#[test]
fn a_parent_keeps_what_it_has_when_its_child_drops_its_copy() {
    both_transports(|daemon| {
        let mut parent = daemon.forker(&["stay", "--by", "fork"]);
        assert!(parent.line().starts_with("child "));
        parent.say("5");
        assert_eq!(parent.line(), "7 7");
        parent.close_input();
        assert_eq!(parent.line(), "parent 8 8");
        assert!(parent.finish().success());
    });
}

#[test]
fn a_child_forked_while_other_threads_are_inside_the_library_can_use_it() {
    both_transports(|daemon| {
        let mut parent = daemon.forker(&["beside", "60"]);
        assert_eq!(parent.line(), "right");
        assert!(parent.finish().success());
    });
}
