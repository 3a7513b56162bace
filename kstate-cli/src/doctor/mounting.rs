//! In which way a user can mount.

use kstate_sys::probe::{Feature, Status, probe_one};

/// A way of mounting a kstate file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mounting {
    /// mount(2), as root may.
    Direct,
    /// By the set-user-id program of fuse3.
    Fusermount,
    /// As root of a user namespace.
    UserNamespace,
    /// Not at all, and why.
    Impossible(&'static str),
}

impl Mounting {
    /// What this user can try, the best first; an impossibility last, and then alone.
    pub(crate) fn ways_of_this_user() -> Vec<Self> {
        let is_root = nix::unistd::geteuid().is_root();
        Self::ways(|feature| probe_one(feature).status, is_root)
    }

    /// The same from what was found out before.
    pub(super) fn ways(status: impl Fn(Feature) -> Status, is_root: bool) -> Vec<Self> {
        let can = |feature| status(feature) == Status::Available;
        // What is said to be likely counts: the daemon will try it.
        let passthrough = status(Feature::FusePassthrough) != Status::Unavailable;
        let region = can(Feature::MemfdSealing) || (passthrough && can(Feature::SharedMemory));
        let lacking = [
            (
                can(Feature::FuseDevice),
                "/dev/fuse cannot be opened: it is missing, or closed to this user",
            ),
            (
                can(Feature::PidfdOpen),
                "pidfd_open(2) is refused, and the daemon needs it",
            ),
            (
                region,
                "there is neither a tmpfs nor a memfd to keep states in",
            ),
        ];
        if let Some((_, why)) = lacking.iter().find(|(has, _)| !has) {
            return vec![Self::Impossible(why)];
        }
        let mut ways = Vec::new();
        if is_root && can(Feature::CapSysAdmin) {
            ways.push(Self::Direct);
        } else if can(Feature::Fusermount) {
            ways.push(Self::Fusermount);
        }
        // Outside of the first user namespace root may still mount in its own.
        if !ways.contains(&Self::Direct) && can(Feature::UserNamespaces) {
            ways.push(Self::UserNamespace);
        }
        if ways.is_empty() {
            ways.push(Self::Impossible(match is_root {
                true => "root without CAP_SYS_ADMIN, in a container that may not mount",
                false => "it takes root, or fusermount3 (package fuse3), or user namespaces",
            }));
        }
        ways
    }

    /// For programs.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Fusermount => "fusermount3",
            Self::UserNamespace => "user-namespace",
            Self::Impossible(_) => "none",
        }
    }

    /// For people, after it was done.
    pub(crate) const fn in_words(self) -> &'static str {
        match self {
            Self::Direct => "mounted directly",
            Self::Fusermount => "mounted by fusermount3",
            Self::UserNamespace => "mounted in a user namespace",
            Self::Impossible(_) => "not mounted",
        }
    }

    /// What it means.
    pub(super) const fn meaning(self) -> &'static str {
        match self {
            Self::Direct => "mount(2), since this is root",
            Self::Fusermount => "its set-user-id program mounts for this user",
            Self::UserNamespace => "seen by the programs in that namespace only",
            Self::Impossible(why) => why,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ways(missing: &[Feature], is_root: bool) -> Vec<Mounting> {
        let status = |feature| match missing.contains(&feature) {
            true => Status::Unavailable,
            false => Status::Available,
        };
        Mounting::ways(status, is_root)
    }

    #[test]
    fn the_best_way_comes_first() {
        use Mounting::{Direct, Fusermount, UserNamespace};
        assert_eq!(ways(&[], true), [Direct]);
        assert_eq!(ways(&[], false), [Fusermount, UserNamespace]);
        assert_eq!(ways(&[Feature::Fusermount], false), [UserNamespace]);
        let contained = [Feature::CapSysAdmin, Feature::Fusermount];
        assert_eq!(ways(&contained, true), [UserNamespace]);
    }

    #[test]
    fn an_impossibility_says_what_is_missing() {
        let why = |missing: &[Feature], is_root| match ways(missing, is_root)[..] {
            [Mounting::Impossible(why)] => why,
            ref ways => panic!("{ways:?}"),
        };
        assert!(why(&[Feature::FuseDevice], true).contains("/dev/fuse"));
        let alone = [
            Feature::Fusermount,
            Feature::UserNamespaces,
            Feature::CapSysAdmin,
        ];
        assert!(why(&alone, false).contains("fuse3"));
        assert!(why(&alone, true).contains("CAP_SYS_ADMIN"));
    }
}
