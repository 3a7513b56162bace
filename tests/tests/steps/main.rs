//! A process stopped and killed at each instruction of what it does: of the program as it is
//! shipped, by single steps.
//!
//! By default that is before and after each atomic instruction, and at some others, which are not
//! the same in each run. All by `KSTATE_EVERY_INSTRUCTION=1`, with figures of how long others were
//! held up.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod machine;
mod operation;
mod scene;
mod tracee;
mod waiter;

use std::collections::BTreeSet;
use std::io::Write;
use std::time::Instant;

use kstate_tests::{Daemon, both_transports};
use nix::sys::personality::{self, Persona};
use operation::{Effect, Operation, PUBLISHING, READING, SEVERAL, TRANSACTIONS};
use scene::{Scene, Version};
use tracee::{Course, Tracee};

/// How many places of an operation are tried by default, besides those at atomic instructions.
const SAMPLE: u32 = 8;

fn every_instruction() -> bool {
    std::env::var_os("KSTATE_EVERY_INSTRUCTION").is_some()
}

/// The places to be tried of those that an operation came by: by default before and after each
/// atomic instruction, which is where others see something change, and some in between.
fn places(course: &Course) -> BTreeSet<u32> {
    if every_instruction() {
        return (0..=course.places).collect();
    }
    let stride = (course.places / SAMPLE).max(1);
    let sample = (std::process::id() % stride..=course.places).step_by(stride as usize);
    let atomic = course.atomic.iter().flat_map(|place| [*place, place + 1]);
    sample.chain(atomic).collect()
}

/// A process that is ready for its operation.
#[track_caller]
fn ready(daemon: &Daemon, operation: &Operation) -> Tracee {
    // What is at an address in one process is there in the next.
    let persona = personality::get().unwrap() | Persona::ADDR_NO_RANDOMIZE;
    personality::set(persona).unwrap();
    let mut worker = daemon.stepped(operation.name, operation.kind);
    assert_eq!(worker.line(), "ready");
    Tracee::seize(worker)
}

/// What the operation makes of the states it writes.
fn next(operation: &Operation, told: u64, newest: Version) -> Version {
    Version {
        generation: newest.generation + 1,
        number: match operation.effect {
            Effect::Replaces => told,
            Effect::Adds | Effect::Reads => newest.number + 1,
        },
    }
}

/// How many states the operation writes.
fn written(operation: &Operation) -> usize {
    match operation.effect {
        Effect::Reads => 0,
        Effect::Adds | Effect::Replaces => 1 + usize::from(operation.several),
    }
}

/// Whether `seen` is what the operation makes of `before`, all of it or nothing.
#[track_caller]
fn has_committed(operation: &Operation, told: u64, before: &[Version], seen: &[Version]) -> bool {
    if seen == before {
        return false;
    }
    let written = written(operation);
    for (at, (before, seen)) in before.iter().zip(seen).enumerate() {
        match at < written {
            true => assert_eq!(*seen, next(operation, told, *before)),
            false => assert_eq!(seen, before),
        }
    }
    true
}

/// Kills a process at `number`; `false` if there is no such place. The others come before the daemon
/// has done what the dead one owed, or after.
#[track_caller]
fn kill_at(
    scene: &mut Scene<'_>,
    daemon: &Daemon,
    operation: &'static Operation,
    (course, number): (&Course, u32),
    (way, daemon_first): (u32, bool),
) -> bool {
    let mut tracee = ready(daemon, operation);
    scene.settle();
    let before = scene.look();
    let told = before[0].number + 1;
    tracee.begin(told);
    if !tracee.step_to(course, number) {
        tracee.kill();
        scene.await_nothing_held();
        return false;
    }
    let _place = tracee.place(operation.name);
    tracee.kill();
    if daemon_first {
        let seen = scene.look();
        has_committed(operation, told, &before, &seen);
        scene.await_what_is_owed();
    }
    let (seen, after) = scene.disturb(way);
    has_committed(operation, told, &before, &seen);
    scene.await_what_is_owed();
    scene.await_nothing_held();
    assert_eq!(scene.look(), after, "the dead change nothing");
    true
}

fn killed_at_each_place(daemon: &Daemon, operation: &'static Operation) {
    let start = Instant::now();
    let mut scene = Scene::new(daemon, operation);
    let mut tracee = ready(daemon, operation);
    tracee.begin(scene.look()[0].number + 1);
    let course = tracee.step_through();
    tracee.kill();
    let mut kills = 0;
    for (way, number) in (0..).zip(places(&course)) {
        let orders = match every_instruction() && operation.owes() {
            true => &[true, false][..],
            false => &[(way / scene::WAYS).is_multiple_of(2)][..],
        };
        for daemon_first in orders {
            let others = (way, *daemon_first);
            kills += u32::from(kill_at(
                &mut scene,
                daemon,
                operation,
                (&course, number),
                others,
            ));
        }
    }
    let what = format!("{} instructions, {kills} kills", course.places);
    report(operation, &what, &scene, start);
    scene.end();
}

