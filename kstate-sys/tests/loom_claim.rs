//! A dead writer's group and its next owner.
//!
//! 1. The newest version is in the group: the next owner's first filling spares it.
//! 2. It is not, but a slow reader still knows a head in the group: the next owner refills the
//!    slot, and the reader sees that the head has moved on.
//! 3. The owner dies at any step of a commit: between tag and swap a slot has a tag that was
//!    never live, and the next owner gives the same tag to another slot or to this one.
//! 4. As 3, with a writer of another group beside the next owner.
//!
//! A death is a join: what the dead stored is visible to its heir, as it is after a pidfd.
//! Bounds: every interleaving in 1, at most four preemptions in 3, two in 2 and 4 with their three
//! threads. A refilled version under a reader needs two.

#![cfg(kstate_loom)]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod loom_memory;

use kstate_sys::region::Head;
use loom::thread;
use loom_memory::{Death, Value, Words, explore};

#[test]
fn the_next_owner_spares_the_newest_version() {
    // Case 1.
    explore(None, || {
        let words = Words::with_groups(2);
        let newest = Value::new(1)
            .publish(&mut words.writer(1), &*words)
            .unwrap();
        let heir = {
            let words = words.clone();
            thread::spawn(move || {
                let mut writer = words.writer(1);
                let head = Value::new(2).publish(&mut writer, &*words).unwrap();
                assert_ne!(head.slot(), newest.slot());
            })
        };
        // Still there: its slot is the last of the heir's turn.
        assert_eq!(words.read_at(newest), Some(Value::new(1)));
        let (head, value) = words.read();
        assert_eq!(
            value.map(Value::id).map(u64::from),
            Some(head.generation().0)
        );
        heir.join().unwrap();
    });
}

#[test]
fn a_slow_reader_sees_that_the_next_owner_refilled_its_slot() {
    // Case 2: group 1's first slot is newest, then group 0's, then refilled by the heir.
    explore(Some(2), || {
        let words = Words::with_groups(2);
        let owner = {
            let words = words.clone();
            thread::spawn(move || {
                let first = Value::new(1)
                    .publish(&mut words.writer(1), &*words)
                    .unwrap();
                Value::new(2)
                    .publish(&mut words.writer(0), &*words)
                    .unwrap();
                let heir = thread::spawn(move || {
                    let third = Value::short(3)
                        .publish(&mut words.writer(1), &*words)
                        .unwrap();
                    assert_eq!(first.slot(), third.slot());
                });
                heir.join().unwrap();
            })
        };
        let (head, value) = words.read();
        assert_eq!(
            value.map_or(0, |value| value.id().into()),
            head.generation().0
        );
        owner.join().unwrap();
    });
}

/// Case 3, after `before` versions of the victim's own; case 4 with a `rival` beside the heir.
fn killed_at_each_step(before: u8, rival: bool) {
    let preemptions = if rival { 2 } else { 4 };
    let steps = Death::at_each_step(Some(preemptions), move |death| {
        let words = Words::with_groups(2);
        let mut writer = words.writer(1);
        for id in 0..before {
            Value::new(id).publish(&mut writer, &*words).unwrap();
        }
        let before = words.head();
        let node = words.clone();
        let end = thread::spawn(move || {
            let last = death.of(&node, |memory| {
                Value::new(100).commit(&mut writer, memory, before).unwrap();
            });
            let rival = rival.then(|| {
                let words = node.clone();
                thread::spawn(move || {
                    let mut writer = words.writer(0);
                    Value::new(150).publish(&mut writer, &*words).unwrap();
                })
            });
            let newest = node.head();
            let mut heir = node.writer(1);
            let first = Value::short(200).publish(&mut heir, &*node).unwrap();
            match rival {
                Some(rival) => rival.join().unwrap(),
                None => {
                    assert_ne!(first.slot(), newest.slot(), "refilled the newest");
                    let second = Value::new(201).publish(&mut heir, &*node).unwrap();
                    assert_ne!(first.slot(), second.slot());
                }
            }
            assert!(last.is_none() || newest.generation() > before.generation());
        });
        let (head, value) = words.read();
        if head == before {
            assert_eq!(value.map(Value::id), last_id(before));
        } else {
            let known = [100, 150, 200, 201];
            assert!(
                value.is_some_and(|value| known.contains(&value.id())),
                "{value:?}"
            );
        }
        if let Some(value) = words.read_at(before) {
            assert_eq!(Some(value.id()), last_id(before));
        }
        end.join().unwrap();
        let (_, value) = words.read();
        assert!(value.is_some_and(|value| value.id() >= 150), "{value:?}");
    });
    assert!(steps >= 5, "a commit has more steps than {steps}");
}

/// The value at `head`, of those that the victim numbered from 0 and published first.
fn last_id(head: Head) -> Option<u8> {
    head.generation()
        .0
        .checked_sub(1)
        .map(|id| u8::try_from(id).unwrap())
}

#[test]
fn a_group_whose_owner_died_in_its_first_commit_serves_the_next() {
    killed_at_each_step(0, false);
}

#[test]
fn a_group_whose_owner_died_holding_the_newest_serves_the_next() {
    killed_at_each_step(1, false);
}

#[test]
fn a_group_whose_owner_died_serves_the_next_beside_a_rival() {
    killed_at_each_step(1, true);
}
