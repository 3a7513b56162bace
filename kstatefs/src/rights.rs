//! Who may read a state, where the kernel has not been asked: in what tells of many states at once.

use std::fs;

use crate::fs::Caller;
use crate::persist::opening::Ids;
use crate::state::Attributes;

/// Who somebody is, as far as rights go. A file once open keeps those of whoever opened it.
#[derive(Clone, Debug)]
pub(crate) struct Credentials {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl Credentials {
    /// Those of a caller who waits for an answer, so that its thread is there.
    pub(crate) fn of(caller: Caller) -> Self {
        let groups = match caller.uid {
            0 => Vec::new(),
            uid => supplementary_groups(caller.tid, uid),
        };
        Self {
            uid: caller.uid,
            gid: caller.gid,
            groups,
        }
    }

    pub(crate) fn uid(&self) -> u32 {
        self.uid
    }

    /// To open something with them.
    pub(crate) fn ids(&self) -> Ids {
        Ids {
            uid: self.uid,
            gid: self.gid,
            groups: self.groups.clone(),
        }
    }

    /// Whether the mode bits let them read, by the rules of path_resolution(7).
    pub(crate) fn may_read(&self, file: &Attributes) -> bool {
        let bit = match () {
            () if self.uid == 0 => return true,
            () if self.uid == file.uid => libc::S_IRUSR,
            () if self.gid == file.gid || self.groups.contains(&file.gid) => libc::S_IRGRP,
            () => libc::S_IROTH,
        };
        file.mode & bit != 0
    }
}

/// FUSE tells only the first group of a caller. None where the thread is another user's by now.
fn supplementary_groups(tid: u32, uid: u32) -> Vec<u32> {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).unwrap_or_default();
    let numbers = |key: &str| -> Vec<u32> {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let numbers = line.unwrap_or_default().split_whitespace();
        numbers.filter_map(|number| number.parse().ok()).collect()
    };
    // Real, effective, saved, and that of file systems.
    match numbers("Uid:").contains(&uid) {
        true => numbers("Groups:"),
        false => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn file(mode: u32) -> Attributes {
        Attributes {
            mode,
            uid: 10,
            gid: 20,
            changed: SystemTime::now(),
            linger: Duration::ZERO,
        }
    }

    fn who(uid: u32, gid: u32, groups: &[u32]) -> Credentials {
        let groups = groups.to_vec();
        Credentials { uid, gid, groups }
    }

    #[test]
    fn the_first_that_fits_of_owner_group_and_others_decides() {
        let root = who(0, 0, &[]);
        let owner = who(10, 99, &[]);
        let (member, other) = (who(11, 20, &[]), who(11, 99, &[98]));
        let also_member = who(11, 99, &[98, 20]);
        assert!(root.may_read(&file(0)));
        for (mode, [by_owner, by_group, by_others]) in [
            (0o400, [true, false, false]),
            (0o040, [false, true, false]),
            (0o004, [false, false, true]),
            (0o333, [false, false, false]),
        ] {
            assert_eq!(owner.may_read(&file(mode)), by_owner);
            assert_eq!(member.may_read(&file(mode)), by_group);
            assert_eq!(also_member.may_read(&file(mode)), by_group);
            assert_eq!(other.may_read(&file(mode)), by_others);
        }
    }

    #[test]
    fn groups_of_a_living_thread_are_found() {
        let ours: Vec<u32> = nix::unistd::getgroups()
            .unwrap()
            .iter()
            .map(|group| group.as_raw())
            .collect();
        let uid = nix::unistd::geteuid().as_raw();
        assert_eq!(supplementary_groups(std::process::id(), uid), ours);
        assert!(supplementary_groups(std::process::id(), uid + 1).is_empty());
        assert!(supplementary_groups(0, uid).is_empty());
    }
}
