//! What processes of a measurement are told, and what they answer.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::site::Site;

/// A scene for one process: threads that each do something to the same value at the same time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) peer: String,
    pub(crate) site: Site,
    pub(crate) actors: Vec<Actor>,
}

/// One thread.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Actor {
    pub(crate) task: Task,
    pub(crate) processor: usize,
}

/// What it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Task {
    /// Copies the value out, timed in blocks; `aged`: and asks how old it is.
    Read { aged: bool },
    /// As [`Read`](Self::Read), and only blocks count in which something was published.
    ReadBeside,
    /// Copies the value out and compares all words; not timed.
    Check,
    /// Publishes, timed in blocks; `stamped`: with the time of the commit.
    Publish { stamped: bool },
    /// Publishes for who reads beside it, timed in blocks.
    PublishBeside,
    /// Publishes that many times a second.
    Pace { hz: u32 },
    /// Sleeps until there is a newer value; timed from the publication that it holds.
    Follow { turns: usize },
    /// Publishes one value after another, each once the last was held.
    Tell { turns: usize },
    /// Reads, changes and writes.
    Update,
    /// Changes several values at once.
    CommitSeveral,
    /// Reads several values as of one moment.
    ReadSeveral,
    /// Opens the value and reads it once, again and again.
    Subscribe,
}

/// When it counts, on the clock that processes share.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Window {
    pub(crate) start_ns: u64,
    pub(crate) end_ns: u64,
}

impl Window {
    pub(crate) fn seconds(&self) -> f64 {
        Duration::from_nanos(self.end_ns - self.start_ns).as_secs_f64()
    }
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Why nothing came of it.
    pub(crate) cannot: Option<String>,
    /// Nanoseconds an operation, one sample a block.
    pub(crate) samples: Vec<f32>,
    /// Operations of all blocks.
    pub(crate) operations: u64,
    /// How long the window is.
    pub(crate) seconds: f64,
    /// The longest block.
    pub(crate) longest_ns: u64,
    /// Values that were a mixture, alone or together.
    pub(crate) torn: u64,
    /// Attempts, where those may be more than operations; values that were not seen, of who tells.
    pub(crate) attempts: u64,
    /// How often the value was changed, before the window too.
    pub(crate) changes: u64,
    /// The value's first word afterwards.
    pub(crate) left: Option<u64>,
}
