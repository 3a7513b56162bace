//! The live page and those who refresh it.
//!
//! 1. Two committers: whoever finds the lock taken leaves the page to the holder. When both are
//!    done it holds the newest version.
//! 2. A copy between two equal generations is whole, beside any refresher.
//! 3. A shorter version leaves nothing of a longer one behind.
//! 4. Arming beside a commit: the committer sees the mark, or the arming refresh sees the commit.
//! 5. A committer dies at any step, with or without the lock; its heir refreshes beside another
//!    committer, and the page is the newest again.
//!
//! Bounds: at most three preemptions; four where two threads do one thing each, two in 2 beside two
//! refreshers. A missed hand-over needs two, a lock taken from the dead unseen needs three.

#![cfg(kstate_loom)]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod loom_memory;

use std::sync::Arc;

use kstate_sys::region::{self, Group, LiveOwner, Memory, Notice};
use loom::thread;
use loom_memory::{Death, Value, Words, explore};

/// A commit with what is owed after it.
fn publish<M: Memory>(memory: &M, group: u8, writer: &mut region::Writer, value: Value) {
    value.publish(writer, memory).unwrap();
    if memory.header().notice().contains(Notice::ARMED) {
        region::refresh_live(memory, LiveOwner::of(Group(group))).unwrap();
    }
}

/// Publishes `values` through `group` beside whoever comes here.
fn publish_beside(
    words: &Arc<Words>,
    group: u8,
    values: impl IntoIterator<Item = Value> + Send + 'static,
) -> thread::JoinHandle<()> {
    let words = words.clone();
    thread::spawn(move || {
        let mut writer = words.writer(group);
        for value in values {
            publish(&*words, group, &mut writer, value);
        }
    })
}

/// Everybody is done: the live page is free and holds the newest version.
fn assert_converged(words: &Words) {
    let (head, newest) = words.read();
    let (generation, length, bytes) = words.copy_live().expect("nobody refreshes any more");
    assert_eq!(generation, head.generation(), "the live page is stale");
    match newest {
        Some(value) => assert_eq!((length, bytes), value.in_live_page()),
        None => assert_eq!((length, bytes), (0, [0, 0])),
    }
}

#[test]
fn the_page_is_newest_when_two_committers_are_done() {
    // Cases 1 and 3.
    explore(Some(4), || {
        let words = Words::with_groups(2);
        words.header().raise(Notice::ARMED);
        let other = publish_beside(&words, 1, [Value::new(10)]);
        publish(&*words, 0, &mut words.writer(0), Value::short(1));
        other.join().unwrap();
        assert_converged(&words);
    });
}

#[test]
fn the_page_is_newest_when_a_busy_committer_is_done() {
    // Cases 1 and 3.
    explore(Some(3), || {
        let words = Words::with_groups(2);
        words.header().raise(Notice::ARMED);
        let other = publish_beside(&words, 1, [Value::new(10), Value::short(11)]);
        let mut writer = words.writer(0);
        publish(&*words, 0, &mut writer, Value::new(1));
        publish(&*words, 0, &mut writer, Value::short(2));
        other.join().unwrap();
        assert_converged(&words);
    });
}

#[test]
fn a_checked_copy_of_the_page_is_whole() {
    // Cases 2 and 3: the values are numbered as their generations are.
    const VALUES: [Value; 3] = [Value::new(1), Value::short(2), Value::new(3)];
    explore(Some(3), || {
        let words = Words::with_groups(1);
        words.header().raise(Notice::ARMED);
        let committer = publish_beside(&words, 0, VALUES);
        if let Some((generation, length, bytes)) = words.copy_live() {
            let expected = match usize::try_from(generation.0).unwrap().checked_sub(1) {
                Some(at) => VALUES[at].in_live_page(),
                None => (0, [0, 0]),
            };
            assert_eq!((length, bytes), expected, "torn at {generation}");
        }
        committer.join().unwrap();
        assert_converged(&words);
    });
}

#[test]
fn a_checked_copy_is_whole_beside_two_refreshers() {
    // Case 2.
    explore(Some(2), || {
        let words = Words::with_groups(2);
        words.header().raise(Notice::ARMED);
        let others = [
            publish_beside(&words, 0, [Value::new(1)]),
            publish_beside(&words, 1, [Value::new(2)]),
        ];
        if let Some((generation, length, bytes)) = words.copy_live() {
            let seen = (length, bytes);
            match generation.0 {
                0 => assert_eq!(seen, (0, [0, 0])),
                _ => assert!(
                    [1, 2]
                        .map(|id| Value::new(id).in_live_page())
                        .contains(&seen),
                    "torn: {seen:?}"
                ),
            }
        }
        for other in others {
            other.join().unwrap();
        }
        assert_converged(&words);
    });
}

#[test]
fn arming_beside_a_commit_leaves_the_page_newest() {
    // Case 4, with the daemon's own order: raise, then refresh.
    explore(Some(4), || {
        let words = Words::with_groups(2);
        let committer = publish_beside(&words, 1, [Value::new(1)]);
        words.header().raise(Notice::ARMED);
        region::refresh_live(&*words, LiveOwner::of(Group::DAEMON)).unwrap();
        committer.join().unwrap();
        assert_converged(&words);
    });
}

#[test]
fn arming_beside_two_committers_leaves_the_page_newest() {
    // Case 4: the daemon finds the lock with one that has seen the mark, while the other has not.
    explore(Some(3), || {
        let words = Words::with_groups(3);
        let committers = [
            publish_beside(&words, 1, [Value::new(1)]),
            publish_beside(&words, 2, [Value::new(2)]),
        ];
        words.header().raise(Notice::ARMED);
        region::refresh_live(&*words, LiveOwner::of(Group::DAEMON)).unwrap();
        for committer in committers {
            committer.join().unwrap();
        }
        assert_converged(&words);
    });
}

#[test]
fn an_heir_brings_the_page_up_to_date() {
    // Case 5.
    let steps = Death::at_each_step(Some(3), |death| {
        let words = Words::with_groups(3);
        words.header().raise(Notice::ARMED);
        let mortal = words.clone();
        let victim = thread::spawn(move || {
            let mut writer = mortal.writer(1);
            death.of(&mortal, |memory| {
                publish(memory, 1, &mut writer, Value::new(1));
            });
        });
        let other = publish_beside(&words, 2, [Value::short(20)]);
        // The join is the daemon's news of the death.
        victim.join().unwrap();
        let (dead, heir) = (LiveOwner::of(Group(1)), LiveOwner::of(Group::DAEMON));
        region::seize_live(&*words, dead, heir).unwrap();
        other.join().unwrap();
        assert_converged(&words);
    });
    assert!(
        steps > 10,
        "a commit with its refresh has more steps than {steps}"
    );
}
