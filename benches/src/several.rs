//! What committing several states at once costs beside committing each by itself.

use std::hint::black_box;

use kstate::{State, TransactManyError};

use crate::alternate::alternate;
use crate::case::Case;
use crate::place::pin;
use crate::setup::{Result, Setup};

/// Words of each state: 64 bytes.
const WORDS: usize = 8;

/// All cases.
pub(crate) fn run(blocks: usize) -> Result<Vec<Case>> {
    pin(0);
    let setup = Setup::start()?;
    let mut cases = Vec::new();
    for count in [2, 8, 32] {
        let state = |n| setup.state::<WORDS>(&format!("several.{count}.{n}"));
        let states = (0..count).map(state).collect::<Result<Vec<_>>>()?;
        cases.push(commit(&states, blocks)?);
        cases.push(cut(&states, blocks)?);
    }
    Ok(cases)
}

/// Begin, change and commit all, beside the same with each.
fn commit(states: &[State<[u64; WORDS]>], blocks: usize) -> Result<Case> {
    for state in states {
        state.publish(&[7; WORDS])?;
    }
    let together = || {
        let done = kstate::transact_many(|tx| {
            for state in states {
                tx.add(state)?;
            }
            for state in states {
                let value = tx.get_mut(state)?;
                value[0] = value[0].wrapping_add(1);
            }
            Ok::<_, TransactManyError>(())
        });
        match done {
            Ok(done) => drop(black_box(done.attempts)),
            Err(error) => panic!("{error}"),
        }
    };
    // The first asks for a record.
    together();
    let (ours, limit) = alternate(
        blocks,
        |count| (0..count).for_each(|_| together()),
        |count| {
            for _ in 0..count {
                for state in states {
                    let done = state.transact(|value| value[0] = value[0].wrapping_add(1));
                    match done {
                        Ok(done) => drop(black_box(done.attempts)),
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        },
    );
    let title = format!("commit {} states at once, beside one by one", states.len());
    Ok(Case::new(title, ours, limit))
}

/// A cut of all, beside a snapshot of each.
fn cut(states: &[State<[u64; WORDS]>], blocks: usize) -> Result<Case> {
    let readers: Vec<_> = states.iter().map(State::reader).collect();
    let (ours, limit) = alternate(
        blocks,
        |count| {
            for _ in 0..count {
                match kstate::cut(&readers[..]) {
                    Ok(cut) => drop(black_box(cut)),
                    Err(error) => panic!("{error}"),
                }
            }
        },
        |count| {
            for _ in 0..count {
                for reader in &readers {
                    match reader.snapshot() {
                        Ok(snapshot) => {
                            black_box(snapshot);
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        },
    );
    let title = format!("cut of {} states, beside snapshots", readers.len());
    Ok(Case::new(title, ours, limit))
}
