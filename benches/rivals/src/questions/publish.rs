//! Making a value the newest, nobody reading meanwhile.

use super::{Asking, bytes, readers};
use crate::Result;
use crate::matrix::{Entry, Rounds, measure, samples};
use crate::place::WRITER;
use crate::record::{Cell, Figures};
use crate::task::{Actor, Task};
use crate::value::SIZES;

fn is_publish(task: Task) -> bool {
    matches!(task, Task::Publish { .. })
}

pub(super) fn ask(asking: &mut Asking<'_>) -> Result<Vec<Cell>> {
    let mut entries = Vec::new();
    for size in SIZES {
        for peer in readers(asking) {
            for stamped in [false, true] {
                let actor = Actor {
                    task: Task::Publish { stamped },
                    processor: WRITER,
                };
                let case = match stamped {
                    false => bytes(size),
                    true => format!("{}, stamped", bytes(size)),
                };
                entries.push(Entry::new(case, peer, size, vec![actor]));
            }
        }
    }
    measure("publish", asking.stage, asking.extent, entries, figures)
}

fn figures(entry: &Entry, rounds: &Rounds) -> Figures {
    Figures::of(&samples(entry, rounds, is_publish))
}
