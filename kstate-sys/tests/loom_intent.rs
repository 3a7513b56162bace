//! Commits of several states: two states, X and Y, and who writes and reads them at once.
//!
//! 1. Two committers write both, in one order of states and in opposite ones: one wins or none,
//!    and nobody waits.
//! 2. A committer of both beside one of X alone, which finishes what it finds committed and takes
//!    anything else for a conflict: no update is lost.
//! 3. A reader of both takes a cut: the values belong together.
//! 4. A reader that reads one and then the other never sees half: what is new in the first is new
//!    in the second.
//! 5. The committer dies at any step, and the daemon settles: both or none, beside a reader.
//! 6. The daemon gives a living committer up: both or none, and the owner goes on.
//! 7. Write skew: each of two committers writes what the other one reads. Not both commit.
//! 8. A committer reads Y and writes X while Y is published: no cut has the new Y and the old X if
//!    it commits, since it comes before that Y.
//! 9. A commit that fails is tried again through the same slots, under the same tags, beside a
//!    reader that still knows the first head.
//! 10. A group is claimed whose slot counts until an intent is decided.
//! 11. The live page converges on what was committed, whoever finishes.
//! 12. The daemon gives a round up that is committed just then, and the owner begins the next one by
//!     a store: neither undoes what the other has said.
//!
//! Bounds on preemptions: three threads two, or three in 8; two threads three to five, but two where
//! one commits again and again. A reader that resolves a head of an earlier round needs two.

#![cfg(kstate_loom)]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod loom_memory;

use std::sync::Arc;

use kstate_sys::region::{
    self, CommitError, Decision, Group, Head, LiveOwner, Round, SeveralError, Standing, StatusWord,
    look,
};
use loom::thread;
use loom_memory::{Death, Ledger, Owner, Value, Words, explore};

/// A mount with two states, each of `groups` groups, and `records` records.
#[derive(Clone)]
struct Mount {
    x: Arc<Words>,
    y: Arc<Words>,
    ledger: Arc<Ledger>,
}

/// The last round of a record that has served nobody.
const FRESH: (u64, Decision) = (0, Decision::Aborted);

/// A head that `head` is not.
fn stale(head: Head) -> Head {
    Head::new(region::Generation(77), head.slot())
}

/// The record's last round when it is going to serve `round`, all before having been committed.
fn after(round: u8) -> (u64, Decision) {
    match round {
        1 => FRESH,
        _ => (u64::from(round) - 1, Decision::Committed),
    }
}

const X: u64 = 0;
const Y: u64 = 1;

impl Mount {
    fn new(groups: u16, records: u32) -> Self {
        let ledger = Ledger::of(records);
        Self {
            x: Words::beside(groups, &ledger),
            y: Words::beside(groups, &ledger),
            ledger,
        }
    }

    fn owner(&self, number: u32) -> Owner {
        Owner {
            ledger: self.ledger.clone(),
            number,
        }
    }

    /// The heads that count now.
    fn heads(&self) -> (Head, Head) {
        let head = |words: &Arc<Words>| look(&**words).unwrap().head;
        (head(&self.x), head(&self.y))
    }

    /// Commits `value` to both through `group`, `record` and that record's first round.
    fn commit_both(&self, value: u8, group: u8, number: u32) -> Result<Vec<Head>, SeveralError> {
        let (x, y) = self.heads();
        self.commit_on((x, y), value, group, number)
    }

    fn commit_on(
        &self,
        (x, y): (Head, Head),
        value: u8,
        group: u8,
        number: u32,
    ) -> Result<Vec<Head>, SeveralError> {
        let (mut wx, mut wy) = (self.x.writer(group), self.y.writer(group));
        let targets = vec![(X, &*self.x, &mut wx, x), (Y, &*self.y, &mut wy, y)];
        Value::new(value).commit_several(&self.owner(number), FRESH, targets, &[])
    }

    /// The values of both at one point in history; tried a few times.
    fn cut(&self) -> Option<(Option<u8>, Option<u8>)> {
        for _ in 0..2 {
            let (x, y) = (look(&*self.x).unwrap().head, look(&*self.y).unwrap().head);
            let values = (self.value_at(&self.x, x), self.value_at(&self.y, y));
            region::cut_fence();
            let (again_x, again_y) = (look(&*self.x).unwrap(), look(&*self.y).unwrap());
            let same = |head: Head, again: Standing| again.head == head && again.may_be_cut();
            if let (Some(vx), Some(vy)) = values
                && same(x, again_x)
                && same(y, again_y)
            {
                return Some((vx, vy));
            }
        }
        None
    }

