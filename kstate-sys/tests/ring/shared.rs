#![expect(unsafe_code, reason = "maps a region and forks writers of it")]
//! A region in a memfd, and processes that share it.

use std::fs::File;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::time::Duration;

use kstate_sys::abi::{Class, Geometry};
use kstate_sys::clock::{Clock, Ticks, monotonic_ns};
use kstate_sys::region::{Mapped, initialise};
use memmap2::{MmapOptions, MmapRaw};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// A whole region, mapped shared.
#[derive(Debug)]
pub(crate) struct Region {
    map: MmapRaw,
    geometry: Geometry,
}

impl Region {
    /// A fresh one.
    pub(crate) fn new() -> Self {
        let geometry = Geometry::of_this_machine();
        let memfd = memfd_create("kstate-ring-test", MFdFlags::MFD_CLOEXEC).unwrap();
        let file = File::from(memfd);
        file.set_len(geometry.region_len() as u64).unwrap();
        let map = MmapOptions::new().map_raw(&file).unwrap();
        let region = Self { map, geometry };
        initialise(&region.mapped(), 1, geometry.page(), &Clock::MONOTONIC);
        region
    }

    /// All of it.
    pub(crate) fn mapped(&self) -> Mapped<'_> {
        self.mapped_up_to(Class::Page)
    }

    /// What a process has that has mapped no further than the slots of `class`.
    pub(crate) fn mapped_up_to(&self, class: Class) -> Mapped<'_> {
        let base = NonNull::new(self.map.as_mut_ptr()).unwrap();
        let len = self.geometry.mapped_len(class);
        // SAFETY: the mapping has the region's length, is writable and lives as long as `self`;
        // nothing else here looks at its bytes but `word`, by atomics.
        unsafe { Mapped::new(base, len, self.geometry) }.unwrap()
    }

    /// Where things are.
    pub(crate) fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Stores a word wherever it pleases, as a process gone wild does.
    pub(crate) fn scribble(&self, offset: usize, word: u64) {
        assert!(offset + 8 <= self.map.len() && offset.is_multiple_of(8));
        // SAFETY: within the mapping, checked above.
        let place = unsafe { self.map.as_mut_ptr().add(offset) };
        // SAFETY: as above, aligned, and writable. Volatile, and only called in a process that
        // does nothing else with the region.
        unsafe { place.cast::<u64>().write_volatile(word) };
    }
}

/// A forked process.
#[derive(Debug)]
pub(crate) struct Process(libc::pid_t);

impl Process {
    /// Runs `life` in a process of its own; what it returns is the exit code. It may not
    /// allocate, lock or panic: the test's other threads are not there.
    pub(crate) fn fork(life: impl FnOnce() -> u8) -> Self {
        // SAFETY: the child keeps to what is said above and leaves by `_exit`.
        let pid = unsafe { libc::fork() };
        assert_ne!(pid, -1, "fork: {}", std::io::Error::last_os_error());
        if pid == 0 {
            let code = life();
            // SAFETY: ends the child without the parent's exit handlers.
            unsafe { libc::_exit(code.into()) };
        }
        Self(pid)
    }

    /// Waits for its end; fails if it was not 0.
    pub(crate) fn join(self) {
        let mut status = 0;
        // SAFETY: `status` is a place for an int, and the pid is a child's not yet waited for.
        let pid = unsafe { libc::waitpid(self.0, &raw mut status, 0) };
        assert_eq!(pid, self.0);
        assert_eq!(status, 0, "the process ended with wait status {status:#x}");
    }
}

/// A point in time that parent and child agree on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Until(u64);

impl Until {
    /// The point `duration` from now.
    pub(crate) fn after(duration: Duration) -> Self {
        Self(monotonic_ns() + u64::try_from(duration.as_nanos()).unwrap())
    }

    /// Whether it is still ahead.
    pub(crate) fn lasts(self) -> bool {
        monotonic_ns() < self.0
    }
}

/// A buffer for a read.
pub(crate) fn buffer(length: usize) -> Vec<MaybeUninit<u8>> {
    vec![MaybeUninit::new(0); length]
}

/// The bytes in a [`buffer`].
pub(crate) fn bytes(buffer: &[MaybeUninit<u8>]) -> Vec<u8> {
    let init = |byte: &MaybeUninit<u8>| {
        // SAFETY: `buffer` initialised it, and a read only writes bytes.
        unsafe { byte.assume_init() }
    };
    buffer.iter().map(init).collect()
}

/// Spreads a count over all bits of a word; odd, so that it can be undone.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// A value every byte, the length and the time of which follow from a seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seed(pub(crate) u64);

impl Seed {
    /// Its length, at least a word and at most `longest` bytes.
    pub(crate) fn length(self, longest: usize) -> usize {
        let words = u64::try_from(longest / 8).unwrap();
        8 * usize::try_from(1 + self.0.wrapping_mul(0x9e37_79b9) % words).unwrap()
    }

    /// Writes it to the start of `room`.
    pub(crate) fn fill(self, room: &mut [u8]) {
        for (i, word) in room.chunks_exact_mut(8).enumerate() {
            word.copy_from_slice(&self.word(i).to_le_bytes());
        }
    }

    /// The seed of `value`; fails if a byte, the length or the time is another's.
    pub(crate) fn of(value: &[u8], time: Ticks, longest: usize) -> Self {
        let seed = Self(time.0);
        assert_eq!(value.len(), seed.length(longest), "the length of another");
        for (i, word) in value.chunks_exact(8).enumerate() {
            let word = u64::from_le_bytes(word.try_into().unwrap());
            assert_eq!(
                word,
                seed.word(i),
                "torn at word {i} of {}",
                value.len() / 8
            );
        }
        seed
    }

    /// The seed of a value that begins so.
    pub(crate) fn first(value: &[u8]) -> Self {
        let word = u64::from_le_bytes(value[..8].try_into().unwrap());
        // The inverse of the odd factor of `word`, modulo 2^64.
        let mut inverse = FACTOR;
        for _ in 0..5 {
            inverse = inverse.wrapping_mul(2_u64.wrapping_sub(FACTOR.wrapping_mul(inverse)));
        }
        Self(word.wrapping_mul(inverse).rotate_right(17))
    }

    /// When it was committed.
    pub(crate) fn time(self) -> Ticks {
        Ticks(self.0)
    }

    fn word(self, i: usize) -> u64 {
        self.0
            .rotate_left(17)
            .wrapping_add(i as u64)
            .wrapping_mul(FACTOR)
    }
}
