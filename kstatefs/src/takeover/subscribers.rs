//! Who has regions mapped, by a look at each process.
//!
//! A region that was passed through shows in `/proc/PID/maps` as the file of the state: with the device
//! number of the mount it was opened on, dead and detached or not, and the state's inode number. A memfd
//! shows by the name it was given.

use std::collections::{HashMap, HashSet};

use crate::ledger::Model;
use crate::namespace::processes;
use crate::process::Identity;

/// What a look at all processes has found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The states that each process has mapped, by their numbers.
    pub(super) mapped: HashMap<Identity, HashSet<u64>>,
    /// Device numbers under which any are.
    pub(super) minors: HashSet<u64>,
}

/// Looks at each process that this one may look at.
///
/// # Cost
///
/// Some 50 microseconds a process, more for one with many mappings.
pub(super) fn find(model: &Model) -> Found {
    let mut found = Found::default();
    for pid in processes() {
        // Before the look: were it another process by then, it would not be found again.
        let Ok(identity) = Identity::of(pid) else {
            continue;
        };
        // Of another user's process, or of one that has just ended, nothing is known.
        let Ok(maps) = std::fs::read(format!("/proc/{pid}/maps")) else {
            continue;
        };
        for line in maps.split(|byte| *byte == b'\n') {
            if let Some((minor, ino)) = region(line, model) {
                found.mapped.entry(identity).or_default().insert(ino);
                found.minors.extend(minor);
            }
        }
    }
    found
}

/// The number of the state whose region a line of `/proc/PID/maps` shows, and for a file the minor device
/// number: `address perms offset major:minor inode path` (proc_pid_maps(5)).
fn region(line: &[u8], model: &Model) -> Option<(Option<u64>, u64)> {
    let line = std::str::from_utf8(line).ok()?;
    let mut fields = line.splitn(6, ' ');
    let device = fields.nth(3)?;
    let (inode, path) = (fields.next()?, fields.next()?.trim_start());
    if let Some(rest) = path.strip_prefix("/memfd:kstate-") {
        let ino = rest.strip_suffix(" (deleted)")?.parse().ok()?;
        return model.states.contains_key(&ino).then_some((None, ino));
    }
    let (major, minor) = device.split_once(':')?;
    if major != "00" {
        return None;
    }
    let minor = u64::from_str_radix(minor, 16).ok()?;
    let ino = inode.parse().ok()?;
    let name = model.states.get(&ino)?.name.as_str();
    // The number of a device that is gone is given to another: there the name is another, most likely.
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    let is_it = model.head.minors.contains(&minor) && path.rsplit('/').next() == Some(name);
    is_it.then_some((Some(minor), ino))
}
