//! The header page of a region: the one table of its layout.

use super::{Generation, Head};
use crate::sync::{AtomicU32, AtomicU64, Ordering, load_omittable};

/// The first [`HEADER_BYTES`](crate::abi::HEADER_BYTES) of page 1.
///
/// | offset | bytes | field | written by |
/// |---|---|---|---|
/// | 0 | 8 | `magic` | daemon, before anybody maps |
/// | 8 | 4 | `abi_version` | daemon, before anybody maps |
/// | 12 | 4 | `page_size` in bytes | daemon, before anybody maps |
/// | 16 | 8 | `state_id`, the inode number | daemon, before anybody maps |
/// | 24 | 8 | `layout_id`, 0 for none | daemon |
/// | 32 | 4 | `capacity` in bytes | daemon |
/// | 36 | 4 | `clock_kind` | daemon, before anybody maps |
/// | 40 | 8 | `clock_ns_per_tick_32` | daemon, before anybody maps |
/// | 64 | 8 | `head` | whoever commits |
/// | 72 | 8 | `overdue`: the generation that no other has followed in time, plus one | daemon |
/// | 128 | 4 | `notice` bits | daemon |
/// | 132 | 4 | `epoch`, counts restarts of the daemon | daemon |
/// | 136 | 8 | `turn`: whose turn it is, and until when | daemon |
/// | 192 | 8 | `live_tag`: the generation in the live page; with its top bit, who changes the page | writers |
/// | 200 | 4 | `live_length` in bytes | who changes the page |
/// | 256 | 8 | `conflicts`: commits that came too late | writers |
/// | 264 | 8 | `wakes`: commits that woke | writers |
/// | 320 | 8 | `crowd`: grows behind `head`, for those who do not sleep on that | daemon |
/// | 328 | 4 | `seats`: how many more may sleep on `head` | daemon |
///
/// Bytes not listed are zero and reserved.
///
/// # Invariants
///
/// 1. `head` is only ever accessed as a whole 64-bit word by programs; the kernel's futex reads
///    its first four bytes.
/// 2. A process with a writable mapping may have put anything anywhere here. What a check or a
///    bound depends on is fetched once, or taken from the daemon's reply instead.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Header {
    /// [`MAGIC`](crate::abi::MAGIC).
    pub magic: AtomicU64,
    /// [`ABI_VERSION`](crate::abi::ABI_VERSION).
    pub abi_version: AtomicU32,
    /// Page size in bytes.
    pub page_size: AtomicU32,
    /// The state's inode number, for tools that find a region by itself.
    pub state_id: AtomicU64,
    /// Id of the layout the first typed subscriber recorded; 0 for none.
    pub layout_id: AtomicU64,
    /// Room of the state in bytes, as far as the daemon has announced it.
    pub capacity: AtomicU32,
    /// [`ClockKind`](crate::clock::ClockKind) of commit times.
    pub clock_kind: AtomicU32,
    /// Nanoseconds per tick in units of 2^-32 ns.
    pub clock_ns_per_tick_32: AtomicU64,
    reserved0: [AtomicU64; 2],
    /// The state: see [`Head`].
    pub head: AtomicU64,
    /// The generation that no other has followed in time, plus one; 0 for none. Beside `head`, so
    /// that who reads that has it, too.
    pub overdue: AtomicU64,
    reserved1: [AtomicU64; 6],
    /// [`Notice`] bits, looked at after each commit.
    pub notice: AtomicU32,
    /// Counts restarts of the daemon; who returns from a wait looks at it and registers again.
    pub epoch: AtomicU32,
    /// [`Turn`](super::Turn): who asked to be left alone for a moment.
    pub turn: AtomicU64,
    reserved2: [AtomicU64; 6],
    /// Generation in the live page. With its top bit set the page is no whole version: the other
    /// bits are the group of who changes it plus one, or 0 if that did not come to its end.
    pub live_tag: AtomicU64,
    /// Length in bytes of the version in the live page.
    pub live_length: AtomicU32,
    reserved3: AtomicU32,
    reserved4: [AtomicU64; 6],
    /// Commits that came too late. A figure for people: any writer can put anything there.
    pub conflicts: AtomicU64,
    /// Commits that woke whoever waited; likewise.
    pub wakes: AtomicU64,
    reserved5: [AtomicU64; 6],
    /// What those sleep on whom the committers do not wake: see [`stir_crowd`](Self::stir_crowd).
    pub crowd: AtomicU64,
    /// How many more may sleep on `head` itself. A hint: the daemon says who does.
    pub seats: AtomicU32,
    reserved6: AtomicU32,
    reserved7: [AtomicU64; 22],
}

