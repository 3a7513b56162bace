//! What the tests share: a daemon on a directory of its own, processes that end with the test,
//! waiting with deadlines.
//!
//! Every test has its own mount, so that they run side by side; whatever way a test ends, its
//! daemon is stopped and its mount undone.

mod attributes;
mod binary;
mod board;
mod checked;
mod compiled;
mod daemon;
mod deadline;
mod figures;
mod files;
mod filter;
mod kinds;
mod manager;
mod place;
mod process;
mod root;
mod seats;
mod sleeper;
mod unit;

pub use attributes::{attribute, remove_attribute, set_attribute};
pub use binary::{kstate, kstatefs, libkstate};
pub use board::{Board, Noted};
pub use checked::{Checked, WORDS, bytes_of, checked, number_of, number_of_bytes, words};
pub use compiled::{Compiled, c_sources};
pub use daemon::{Daemon, Setup, both_transports, passthrough, unmount};
pub use deadline::{PATIENCE, eventually};
pub use figures::{open_descriptors, private_bytes, processor_ticks};
pub use files::{create, replace};
pub use filter::refuse;
pub use kinds::{Ended, Kind};
pub use manager::{ServiceManager, Told};
pub use place::Place;
pub use process::{Running, output_of};
pub use root::{User, as_user, is_real_root};
pub use seats::{begin_wait, take_seats};
pub use sleeper::Sleeper;
pub use unit::{Setting, Unit};