/// Stops the process at `number` for as long as others need, and has it go on; `false` if there is
/// no such place.
#[track_caller]
fn stop_at(
    scene: &mut Scene<'_>,
    tracee: &mut Tracee,
    operation: &'static Operation,
    (course, number): (&Course, u32),
    way: u32,
) -> bool {
    scene.settle();
    let before = scene.look();
    let told = before[0].number + 1;
    tracee.begin(told);
    let stopped = tracee.step_to(course, number);
    let _place = tracee.place(operation.name);
    let (seen, after) = match stopped {
        true => scene.disturb(way),
        false => {
            let seen = scene.look();
            (seen.clone(), seen)
        }
    };
    let committed = has_committed(operation, told, &before, &seen);
    let said = tracee.go_on();
    let last = scene.look();
    match operation.effect {
        Effect::Reads => {
            assert_eq!(last, after);
            assert_read(&said, &before, &after);
        }
        Effect::Adds | Effect::Replaces => {
            // Either before all that the others did, or after.
            let (at, written) = (if committed { &seen } else { &after }, written(operation));
            let mut newest = after.clone();
            for (index, said) in said.iter().enumerate() {
                match index < written {
                    true if committed => assert_eq!(*said, at[index]),
                    true => {
                        newest[index] = next(operation, told, at[index]);
                        assert_eq!(*said, newest[index]);
                    }
                    false => assert_eq!(said.number, at[index].number, "it was read"),
                }
            }
            assert_eq!((said.len(), &last), (after.len(), &newest));
        }
    }
    assert!(
        scene.is_live(),
        "all are done, and the live page is not up to date"
    );
    scene.await_what_is_owed();
    stopped
}

/// Whether what a reader says are versions that there were, all of one time.
#[track_caller]
fn assert_read(said: &[Version], before: &[Version], after: &[Version]) {
    for ((said, before), after) in said.iter().zip(before).zip(after) {
        assert!(before.generation <= said.generation && said.generation <= after.generation);
        assert_eq!(said.number, before.number_after(said.generation));
    }
    assert!(
        said.iter().all(|version| version.number == said[0].number),
        "{said:?}"
    );
}

fn stopped_at_each_place(daemon: &Daemon, operation: &'static Operation) {
    let start = Instant::now();
    let mut scene = Scene::new(daemon, operation);
    let mut tracee = ready(daemon, operation);
    tracee.begin(scene.look()[0].number + 1);
    let course = tracee.step_through();
    tracee.go_on();
    let mut stops = 0;
    for (way, number) in (0..).zip(places(&course)) {
        stops += u32::from(stop_at(
            &mut scene,
            &mut tracee,
            operation,
            (&course, number),
            way,
        ));
    }
    tracee.finish();
    scene.await_nothing_held();
    let what = format!("{} instructions, {stops} stops", course.places);
    report(operation, &what, &scene, start);
    scene.end();
}

/// Prints figures, past the harness if all was tried.
fn report(operation: &Operation, what: &str, scene: &Scene<'_>, start: Instant) {
    let (name, took) = (operation.name, start.elapsed());
    let line = format!(
        "{name}: {what}, {took:.1?}; others at most: {}",
        scene.longest
    );
    match every_instruction() {
        true => _ = writeln!(std::io::stderr(), "{line}"),
        false => eprintln!("{line}"),
    }
}

/// Both ways to get at a region, each with all of the operations.
fn with_all(
    test: &str,
    operations: &'static [Operation],
    each: impl Fn(&Daemon, &'static Operation),
) {
    if !machine::is_possible() {
        let _ = writeln!(
            std::io::stderr(),
            "UNTESTED: {test}: processes are stepped along on x86-64 alone"
        );
        return;
    }
    both_transports(|daemon| {
        for operation in operations {
            each(daemon, operation);
        }
    });
}

#[test]
fn a_publisher_killed_at_any_instruction_blocks_nobody_and_leaves_nothing() {
    with_all("publishers killed", &PUBLISHING, killed_at_each_place);
}

#[test]
fn a_publisher_stopped_at_any_instruction_blocks_nobody_and_goes_on() {
    with_all("publishers stopped", &PUBLISHING, stopped_at_each_place);
}

#[test]
fn a_transaction_killed_at_any_instruction_blocks_nobody_and_leaves_nothing() {
    with_all("transactions killed", &TRANSACTIONS, killed_at_each_place);
}

#[test]
fn a_transaction_stopped_at_any_instruction_blocks_nobody_and_goes_on() {
    with_all("transactions stopped", &TRANSACTIONS, stopped_at_each_place);
}

#[test]
fn a_transaction_over_several_states_killed_at_any_instruction_is_all_or_nothing() {
    with_all(
        "transactions over several states killed",
        &SEVERAL,
        killed_at_each_place,
    );
}

#[test]
fn a_transaction_over_several_states_stopped_at_any_instruction_blocks_nobody_and_goes_on() {
    with_all(
        "transactions over several states stopped",
        &SEVERAL,
        stopped_at_each_place,
    );
}

#[test]
fn a_reader_killed_at_any_instruction_leaves_nothing() {
    with_all("readers killed", &READING, killed_at_each_place);
}

#[test]
fn a_reader_stopped_at_any_instruction_disturbs_nobody_and_reads_what_there_was() {
    with_all("readers stopped", &READING, stopped_at_each_place);
}
