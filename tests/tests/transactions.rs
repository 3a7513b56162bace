//! Optimistic transactions and retry on a real mount.

use kstate::{Generation, Outcome};
use kstate_tests::{Daemon, both_transports};

#[test]
fn a_commit_conflicts_after_a_foreign_publish() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let ours = mount.subscribe("n").write().typed::<u64>().unwrap();
        let theirs = mount.subscribe("n").write().typed::<u64>().unwrap();
        ours.publish(&1).unwrap();
        let mut transaction = ours.begin().unwrap();
        *transaction.get_mut().unwrap() += 10;
        theirs.publish(&5).unwrap();
        let outcome = transaction.commit().unwrap();
        let expected = Outcome::Conflict {
            base: Generation(1),
            found: Generation(2),
        };
        assert_eq!(outcome, expected);
        assert_eq!(ours.snapshot().unwrap().value, 5);
    });
}

#[test]
fn a_transaction_without_writes_is_unchanged_even_after_a_foreign_publish() {
    let daemon = Daemon::start();
    let mount = daemon.library();
    let ours = mount.subscribe("n").write().typed::<u64>().unwrap();
    ours.publish(&1).unwrap();
    let mut transaction = ours.begin().unwrap();
    assert_eq!(*transaction.get().unwrap(), 1);
    ours.publish(&2).unwrap();
    assert!(!transaction.validate());
    assert_eq!(
        transaction.commit().unwrap(),
        Outcome::Unchanged {
            base: Generation(1)
        }
    );
}

#[test]
fn transactions_are_independent_whether_nested_or_not() {
    let daemon = Daemon::start();
    let state = daemon
        .library()
        .subscribe("n")
        .write()
        .typed::<u64>()
        .unwrap();
    state.publish(&1).unwrap();
    let mut outer = state.begin().unwrap();
    *outer.get_mut().unwrap() = 100;
    let mut inner = state.begin().unwrap();
    assert_eq!(*inner.get().unwrap(), 1, "the inner one sees its own base");
    *inner.get_mut().unwrap() = 2;
    assert!(matches!(inner.commit().unwrap(), Outcome::Committed { .. }));
    assert!(matches!(outer.commit().unwrap(), Outcome::Conflict { .. }));
    assert_eq!(state.snapshot().unwrap().value, 2);
}

#[test]
fn dropping_or_aborting_a_transaction_changes_nothing() {
    let daemon = Daemon::start();
    let state = daemon.library().subscribe("n").write().bytes().unwrap();
    state.publish(b"kept").unwrap();
    {
        let mut dropped = state.begin().unwrap();
        dropped.get_mut().unwrap()[0] = b'x';
    }
    let mut aborted = state.begin().unwrap();
    aborted.get_mut().unwrap()[0] = b'y';
    aborted.abort();
    let snapshot = state.snapshot().unwrap();
    assert_eq!(
        (snapshot.value.as_slice(), snapshot.generation()),
        (&b"kept"[..], Generation(1))
    );
}

#[test]
fn four_processes_incrementing_lose_no_update() {
    both_transports(|daemon| {
        let times = 25_000;
        let keep = daemon
            .library()
            .subscribe("counter")
            .typed::<u64>()
            .unwrap();
        let mut workers: Vec<_> = (0..4)
            .map(|_| daemon.worker("counter", &["increment", &times.to_string()]))
            .collect();
        for worker in &mut workers {
            assert_eq!(worker.line(), "ready");
        }
        for worker in &mut workers {
            worker.say("go");
        }
        for worker in &mut workers {
            let attempts: u64 = worker.line().parse().unwrap();
            assert!(attempts >= times);
            assert!(worker.finish().success());
        }
        assert_eq!(keep.snapshot().unwrap().value, 4 * times);
    });
}
