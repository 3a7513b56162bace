//! Read, modify and write, so that no change of others is lost.

use super::{Asking, readers};
use crate::Result;
use crate::matrix::{Entry, Rounds, measure, samples, total};
use crate::place::processors;
use crate::record::{Cell, Figures};
use crate::task::{Actor, Task};

/// Bytes of the value.
const SIZE: usize = 64;
/// How many change it at the same time.
const WRITERS: [usize; 4] = [1, 2, 4, 8];

fn is_update(task: Task) -> bool {
    matches!(task, Task::Update)
}

pub(super) fn ask(asking: &mut Asking<'_>) -> Result<Vec<Cell>> {
    let mut entries = Vec::new();
    for count in WRITERS {
        for peer in readers(asking) {
            let actor = |n| Actor {
                task: Task::Update,
                processor: n % processors(),
            };
            let case = match count {
                1 => "1 writer".to_owned(),
                _ => format!("{count} writers"),
            };
            let actors = (0..count).map(actor).collect();
            let mut entry = Entry::new(case, peer, SIZE, actors);
            entry.anew = true;
            entries.push(entry);
        }
    }
    measure("update", asking.stage, asking.extent, entries, figures)
}

fn figures(entry: &Entry, rounds: &Rounds) -> Figures {
    let operations = total(entry, rounds, is_update, |outcome| {
        outcome.operations as f64
    });
    let attempts = total(entry, rounds, is_update, |outcome| outcome.attempts as f64);
    let seconds = total(entry, rounds, is_update, |outcome| outcome.seconds);
    let writers = entry.actors.len() as f64;
    // Warm-up counts as well: it changed the value.
    let lost: f64 = rounds
        .iter()
        .map(|outcomes| {
            let done: u64 = outcomes.iter().map(|outcome| outcome.changes).sum();
            let left = outcomes.iter().filter_map(|outcome| outcome.left).max();
            done as f64 - left.unwrap_or(0) as f64
        })
        .sum();
    Figures::of(&samples(entry, rounds, is_update))
        .with_count("operations_a_second", writers * operations / seconds)
        .with_count("attempts_an_update", attempts / operations)
        .with_count("lost", lost)
}
