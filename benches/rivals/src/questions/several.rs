//! Changing several values as one, and reading them as of one moment.

use super::{Asking, readers};
use crate::Result;
use crate::matrix::{Entry, Rounds, measure, samples, total};
use crate::place::{WRITER, reader};
use crate::record::{Cell, Figures};
use crate::task::{Actor, Task};

/// Bytes of each value.
const SIZE: usize = 64;
/// How many there are.
const COUNTS: [usize; 3] = [2, 8, 32];

fn is_read(task: Task) -> bool {
    task == Task::ReadSeveral
}

pub(super) fn ask(asking: &mut Asking<'_>) -> Result<Vec<Cell>> {
    let mut entries = Vec::new();
    for count in COUNTS {
        for peer in readers(asking) {
            let change = Actor {
                task: Task::CommitSeveral,
                processor: WRITER,
            };
            let read = Actor {
                task: Task::ReadSeveral,
                processor: reader(0),
            };
            for (case, actors) in [
                (format!("change {count}"), vec![change]),
                (format!("read {count}"), vec![read]),
                (format!("read {count} beside changes"), vec![read, change]),
            ] {
                let mut entry = Entry::new(case, peer, SIZE, actors);
                entry.count = count;
                entries.push(entry);
            }
        }
    }
    measure("several", asking.stage, asking.extent, entries, figures)
}

fn figures(entry: &Entry, rounds: &Rounds) -> Figures {
    let torn = total(entry, rounds, is_read, |outcome| outcome.torn as f64);
    // What is asked of two is how the first fares.
    match entry.actors.first().map(|actor| actor.task) {
        Some(Task::ReadSeveral) => {
            Figures::of(&samples(entry, rounds, is_read)).with_count("torn", torn)
        }
        _ => Figures::of(&samples(entry, rounds, |_| true)),
    }
}
