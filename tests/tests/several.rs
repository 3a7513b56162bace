//! Commits and cuts of several states on a real mount.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::time::{Duration, Instant};

use kstate::{
    AddError, Bytes, Generation, ManyOutcome, Reader, State, TouchError, TransactManyError,
};
use kstate_tests::{Daemon, Running, both_transports, eventually};
use nix::sys::signal::Signal;

const ACCOUNTS: usize = 5;
const EACH: i64 = 1000;

/// Accounts with some money in each.
fn bank(daemon: &Daemon) -> Vec<State<i64>> {
    let mount = daemon.library();
    let account = |number| {
        let name = format!("bank.{number}");
        let account = mount.subscribe(name).write().typed::<i64>().unwrap();
        account.publish(&EACH).unwrap();
        account
    };
    (0..ACCOUNTS).map(account).collect()
}

fn readers(accounts: &[State<i64>]) -> Vec<Reader<i64>> {
    accounts.iter().map(State::reader).collect()
}

fn sum(readers: &[Reader<i64>]) -> i64 {
    let cut = kstate::cut(readers).unwrap();
    cut.iter().map(|account| account.value).sum()
}

const ALL: i64 = EACH * ACCOUNTS as i64;

fn teller(daemon: &Daemon, reverse: bool) -> Running {
    let accounts = ACCOUNTS.to_string();
    let mut role = vec!["transfer", &accounts];
    if reverse {
        role.push("--reverse");
    }
    let mut teller = daemon.worker("bank", &role);
    assert_eq!(teller.line(), "ready");
    teller
}

fn finish(teller: &mut Running) -> u64 {
    teller.close_input();
    let done = teller.line().parse().unwrap();
    assert!(teller.finish().success());
    done
}

/// A transfer between all accounts; how long it took.
fn rotate(accounts: &[State<i64>]) -> Duration {
    let start = Instant::now();
    kstate::transact_many(|tx| {
        for account in accounts {
            tx.add(account)?;
        }
        for (from, to) in accounts.iter().zip(&accounts[1..]) {
            *tx.get_mut(from)? -= 1;
            *tx.get_mut(to)? += 1;
        }
        Ok::<_, TransactManyError>(())
    })
    .unwrap();
    start.elapsed()
}

#[test]
fn every_cut_beside_transfers_of_four_processes_sums_up() {
    both_transports(|daemon| {
        let accounts = bank(daemon);
        let readers = readers(&accounts);
        let mut tellers: Vec<_> = (0..4).map(|n| teller(daemon, n % 2 == 1)).collect();
        let amount = ALL.to_string();
        let mut auditor = daemon.worker("bank", &["audit", &ACCOUNTS.to_string(), &amount]);
        assert_eq!(auditor.line(), "ready");
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(700) {
            assert_eq!(sum(&readers), ALL);
        }
        auditor.close_input();
        let line = auditor.line();
        let (cuts, wrong) = line.split_once(' ').unwrap();
        assert!(cuts.parse::<u64>().unwrap() > 0);
        assert_eq!(wrong, "0", "of {cuts}");
        for teller in &mut tellers {
            assert!(finish(teller) > 10, "a teller starved");
        }
        assert_eq!(sum(&readers), ALL);
    });
}

#[test]
fn a_committer_killed_at_any_moment_leaves_all_or_nothing_and_stops_nobody() {
    both_transports(|daemon| {
        let accounts = bank(daemon);
        let readers = readers(&accounts);
        for round in 0..15_u64 {
            let teller = teller(daemon, false);
            std::thread::sleep(Duration::from_micros(300 + 137 * round));
            teller.signal(Signal::SIGKILL);
            assert_eq!(sum(&readers), ALL);
            let took = rotate(&accounts);
            assert!(took < Duration::from_secs(1), "{took:?}");
            assert_eq!(sum(&readers), ALL);
        }
        eventually("the dead one's records are gone", || {
            let files = std::fs::read_dir(daemon.file(".kstate/intents")).unwrap();
            // This process's own stays.
            (files.count() == 2).then_some(())
        });
    });
}

