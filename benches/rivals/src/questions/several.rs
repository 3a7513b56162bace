//! Changing several values as one, and reading them as of one moment.

use super::{Asking, readers};
use crate::Result;
use crate::matrix::{Entry, Rounds, measure, samples};
use crate::place::reader;
use crate::record::{Cell, Figures};
use crate::task::{Actor, Task};

/// Bytes of each value.
const SIZE: usize = 64;
/// How many there are.
const COUNTS: [usize; 3] = [2, 8, 32];

pub(super) fn ask(asking: &mut Asking<'_>) -> Result<Vec<Cell>> {
    let mut entries = Vec::new();
    for count in COUNTS {
        for peer in readers(asking) {
            for (what, task) in [("change", Task::CommitSeveral), ("read", Task::ReadSeveral)] {
                let actor = Actor {
                    task,
                    processor: reader(0),
                };
                let case = format!("{what} {count}");
                let mut entry = Entry::new(case, peer, SIZE, vec![actor]);
                entry.count = count;
                entries.push(entry);
            }
        }
    }
    measure("several", asking.stage, asking.extent, entries, figures)
}

fn figures(entry: &Entry, rounds: &Rounds) -> Figures {
    Figures::of(&samples(entry, rounds, |_| true))
}