    /// The value at `head`; `None` if that is gone, `Some(None)` if nobody wrote it.
    fn value_at(&self, words: &Arc<Words>, head: Head) -> Option<Option<u8>> {
        if head.generation().is_never() {
            return Some(None);
        }
        words.read_at(head).map(|value| Some(value.id()))
    }

    /// The values of both when all is over, and that no head has an intent any more.
    fn end(&self) -> (Option<u8>, Option<u8>) {
        for words in [&self.x, &self.y] {
            assert!(!words.head().has_intent(), "an intent was left");
        }
        let value = |words: &Arc<Words>| words.read().1.map(Value::id);
        (value(&self.x), value(&self.y))
    }
}

fn is_conflict<T>(outcome: &Result<T, SeveralError>) -> bool {
    matches!(
        outcome,
        Err(SeveralError::WriteConflict { .. } | SeveralError::CheckConflict { .. })
    )
}

/// A commit of X alone, tried `attempts` times; what it finds committed it finishes.
fn commit_x(mount: &Mount, value: u8, group: u8, attempts: u32) -> bool {
    let mut writer = mount.x.writer(group);
    for _ in 0..attempts {
        let base = look(&*mount.x).unwrap().head;
        match Value::new(value).commit(&mut writer, &*mount.x, base) {
            Ok(_) => return true,
            Err(CommitError::Conflict { .. }) => {
                let standing = look(&*mount.x).unwrap();
                standing.finish(&*mount.x);
            }
            Err(error) => panic!("{error}"),
        }
    }
    false
}

#[test]
fn of_two_committers_of_the_same_states_one_wins_or_none() {
    // Case 1.
    for opposite in [false, true] {
        explore(Some(3), move || {
            let mount = Mount::new(2, 2);
            let bases = mount.heads();
            let theirs = mount.clone();
            let other = thread::spawn(move || {
                let (mut wx, mut wy) = (theirs.x.writer(1), theirs.y.writer(1));
                let mut targets = vec![
                    (X, &*theirs.x, &mut wx, bases.0),
                    (Y, &*theirs.y, &mut wy, bases.1),
                ];
                if opposite {
                    targets.reverse();
                }
                Value::new(2).commit_several(&theirs.owner(2), FRESH, targets, &[])
            });
            let mine = mount.commit_on(bases, 1, 0, 1);
            let others = other.join().unwrap();
            let expected = match (&mine, &others) {
                (Ok(_), Err(_)) => Some(1),
                (Err(_), Ok(_)) => Some(2),
                (Err(_), Err(_)) => None,
                both => panic!("both on one base: {both:?}"),
            };
            assert!(mine.is_ok() || is_conflict(&mine), "{mine:?}");
            assert!(others.is_ok() || is_conflict(&others), "{others:?}");
            // In one order the first to place its first intent wins.
            assert!(opposite || expected.is_some());
            assert_eq!(mount.end(), (expected, expected));
        });
    }
}

#[test]
fn a_committer_of_one_beside_one_of_both_loses_nothing() {
    // Case 2.
    explore(Some(3), || {
        let mount = Mount::new(2, 1);
        let theirs = mount.clone();
        let single = thread::spawn(move || commit_x(&theirs, 9, 1, 2));
        let both = mount.commit_both(1, 0, 1);
        let single = single.join().unwrap();
        assert!(both.is_ok() || is_conflict(&both), "{both:?}");
        let commits = u64::from(both.is_ok()) + u64::from(single);
        assert_eq!(mount.x.head().generation().0, commits);
        assert_eq!(mount.y.head().generation().0, u64::from(both.is_ok()));
        let (x, y) = mount.end();
        assert_eq!(y, both.is_ok().then_some(1));
        assert!(x.is_some() && (single || x == Some(1)), "{x:?}");
    });
}

#[test]
fn a_cut_of_both_is_one_point_in_history() {
    // Case 3, beside one commit of both and one of X.
    explore(Some(2), || {
        let mount = Mount::new(2, 1);
        let committer = {
            let mount = mount.clone();
            thread::spawn(move || mount.commit_both(1, 0, 1).is_ok())
        };
        let single = {
            let mount = mount.clone();
            thread::spawn(move || commit_x(&mount, 9, 1, 1))
        };
        let cut = mount.cut();
        let (both, single) = (committer.join().unwrap(), single.join().unwrap());
        let Some(cut) = cut else { return };
        let known = [
            (None, None),
            (Some(1), Some(1)),
            (Some(9), Some(1)),
            (Some(9), None),
        ];
        assert!(known.contains(&cut), "{cut:?}");
        assert!(both || cut.1.is_none());
        // X alone came first, and the commit of both after it would have conflicted.
        assert!(cut != (Some(9), None) || single);
        mount.end();
    });
}

