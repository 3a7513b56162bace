//! Copying a value out, nobody writing meanwhile.

use super::{Asking, bytes, readers};
use crate::Result;
use crate::matrix::{Entry, Rounds, measure, samples, total};
use crate::place::reader;
use crate::record::{Cell, Figures};
use crate::task::{Actor, Task};
use crate::value::SIZES;

/// How many read at the same time.
const READERS: [usize; 3] = [1, 2, 4];

fn is_read(task: Task) -> bool {
    matches!(task, Task::Read { .. })
}

fn reading(count: usize, aged: bool) -> Vec<Actor> {
    let actor = |n| Actor {
        task: Task::Read { aged },
        processor: reader(n),
    };
    (0..count).map(actor).collect()
}

pub(super) fn ask(asking: &mut Asking<'_>) -> Result<Vec<Cell>> {
    let mut entries = Vec::new();
    for size in SIZES {
        for peer in readers(asking) {
            let case = bytes(size);
            entries.push(Entry::new(&case, peer, size, reading(1, false)));
            let case = format!("{case}, and how old it is");
            entries.push(Entry::new(case, peer, size, reading(1, true)));
        }
    }
    measure("read", asking.stage, asking.extent, entries, figures)
}

pub(super) fn ask_readers(asking: &mut Asking<'_>) -> Result<Vec<Cell>> {
    let mut entries = Vec::new();
    for size in [64, 4096] {
        for count in READERS {
            for peer in readers(asking) {
                let case = match count {
                    1 => format!("{}, 1 reader", bytes(size)),
                    _ => format!("{}, {count} readers", bytes(size)),
                };
                entries.push(Entry::new(case, peer, size, reading(count, false)));
            }
        }
    }
    measure("readers", asking.stage, asking.extent, entries, figures)
}

fn figures(entry: &Entry, rounds: &Rounds) -> Figures {
    let torn = total(entry, rounds, is_read, |outcome| outcome.torn as f64);
    let operations = total(entry, rounds, is_read, |outcome| outcome.operations as f64);
    let seconds = total(entry, rounds, is_read, |outcome| outcome.seconds);
    let at_once = entry.actors.len() as f64;
    Figures::of(&samples(entry, rounds, is_read))
        .with_count("torn", torn)
        .with_count("operations_a_second", at_once * operations / seconds)
}