#[test]
fn a_stopped_committer_holds_others_up_for_milliseconds_and_readers_not_at_all() {
    both_transports(|daemon| {
        let accounts = bank(daemon);
        let readers = readers(&accounts);
        let mut teller = teller(daemon, false);
        let mut longest = Duration::ZERO;
        for round in 0..300_u64 {
            std::thread::sleep(Duration::from_micros(150 + 7 * (round % 50)));
            teller.signal(Signal::SIGSTOP);
            for reader in &readers {
                reader.snapshot().unwrap();
            }
            assert_eq!(sum(&readers), ALL);
            match round % 3 {
                // One state alone, in both ways.
                0 => {
                    let start = Instant::now();
                    for account in &accounts {
                        account.transact(|value| *value += 1).unwrap();
                    }
                    for account in &accounts {
                        account.transact(|value| *value -= 1).unwrap();
                    }
                    longest = longest.max(start.elapsed());
                }
                _ => longest = longest.max(rotate(&accounts)),
            }
            assert_eq!(sum(&readers), ALL);
            teller.signal(Signal::SIGCONT);
        }
        assert!(longest < Duration::from_secs(1), "{longest:?}");
        assert!(finish(&mut teller) > 0);
        assert_eq!(sum(&readers), ALL);
    });
}

#[test]
fn a_forked_child_commits_its_own_and_not_its_parents() {
    both_transports(|daemon| {
        let accounts = bank(daemon);
        let mut parent = daemon.worker("bank", &["fork-and-transfer"]);
        assert_eq!(parent.line(), "child true true");
        assert_eq!(parent.line(), "parent true true");
        parent.close_input();
        assert_eq!(sum(&readers(&accounts)), ALL);
        assert_eq!(accounts[0].snapshot().unwrap().value, EACH - 2);
    });
}

#[test]
fn a_process_that_subscribes_again_and_again_keeps_no_records() {
    both_transports(|daemon| {
        // More often than a process can have records.
        for round in 0..70 {
            let accounts = bank(daemon);
            rotate(&accounts);
            let records = std::fs::read_dir(daemon.file(".kstate/intents")).unwrap();
            assert_eq!(records.count(), 2, "in round {round}");
        }
        let records = std::fs::read_dir(daemon.file(".kstate/intents")).unwrap();
        assert_eq!(records.count(), 0);
    });
}

#[test]
fn all_that_was_written_appears_or_nothing() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let number = mount.subscribe("n").write().typed::<u64>().unwrap();
        let text = mount.subscribe("t").write().bytes().unwrap();
        text.publish(b"old").unwrap();
        let mut tx = kstate::begin_many();
        tx.add(&text).unwrap();
        tx.add(&number).unwrap();
        assert_eq!(tx.get(&text).unwrap(), b"old");
        tx.set(&number, &7).unwrap();
        *tx.get_mut(&text).unwrap() = b"new and longer".to_vec();
        assert!(tx.validate() && !tx.is_doomed());
        let expected = ManyOutcome::Committed {
            generations: [Generation(2), Generation(1)].into_iter().collect(),
        };
        assert_eq!(tx.commit().unwrap(), expected);
        let (n, t) = kstate::cut((&*number, &*text)).unwrap();
        assert_eq!((n.value, t.value.as_slice()), (7, &b"new and longer"[..]));
        // And through the daemon.
        assert_eq!(std::fs::read(daemon.file("t")).unwrap(), b"new and longer");

        let mut tx = kstate::begin_many();
        tx.add(&text).unwrap();
        tx.add(&number).unwrap();
        *tx.get_mut(&number).unwrap() += 1;
        tx.set(&text, b"never seen").unwrap();
        text.publish(b"first").unwrap();
        assert!(!tx.validate());
        let expected = ManyOutcome::Conflict {
            name: text.name().clone(),
            base: Generation(2),
            found: Generation(3),
        };
        assert_eq!(tx.commit().unwrap(), expected);
        assert_eq!(number.snapshot().unwrap().value, 7);
    });
}

