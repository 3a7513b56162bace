//! One consistent copy of a state.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::time::{Duration, SystemTime};

use kstate_sys::clock::Ticks;
use kstate_sys::name::StateName;
use kstate_sys::region::{Corruption, Generation, Version};

use crate::stamp::ClockWord;

/// A version as it was read: the value, and which version it is.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Snapshot<V> {
    /// The value; zeros if nobody has written yet.
    pub value: V,
    pub(crate) label: Label,
}

/// What is known of a version besides its bytes.
///
/// Without padding, and behind the value: a snapshot is moved in the blocks it was written in,
/// which spares the processor a stall of some 5 ns.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Label {
    generation: Generation,
    time: Ticks,
    clock: ClockWord,
    /// With [`OVERDUE`].
    length: u64,
}

/// Set in the length of a label: the next version was overdue.
const OVERDUE: u64 = 1 << 32;

/// Why a state could not be read. Handle and state are as before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The newest version is not as long as the type. Whoever published it used bytes or files.
    #[error(
        "the newest version of state `{name}` has {found} bytes, {layout} has {expected}; what \
         publishes it does not use this layout"
    )]
    Length {
        /// The state's name.
        name: StateName,
        /// Bytes of the version.
        found: u32,
        /// Bytes of the type.
        expected: usize,
        /// Description of the type.
        layout: String,
    },
    /// The newest version does not fit the buffer.
    #[error("the newest version of state `{name}` has {length} bytes, the buffer {room}")]
    TooLong {
        /// The state's name.
        name: StateName,
        /// Bytes of the version.
        length: u32,
        /// Bytes of the buffer.
        room: usize,
    },
    /// The state was deleted, and its value with it.
    #[error("state `{name}` was deleted; subscribe again to what may have taken its place")]
    Deleted {
        /// Its name.
        name: StateName,
    },
    /// A process that may write the state has written over its bookkeeping.
    #[error(
        "state `{name}` is damaged: {corruption}; a process that may write it wrote over it, \
         delete it and let it be created again"
    )]
    Damaged {
        /// The state's name.
        name: StateName,
        /// What is wrong.
        corruption: Corruption,
    },
    /// The state kept changing without a version that could be read.
    #[error(
        "no version of state `{name}` could be read in many attempts; a process that may write \
         it moves its head without publishing"
    )]
    Unstable {
        /// The state's name.
        name: StateName,
    },
    /// A transaction begun by the parent process was touched in a forked child.
    #[error(
        "the transaction on state `{name}` belongs to the process that began it; begin one in \
         the forked child"
    )]
    Forked {
        /// The state's name.
        name: StateName,
    },
    /// A commit of several states is under way, and what decides it cannot be looked at.
    #[error(
        "a commit of several states holds state `{name}`, and the record that decides it cannot be \
         mapped: {source}"
    )]
    Undecided {
        /// The state's name.
        name: StateName,
        /// The operating system's error.
        source: io::Error,
    },
    /// The state has grown, and what it grew by could not be mapped.
    #[error("state `{name}` has grown and cannot be mapped: {source}")]
    Map {
        /// The state's name.
        name: StateName,
        /// The operating system's error.
        source: io::Error,
    },
}

impl<V> Snapshot<V> {
    #[inline]
    pub(crate) fn new(value: V, version: &Version, clock: ClockWord) -> Self {
        Self {
            value,
            label: Label::new(version, clock),
        }
    }

    /// How many versions had been published up to this one; 0 if nobody has written yet.
    #[inline]
    pub const fn generation(&self) -> Generation {
        self.label.generation
    }

    /// Length of the version in bytes; 0 if nobody has written yet.
    #[inline]
    pub const fn length(&self) -> u32 {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the low half is the length"
        )]
        {
            self.label.length as u32
        }
    }

    /// Whether its writer said when it was committed.
    #[inline]
    pub fn is_stamped(&self) -> bool {
        self.label.time != Ticks::NONE
    }

    /// Whether, when it was read, the next version was overdue: the state's
    /// [deadline](crate::Subscribe::deadline) had passed without a commit, or its last writer had
    /// gone. The value is as good as it was.
    #[inline]
    pub const fn is_overdue(&self) -> bool {
        self.label.length & OVERDUE != 0
    }

    /// How long ago it was committed; `None` if not stamped.
    ///
    /// # Cost
    ///
    /// One reading of the clock, no system call.
    #[inline]
    pub fn age(&self) -> Option<Duration> {
        self.is_stamped().then(|| {
            let clock = self.label.clock.clock();
            clock.between(self.label.time, clock.now())
        })
    }

    /// When it was committed, by the system's clock as it is set now; `None` if not stamped.
    pub fn time(&self) -> Option<SystemTime> {
        self.age()
            .and_then(|age| SystemTime::now().checked_sub(age))
    }

    /// The same version with another value.
    pub fn map<W>(self, change: impl FnOnce(V) -> W) -> Snapshot<W> {
        Snapshot {
            value: change(self.value),
            label: self.label,
        }
    }
}

impl Label {
    #[inline]
    pub(crate) fn new(version: &Version, clock: ClockWord) -> Self {
        Self {
            generation: version.generation(),
            time: version.time,
            clock,
            length: u64::from(version.length) | u64::from(version.overdue) << 32,
        }
    }
}

impl<V: fmt::Debug> fmt::Debug for Snapshot<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("value", &self.value)
            .field("generation", &self.generation().0)
            .field("length", &self.length())
            .field("age", &self.age())
            .field("overdue", &self.is_overdue())
            .finish()
    }
}

impl<V> Deref for Snapshot<V> {
    type Target = V;

    #[inline]
    fn deref(&self) -> &V {
        &self.value
    }
}
