//! What a transaction shows and does, over a region in a memfd.

use proptest::prelude::*;

use super::*;
use crate::content::Bytes;
use crate::testing::Region;

fn committed(outcome: Outcome) -> u64 {
    match outcome {
        Outcome::Committed { generation } => generation.0,
        other => panic!("{other:?}"),
    }
}

#[test]
fn commit_conflicts_after_a_foreign_publish() {
    let region = Region::new(8);
    let (ours, theirs) = (region.state::<u64>(1), region.state::<u64>(2));
    ours.publish(&1).unwrap();
    let mut tx = ours.begin().unwrap();
    *tx.get_mut().unwrap() += 10;
    assert!(tx.validate());
    theirs.publish(&2).unwrap();
    assert!(!tx.validate());
    let conflict = Outcome::Conflict {
        base: Generation(1),
        found: Generation(2),
    };
    assert_eq!(tx.commit().unwrap(), conflict);
    assert_eq!(ours.snapshot().unwrap().value, 2);
}

#[test]
fn nothing_written_is_unchanged_whatever_others_did() {
    let region = Region::new(8);
    let state = region.state::<u64>(1);
    let mut tx = state.begin().unwrap();
    tx.get().unwrap();
    state.publish(&1).unwrap();
    assert_eq!(
        tx.commit().unwrap(),
        Outcome::Unchanged {
            base: Generation::NEVER
        }
    );
}

#[test]
fn asking_to_write_counts_even_if_the_bytes_stay_the_same() {
    let region = Region::new(8);
    let state = region.state::<u64>(1);
    let mut tx = state.begin().unwrap();
    assert!(!tx.is_dirty());
    tx.get_mut().unwrap();
    assert!(tx.is_dirty());
    assert_eq!(committed(tx.commit().unwrap()), 1);
}

#[test]
fn an_inner_transaction_sees_its_own_base_and_makes_the_outer_conflict() {
    let region = Region::new(8);
    let state = region.state::<u64>(1);
    state.publish(&1).unwrap();
    let mut outer = state.begin().unwrap();
    *outer.get_mut().unwrap() = 100;
    let mut inner = state.begin().unwrap();
    assert_eq!(*inner.get().unwrap(), 1);
    *inner.get_mut().unwrap() = 2;
    assert_eq!(committed(inner.commit().unwrap()), 2);
    assert!(outer.commit().unwrap().is_conflict());
    assert_eq!(state.snapshot().unwrap().value, 2);
}

#[test]
fn first_use_shows_the_base_for_as_long_as_its_slot_holds_it() {
    let region = Region::new(8);
    let state = region.state::<u64>(1);
    state.publish(&1).unwrap();
    let mut early = state.begin().unwrap();
    let mut late = state.begin().unwrap();
    state.publish(&2).unwrap();
    assert_eq!(*early.get().unwrap(), 1);
    assert!(!early.is_doomed());
    for value in 3..=6 {
        state.publish(&value).unwrap();
    }
    assert_eq!(*late.get().unwrap(), 6);
    assert!(late.is_doomed());
    assert_eq!(*early.get().unwrap(), 1);
    *late.get_mut().unwrap() = 0;
    assert!(late.commit().unwrap().is_conflict());
}

#[test]
fn dropping_and_aborting_change_nothing() {
    let region = Region::new(8);
    let state = region.state::<u64>(1);
    for _ in 0..3 {
        let mut tx = state.begin().unwrap();
        *tx.get_mut().unwrap() = 9;
        tx.abort();
        let mut tx = state.begin().unwrap();
        tx.set(&9);
    }
    assert!(state.generation().is_never());
    assert_eq!(*state.begin().unwrap().get().unwrap(), 0);
}

#[test]
fn bytes_change_length_within_a_transaction() {
    let region = Region::new(64);
    let state = region.state::<Bytes>(1);
    state.publish(b"one").unwrap();
    let mut tx = state.begin().unwrap();
    tx.get_mut().unwrap().extend_from_slice(b", two");
    committed(tx.commit().unwrap());
    assert_eq!(*state.snapshot().unwrap(), b"one, two");
    let mut tx = state.begin().unwrap();
    tx.set(b"");
    committed(tx.commit().unwrap());
    assert!(state.snapshot().unwrap().is_empty());
}