#[cfg(not(kstate_loom))]
const _: () = {
    use core::mem::{align_of, offset_of, size_of};
    assert!(size_of::<Header>() == crate::abi::HEADER_BYTES);
    assert!(align_of::<Header>() == 64);
    assert!(offset_of!(Header, magic) == 0);
    assert!(offset_of!(Header, abi_version) == 8);
    assert!(offset_of!(Header, page_size) == 12);
    assert!(offset_of!(Header, state_id) == 16);
    assert!(offset_of!(Header, layout_id) == 24);
    assert!(offset_of!(Header, capacity) == 32);
    assert!(offset_of!(Header, clock_kind) == 36);
    assert!(offset_of!(Header, clock_ns_per_tick_32) == 40);
    assert!(offset_of!(Header, head) == 64);
    assert!(offset_of!(Header, overdue) == 72);
    assert!(offset_of!(Header, notice) == 128);
    assert!(offset_of!(Header, epoch) == 132);
    assert!(offset_of!(Header, turn) == 136);
    assert!(offset_of!(Header, live_tag) == 192);
    assert!(offset_of!(Header, live_length) == 200);
    assert!(offset_of!(Header, conflicts) == 256);
    assert!(offset_of!(Header, wakes) == 264);
    assert!(offset_of!(Header, crowd) == 320);
    assert!(offset_of!(Header, seats) == 328);
};

impl Header {
    /// A header as a fresh region has it, all zero but for the live page's tag of generation 0.
    #[cfg(kstate_loom)]
    pub fn for_loom() -> Self {
        fn zeros<const N: usize>() -> [AtomicU64; N] {
            core::array::from_fn(|_| AtomicU64::new(0))
        }
        Self {
            magic: AtomicU64::new(0),
            abi_version: AtomicU32::new(0),
            page_size: AtomicU32::new(0),
            state_id: AtomicU64::new(0),
            layout_id: AtomicU64::new(0),
            capacity: AtomicU32::new(0),
            clock_kind: AtomicU32::new(0),
            clock_ns_per_tick_32: AtomicU64::new(0),
            reserved0: zeros(),
            head: AtomicU64::new(0),
            overdue: AtomicU64::new(0),
            reserved1: zeros(),
            notice: AtomicU32::new(0),
            epoch: AtomicU32::new(0),
            turn: AtomicU64::new(0),
            reserved2: zeros(),
            live_tag: AtomicU64::new(0),
            live_length: AtomicU32::new(0),
            reserved3: AtomicU32::new(0),
            reserved4: zeros(),
            conflicts: AtomicU64::new(0),
            wakes: AtomicU64::new(0),
            reserved5: zeros(),
            crowd: AtomicU64::new(0),
            seats: AtomicU32::new(0),
            reserved6: AtomicU32::new(0),
            reserved7: zeros(),
        }
    }

    /// How many bytes a version may have, as far as the daemon has announced it. Whoever may write
    /// the region could have scribbled over it: a hint, never a bound of memory.
    #[inline]
    pub fn announced_capacity(&self) -> usize {
        // ORDERING: Relaxed: slots of the class it needs were allocated before it was stored, and
        // a mapping that does not reach them is an error of the commit's own.
        self.capacity.load(Ordering::Relaxed) as usize
    }

    /// What a committer must look at after its compare-and-swap of `head`.
    #[inline]
    pub fn notice(&self) -> Notice {
        // ORDERING: SeqCst with the SeqCst swap of `head` before it, against the daemon's
        // `raise` and the waiter's SeqCst load of `head` after that: either the waiter sees the
        // new head, or this load sees the mark. On x86 the swap is already the barrier.
        Notice(self.notice.load(Ordering::SeqCst))
    }

    /// Sets `bits`. The daemon's alone: a count of reasons stays in its own memory.
    pub fn raise(&self, bits: Notice) {
        // ORDERING: SeqCst: pairs with `notice`; the raiser loads `head` SeqCst afterwards.
        self.notice.fetch_or(bits.0, Ordering::SeqCst);
        crate::sync::fence_for_loom();
    }

