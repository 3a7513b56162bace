//! The file in which a state outlives its daemon and the machine's power.
//!
//! A file has two *copies* of the state, each complete, with a checksum over all of it. A save writes
//! over the older one, and counts it as the newest only when the disk has said that it has it. So
//! whenever power fails, one copy is whole, and it is not older than what was last said to be kept.
//! What is guaranteed, and why, is in `docs/design.md` under "The persistence file"; what lies where in
//! a copy is the table in `persist/format.rs`.
//!
//! | file | what it is about |
//! |---|---|
//! | `image.rs` | what is kept of a state |
//! | `format.rs` | the bytes of a copy |
//! | `medium.rs` | where they are: a file, or what a test puts in its place |
//! | `inspection.rs` | both copies, looked at without writing |
//! | `file.rs` | making, recovering and saving |
//! | `error.rs` | why a file does not serve |
//! | `opening.rs` | opening it with the rights of whoever chose it |
//! | `locked.rs` | nobody else's while a state has it |
//! | `store.rs` | a state's file while the state lives |
//! | `flusher.rs` | the threads that save |
//! | `manifest.rs` | the list of states that come back |
//!
//! ```no_run
//! use kstatefs::persist::StateFile;
//!
//! # fn save(image: &kstatefs::persist::Image) -> Result<(), Box<dyn std::error::Error>> {
//! let file = std::fs::File::options().read(true).write(true).open("/var/lib/kstate/gps")?;
//! let (mut file, found) = StateFile::recover(file)?;
//! println!("generation {} of {}", found.generation, found.name);
//! file.save(image)?;
//! # Ok(())
//! # }
//! ```

mod error;
mod file;
mod flusher;
mod format;
mod image;
mod inspection;
mod locked;
mod manifest;
mod medium;
pub(crate) mod opening;
mod store;

pub use error::{CopyError, FileError};
pub use file::StateFile;
pub use format::{Copy, FILE_VERSION};
pub use image::Image;
pub use inspection::{FoundCopy, Inspection, inspect};
pub use medium::Medium;

pub(crate) use flusher::{Flusher, flush_last};
pub(crate) use locked::LockedFile;
pub(crate) use manifest::{Entry, Manifest};
pub(crate) use store::{Done, Figures, Store, ceiling};
