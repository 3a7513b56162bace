//! A reader beside one writer that goes round its ring.
//!
//! 1. The reader is stopped anywhere while a whole round goes by: before it has seen the tag, in
//!    the middle of the copy, before it looks at the tag again.
//! 2. The version under the copy is replaced by a shorter or a longer one.
//! 3. The slot is refilled of which the reader knows from a head it loaded long ago.
//! 4. The reader has nobody's version, generation 0, when its slot is filled for the first time.
//! 5. One reader twice: it never goes back.
//! 6. Two writers, one of which goes on with the slot another's success made spare.
//!
//! In all of them a wrong tag comes with a head that has moved: a false `Corrupt` fails them.
//! Bounds: every interleaving in 5; elsewhere at most three preemptions (four in 3, two in 6 with
//! its three threads). A mixture needs two: the reader's in its copy, the writer's in its filling.

#![cfg(kstate_loom)]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod loom_memory;

use std::sync::Arc;

use kstate_sys::region::{self, Head};
use loom::thread;
use loom_memory::{Value, Words, explore};

/// One value of each length after the other, the slot of the first refilled by the last.
static ROUNDS: [[Value; 5]; 3] = [
    [
        Value::new(1),
        Value::new(2),
        Value::new(3),
        Value::new(4),
        Value::new(5),
    ],
    [
        Value::new(1),
        Value::short(2),
        Value::new(3),
        Value::short(4),
        Value::short(5),
    ],
    [
        Value::short(1),
        Value::new(2),
        Value::short(3),
        Value::new(4),
        Value::new(5),
    ],
];

/// Publishes `values` through group 0 beside whoever comes here.
fn publish_beside(words: &Arc<Words>, values: &'static [Value]) -> thread::JoinHandle<()> {
    let words = words.clone();
    thread::spawn(move || {
        let mut writer = words.writer(0);
        for value in values {
            value.publish(&mut writer, &*words).unwrap();
        }
    })
}

/// Generations count the values from 1, which are numbered so.
fn assert_numbered(head: Head, value: Option<Value>) {
    let id = value.map_or(0, |value| value.id().into());
    assert_eq!(head.generation().0, id, "bytes of another generation");
}

#[test]
fn a_reader_overtaken_by_a_whole_round_sees_whole_versions() {
    // Cases 1, 2 and 4.
    for values in &ROUNDS {
        explore(Some(3), move || {
            let words = Words::with_groups(1);
            let publisher = publish_beside(&words, values);
            let (head, value) = words.read();
            assert_numbered(head, value);
            publisher.join().unwrap();
        });
    }
}

#[test]
fn a_candidate_that_still_stands_is_whole() {
    // Cases 1, 2 and 4, by the short way.
    for values in &ROUNDS {
        for length in [1, 2] {
            explore(Some(3), move || {
                let words = Words::with_groups(1);
                let publisher = publish_beside(&words, values);
                if let Some((head, value)) = words.candidate(length) {
                    assert_numbered(head, value);
                }
                publisher.join().unwrap();
            });
        }
    }
}

#[test]
fn length_and_time_without_bytes_are_of_one_version() {
    // Cases 1, 2 and 4.
    explore(Some(4), || {
        let words = Words::with_groups(1);
        let publisher = publish_beside(&words, &ROUNDS[1]);
        let version = region::describe(&*words).unwrap();
        let values = &ROUNDS[1];
        let expected = version
            .generation()
            .0
            .checked_sub(1)
            .map(|at| values[usize::try_from(at).unwrap()]);
        assert_eq!(Value::described(&version), expected);
        publisher.join().unwrap();
    });
}

#[test]
fn a_version_read_by_an_old_head_is_that_version_or_gone() {
    // Case 3: the last publish refills the slot of the first.
    for values in &ROUNDS {
        explore(Some(4), move || {
            let words = Words::with_groups(1);
            let mut writer = words.writer(0);
            let old = values[0].publish(&mut writer, &*words).unwrap();
            let other = words.clone();
            let publisher = thread::spawn(move || {
                for value in &values[1..] {
                    value.publish(&mut writer, &*other).unwrap();
                }
            });
            if let Some(value) = words.read_at(old) {
                assert_eq!(value, values[0]);
            }
            publisher.join().unwrap();
        });
    }
}

#[test]
fn a_reader_never_goes_back() {
    // Case 5.
    explore(None, || {
        let words = Words::with_groups(1);
        let publisher = publish_beside(&words, &ROUNDS[0][..3]);
        let (first, value) = words.read();
        assert_numbered(first, value);
        let (second, value) = words.read();
        assert_numbered(second, value);
        assert!(second.generation() >= first.generation());
        publisher.join().unwrap();
        assert_eq!(words.read().0.generation().0, 3);
    });
}

#[test]
fn a_reader_beside_two_writers_sees_whole_versions() {
    // Case 6: group 0 is about to refill the slot its first version was in.
    explore(Some(2), || {
        let words = Words::with_groups(2);
        let mut first = words.writer(0);
        let second = words.writer(1);
        let old = Value::new(1).publish(&mut first, &*words).unwrap();
        for id in 2..=4 {
            Value::new(id).publish(&mut first, &*words).unwrap();
        }
        let publish = |mut writer: region::Writer, value: Value| {
            let words = words.clone();
            thread::spawn(move || value.publish(&mut writer, &*words).unwrap())
        };
        let writers = [
            publish(first, Value::short(10)),
            publish(second, Value::new(20)),
        ];
        if let Some(value) = words.read_at(old) {
            assert_eq!(value, Value::new(1));
        }
        let (seen, value) = words.read();
        let [ten, twenty] = writers.map(|writer| writer.join().unwrap());
        let expected = match seen {
            _ if seen == ten => Value::short(10),
            _ if seen == twenty => Value::new(20),
            _ => Value::new(4),
        };
        assert_eq!(value, Some(expected), "{seen:?} of {ten:?} and {twenty:?}");
        assert_eq!(words.head().generation().0, 6);
    });
}
