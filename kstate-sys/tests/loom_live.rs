//! The live page and those who refresh it.
//!
//! 1. Two committers: whoever finds the lock taken leaves the page to the holder. When both are
//!    done it holds the newest version.
//! 2. A copy between two equal generations is whole, beside any refresher.
//! 3. A shorter version leaves nothing of a longer one behind.
//! 4. Arming beside a commit: the committer sees the mark, or the arming refresh sees the commit.
//! 5. A committer dies at any step, with or without the lock; its heir refreshes beside another
//!    committer, and the page is the newest again.
//! 6. A committer that shows what it has at hand was slow: a newer version has been shown since,
//!    and the page is between two. Showing the old one again would pass an older copy for whole.
//!
//! Bounds: at most three preemptions; four where two threads do one thing each, two in 2 beside two
//! refreshers. A missed hand-over needs two, a lock taken from the dead unseen needs three,
//! a version shown again one.

#![cfg(kstate_loom)]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod loom_memory;

use std::sync::Arc;

use kstate_sys::region::{self, Group, LiveOwner, Memory, Notice};
use loom::thread;
use loom_memory::{Death, Value, Words, explore};

/// A commit with what is owed after it.
fn publish<M: Memory>(memory: &M, group: u8, writer: &mut region::Writer, value: Value) {
    let head = value.publish(writer, memory).unwrap();
    if memory.header().notice().contains(Notice::ARMED) {
        let owner = LiveOwner::of(Group(group));
        // The daemon reads back what it wrote; others have it at hand. Both ways meet here.
        match owner == LiveOwner::of(Group(1)) {
            true => region::refresh_live(memory, owner).unwrap(),
            false => value.refresh_live(memory, owner, head),
        }
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
fn a_version_overtaken_while_it_is_copied_leaves_nothing_behind() {
    // Case 3: the daemon arms and copies the long version while its slot is filled again.
    explore(Some(3), || {
        let words = Words::with_groups(1);
        let mut writer = words.writer(0);
        Value::new(1).publish(&mut writer, &*words).unwrap();
        let committer = {
            let words = words.clone();
            thread::spawn(move || {
                // Round the group.
                for id in 2..6 {
                    Value::short(id).publish(&mut writer, &*words).unwrap();
                }
            })
        };
        let daemon = LiveOwner::of(Group::DAEMON);
        region::refresh_live(&*words, daemon).unwrap();
        committer.join().unwrap();
        region::refresh_live(&*words, daemon).unwrap();
        assert_converged(&words);
    });
}

/// Case 5, `victim` and `other` being the groups of the dead and of the living committer.
fn killed_at_each_step(preemptions: usize, victim: u8, other: u8) {
    let steps = Death::at_each_step(Some(preemptions), move |death| {
        let words = Words::with_groups(3);
        words.header().raise(Notice::ARMED);
        let mortal = words.clone();
        let end = thread::spawn(move || {
            let mut writer = mortal.writer(victim);
            death.of(&mortal, |memory| {
                publish(memory, victim, &mut writer, Value::new(1));
            });
        });
        let other = publish_beside(&words, other, [Value::short(20)]);
        // The join is the daemon's news of the death.
        end.join().unwrap();
        let (dead, heir) = (LiveOwner::of(Group(victim)), LiveOwner::of(Group::DAEMON));
        region::seize_live(&*words, dead, heir).unwrap();
        other.join().unwrap();
        assert_converged(&words);
    });
    assert!(
        steps > 10,
        "a commit with its refresh has more steps than {steps}"
    );
}

#[test]
fn an_heir_brings_the_page_up_to_date() {
    killed_at_each_step(3, 1, 2);
}

#[test]
fn an_heir_brings_the_page_up_to_date_that_a_committer_wrote_from_hand() {
    killed_at_each_step(2, 2, 1);
}

#[test]
fn a_slow_committer_does_not_show_an_older_version_again() {
    // Case 6: the newest committer dies while it refreshes, which leaves neither generation.
    Death::at_each_step(Some(1), |death| {
        const SLOW: Value = Value::new(1);
        let words = Words::with_groups(3);
        words.header().raise(Notice::ARMED);
        let head = SLOW.publish(&mut words.writer(2), &*words).unwrap();
        region::refresh_live(&*words, LiveOwner::of(Group::DAEMON)).unwrap();
        let shown = region::live_generation(&*words).unwrap();
        assert_eq!(shown, head.generation());
        let reader = {
            let words = words.clone();
            thread::spawn(move || {
                if let Some(copy) = words.copy_live_at(shown) {
                    assert_eq!(copy, SLOW.in_live_page(), "torn at {shown}");
                }
            })
        };
        publish(&*words, 0, &mut words.writer(0), Value::new(2));
        let mut writer = words.writer(1);
        death.of(&words, |memory| {
            publish(memory, 1, &mut writer, Value::new(3));
        });
        let slow = {
            let words = words.clone();
            thread::spawn(move || SLOW.refresh_live(&*words, LiveOwner::of(Group(2)), head))
        };
        let (dead, heir) = (LiveOwner::of(Group(1)), LiveOwner::of(Group::DAEMON));
        region::seize_live(&*words, dead, heir).unwrap();
        slow.join().unwrap();
        reader.join().unwrap();
        assert_converged(&words);
    });
}
