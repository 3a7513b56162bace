//! Where a value of a peer is.

use std::any::Any;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Result;

/// Where a value is, and how big: all that processes need to find it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Site {
    /// The run's directory on tmpfs, with one directory a peer, the mount and sockets in it.
    pub(crate) directory: PathBuf,
    /// The value's name: letters, digits and `_`.
    pub(crate) name: String,
    /// Its bytes, one of [`SIZES`](crate::value::SIZES).
    pub(crate) size: usize,
    /// How many values of that size there are, for who changes several at once.
    pub(crate) count: usize,
    /// An eventfd that all processes of the run have.
    pub(crate) event: i32,
    /// What threads of one process share, of a peer that reaches no further.
    #[serde(skip)]
    pub(crate) home: Option<Home>,
}

/// What keeps a value alive.
pub(crate) type Home = Arc<dyn Any + Send + Sync>;

impl Site {
    /// The kstate mount of the run.
    pub(crate) fn mount(&self) -> PathBuf {
        self.directory.join("mount")
    }

    /// The Redis server's socket.
    pub(crate) fn redis(&self) -> PathBuf {
        self.directory.join("redis.sock")
    }

    /// A directory of a peer's own.
    pub(crate) fn directory_of(&self, peer: &str) -> Result<PathBuf> {
        let directory = self.directory.join(peer);
        std::fs::create_dir_all(&directory)?;
        Ok(directory)
    }

    /// A file of a peer's own for this value.
    pub(crate) fn file_of(&self, peer: &str) -> Result<PathBuf> {
        Ok(self.directory_of(peer)?.join(&self.name))
    }

    /// Names for each of several values.
    pub(crate) fn names(&self) -> Vec<String> {
        (0..self.count)
            .map(|n| format!("{}_{n}", self.name))
            .collect()
    }

    /// What threads of this process share.
    pub(crate) fn shared<T: Any + Send + Sync>(&self) -> Result<Arc<T>> {
        let home = self.home.clone().ok_or("no threads of one process")?;
        Arc::downcast(home).map_err(|_| "another peer's home".into())
    }
}

/// Something unlike every other of its kind in the run's directory.
pub(crate) fn token(directory: &Path) -> String {
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    name.chars().filter(char::is_ascii_alphanumeric).collect()
}
