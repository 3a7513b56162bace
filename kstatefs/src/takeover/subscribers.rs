//! Who has regions mapped, by a look at each process.
//!
//! A region that was passed through shows in `/proc/PID/maps` as the file of the state: with the device
//! number of the mount it was opened on, dead and detached or not, and the state's inode number. A memfd
//! shows with its own inode number, and the name it was given, which those of other mounts have as well.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use kstate_sys::ioctl::Groups;
use nix::sys::stat::fstat;

use crate::backing::Transport;
use crate::fs::Shared;
use crate::holder;
use crate::ledger::Model;
use crate::namespace::processes;
use crate::process::Identity;
use crate::state::State;

/// What a look at all processes has found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The states that each process has mapped, by their numbers.
    pub(super) mapped: HashMap<Identity, HashSet<u64>>,
    /// Device numbers under which any are.
    pub(super) minors: HashSet<u64>,
    /// The processes that could be looked at.
    looked_at: HashSet<i32>,
}

/// Looks at each process that this one may look at, or at those `among` all that are given.
///
/// # Cost
///
/// Some 50 microseconds a process, more for one with many mappings.
pub(super) fn find(
    model: &Model,
    states: &HashMap<u64, Arc<State>>,
    among: Option<&HashSet<i32>>,
) -> Found {
    let mut found = Found::default();
    let regions = Regions {
        model,
        by_inode: match model.head.transport {
            Transport::Passthrough => HashMap::new(),
            Transport::Socket => {
                let inode = |(ino, state): (&u64, &Arc<State>)| {
                    let stat = state.region_file().with(|fd| Ok(fstat(fd)?)).ok()?;
                    Some((stat.st_ino, *ino))
                };
                states.iter().filter_map(inode).collect()
            }
        },
    };
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    // This one has mapped what it takes over.
    let is_asked = |pid: &i32| *pid != own && among.is_none_or(|among| among.contains(pid));
    for pid in processes().filter(is_asked) {
        // Before the look: were it another process by then, it would not be found again.
        let Ok(identity) = Identity::of(pid) else {
            continue;
        };
        // Those have what a program had that split them off, and use none of it.
        let name = std::fs::read(format!("/proc/{pid}/comm"));
        if name.is_ok_and(|name| name.trim_ascii_end() == holder::PROCESS.to_bytes()) {
            continue;
        }
        // Of another user's process, or of one that has just ended, nothing is known.
        let Ok(maps) = std::fs::read(format!("/proc/{pid}/maps")) else {
            continue;
        };
        found.looked_at.insert(pid);
        for line in maps.split(|byte| *byte == b'\n') {
            if let Some((minor, ino)) = regions.of(line) {
                found.mapped.entry(identity).or_default().insert(ino);
                found.minors.extend(minor);
            }
        }
    }
    found
}

/// Looks whether who had states open at a daemon before this one, and has not returned, has them mapped still;
/// whether there are such.
pub(crate) fn look_again(shared: &Shared) -> bool {
    let states: HashMap<_, _> = shared
        .states()
        .into_iter()
        .map(|state| (state.ino(), state))
        .collect();
    let awaited: Vec<_> = states
        .values()
        .flat_map(|state| {
            state
                .absent()
                .into_iter()
                .map(move |process| (state, process))
        })
        .filter_map(|(state, process)| Some((state, process, shared.reaper.identity(process)?)))
        .collect();
    let pids = awaited
        .iter()
        .map(|(_, _, identity)| identity.pid)
        .collect();
    let found = shared
        .common
        .ledger
        .model(|model| find(model, &states, Some(&pids)));
    let Some(found) = found else { return false };
    let mut is_anybody = false;
    for (state, process, identity) in awaited {
        let mapped = found.mapped.get(&identity);
        let has_it = mapped.is_some_and(|mapped| mapped.contains(&state.ino()));
        // Who cannot be looked at may have it.
        if has_it || !found.looked_at.contains(&identity.pid) {
            is_anybody = true;
        } else {
            state.end_absence(&shared.reaper, process, &Groups::default());
        }
    }
    is_anybody
}

/// What to look for.
struct Regions<'a> {
    model: &'a Model,
    /// States by the inode numbers of their memfds.
    by_inode: HashMap<u64, u64>,
}

impl Regions<'_> {
    /// The number of the state whose region a line of `/proc/PID/maps` shows, and for a file the minor
    /// device number: `address perms offset major:minor inode path` (proc_pid_maps(5)).
    fn of(&self, line: &[u8]) -> Option<(Option<u64>, u64)> {
        let line = std::str::from_utf8(line).ok()?;
        let mut fields = line.splitn(6, ' ');
        let device = fields.nth(3)?;
        let inode = fields.next()?.parse().ok()?;
        let path = fields.next()?.trim_start();
        let path = path.strip_suffix(" (deleted)").unwrap_or(path);
        if path.starts_with("/memfd:kstate-") {
            return Some((None, *self.by_inode.get(&inode)?));
        }
        let (_, minor) = device.split_once(':')?;
        let minor = u64::from_str_radix(minor, 16).ok()?;
        let name = self.model.states.get(&inode)?.name.as_str();
        // The number of a device that is gone is given to another: there the name is another, most
        // likely.
        let is_it = device.starts_with("00:")
            && self.model.head.minors.contains(&minor)
            && path.rsplit('/').next() == Some(name);
        is_it.then_some((Some(minor), inode))
    }
}
