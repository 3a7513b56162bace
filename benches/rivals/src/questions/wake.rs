//! From a publication until who slept holds the value.

use super::Asking;
use crate::Result;
use crate::matrix::{Entry, Rounds, measure, samples, total};
use crate::place::{WRITER, reader};
use crate::record::{Cell, Figures};
use crate::task::{Actor, Task};

/// Bytes of the value.
const SIZE: usize = 64;

fn is_follow(task: Task) -> bool {
    matches!(task, Task::Follow { .. })
}

fn is_tell(task: Task) -> bool {
    matches!(task, Task::Tell { .. })
}

pub(super) fn ask(asking: &mut Asking<'_>) -> Result<Vec<Cell>> {
    let turns = asking.extent.turns;
    let mut entries = Vec::new();
    for (place, processor) in [
        ("another processor", reader(0)),
        ("the same processor", WRITER),
    ] {
        for peer in &asking.peers {
            // Who spins on the writer's processor sees the value when its time slice is over.
            if peer.id() == "memcpy" || (peer.id() == "ring" && processor == WRITER) {
                continue;
            }
            let follower = Actor {
                task: Task::Follow { turns },
                processor,
            };
            let teller = Actor {
                task: Task::Tell { turns },
                processor: WRITER,
            };
            entries.push(Entry::new(place, *peer, SIZE, vec![follower, teller]));
        }
    }
    measure("wake", asking.stage, asking.extent, entries, figures)
}

fn figures(entry: &Entry, rounds: &Rounds) -> Figures {
    let samples = samples(entry, rounds, is_follow);
    let missed = total(entry, rounds, is_tell, |outcome| outcome.attempts as f64);
    Figures::of(&samples)
        .with_histogram(&samples)
        .with_count("missed", missed)
}
