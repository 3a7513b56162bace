//! Two writers and one `head`.
//!
//! 1. Both commit on one base: one wins, the other learns of it.
//! 2. Both read, add one and commit, again after a conflict: no update is lost.
//! 3. A publish beside a commit: the publish succeeds, the commit does or conflicts.
//! 4. Two publishes: the loser tags its slot anew, under a reader's eyes.
//! 5. A base from before one's own success conflicts, and does so before a byte is filled: the
//!    slot next in turn was live once, under the very tag such a commit would give it.
//!
//! Bounds: every interleaving, but for 2 (at most four preemptions, of two threads that try again)
//! and 4 (three, of three threads).

#![cfg(kstate_loom)]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod loom_memory;

use kstate_sys::region::{CommitError, Head};
use loom::thread;
use loom_memory::{Value, Words, explore};

fn found(conflict: Result<Head, CommitError>) -> Head {
    match conflict {
        Err(CommitError::Conflict { found }) => found,
        other => panic!("expected a conflict: {other:?}"),
    }
}

#[test]
fn one_of_two_commits_on_a_base_wins() {
    // Case 1.
    explore(None, || {
        let words = Words::with_groups(2);
        let base = words.head();
        let commit = |group: u8| {
            let words = words.clone();
            move || Value::new(group + 1).commit(&mut words.writer(group), &*words, base)
        };
        let other = thread::spawn(commit(1));
        let mine = commit(0)();
        let others = other.join().unwrap();
        let (winner, head, loser) = match (mine, others) {
            (Ok(head), loser) => (Value::new(1), head, loser),
            (loser, Ok(head)) => (Value::new(2), head, loser),
            both => panic!("nobody won: {both:?}"),
        };
        assert_eq!(found(loser), head);
        assert_eq!(words.read(), (head, Some(winner)));
        assert_eq!(head.generation().0, 1);
    });
}

#[test]
fn no_update_is_lost() {
    // Case 2.
    explore(Some(4), || {
        let words = Words::with_groups(2);
        let add_one = |group: u8| {
            let words = words.clone();
            move || {
                let mut writer = words.writer(group);
                let mut conflicts = 0;
                loop {
                    let (base, value) = words.read();
                    let next = Value::new(value.map_or(0, Value::id) + 1);
                    match next.commit(&mut writer, &*words, base) {
                        Ok(head) => {
                            assert_eq!(head.generation().0, base.generation().0 + 1);
                            return conflicts;
                        }
                        conflict => {
                            assert_ne!(found(conflict), base, "a conflict without another");
                            conflicts += 1;
                        }
                    }
                }
            }
        };
        let other = thread::spawn(add_one(1));
        let conflicts = add_one(0)() + other.join().unwrap();
        // A conflict is another's success, of which each had one.
        assert!(conflicts <= 1, "{conflicts} conflicts");
        let (head, value) = words.read();
        assert_eq!((head.generation().0, value), (2, Some(Value::new(2))));
    });
}

#[test]
fn a_publish_beside_a_commit_always_succeeds() {
    // Case 3.
    explore(None, || {
        let words = Words::with_groups(2);
        let base = words.head();
        let publisher = {
            let words = words.clone();
            thread::spawn(move || {
                Value::short(7)
                    .publish(&mut words.writer(1), &*words)
                    .unwrap()
            })
        };
        let committed = Value::new(1).commit(&mut words.writer(0), &*words, base);
        let published = publisher.join().unwrap();
        match committed {
            Ok(head) => assert_eq!(
                (head.generation().0, published.generation().0),
                (1, 2),
                "a commit stands on its base"
            ),
            conflict => {
                assert_eq!(found(conflict), published);
                assert_eq!(published.generation().0, 1);
            }
        }
        assert_eq!(words.read(), (published, Some(Value::short(7))));
    });
}

#[test]
fn a_slot_tagged_anew_by_a_publish_is_read_whole() {
    // Case 4.
    explore(Some(3), || {
        let words = Words::with_groups(2);
        let publish = |group: u8| {
            let words = words.clone();
            thread::spawn(move || {
                let value = Value::new(group + 1);
                value.publish(&mut words.writer(group), &*words).unwrap()
            })
        };
        let writers = [publish(0), publish(1)];
        let (seen, value) = words.read();
        let [one, two] = writers.map(|writer| writer.join().unwrap());
        let expected = match seen {
            _ if seen == one => Some(Value::new(1)),
            _ if seen == two => Some(Value::new(2)),
            _ => None,
        };
        assert_eq!(value, expected, "{seen:?} of {one:?} and {two:?}");
        assert_eq!(one.generation().0 + two.generation().0, 1 + 2);
    });
}

#[test]
fn a_base_from_before_ones_own_success_conflicts_and_fills_nothing() {
    // Case 5: the slot of generation 1 is next; a commit on generation 0 would tag it 1 again.
    explore(None, || {
        let words = Words::with_groups(2);
        let base = words.head();
        let mut writer = words.writer(0);
        let first = Value::new(1).commit(&mut writer, &*words, base).unwrap();
        for id in 2..=4 {
            Value::new(id).publish(&mut writer, &*words).unwrap();
        }
        let newest = words.head();
        let reader = {
            let words = words.clone();
            thread::spawn(move || assert_eq!(words.read_at(first), Some(Value::new(1))))
        };
        let stale = Value::new(9).commit(&mut writer, &*words, base);
        assert_eq!(found(stale), newest);
        reader.join().unwrap();
        assert_eq!(words.read(), (newest, Some(Value::new(4))));
    });
}

#[test]
fn a_stale_base_conflicts_beside_another_writer() {
    // Case 5 with a head that another moves meanwhile.
    explore(None, || {
        let words = Words::with_groups(2);
        let base = words.head();
        let other = {
            let words = words.clone();
            thread::spawn(move || Value::new(7).commit(&mut words.writer(1), &*words, base))
        };
        let mut writer = words.writer(0);
        let mine = Value::new(1).commit(&mut writer, &*words, base);
        let again = found(Value::new(2).commit(&mut writer, &*words, base));
        let others = other.join().unwrap();
        assert!(mine.is_ok() != others.is_ok(), "{mine:?}, {others:?}");
        assert_eq!(Ok(again), mine.or(others));
    });
}
