//! What is kept of a state.

use std::time::Duration;

use kstate_sys::name::StateName;

/// What is kept of a state: one version with all that brings the state back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its name.
    pub name: StateName,
    /// Which version this is.
    pub generation: u64,
    /// Generations up to this may have been given out already; a restored state goes on above it.
    pub ceiling: u64,
    /// Written at an orderly end: no later version was given out.
    pub clean: bool,
    /// Permission bits with the sticky bit.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Room for values, in bytes.
    pub capacity: u32,
    /// The layout that its first typed subscriber recorded: id, and text of at most 960 bytes.
    pub layout: Option<(u64, String)>,
    /// How long the state outlives its last subscriber.
    pub linger: Duration,
    /// How long after a commit the next one is expected.
    pub deadline: Option<Duration>,
    /// Where commits are announced: bits of [`Sinks`](kstate_sys::announce::Sinks).
    pub announce: u32,
    /// How soon a commit is flushed; [`Duration::ZERO`]: each commit at once, in the background.
    pub within: Duration,
    /// When the version was committed, since the Unix epoch; `None` if not stamped.
    pub time: Option<Duration>,
    /// The value: at most a page of the machine that made the file.
    pub value: Vec<u8>,
}
