//! States that are kept in files: what is refused, what comes back, when it is on the medium.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod choosing;
mod coming_back;
mod deleting;
mod flushing;
mod library;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use kstate_tests::{Daemon, Setup, attribute, create, replace, set_attribute};
use kstatefs::persist::{Image, StateFile};

/// A directory for files of states, which outlives daemons.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Without symbolic links on the way.
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().canonicalize().unwrap().join(name)
    }

    /// A daemon whose persistent states come back.
    fn daemon(&self) -> Daemon {
        self.daemon_with(Setup::default())
    }

    fn daemon_with(&self, setup: Setup) -> Daemon {
        let manifest = format!("--manifest={}", self.path("manifest").display());
        setup.with(manifest).start()
    }

    /// What is in the file of a state.
    fn saved(&self, name: &str) -> Image {
        let file = File::open(self.path(name)).unwrap();
        StateFile::recover(file).unwrap().1
    }
}

fn persist(daemon: &Daemon, name: &str, file: &Path) -> io::Result<()> {
    set_attribute(
        &daemon.file(name),
        "persistent",
        file.as_os_str().as_encoded_bytes(),
    )
}

fn number(daemon: &Daemon, name: &str, key: &str) -> u64 {
    attribute(&daemon.file(name), key).unwrap().parse().unwrap()
}

fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}
