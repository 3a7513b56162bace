//! Starting a server, and opening a value until it was read once.

use std::time::Instant;

use super::{Asking, readers};
use crate::Result;
use crate::matrix::{Entry, Rounds, measure, samples};
use crate::place::reader;
use crate::record::{Cell, Figures};
use crate::stage::start_daemon;
use crate::task::{Actor, Task};

/// Bytes of the value.
const SIZE: usize = 64;
/// Where servers are not needed.
const NO_SERVER: &str = "has no server";

pub(super) fn ask(asking: &mut Asking<'_>) -> Result<Vec<Cell>> {
    let mut entries = Vec::new();
    for peer in readers(asking) {
        let actor = Actor {
            task: Task::Subscribe,
            processor: reader(0),
        };
        entries.push(Entry::new("open and read once", peer, SIZE, vec![actor]));
    }
    let mut cells = measure("start", asking.stage, asking.extent, entries, figures)?;
    for peer in readers(asking) {
        let started = match peer.id() {
            "kstate" => Ok(daemon(asking)?),
            "redis" => match asking.stage.redis() {
                Ok(server) => Ok(Figures::flat(server.started_in.as_secs_f64() * 1e9)),
                Err(why) => Err(why.clone()),
            },
            "kstate-c" | "kstate-file" => Err("the same server as above".to_owned()),
            _ => Err(NO_SERVER.to_owned()),
        };
        cells.push(Cell {
            question: "start".to_owned(),
            case: "start the server".to_owned(),
            peer: peer.id().to_owned(),
            cannot: started.as_ref().err().cloned(),
            figures: started.ok(),
            seen: None,
        });
    }
    Ok(cells)
}

/// From the start of a process until it says that it has mounted.
fn daemon(asking: &Asking<'_>) -> Result<Figures> {
    let mut samples = Vec::new();
    for _ in 0..asking.extent.rounds {
        let directory = tempfile::Builder::new()
            .prefix("kstate-rivals-")
            .tempdir_in("/dev/shm")?;
        let (mount, backing) = (
            directory.path().join("mount"),
            directory.path().join("backing"),
        );
        std::fs::create_dir(&mount)?;
        std::fs::create_dir(&backing)?;
        let start = Instant::now();
        let daemon = start_daemon(&mount, &backing)?;
        samples.push(vec![start.elapsed().as_secs_f32() * 1e9]);
        drop(daemon);
    }
    Ok(Figures::of(&samples))
}

fn figures(entry: &Entry, rounds: &Rounds) -> Figures {
    Figures::of(&samples(entry, rounds, |_| true))
}