#[test]
fn a_cut_beside_two_commits_of_both_is_of_one_of_them() {
    // Case 3, with a second round through the same record.
    explore(Some(2), || {
        let mount = Mount::new(1, 1);
        let committer = {
            let mount = mount.clone();
            thread::spawn(move || {
                let (mut wx, mut wy) = (mount.x.writer(0), mount.y.writer(0));
                for round in 1..=2_u8 {
                    let (x, y) = mount.heads();
                    let targets = vec![(X, &*mount.x, &mut wx, x), (Y, &*mount.y, &mut wy, y)];
                    Value::new(round)
                        .commit_several(&mount.owner(1), after(round), targets, &[])
                        .unwrap();
                }
            })
        };
        if let Some((x, y)) = mount.cut() {
            assert_eq!(x, y, "half of a commit");
        }
        committer.join().unwrap();
        assert_eq!(mount.end(), (Some(2), Some(2)));
    });
}

#[test]
fn what_is_new_in_one_state_is_new_in_the_other() {
    // Case 4, in both orders.
    for x_first in [true, false] {
        explore(Some(4), move || {
            let mount = Mount::new(1, 1);
            let committer = {
                let mount = mount.clone();
                thread::spawn(move || mount.commit_both(1, 0, 1).unwrap())
            };
            let (first, second) = match x_first {
                true => (&mount.x, &mount.y),
                false => (&mount.y, &mount.x),
            };
            let (head, value) = first.read();
            let (later, newer) = second.read();
            assert_eq!(value.map(Value::id), (head.generation().0 > 0).then_some(1));
            assert_eq!(
                newer.map(Value::id),
                (later.generation().0 > 0).then_some(1)
            );
            assert!(value.is_none() || newer.is_some(), "half of a commit");
            let (again, _) = first.read();
            assert!(again.generation() >= head.generation(), "went back");
            committer.join().unwrap();
        });
    }
}

/// Case 5. `checks` has the victim read Y instead of writing it.
fn killed_at_each_step(checks: bool) {
    let steps = Death::at_each_step(Some(3), move |death| {
        let mount = Mount::new(2, 1);
        let (mut wx, mut wy) = (mount.x.writer(1), mount.y.writer(1));
        let bases = mount.heads();
        let theirs = mount.clone();
        let end = thread::spawn(move || {
            let last = death.of_several(|steps| {
                let (x, y) = (steps.see(&theirs.x), steps.see(&theirs.y));
                let record = steps.own(&theirs.owner(1));
                let mut targets = vec![(X, &x, &mut wx, bases.0)];
                let mut read = vec![];
                match checks {
                    true => read.push((&y, bases.1)),
                    false => targets.push((Y, &y, &mut wy, bases.1)),
                }
                Value::new(1).commit_several(&record, FRESH, targets, &read)
            });
            // A join is the daemon's news of the death. It settles before groups are given out.
            theirs.ledger.settle(1, &[&theirs.x, &theirs.y]);
            let (x, y) = theirs.end();
            assert!(checks || x == y, "half of a commit: {x:?} {y:?}");
            assert!(last.is_none() || x == Some(1));
            // Whoever gets its group goes on.
            let mut heir = theirs.x.writer(1);
            Value::new(7).publish(&mut heir, &*theirs.x).unwrap();
            x
        });
        let (_, first) = mount.x.read();
        if !checks && first == Some(Value::new(1)) {
            assert!(mount.y.read().1.is_some(), "half of a commit");
        }
        let x = end.join().unwrap();
        assert!(first.is_none() || first == Some(Value::new(7)) || x == Some(1));
        assert_eq!(mount.x.read().1, Some(Value::new(7)));
    });
    assert!(steps >= 10, "a commit of two has more steps than {steps}");
}

#[test]
fn a_committer_killed_at_any_step_leaves_both_or_none() {
    killed_at_each_step(false);
}

#[test]
fn a_committer_that_reads_one_killed_at_any_step_leaves_all_or_nothing() {
    killed_at_each_step(true);
}