#[test]
fn what_was_only_read_is_compared_and_what_was_not_touched_is_not() {
    let daemon = Daemon::start();
    let mount = daemon.library();
    let read_only = mount.subscribe("r").write().typed::<u64>().unwrap();
    let reader = mount.subscribe("r").typed::<u64>().unwrap().reader();
    let (a, b) = (
        mount.subscribe("a").write().typed::<u64>().unwrap(),
        mount.subscribe("b").write().typed::<u64>().unwrap(),
    );
    for touched in [true, false] {
        let mut tx = kstate::begin_many();
        tx.add_reading(&reader).unwrap();
        tx.add(&a).unwrap();
        tx.add(&b).unwrap();
        if touched {
            tx.get(&reader).unwrap();
        }
        *tx.get_mut(&a).unwrap() += 1;
        read_only.publish(&1).unwrap();
        b.publish(&1).unwrap();
        assert_eq!(tx.commit().unwrap().is_conflict(), touched);
    }
    let mut tx = kstate::begin_many();
    tx.add_reading(&reader).unwrap();
    tx.add(&a).unwrap();
    let value = *tx.get(&reader).unwrap();
    *tx.get_mut(&a).unwrap() = value;
    assert!(tx.commit().unwrap().is_committed());
    let mut tx = kstate::begin_many();
    tx.add(&a).unwrap();
    assert_eq!(*tx.get(&a).unwrap(), 1);
    a.publish(&9).unwrap();
    assert_eq!(tx.commit().unwrap(), ManyOutcome::Unchanged);
}

#[test]
fn what_can_never_succeed_is_refused_when_it_is_added() {
    let daemon = Daemon::start();
    let other = Daemon::start();
    let mount = daemon.library();
    let state = mount.subscribe("x").write().typed::<u64>().unwrap();
    let clone = state.try_clone().unwrap();
    let reading = mount.subscribe("x").typed::<u64>().unwrap();
    let foreign = other.library().subscribe("x").write().typed::<u64>();
    let foreign = foreign.unwrap();
    let bytes = mount.subscribe("y").write().bytes().unwrap();
    let gone = mount.subscribe("gone").write().typed::<u64>().unwrap();
    mount.remove("gone").unwrap();
    let mut tx = kstate::begin_many();
    assert!(matches!(tx.add(&reading), Err(AddError::Begin(_))));
    assert!(matches!(tx.add(&gone), Err(AddError::Begin(_))));
    assert!(matches!(tx.add_reading(&gone), Err(AddError::Begin(_))));
    tx.add(&state).unwrap();
    assert!(matches!(tx.add(&clone), Err(AddError::Twice { .. })));
    assert!(matches!(tx.add(&foreign), Err(AddError::OtherMount { .. })));
    assert!(matches!(tx.get(&bytes), Err(TouchError::NotAdded { .. })));
    tx.add_reading::<Bytes>(&bytes).unwrap();
    assert!(matches!(
        tx.set(&bytes, b"z"),
        Err(TouchError::NotAdded { writing: true, .. })
    ));
    *tx.get_mut(&state).unwrap() = 1;
    tx.abort();
    assert!(state.generation().is_never());

    let many: Vec<_> = (0..65)
        .map(|n| {
            mount
                .subscribe(format!("m.{n}"))
                .write()
                .typed::<u64>()
                .unwrap()
        })
        .collect();
    let mut tx = kstate::begin_many();
    for state in &many[..64] {
        tx.add(state).unwrap();
        tx.set(state, &5).unwrap();
    }
    assert!(matches!(tx.add(&many[64]), Err(AddError::TooMany { .. })));
    assert!(tx.commit().unwrap().is_committed());
    assert!(many[..64].iter().all(|s| s.snapshot().unwrap().value == 5));
}

#[test]
fn waiters_live_pages_and_files_see_a_commit_of_several() {
    both_transports(|daemon| {
        let mount = daemon.library();
        let a = mount.subscribe("a").write().typed::<u64>().unwrap();
        let b = mount.subscribe("b").write().typed::<u64>().unwrap();
        let reader = mount.subscribe("a").typed::<u64>().unwrap().reader();
        let live = b.live().unwrap();
        let waiter = std::thread::spawn(move || {
            reader
                .wait(Generation::NEVER, Some(kstate_tests::PATIENCE))
                .unwrap()
        });
        let done = kstate::transact_many(|tx| {
            tx.add(&a)?;
            tx.add(&b)?;
            tx.set(&a, &3)?;
            tx.set(&b, &4)?;
            Ok::<_, TransactManyError>(())
        });
        assert_eq!(done.unwrap().attempts, 1);
        assert_eq!(
            waiter.join().unwrap(),
            kstate::Waited::Changed(Generation(1))
        );
        assert_eq!(live.load(), Some((Generation(1), 4)));
        std::fs::write(daemon.file("a"), 9_u64.to_ne_bytes()).unwrap();
        assert_eq!(a.snapshot().unwrap().value, 9);
    });
}
