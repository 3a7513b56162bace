//! `userfaultfd(2)`: page faults of a memory range answered by the program itself.
//!
//! The names are those of the registry's `userfaultfd` crate. That crate runs bindgen, and so needs
//! libclang in every dependent's build; it stops at `EACCES` for ordinary users where only the
//! system call is open to them; and it does not know asynchronous write-protection. This one is
//! written from the kernel's `<linux/userfaultfd.h>`; a test compares every constant and layout
//! with the installed header.
//!
//! ```
//! use userfaultfd::{FeatureFlags, UffdBuilder};
//!
//! match UffdBuilder::new().require_features(FeatureFlags::SIGBUS).create() {
//!     Ok(uffd) => println!("offered here: {:?}", uffd.features()),
//!     Err(error) => println!("not here: {error}"),
//! }
//! ```
//!
//! # Two ways to find a first write
//!
//! *Synchronous* write-protection stops the writer until somebody removes the protection.
//! *Asynchronous* write-protection ([`FeatureFlags::WP_ASYNC`], Linux 6.7) stops nobody: the kernel
//! drops the protection itself, and [`Pagemap::scan`] tells which pages lost it.
//!
//! # Processes
//!
//! A [`Uffd`] and a [`Pagemap`] belong to the address space that made them. After a fork the
//! child's descriptors still name the parent's memory: the child makes its own.

mod builder;
mod error;
mod event;
mod pagemap;
mod raw;
mod uffd;

pub use crate::builder::{FeatureFlags, UffdBuilder};
pub use crate::error::{Error, Result};
pub use crate::event::{Event, FaultKind, ReadWrite};
pub use crate::pagemap::{PageFlags, PageRegion, Pagemap, Scan, ScanFlags, ScanRequest};
pub use crate::uffd::{IoctlFlags, RegisterMode, Uffd};
pub use nix::errno::Errno;
