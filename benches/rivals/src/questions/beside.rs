//! Reading beside a writer: what it costs, and whether what is read is whole.

use super::{Asking, bytes, readers};
use crate::Result;
use crate::matrix::{Entry, Rounds, measure, samples, total};
use crate::place::{WRITER, reader};
use crate::record::{Cell, Figures};
use crate::task::{Actor, Task};

/// A fast sensor.
const RATE_HZ: u32 = 100_000;

fn is_read(task: Task) -> bool {
    matches!(task, Task::ReadBeside)
}

fn is_check(task: Task) -> bool {
    matches!(task, Task::Check)
}

fn writes(task: Task) -> bool {
    matches!(task, Task::PublishBeside | Task::Pace { .. })
}

fn is_publish(task: Task) -> bool {
    matches!(task, Task::PublishBeside)
}

/// How the writer goes.
#[derive(Clone, Copy)]
enum Pace {
    Rate,
    FlatOut,
}

pub(super) fn ask(asking: &mut Asking<'_>) -> Result<Vec<Cell>> {
    let mut timed = Vec::new();
    let mut checked = Vec::new();
    for size in [64, 512, 4096] {
        for (pace, how) in [(Pace::Rate, "100 kHz"), (Pace::FlatOut, "flat out")] {
            for peer in readers(asking) {
                if peer.id() == "memcpy" {
                    continue;
                }
                let case = format!("{}, writer at {how}", bytes(size));
                let case = case.replace("at flat", "flat");
                let beside = |task| {
                    vec![
                        writer(pace),
                        Actor {
                            task,
                            processor: reader(0),
                        },
                    ]
                };
                let reading = beside(Task::ReadBeside);
                timed.push(Entry::new(&case, peer, size, reading));
                checked.push(Entry::new(&case, peer, size, beside(Task::Check)));
            }
        }
    }
    let mut cells = measure(
        "beside",
        asking.stage,
        asking.extent,
        timed,
        |entry, rounds| {
            let torn = total(entry, rounds, is_read, |outcome| outcome.torn as f64);
            let writer = Figures::of(&samples(entry, rounds, is_publish));
            let figures = Figures::of(&samples(entry, rounds, is_read))
                .with_count("torn_ends", torn)
                .with_count("writes_a_second", rate(entry, rounds));
            match writer.samples {
                0 => figures,
                _ => figures.with_count("publish_p50_ns", writer.p50),
            }
        },
    )?;
    let checks = measure(
        "beside, checked",
        asking.stage,
        asking.extent,
        checked,
        |entry, rounds| {
            let torn = total(entry, rounds, is_check, |outcome| outcome.torn as f64);
            let reads = total(entry, rounds, is_check, |outcome| outcome.operations as f64);
            Figures::flat(0.0)
                .with_count("torn", torn)
                .with_count("checked", reads)
        },
    )?;
    // Every word was compared where nothing was timed: both belong to one cell.
    for (cell, check) in cells.iter_mut().zip(checks) {
        if let (Some(into), Some(from)) = (&mut cell.figures, check.figures) {
            into.counts.extend(from.counts);
        }
    }
    Ok(cells)
}

fn writer(pace: Pace) -> Actor {
    let task = match pace {
        Pace::Rate => Task::Pace { hz: RATE_HZ },
        Pace::FlatOut => Task::PublishBeside,
    };
    Actor {
        task,
        processor: WRITER,
    }
}

/// Publications a second.
fn rate(entry: &Entry, rounds: &Rounds) -> f64 {
    let operations = total(entry, rounds, writes, |outcome| outcome.operations as f64);
    operations / total(entry, rounds, writes, |outcome| outcome.seconds)
}
