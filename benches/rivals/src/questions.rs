//! What is asked.

mod beside;
mod killed;
mod many;
mod publish;
mod read;
mod several;
mod start;
mod update;
mod wake;

use crate::Result;
use crate::matrix::Extent;
use crate::peers::{Kind, Peer};
use crate::record::Cell;
use crate::stage::Stage;

/// What a question is asked with.
pub(crate) struct Asking<'a> {
    pub(crate) stage: &'a mut Stage,
    pub(crate) peers: Vec<&'static dyn Peer>,
    pub(crate) extent: Extent,
    pub(crate) short: bool,
}

/// A question.
pub(crate) struct Question {
    pub(crate) id: &'static str,
    pub(crate) about: &'static str,
    pub(crate) ask: fn(&mut Asking<'_>) -> Result<Vec<Cell>>,
}

/// All of them, in the order of the report.
pub(crate) const ALL: &[Question] = &[
    Question {
        id: "read",
        about: "copying a value out, nobody writing meanwhile, with and without its age",
        ask: read::ask,
    },
    Question {
        id: "readers",
        about: "the same with 1, 2 and 4 readers at the same time",
        ask: read::ask_readers,
    },
    Question {
        id: "publish",
        about: "making a value the newest, with and without the time of the commit",
        ask: publish::ask,
    },
    Question {
        id: "beside",
        about: "reading beside a writer, at 100 kHz and flat out, mixtures counted",
        ask: beside::ask,
    },
    Question {
        id: "wake",
        about: "from a publication until who slept holds the value",
        ask: wake::ask,
    },
    Question {
        id: "update",
        about: "read, modify and write, by 1 to 8 writers, lost updates counted",
        ask: update::ask,
    },
    Question {
        id: "several",
        about: "changing and reading 2, 8 and 32 values as one",
        ask: several::ask,
    },
    Question {
        id: "start",
        about: "starting a server; opening a value and reading it once",
        ask: start::ask,
    },
    Question {
        id: "many",
        about: "memory a value, and making one, of 1 to 100 000 values",
        ask: many::ask,
    },
    Question {
        id: "killed",
        about: "a reader killed, a writer killed: what the others then see",
        ask: killed::ask,
    },
];

/// Peers that were not left out with good reason: a limit that only wakes is not asked to read.
pub(crate) fn readers(asking: &Asking<'_>) -> Vec<&'static dyn Peer> {
    let wakes_only = |peer: &&dyn Peer| {
        peer.kind() == Kind::Limit && !matches!(peer.id(), "memcpy" | "ring" | "checked-ring")
    };
    let peers = asking.peers.iter().copied();
    peers.filter(|peer| !wakes_only(peer)).collect()
}

/// A size as it is called.
pub(crate) fn bytes(size: usize) -> String {
    match size {
        4096 => "4 KiB".to_owned(),
        _ => format!("{size} B"),
    }
}
