//! What an inode number names.

use crate::intents::Part;
use crate::view::View;

/// A file or directory of the mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    /// The directory of states.
    Root,
    /// `.kstate`.
    Control,
    /// `.kstate/registry`.
    Registry,
    /// `.kstate/intents`.
    Intents,
    /// `.kstate/version`, `states`, `metrics`.
    Report(Report),
    /// `.kstate/changes`, or with a prefix `.kstate/changes@…`, by its number.
    Changes(u64),
    /// A state, by its own number.
    State(u64),
    /// A view of one.
    View(u64, View),
    /// A page of a record in `.kstate/intents`.
    Record(u32, Part),
    /// None there ever was.
    Unknown,
}

/// What is told of the mount as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    Version,
    States,
    Metrics,
}

/// Every report with its name in `.kstate`.
pub(crate) const REPORTS: [(Report, &str); 3] = [
    (Report::Version, "version"),
    (Report::States, "states"),
    (Report::Metrics, "metrics"),
];

/// As FUSE fixes it.
const ROOT: u64 = 1;
const CONTROL: u64 = 2;
const REGISTRY: u64 = 3;
const INTENTS: u64 = 4;
const FIRST_REPORT: u64 = 5;
/// `.kstate/changes` without a prefix.
pub(crate) const ALL_CHANGES: u64 = 8;
/// The first state's; numbers are never used again.
pub(crate) const FIRST_STATE: u64 = 16;
/// How far the numbers of states can go: 3 years of one every 100 microseconds.
pub(crate) const STATE_BITS: u32 = 40;
/// From here on, two a record.
const FIRST_RECORD_FILE: u64 = 1 << 48;
/// From here on, streams of changes with a prefix.
pub(crate) const FIRST_FILTER: u64 = 1 << 56;
/// Of a view, above its code and the state's number.
const VIEW: u64 = 1 << 62;

const _: () = assert!(View::CODE_BITS + STATE_BITS == 62);

impl Node {
    pub(crate) fn from_ino(ino: u64) -> Self {
        match ino {
            ROOT => Self::Root,
            CONTROL => Self::Control,
            REGISTRY => Self::Registry,
            INTENTS => Self::Intents,
            ALL_CHANGES => Self::Changes(ino),
            _ if ino < FIRST_STATE => {
                let mut reports = REPORTS.iter().map(|(report, _)| Self::Report(*report));
                reports
                    .find(|node| node.ino() == ino)
                    .unwrap_or(Self::Unknown)
            }
            _ if ino < FIRST_RECORD_FILE => Self::State(ino),
            _ if ino < FIRST_FILTER => {
                let part = match ino.is_multiple_of(2) {
                    true => Part::Status,
                    false => Part::List,
                };
                let number = u32::try_from((ino - FIRST_RECORD_FILE) / 2);
                number.map_or(Self::Unknown, |number| Self::Record(number, part))
            }
            _ if ino < VIEW => Self::Changes(ino),
            _ => {
                let state = ino & ((1 << STATE_BITS) - 1);
                Self::View(state, View::from_code((ino & !VIEW) >> STATE_BITS))
            }
        }
    }

    pub(crate) fn ino(self) -> u64 {
        match self {
            Self::Root => ROOT,
            Self::Control => CONTROL,
            Self::Registry => REGISTRY,
            Self::Intents => INTENTS,
            Self::Report(report) => FIRST_REPORT + report as u64,
            Self::Changes(ino) | Self::State(ino) => ino,
            Self::View(state, view) => VIEW | view.code() << STATE_BITS | state,
            Self::Record(number, part) => {
                FIRST_RECORD_FILE + u64::from(number) * 2 + u64::from(part == Part::List)
            }
            Self::Unknown => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_is_its_number() {
        let (_, view) = View::split(b"a@4hz,wait").unwrap().unwrap();
        let last = (1 << STATE_BITS) - 1;
        let mut nodes = vec![
            Node::Root,
            Node::Control,
            Node::Registry,
            Node::Intents,
            Node::Changes(ALL_CHANGES),
            Node::Changes(FIRST_FILTER),
            Node::Changes(VIEW - 1),
            Node::State(FIRST_STATE),
            Node::State(last),
            Node::View(FIRST_STATE, view),
            Node::View(last, view),
            Node::View(last, View::default()),
            Node::Record(0, Part::Status),
            Node::Record(u32::MAX, Part::List),
        ];
        nodes.extend(REPORTS.map(|(report, _)| Node::Report(report)));
        for node in nodes {
            assert_eq!(Node::from_ino(node.ino()), node);
        }
        assert_eq!(Node::from_ino(0), Node::Unknown);
        assert_eq!(Node::from_ino(FIRST_STATE - 1), Node::Unknown);
    }
}