    /// Ends a state for who has it mapped: `head` gets the bit that stands for an intent, of a commit that is
    /// none. No look at it finds a version then, and no commit its base, without a load more for those that
    /// are not deleted; what meets the bit finds [`Notice::DELETED`]. Returns the head as it was.
    ///
    /// Under an intent it has the bit already: who takes that off seals it again.
    pub fn seal(&self) -> Head {
        self.raise(Notice::DELETED);
        // ORDERING: SeqCst behind the notice: who finds the bit finds that.
        Head::from_raw(self.head.fetch_or(Head::INTENT, Ordering::SeqCst))
    }

    /// As [`raise`](Self::raise), where nobody lowers the bits meanwhile: cheap when they are set.
    pub fn raise_once(&self, bits: Notice) {
        // ORDERING: SeqCst, in one order with the raise that set them, the raiser's load of `head` behind
        // this and the committer's swap.
        if !Notice(self.notice.load(Ordering::SeqCst)).contains(bits) {
            self.raise(bits);
        }
    }

    /// Clears `bits`. The daemon's alone.
    pub fn lower(&self, bits: Notice) {
        // ORDERING: SeqCst, so that a later `raise` of the same bits is not overtaken.
        self.notice.fetch_and(!bits.0, Ordering::SeqCst);
    }
}

impl Header {
    /// Whether the version after `generation` is overdue, so far.
    #[inline]
    pub fn is_overdue(&self, generation: Generation) -> bool {
        // Nothing that is proved by interleavings depends on it.
        if cfg!(kstate_loom) {
            return false;
        }
        // ORDERING: Relaxed: it says something of the version of that number and of nothing else.
        load_omittable(&self.overdue) == generation.0.wrapping_add(1)
    }

    /// Says which generation is overdue, as `overdue` has it. The daemon's alone.
    pub fn mark_overdue(&self, mark: u64) {
        // ORDERING: Relaxed: who sleeps is woken behind it by a system call.
        self.overdue.store(mark, Ordering::Relaxed);
    }

    /// Counts a commit that came too late.
    #[cold]
    pub fn count_conflict(&self) {
        // ORDERING: Relaxed: a figure.
        self.conflicts.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a commit that woke.
    pub fn count_wake(&self) {
        // ORDERING: Relaxed: a figure.
        self.wakes.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waking a crowd by itself would cost a committer microseconds for each who sleeps. So only a few
/// sleep on `head`, the daemon among them, and the others on `crowd`, which the daemon moves on.
impl Header {
    /// What to compare `crowd` with when going to sleep there. Loaded *before* `head` is looked at.
    #[inline]
    pub fn crowd_seen(&self) -> u64 {
        // ORDERING: SeqCst, before the SeqCst load of `head`: if that misses a commit, this has
        // missed what the daemon adds behind it, and the sleep does not begin, or is ended.
        self.crowd.load(Ordering::SeqCst)
    }

    /// Has those look at `head` who sleep on `crowd`; the caller wakes them behind this. The daemon's
    /// alone, when it has found `head` changed.
    pub fn stir_crowd(&self) {
        // ORDERING: SeqCst, behind the SeqCst load that found `head` changed: see `crowd_seen`.
        self.crowd.fetch_add(1, Ordering::SeqCst);
    }
}

/// What a committer owes others after its commit; nothing, nearly always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice(u32);

impl Notice {
    /// Nobody waits, no live page, not deleted.
    pub const NONE: Self = Self(0);
    /// Somebody waits on `head`: wake.
    pub const WAITERS: Self = Self(1);
    /// The live page is armed: refresh it.
    pub const ARMED: Self = Self(2);
    /// The state was deleted: nobody will see what is committed here.
    pub const DELETED: Self = Self(4);
    /// Another handle has asked for its turn: stand back for as long as that lasts.
    pub const TURN: Self = Self(8);

    /// Whether nothing is owed.
    #[inline]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// These but for `bits`.
    #[must_use]
    #[inline]
    pub const fn without(self, bits: Self) -> Self {
        Self(self.0 & !bits.0)
    }

    /// Whether all of `bits` are set.
    #[inline]
    pub const fn contains(self, bits: Self) -> bool {
        self.0 & bits.0 == bits.0
    }
}