/// Case 6: the daemon settles beside the owner, who asks it to when it finds itself given up, and
/// tries again. With `fails_first` the first attempt of the owner's own fails, so that it puts back what
/// the daemon puts back.
fn given_up(preemptions: usize, fails_first: bool, beside_reader: bool) {
    explore(Some(preemptions), move || {
        let mount = Mount::new(2, 1);
        let daemon = {
            let mount = mount.clone();
            thread::spawn(move || mount.ledger.settle(1, &[&mount.x, &mount.y]))
        };
        let reader = beside_reader.then(|| {
            let mount = mount.clone();
            thread::spawn(move || {
                let (_, x) = mount.x.read();
                let (_, y) = mount.y.read();
                assert!(x.is_none() || y.is_some(), "half of a commit");
            })
        });
        let (mut wx, mut wy) = (mount.x.writer(0), mount.y.writer(0));
        let (mut last, mut given_up) = (FRESH, 0);
        for attempt in 1.. {
            let (x, y) = mount.heads();
            let (mut targets, mut checks) = (vec![(X, &*mount.x, &mut wx, x)], vec![]);
            match fails_first && attempt == 1 {
                true => checks.push((&*mount.y, stale(y))),
                false => targets.push((Y, &*mount.y, &mut wy, y)),
            }
            match Value::new(1).commit_several(&mount.owner(1), last, targets, &checks) {
                Ok(_) => break,
                Err(SeveralError::Killed) => {
                    given_up += 1;
                    mount.ledger.settle(1, &[&mount.x, &mount.y]);
                    last = mount.ledger.last_round(1);
                    assert!(!mount.x.head().has_intent() && !mount.y.head().has_intent());
                }
                Err(error) => {
                    assert!(fails_first, "{error:?}");
                    last = (last.0 + 1, Decision::Aborted);
                }
            }
        }
        assert!(given_up <= 1);
        daemon.join().unwrap();
        if let Some(reader) = reader {
            reader.join().unwrap();
        }
        assert_eq!(mount.end(), (Some(1), Some(1)));
    });
}

#[test]
fn a_living_committer_that_is_given_up_goes_on() {
    given_up(3, false, false);
}

#[test]
fn a_living_committer_that_is_given_up_while_it_gives_up_goes_on() {
    given_up(2, true, false);
}

#[test]
fn a_committer_given_up_shows_no_reader_half() {
    given_up(1, false, true);
}

#[test]
fn two_that_write_what_the_other_reads_do_not_both_commit() {
    // Case 7.
    explore(Some(5), || {
        let mount = Mount::new(2, 2);
        let (x, y) = mount.heads();
        let theirs = mount.clone();
        let other = thread::spawn(move || {
            let mut writer = theirs.y.writer(1);
            let targets = vec![(Y, &*theirs.y, &mut writer, y)];
            Value::new(2).commit_several(&theirs.owner(2), FRESH, targets, &[(&*theirs.x, x)])
        });
        let mut writer = mount.x.writer(0);
        let targets = vec![(X, &*mount.x, &mut writer, x)];
        let mine = Value::new(1).commit_several(&mount.owner(1), FRESH, targets, &[(&*mount.y, y)]);
        let others = other.join().unwrap();
        assert!(!(mine.is_ok() && others.is_ok()), "write skew");
        assert!(mine.is_ok() || is_conflict(&mine), "{mine:?}");
        assert!(others.is_ok() || is_conflict(&others), "{others:?}");
        let expected = (mine.is_ok().then_some(1), others.is_ok().then_some(2));
        assert_eq!(mount.end(), expected);
    });
}

#[test]
fn no_cut_turns_round_what_a_commit_has_read() {
    // Case 8.
    explore(Some(3), || {
        let mount = Mount::new(2, 1);
        let (x, y) = mount.heads();
        let committer = {
            let mount = mount.clone();
            thread::spawn(move || {
                let mut writer = mount.x.writer(0);
                let targets = vec![(X, &*mount.x, &mut writer, x)];
                Value::new(1).commit_several(&mount.owner(1), FRESH, targets, &[(&*mount.y, y)])
            })
        };
        let publisher = {
            let mount = mount.clone();
            thread::spawn(move || {
                let mut writer = mount.y.writer(1);
                Value::new(2).publish(&mut writer, &*mount.y).unwrap();
            })
        };
        let cut = mount.cut();
        let committed = committer.join().unwrap();
        publisher.join().unwrap();
        assert!(
            committed.is_ok() || is_conflict(&committed),
            "{committed:?}"
        );
        if cut == Some((None, Some(2))) {
            assert!(
                committed.is_err(),
                "a cut after Y and before X, which came before Y"
            );
        }
        mount.end();
    });
}

