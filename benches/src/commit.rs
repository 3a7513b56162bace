//! What publishing costs beside a plain copy and compare-and-swap.

use std::hint::black_box;

use kstate::{Stamping, State};

use crate::alternate::alternate;
use crate::bare::{Locked, Ring};
use crate::case::Case;
use crate::place::pin;
use crate::setup::{Result, Setup};
use crate::value::{SIZES, for_size};

/// All cases.
pub(crate) fn run(blocks: usize) -> Result<Vec<Case>> {
    pin(0);
    let setup = Setup::start()?;
    let mut cases = Vec::new();
    for size in SIZES {
        cases.extend(for_size!(size, publish, &setup, blocks)?);
    }
    Ok(cases)
}

fn publish<const WORDS: usize>(setup: &Setup, blocks: usize) -> Result<Vec<Case>> {
    let size = WORDS * 8;
    let name = format!("publish.{size}");
    let bare = Ring::<[u64; WORDS]>::open(&setup.bare_file(&name)?)?;
    let locked = Locked::<[u64; WORDS]>::open(&setup.bare_file(&format!("locked.{size}"))?)?;
    let state = setup.state::<WORDS>(&name)?;
    let stamped = setup.state::<WORDS>(&format!("stamped.{size}"))?;
    stamped.set_stamping(Stamping::CommitTime);
    let armed = setup.state::<WORDS>(&format!("armed.{size}"))?;
    let _live = armed.live()?;
    let value = [7_u64; WORDS];
    // A first version each, so that nothing is done for the first time when it is timed.
    for state in [&state, &stamped, &armed] {
        state.publish(&value)?;
    }
    let mut cases = Vec::new();
    let plain = |count| {
        for _ in 0..count {
            publish_one(&state, &value);
        }
    };
    let (ours, limit) = alternate(blocks, plain, |count| {
        for _ in 0..count {
            bare.publish(black_box(&value));
        }
    });
    cases.push(Case::new(format!("publish {size} B"), ours, limit));
    let stamping = |count| {
        for _ in 0..count {
            publish_one(&stamped, &value);
        }
    };
    let (ours, limit) = alternate(blocks, stamping, plain);
    let title = format!("publish {size} B with commit time, beside without");
    cases.push(Case::new(title, ours, limit));
    let refreshing = |count| {
        for _ in 0..count {
            publish_one(&armed, &value);
        }
    };
    let (with, without) = alternate(blocks, refreshing, plain);
    let (lock, _) = alternate(
        blocks,
        |count| {
            for _ in 0..count {
                locked.copy();
            }
        },
        plain,
    );
    let title = format!("live page {size} B, beside a copy under a lock");
    let extra = (with.p50 - without.p50, with);
    cases.push(Case::with_costs(title, extra, (lock.p50, lock)));
    Ok(cases)
}

/// As a program does it: what comes back is looked at, and an error ends the run.
#[inline(always)]
fn publish_one<const WORDS: usize>(state: &State<[u64; WORDS]>, value: &[u64; WORDS]) {
    match state.publish(black_box(value)) {
        Ok(generation) => {
            black_box(generation);
        }
        Err(error) => panic!("{error}"),
    }
}
