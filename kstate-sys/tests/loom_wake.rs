//! The mark and the look at it: nobody sleeps through a commit.
//!
//! The kernel's futex is a lock over its sleepers here: it compares and goes to sleep in one, and
//! wakes all. Loom reports a sleeper nobody wakes as a deadlock.
//!
//! 1. A waiter registers, looks at `head` and sleeps, beside a commit.
//! 2. The daemon registers, the waiter looks at `head` in another process.
//! 3. Two commits, of two writers, while one waits for the second.
//! 4. The mark is lowered and raised again beside a commit.
//! 5. One waiter's end and another's beginning, counted by the daemon, beside a commit.
//! 6. A committer dies between its swap and its wake; the daemon wakes for it.
//! 7. One of the crowd waits for two commits, of which the daemon learns by sleeping on `head`.
//!
//! Bounds: every interleaving in 1, 2 and 4; at most three preemptions in 3, 5, 6 and 7 with their
//! three threads. A lost wake needs one.

#![cfg(kstate_loom)]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod loom_memory;

use std::sync::Arc;

use kstate_sys::region::{Generation, Head, Memory, Notice};
use kstate_sys::sync::Ordering;
use loom::sync::{Condvar, Mutex};
use loom::thread;
use loom_memory::{Death, Value, Words, explore};

/// What the kernel keeps for one futex.
struct Futex {
    wakes: Mutex<u32>,
    sleepers: Condvar,
}

impl Futex {
    fn new() -> Self {
        Self {
            wakes: Mutex::new(0),
            sleepers: Condvar::new(),
        }
    }

    fn wait<M: Memory>(&self, memory: &M, expected: Head) {
        self.wait_while(|| {
            let head = Head::from_raw(memory.header().head.load(Ordering::SeqCst));
            head.futex_word() == expected.futex_word()
        });
    }

    fn wait_while(&self, is_as_expected: impl Fn() -> bool) {
        let mut wakes = self.wakes.lock().unwrap();
        if !is_as_expected() {
            return;
        }
        let before = *wakes;
        while *wakes == before {
            wakes = self.sleepers.wait(wakes).unwrap();
        }
    }

    fn wake_all(&self) {
        *self.wakes.lock().unwrap() += 1;
        self.sleepers.notify_all();
    }
}

/// A region, its futexes, and the daemon's private count of waiters.
struct Node {
    words: Arc<Words>,
    futex: Futex,
    crowd: Futex,
    waiters: Mutex<u32>,
}

impl Node {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            words: Words::with_groups(2),
            futex: Futex::new(),
            crowd: Futex::new(),
            waiters: Mutex::new(0),
        })
    }

    /// A commit with what is owed after it.
    fn publish_beside(self: &Arc<Self>, group: u8) -> thread::JoinHandle<()> {
        let node = self.clone();
        thread::spawn(move || {
            let mut writer = node.words.writer(group);
            Value::new(group + 1)
                .publish(&mut writer, &*node.words)
                .unwrap();
            if node.words.header().notice().contains(Notice::WAITERS) {
                node.futex.wake_all();
            }
        })
    }

    fn raise(&self) {
        self.words.header().raise(Notice::WAITERS);
    }

    /// Sleeps until `generation` is reached; the mark has been raised.
    fn wait_for(&self, generation: Generation) {
        loop {
            // ORDERING: SeqCst after the raise: see `Header::notice`.
            let head = Head::from_raw(self.words.header().head.load(Ordering::SeqCst));
            if head.generation() >= generation {
                return;
            }
            self.futex.wait(&*self.words, head);
        }
    }

    /// As [`wait_for`](Self::wait_for), in the crowd.
    fn wait_in_crowd_for(&self, generation: Generation) {
        let header = self.words.header();
        loop {
            // First: see `Header::crowd_seen`.
            let seen = header.crowd_seen();
            // ORDERING: SeqCst after `crowd_seen`.
            let head = Head::from_raw(header.head.load(Ordering::SeqCst));
            if head.generation() >= generation {
                return;
            }
            let as_seen = || header.crowd.load(Ordering::SeqCst) == seen;
            self.crowd.wait_while(as_seen);
        }
    }

    /// What the daemon does for the crowd, until it has done it for `generation`.
    fn stir_crowd_until(&self, generation: Generation) {
        let header = self.words.header();
        let mut stirred = None;
        loop {
            // ORDERING: SeqCst, as the daemon's own look.
            let head = Head::from_raw(header.head.load(Ordering::SeqCst));
            if stirred != Some(head) {
                stirred = Some(head);
                header.stir_crowd();
                self.crowd.wake_all();
            }
            if head.generation() >= generation {
                return;
            }
            self.futex.wait(&*self.words, head);
        }
    }

    /// The daemon's answer to a process that is going to wait.
    fn wait_begin(&self) {
        let mut waiters = self.waiters.lock().unwrap();
        *waiters += 1;
        self.raise();
    }

    /// And to one that waits no more.
    fn wait_end(&self) {
        let mut waiters = self.waiters.lock().unwrap();
        *waiters -= 1;
        if *waiters == 0 {
            self.words.header().lower(Notice::WAITERS);
        }
    }
}