#[test]
fn a_commit_tried_again_through_the_same_slots_deceives_no_reader() {
    // Case 9: the first round writes both and fails for a third party's Y.
    explore(Some(3), || {
        let mount = Mount::new(2, 1);
        let bases = mount.heads();
        Value::new(5)
            .publish(&mut mount.y.writer(1), &*mount.y)
            .unwrap();
        let committer = {
            let mount = mount.clone();
            thread::spawn(move || {
                let (mut wx, mut wy) = (mount.x.writer(0), mount.y.writer(0));
                let targets = vec![
                    (X, &*mount.x, &mut wx, bases.0),
                    (Y, &*mount.y, &mut wy, bases.1),
                ];
                let first = Value::new(1).commit_several(&mount.owner(1), FRESH, targets, &[]);
                assert!(is_conflict(&first), "{first:?}");
                let (x, y) = mount.heads();
                let checks = [(&*mount.x, x)];
                let targets = vec![(Y, &*mount.y, &mut wy, y)];
                Value::new(2)
                    .commit_several(&mount.owner(1), (1, Decision::Aborted), targets, &checks)
                    .unwrap();
                let (x, y) = mount.heads();
                let targets = vec![(X, &*mount.x, &mut wx, x), (Y, &*mount.y, &mut wy, y)];
                Value::short(3)
                    .commit_several(&mount.owner(1), (2, Decision::Committed), targets, &[])
                    .unwrap();
            })
        };
        let (head, x) = mount.x.read();
        assert_eq!(x.map(Value::id), (head.generation().0 > 0).then_some(3));
        let (head, y) = mount.y.read();
        let expected = [5, 2, 3][usize::try_from(head.generation().0).unwrap() - 1];
        assert_eq!(y.map(Value::id), Some(expected));
        committer.join().unwrap();
        assert_eq!(mount.end(), (Some(3), Some(3)));
    });
}

#[test]
fn an_undecided_commit_is_put_back_under_a_readers_eyes() {
    // Case 9: X gets its intent before Y's state is found changed, so that the head goes there
    // and back, and there again.
    explore(Some(2), || {
        let mount = Mount::new(2, 1);
        let (x, y) = mount.heads();
        let committer = {
            let mount = mount.clone();
            thread::spawn(move || {
                let mut writer = mount.x.writer(0);
                for (round, base, ok) in
                    [(1_u8, stale(y), false), (2, stale(y), false), (3, y, true)]
                {
                    let targets = vec![(X, &*mount.x, &mut writer, x)];
                    let checks = [(&*mount.y, base)];
                    let done = Value::new(round).commit_several(
                        &mount.owner(1),
                        (u64::from(round) - 1, Decision::Aborted),
                        targets,
                        &checks,
                    );
                    assert_eq!(done.is_ok(), ok, "{done:?}");
                }
            })
        };
        let (head, value) = mount.x.read();
        assert_eq!(value.map(Value::id), (head.generation().0 > 0).then_some(3));
        committer.join().unwrap();
        assert_eq!(mount.end(), (Some(3), None));
    });
}

#[test]
fn an_aborted_commit_is_not_taken_for_the_next_one() {
    // Case 9: the slot of the first round keeps its tag while the second, of Y alone, is committed.
    explore(Some(3), || {
        let mount = Mount::new(1, 1);
        let (x, y) = mount.heads();
        let committer = {
            let mount = mount.clone();
            thread::spawn(move || {
                let (mut wx, mut wy) = (mount.x.writer(0), mount.y.writer(0));
                let checks = [(&*mount.y, stale(y))];
                let targets = vec![(X, &*mount.x, &mut wx, x)];
                let first = Value::new(1).commit_several(&mount.owner(1), FRESH, targets, &checks);
                assert!(is_conflict(&first), "{first:?}");
                let targets = vec![(Y, &*mount.y, &mut wy, y)];
                Value::new(2)
                    .commit_several(&mount.owner(1), (1, Decision::Aborted), targets, &[])
                    .unwrap();
            })
        };
        assert_eq!(mount.x.read().1, None, "what was aborted");
        committer.join().unwrap();
        assert_eq!(mount.end(), (None, Some(2)));
    });
}

