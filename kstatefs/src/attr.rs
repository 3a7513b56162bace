//! What `stat` reports of a file here.

use std::time::SystemTime;

use crate::state::State;

/// Kind of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The root or `.kstate`.
    Directory,
    /// A state, or a file of `.kstate`.
    File,
}

/// Attributes of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attr {
    /// Inode number.
    pub(crate) ino: u64,
    /// Kind.
    pub(crate) kind: Kind,
    /// Permission bits with the sticky bit.
    pub(crate) mode: u32,
    /// Owner.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
    /// Length of the newest version in bytes.
    pub(crate) size: u64,
    /// Last commit.
    pub(crate) modified: SystemTime,
    /// Last change of attributes.
    pub(crate) changed: SystemTime,
    /// Block size in bytes: the page.
    pub(crate) block: u32,
}

impl Attr {
    pub(crate) fn of_state(state: &State) -> Self {
        let attributes = state.attributes();
        // A damaged region is reported when it is read; it must not hide the file from `rm`.
        let version = state.describe().ok();
        let modified = version.map_or(attributes.changed, |version| state.modified(&version));
        Self {
            ino: state.ino(),
            kind: Kind::File,
            mode: attributes.mode,
            uid: attributes.uid,
            gid: attributes.gid,
            size: version.map_or(0, |version| u64::from(version.length)),
            modified,
            changed: attributes.changed.max(modified),
            block: state.page(),
        }
    }
}