#[test]
fn a_waiter_is_woken_by_a_commit() {
    // Case 1.
    explore(None, || {
        let node = Node::new();
        let committer = node.publish_beside(0);
        node.raise();
        node.wait_for(Generation(1));
        committer.join().unwrap();
    });
}

#[test]
fn a_waiter_the_daemon_registered_is_woken() {
    // Case 2.
    explore(None, || {
        let node = Node::new();
        let committer = node.publish_beside(0);
        node.raise();
        let waiter = {
            let node = node.clone();
            thread::spawn(move || node.wait_for(Generation(1)))
        };
        committer.join().unwrap();
        waiter.join().unwrap();
    });
}

#[test]
fn a_waiter_sees_two_commits() {
    // Case 3.
    explore(Some(3), || {
        let node = Node::new();
        let committers = [node.publish_beside(0), node.publish_beside(1)];
        node.raise();
        node.wait_for(Generation(2));
        for committer in committers {
            committer.join().unwrap();
        }
    });
}

#[test]
fn a_mark_lowered_and_raised_again_still_wakes() {
    // Case 4.
    explore(None, || {
        let node = Node::new();
        let committer = node.publish_beside(0);
        node.raise();
        node.words.header().lower(Notice::WAITERS);
        node.raise();
        node.wait_for(Generation(1));
        committer.join().unwrap();
    });
}

#[test]
fn a_waiter_survives_anothers_end() {
    // Case 5.
    explore(Some(3), || {
        let node = Node::new();
        let committer = node.publish_beside(0);
        let other = {
            let node = node.clone();
            thread::spawn(move || {
                node.wait_begin();
                node.wait_end();
            })
        };
        node.wait_begin();
        node.wait_for(Generation(1));
        node.wait_end();
        committer.join().unwrap();
        other.join().unwrap();
        assert!(node.words.header().notice().is_none());
    });
}

#[test]
fn the_crowd_is_woken_by_the_daemon() {
    // Case 7.
    explore(Some(3), || {
        let node = Node::new();
        node.raise();
        let committer = {
            let node = node.clone();
            thread::spawn(move || {
                let mut writer = node.words.writer(0);
                for value in 1..=2 {
                    Value::new(value)
                        .publish(&mut writer, &*node.words)
                        .unwrap();
                    if node.words.header().notice().contains(Notice::WAITERS) {
                        node.futex.wake_all();
                    }
                }
            })
        };
        let daemon = {
            let node = node.clone();
            thread::spawn(move || node.stir_crowd_until(Generation(2)))
        };
        node.wait_in_crowd_for(Generation(2));
        committer.join().unwrap();
        daemon.join().unwrap();
    });
}

#[test]
fn the_daemon_wakes_for_a_dead_committer() {
    // Case 6.
    let steps = Death::at_each_step(Some(3), |death| {
        let node = Node::new();
        node.raise();
        let victim = {
            let node = node.clone();
            thread::spawn(move || {
                let mut writer = node.words.writer(1);
                let notice = death.of(&node.words, |memory| {
                    Value::new(2).publish(&mut writer, memory).unwrap();
                    memory.header().notice()
                });
                if notice.is_some_and(|notice| notice.contains(Notice::WAITERS)) {
                    node.futex.wake_all();
                }
            })
        };
        let daemon = {
            let node = node.clone();
            thread::spawn(move || {
                // The join is its news of the death.
                victim.join().unwrap();
                node.futex.wake_all();
                if node.words.head().generation().is_never() {
                    // Dead before its swap: the waiter waits for the next.
                    let mut writer = node.words.writer(0);
                    Value::new(1).publish(&mut writer, &*node.words).unwrap();
                    node.futex.wake_all();
                }
            })
        };
        node.wait_for(Generation(1));
        daemon.join().unwrap();
    });
    assert!(
        steps >= 6,
        "a commit with its look at the mark has more steps than {steps}"
    );
}
