//! Memory a value, and making one, of more and more values.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

use super::{Asking, readers};
use crate::Result;
use crate::peers::Peer;
use crate::peers::Reach;
use crate::record::{Cell, Figures};
use crate::redis_server::RedisServer;
use crate::site::token;
use crate::stage::Stage;

/// Bytes of each value.
const SIZE: usize = 64;

pub(super) fn ask(asking: &mut Asking<'_>) -> Result<Vec<Cell>> {
    let counts: &[usize] = match asking.short {
        true => &[1, 1000],
        false => &[1, 1000, 10_000, 100_000],
    };
    let mut cells = Vec::new();
    for count in counts {
        eprintln!("many: {count} values");
        for peer in readers(asking) {
            let made = match (peer.id(), peer.has_many()) {
                ("kstate-c" | "kstate-file", _) => Err("the same states as kstate's".to_owned()),
                (_, true) => make(asking.stage, peer, *count)?,
                (_, false) => Err("as big as its value and what is around it".to_owned()),
            };
            cells.push(Cell {
                question: "many".to_owned(),
                case: format!("{count} of {SIZE} B"),
                peer: peer.id().to_owned(),
                cannot: made.as_ref().err().cloned(),
                figures: made.ok(),
                seen: None,
            });
        }
    }
    Ok(cells)
}

/// Makes so many, and looks what that took.
fn make(
    stage: &mut Stage,
    peer: &'static dyn Peer,
    count: usize,
) -> Result<std::result::Result<Figures, String>> {
    let site = stage.site(SIZE, count);
    let before = used(stage)?;
    let begin = Instant::now();
    let home = match peer.reach() {
        Reach::Processes => Stage::home(peer, &site).map(|home| home.ok_or("")),
        Reach::OneProcess => peer.home(&site).map(Ok).map_err(|cannot| cannot.0),
    };
    let took = begin.elapsed().as_secs_f64() * 1e9 / count as f64;
    let after = used(stage)?;
    Ok(home.map(|_| {
        Figures::flat(took).with_count("make_ns", took).with_count(
            "bytes_a_value",
            after.saturating_sub(before) as f64 / count as f64,
        )
    }))
}

/// Bytes in the run's files on tmpfs, and of the servers' and this process's own memory.
fn used(stage: &Stage) -> Result<u64> {
    let directory = stage.directory();
    // Of one who has just made much, before it is asked how much it has.
    let mut bytes = allocated(directory)?;
    let token = token(directory);
    for entry in std::fs::read_dir("/dev/shm")? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&token) {
            bytes += allocated(&entry.path())?;
        }
    }
    let servers = [
        stage.daemon_id(),
        stage.redis().as_ref().ok().map(RedisServer::id),
    ];
    for process in servers.into_iter().flatten().chain([std::process::id()]) {
        bytes += own_memory(process);
    }
    Ok(bytes)
}

/// What the files there take, without what is mounted there.
fn allocated(path: &Path) -> Result<u64> {
    // A file that goes meanwhile takes nothing.
    let Ok(data) = path.symlink_metadata() else {
        return Ok(0);
    };
    if !data.is_dir() {
        return Ok(data.blocks() * 512);
    }
    if path.ends_with("mount") {
        return Ok(0);
    }
    let mut bytes = 0;
    for entry in std::fs::read_dir(path)? {
        bytes += allocated(&entry?.path())?;
    }
    Ok(bytes)
}

/// Memory that is in no file, with the tables through which pages are found.
fn own_memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let kilobytes = |of: &str| {
        let line = status.lines().find(|line| line.starts_with(of))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    (kilobytes("RssAnon:").unwrap_or(0) + kilobytes("VmPTE:").unwrap_or(0)) * 1024
}