#[test]
fn a_base_from_before_ones_own_success_changes_no_byte() {
    // Case 9, as for a single state: the slot next in turn was live under the very tag.
    explore(None, || {
        let mount = Mount::new(1, 1);
        let (x, y) = mount.heads();
        let (mut wx, mut wy) = (mount.x.writer(0), mount.y.writer(0));
        let first = Value::new(1).publish(&mut wx, &*mount.x).unwrap();
        for id in 2..=4 {
            Value::new(id).publish(&mut wx, &*mount.x).unwrap();
        }
        let targets = vec![(X, &*mount.x, &mut wx, x), (Y, &*mount.y, &mut wy, y)];
        let done = Value::new(9).commit_several(&mount.owner(1), FRESH, targets, &[]);
        assert!(is_conflict(&done), "{done:?}");
        assert_eq!(mount.x.read_at(first), Some(Value::new(1)));
    });
}

#[test]
fn a_group_claimed_beside_an_intent_spares_what_counts() {
    // Case 10: the newest version is in group 1, left by an earlier owner; its next owner claims
    // and publishes while a commit through group 0 is undecided, which is put back.
    explore(Some(2), || {
        let mount = Mount::new(2, 1);
        let old = Value::new(1)
            .publish(&mut mount.x.writer(1), &*mount.x)
            .unwrap();
        let (x, y) = mount.heads();
        let committer = {
            let mount = mount.clone();
            thread::spawn(move || {
                let mut writer = mount.x.writer(0);
                let targets = vec![(X, &*mount.x, &mut writer, x)];
                let checks = [(&*mount.y, stale(y))];
                let done = Value::new(2).commit_several(&mount.owner(1), FRESH, targets, &checks);
                assert!(is_conflict(&done), "{done:?}");
            })
        };
        let heir = {
            let mount = mount.clone();
            thread::spawn(move || {
                let mut writer = mount.x.writer(1);
                match Value::short(3).publish(&mut writer, &*mount.x) {
                    Ok(head) => assert_ne!(head.slot(), old.slot(), "refilled what counts"),
                    Err(CommitError::Conflict { found }) => assert!(found.has_intent()),
                    Err(error) => panic!("{error}"),
                }
            })
        };
        let (head, value) = mount.x.read();
        let expected = if head == old {
            Value::new(1)
        } else {
            Value::short(3)
        };
        assert_eq!(value, Some(expected));
        committer.join().unwrap();
        heir.join().unwrap();
        mount.end();
    });
}

#[test]
fn the_live_page_shows_what_was_committed_whoever_finishes() {
    // Case 11: owner and helper both pay what the commit owes.
    explore(Some(4), || {
        let mount = Mount::new(2, 1);
        let helper = {
            let mount = mount.clone();
            thread::spawn(move || {
                let standing = look(&*mount.x).unwrap();
                if standing.finish(&*mount.x) {
                    region::refresh_live(&*mount.x, LiveOwner::of(Group(1))).unwrap();
                }
            })
        };
        let heads = mount.commit_both(1, 0, 1).unwrap();
        Value::new(1).refresh_live(&*mount.x, LiveOwner::of(Group(0)), heads[0]);
        helper.join().unwrap();
        assert_eq!(
            region::live_generation(&*mount.x),
            Some(heads[0].generation())
        );
        assert_eq!(
            mount
                .x
                .copy_live()
                .map(|(_, length, bytes)| (length, bytes)),
            Some(Value::new(1).in_live_page())
        );
        mount.end();
    });
}

#[test]
fn a_round_that_is_given_up_late_does_not_meet_the_next_one() {
    // Case 12.
    explore(None, || {
        let word = Arc::new(StatusWord::for_loom());
        let first = word.open(Round(0), Decision::Aborted).unwrap();
        let daemon = {
            let word = word.clone();
            thread::spawn(move || word.kill(first))
        };
        let committed = word.decide(first, Decision::Undecided, Decision::Committed);
        if committed.is_ok() {
            let second = word.open(first, Decision::Committed).unwrap();
            word.decide(second, Decision::Undecided, Decision::Committed)
                .unwrap();
        }
        let killed = daemon.join().unwrap() == Some(Decision::Killed);
        assert_ne!(killed, committed.is_ok());
        let status = word.load();
        let expected = match killed {
            true => (first, Decision::Killed),
            false => (first.next().unwrap(), Decision::Committed),
        };
        assert_eq!((status.round(), status.decision()), expected);
    });
}
