//! What a consistent snapshot costs beside a plain copy out of a ring.

use std::hint::black_box;

use kstate::Reader;

use crate::alternate::alternate;
use crate::bare::Ring;
use crate::case::Case;
use crate::place::{pin, processors};
use crate::setup::{Result, Setup};
use crate::value::{SIZES, for_size};

/// All cases.
pub(crate) fn run(blocks: usize) -> Result<Vec<Case>> {
    let two_processors = processors() > 1;
    pin(0);
    let setup = Setup::start()?;
    let mut cases = Vec::new();
    for size in SIZES {
        cases.push(for_size!(size, own_process, &setup, blocks)?);
        cases.extend(for_size!(
            size,
            two_processes,
            &setup,
            blocks,
            two_processors
        )?);
    }
    Ok(cases)
}

/// As a program does it: the value is looked at where it is, and an error ends the run.
#[inline(always)]
fn read_one<const WORDS: usize>(reader: &Reader<[u64; WORDS]>) {
    match &reader.snapshot() {
        Ok(snapshot) => {
            black_box(&snapshot.value);
        }
        Err(error) => panic!("{error}"),
    }
}

/// Reader and writer in one process, nobody writing meanwhile.
fn own_process<const WORDS: usize>(setup: &Setup, blocks: usize) -> Result<Case> {
    let size = WORDS * 8;
    let name = format!("read.own.{size}");
    let state = setup.state::<WORDS>(&name)?;
    let bare = Ring::<[u64; WORDS]>::open(&setup.bare_file(&name)?)?;
    state.publish(&[7; WORDS])?;
    bare.publish(&[7; WORDS]);
    let reader = state.reader();
    let (ours, limit) = alternate(
        blocks,
        |count| {
            for _ in 0..count {
                read_one(&reader);
            }
        },
        |count| {
            for _ in 0..count {
                let value = bare.read();
                black_box(&value);
            }
        },
    );
    Ok(Case::new(format!("snapshot {size} B"), ours, limit))
}

/// The value was written by another process; then beside that process writing flat out.
fn two_processes<const WORDS: usize>(
    setup: &Setup,
    blocks: usize,
    two_processors: bool,
) -> Result<Vec<Case>> {
    let size = WORDS * 8;
    let name = format!("read.two.{size}");
    let state = setup.state::<WORDS>(&name)?;
    let bare = Ring::<[u64; WORDS]>::open(&setup.bare_file(&name)?)?;
    let other = usize::from(two_processors);
    let mut cases = Vec::new();
    let reader = state.reader();
    let ours = |count| {
        for _ in 0..count {
            read_one(&reader);
        }
    };
    let limit = |count| {
        for _ in 0..count {
            let value = bare.read();
            black_box(&value);
        }
    };
    {
        let mut writer = setup.writer(&name, size, other)?;
        writer.write_bare()?;
        writer.write_ours()?;
    }
    let (a, b) = alternate(blocks, ours, limit);
    let title = format!("snapshot {size} B, written by another process");
    cases.push(Case::new(title, a, b));
    if other == 1 {
        // In turn: while ours is read the writer writes ours, while the limit is read the limit.
        let mut writer = setup.writer(&name, size, other)?;
        let rounds = 8;
        let blocks = (blocks / rounds).max(20);
        let mut measured = Vec::new();
        for _ in 0..rounds {
            writer.write_ours()?;
            let (a, _) = alternate(blocks, ours, |_| {});
            writer.write_bare()?;
            let (b, _) = alternate(blocks, limit, |_| {});
            measured.push((a, b));
        }
        measured.sort_by(|x, y| (x.0.p50 / x.1.p50).total_cmp(&(y.0.p50 / y.1.p50)));
        let (a, b) = measured[measured.len() / 2];
        cases.push(Case::new(
            format!("snapshot {size} B, beside a flat-out writer"),
            a,
            b,
        ));
    }
    Ok(cases)
}
