//! Which processes the demo has, and what each is there to show.

/// What a process of the demo does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// Serves the file system.
    Daemon,
    /// Samples this machine into states.
    Publisher,
    /// Counts in a state in which another process counts, too.
    FirstCounter,
    /// The other process.
    SecondCounter,
    /// Reads whenever it likes.
    AtWill,
    /// Waits for each change.
    EachChange,
    /// Looks at most four times a second.
    FourASecond,
    /// Uses plain file calls.
    PlainFile,
}

impl Role {
    /// Every role, in the order in which they are started and shown.
    pub(super) const ALL: [Self; 8] = [
        Self::Daemon,
        Self::Publisher,
        Self::FirstCounter,
        Self::SecondCounter,
        Self::AtWill,
        Self::EachChange,
        Self::FourASecond,
        Self::PlainFile,
    ];

    /// As it is shown, and given to a process.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Daemon => "daemon",
            Self::Publisher => "publisher",
            Self::FirstCounter => "counter-1",
            Self::SecondCounter => "counter-2",
            Self::AtWill => "at-will",
            Self::EachChange => "each-change",
            Self::FourASecond => "four-a-second",
            Self::PlainFile => "plain-file",
        }
    }

    /// The process's name in `ps` and `top`, at most 15 bytes.
    pub(super) const fn process_name(self) -> &'static std::ffi::CStr {
        match self {
            Self::Daemon => c"kstate-daemon",
            Self::Publisher => c"kstate-publish",
            Self::FirstCounter => c"kstate-count-1",
            Self::SecondCounter => c"kstate-count-2",
            Self::AtWill => c"kstate-at-will",
            Self::EachChange => c"kstate-change",
            Self::FourASecond => c"kstate-4-a-sec",
            Self::PlainFile => c"kstate-file",
        }
    }

    /// What it does, in a few words.
    pub(super) const fn does(self) -> &'static str {
        match self {
            Self::Daemon => "serves the files, and cleans up after the dead",
            Self::Publisher => "samples this machine into four states",
            Self::FirstCounter | Self::SecondCounter => "adds 1 to `count`, by transactions",
            Self::AtWill => "reads everything at random times, through the map",
            Self::EachChange => "waits for each change of `cpu`",
            Self::FourASecond => "sees `memory` at most 4 times a second",
            Self::PlainFile => "open, poll and read of the file `load`, no library",
        }
    }

    /// The role of that name.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    /// Whether it writes states.
    pub(super) const fn is_writer(self) -> bool {
        matches!(
            self,
            Self::Publisher | Self::FirstCounter | Self::SecondCounter
        )
    }

    /// Whether it reads states, and so has to end with the last value.
    pub(super) const fn is_consumer(self) -> bool {
        matches!(
            self,
            Self::AtWill | Self::EachChange | Self::FourASecond | Self::PlainFile
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_have_names_of_their_own() {
        for role in Role::ALL {
            assert_eq!(Role::named(role.name()), Some(role));
            assert!(role.process_name().count_bytes() <= 15);
            let kinds = [role == Role::Daemon, role.is_writer(), role.is_consumer()];
            assert_eq!(kinds.iter().filter(|kind| **kind).count(), 1, "{role:?}");
        }
        assert_eq!(Role::named("other"), None);
    }
}
