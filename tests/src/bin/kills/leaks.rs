//! What is left of what was killed.

use std::fs;
use std::path::Path;

use nix::unistd::Pid;

use super::Result;

/// Directories that daemons have in `backing`, and files in those.
pub(crate) fn in_backing(backing: &Path) -> Result<(usize, usize)> {
    let (mut directories, mut files) = (0, 0);
    for entry in fs::read_dir(backing)? {
        directories += 1;
        // One that is just being removed has none.
        files += fs::read_dir(entry?.path()).map_or(0, Iterator::count);
    }
    Ok((directories, files))
}

/// How often something of ours is mounted at `mount`.
pub(crate) fn mounts_at(mount: &Path) -> Result<usize> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let point = mount.to_str().ok_or("no text")?;
    let is_there = |line: &&str| line.split(' ').nth(4) == Some(point);
    Ok(table.lines().filter(is_there).count())
}

/// Daemons of `mount`, and processes that they have forked.
pub(crate) fn daemons_of(mount: &Path) -> Result<Vec<Pid>> {
    let point = mount.as_os_str().as_encoded_bytes();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // It may be ending.
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut arguments = line.split(|byte| *byte == 0);
        let is_daemon = arguments
            .next()
            .is_some_and(|first| first.ends_with(b"kstatefs"));
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let is_dead = state
            .rsplit_once(") ")
            .is_none_or(|(_, rest)| rest.starts_with('Z'));
        if is_daemon && !is_dead && arguments.any(|argument| argument == point) {
            found.push(Pid::from_raw(pid));
        }
    }
    Ok(found)
}
