//! What can happen, drawn at random.

use proptest::prelude::*;

/// One process does one thing. Which process, and which of its transactions, is said by a number
/// that is taken modulo those there are, so that steps make sense whatever was left out before.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) actor: usize,
    pub(crate) verb: Verb,
}

#[derive(Clone, Debug)]
pub(crate) enum Verb {
    /// So many times in a row: a handle comes round to the slot of a base.
    Publish(usize, Value, usize),
    /// Who has published the newest version publishes until its slot is filled again.
    Recycle(usize, Value),
    Snapshot(usize),
    Cut,
    Begin(usize, usize),
    /// Something with a transaction on one state.
    Single(usize, Single),
    /// Begins, and adds these states, each to be written or only read; does that at once, or later.
    Many(Vec<(usize, bool)>, Option<Value>),
    Add(usize, usize, bool),
    /// Something with a transaction over several states.
    Several(usize, Several),
    Fork,
    Kill,
}

#[derive(Clone, Debug)]
pub(crate) enum Single {
    Get,
    Slice,
    Write(Value),
    Set(Value),
    TouchMut,
    Length(usize),
    Ask,
    Commit,
    Drop,
}

/// The number says which of its states, or one that may not be among them.
#[derive(Clone, Debug)]
pub(crate) enum Several {
    Get(usize),
    Write(usize, Value),
    Set(usize, Value),
    Ask,
    Commit,
    Drop,
}

/// A byte, and how many of it where the length is free.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Value {
    pub(crate) fill: u8,
    pub(crate) length: usize,
}

fn value() -> impl Strategy<Value = Value> {
    (1..=u8::MAX, 0..=32_usize).prop_map(|(fill, length)| Value { fill, length })
}

/// Most of what happens happens to the first state: nothing is learnt where nobody meets.
fn state() -> impl Strategy<Value = usize> {
    prop_oneof![3 => Just(0_usize), 1 => Just(1_usize), 2 => Just(2_usize)]
}

fn single() -> impl Strategy<Value = Single> {
    prop_oneof![
        4 => Just(Single::Get),
        1 => Just(Single::Slice),
        8 => value().prop_map(Single::Write),
        2 => value().prop_map(Single::Set),
        1 => Just(Single::TouchMut),
        // More than there is room for, too.
        2 => (0..=40_usize).prop_map(Single::Length),
        4 => Just(Single::Ask),
        5 => Just(Single::Commit),
        1 => Just(Single::Drop),
    ]
}

fn several() -> impl Strategy<Value = Several> {
    let member = || 0..60_usize;
    prop_oneof![
        3 => member().prop_map(Several::Get),
        6 => (member(), value()).prop_map(|(state, value)| Several::Write(state, value)),
        2 => (member(), value()).prop_map(|(state, value)| Several::Set(state, value)),
        2 => Just(Several::Ask),
        4 => Just(Several::Commit),
        1 => Just(Several::Drop),
    ]
}

fn verb() -> impl Strategy<Value = Verb> {
    let number = || 0..60_usize;
    let reading = || prop::bool::weighted(0.3);
    let publish = |times| {
        (state(), value(), times)
            .prop_map(|(state, value, times)| Verb::Publish(state, value, times))
    };
    let recycle = (state(), value()).prop_map(|(state, value)| Verb::Recycle(state, value));
    let begin = (state(), number()).prop_map(|(state, how)| Verb::Begin(state, how));
    let single = (number(), single()).prop_map(|(tx, single)| Verb::Single(tx, single));
    let members = prop::collection::vec((state(), reading()), 0..=4);
    let many =
        (members, prop::option::of(value())).prop_map(|(states, value)| Verb::Many(states, value));
    let add = (number(), state(), reading())
        .prop_map(|(tx, state, reading)| Verb::Add(tx, state, reading));
    let several = (number(), several()).prop_map(|(tx, several)| Verb::Several(tx, several));
    prop_oneof![
        3 => publish(1..=2_usize),
        2 => publish(3..=6_usize),
        3 => recycle,
        2 => state().prop_map(Verb::Snapshot),
        2 => Just(Verb::Cut),
        8 => begin,
        26 => single,
        5 => many,
        2 => add,
        24 => several,
        1 => Just(Verb::Fork),
        1 => Just(Verb::Kill),
    ]
}

pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    // A process does some things in a row, or transactions would hardly ever get through.
    let turn = (0..60_usize, prop::collection::vec(verb(), 1..10));
    let turn = turn.prop_map(|(actor, verbs)| {
        let step = move |verb| Step { actor, verb };
        verbs.into_iter().map(step).collect::<Vec<_>>()
    });
    prop::collection::vec(turn, 1..25).prop_map(|turns| turns.concat())
}