#[test]
fn a_deleted_state_refuses_every_write() {
    let region = Region::new(8);
    let state = region.state::<u64>(1);
    let mut tx = state.begin().unwrap();
    tx.set(&1);
    region.delete();
    assert!(matches!(state.begin(), Err(BeginError::Deleted { .. })));
    assert!(matches!(tx.commit(), Err(CommitError::Deleted { .. })));
    assert!(matches!(
        state.publish(&2),
        Err(crate::PublishError::Deleted { .. })
    ));
}

#[derive(Clone, Debug)]
enum Step {
    Begin,
    Get(usize),
    Write(usize, u64),
    Set(usize, u64),
    Commit(usize),
    Abort(usize),
    Publish(u8, u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Begin),
        3 => any::<usize>().prop_map(Step::Get),
        3 => (any::<usize>(), any::<u64>()).prop_map(|(tx, value)| Step::Write(tx, value)),
        1 => (any::<usize>(), any::<u64>()).prop_map(|(tx, value)| Step::Set(tx, value)),
        3 => any::<usize>().prop_map(Step::Commit),
        1 => any::<usize>().prop_map(Step::Abort),
        2 => (0..2_u8, any::<u64>()).prop_map(|(who, value)| Step::Publish(who, value)),
    ]
}

/// What a transaction must show and do, kept beside the real one.
struct Model {
    base: usize,
    page: Option<u64>,
    dirty: bool,
}

proptest! {
    /// The reference is the list of all versions: a commit succeeds exactly if its base is
    /// the last, and an untouched page shows its base or, doomed, the last.
    #[test]
    fn any_interleaving_does_what_a_list_of_versions_does(
        steps in proptest::collection::vec(step(), 0..60),
    ) {
        let region = Region::new(8);
        let states = [region.state::<u64>(1), region.state::<u64>(2)];
        let mut versions = vec![0];
        let mut open: Vec<(Transaction<'_, u64>, Model)> = Vec::new();
        for step in steps {
            let pick = |index: usize, open: &[(Transaction<'_, u64>, Model)]| {
                (!open.is_empty()).then(|| index % open.len())
            };
            match step {
                Step::Begin => {
                    let tx = states[0].begin().unwrap();
                    let base = versions.len() - 1;
                    prop_assert_eq!(tx.base().0, base as u64);
                    open.push((tx, Model { base, page: None, dirty: false }));
                }
                Step::Get(index) | Step::Write(index, _) => {
                    let Some(at) = pick(index, &open) else { continue };
                    let (tx, model) = &mut open[at];
                    let seen = *tx.get().unwrap();
                    let newest = versions[versions.len() - 1];
                    let expected = match model.page {
                        Some(page) => page,
                        None if tx.is_doomed() => newest,
                        None => versions[model.base],
                    };
                    prop_assert_eq!(seen, expected);
                    model.page = Some(seen);
                    if let Step::Write(_, value) = step {
                        *tx.get_mut().unwrap() = value;
                        model.page = Some(value);
                        model.dirty = true;
                    }
                }
                Step::Set(index, value) => {
                    let Some(at) = pick(index, &open) else { continue };
                    let (tx, model) = &mut open[at];
                    tx.set(&value);
                    *model = Model { base: model.base, page: Some(value), dirty: true };
                }
                Step::Commit(index) => {
                    let Some(at) = pick(index, &open) else { continue };
                    let (tx, model) = open.swap_remove(at);
                    let newest = versions.len() - 1;
                    prop_assert_eq!(tx.validate(), model.base == newest);
                    let base = Generation(model.base as u64);
                    let expected = match (model.dirty, model.page) {
                        (true, Some(page)) if model.base == newest => {
                            versions.push(page);
                            Outcome::Committed { generation: Generation(newest as u64 + 1) }
                        }
                        (true, _) => {
                            Outcome::Conflict { base, found: Generation(newest as u64) }
                        }
                        (false, _) => Outcome::Unchanged { base },
                    };
                    prop_assert_eq!(tx.commit().unwrap(), expected);
                }
                Step::Abort(index) => {
                    let Some(at) = pick(index, &open) else { continue };
                    open.swap_remove(at).0.abort();
                }
                Step::Publish(who, value) => {
                    let generation = states[usize::from(who)].publish(&value).unwrap();
                    versions.push(value);
                    prop_assert_eq!(generation.0, versions.len() as u64 - 1);
                }
            }
            let newest = states[1].snapshot().unwrap();
            prop_assert_eq!(newest.value, versions[versions.len() - 1]);
            prop_assert_eq!(newest.generation().0, versions.len() as u64 - 1);
        }
    }
}
