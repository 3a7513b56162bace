#![expect(unsafe_code, reason = "maps pages and changes their protection")]
//! Raw pages, in slabs that are never given back: a fault is looked up without a lock.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::io;
use std::sync::Arc;

use kstate_sys::region::{Head, ReadError};

use super::record::{Contents, Phase, Record, Source};
use super::trap::Trap;

/// Pages of a slab.
const PAGES: usize = 16;
/// Slabs of a process, a trap.
const MAX_SLABS: usize = 4096;

/// Pages in a row, an unused one between each two, so that the kernel never merges or splits their
/// mappings when one's protection changes; and a buffer for each, where a version is put together.
///
/// # Invariants
///
/// 1. `start` is the first of `2 * PAGES` pages, mapped for the rest of the process's life, every
///    second one registered with the trap; not in forked children.
/// 2. `buffers` are `PAGES` pages, mapped as long, writable, not in forked children; each is only
///    reached under the lock of its page's record. With [`Memory::Shared`] the buffer of a page
///    *is* that page, mapped once more; otherwise it is other memory.
pub(super) struct Slab {
    start: usize,
    page: usize,
    records: [Record; PAGES],
}

/// What is behind raw pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Memory {
    /// Shared memory without a name, this process's own. A page is made to appear with what its
    /// buffer holds, and to go and keep that.
    Shared,
    /// Anonymous memory: a page appears as a copy of its buffer, and goes with what it holds.
    Anonymous,
}

impl Slab {
    /// Maps and registers a slab.
    fn new(trap: &Trap) -> io::Result<Self> {
        let page = kstate_sys::abi::page_size() as usize;
        let length = 2 * PAGES * page;
        let start = Mapping::new(length, libc::PROT_NONE, libc::MAP_PRIVATE)?;
        let sharing = match trap.memory() {
            Memory::Anonymous => libc::MAP_PRIVATE,
            Memory::Shared => libc::MAP_SHARED,
        };
        let writable = libc::PROT_READ | libc::PROT_WRITE;
        let buffers = Mapping::new(PAGES * page, writable, sharing)?;
        if trap.memory() == Memory::Shared {
            buffers.populate()?;
            for index in 0..PAGES {
                start.show_again(2 * index * page, &buffers, index * page, page)?;
            }
            start.seal()?;
        }
        // A program that locks what it maps has had pages mapped here, and would again.
        start.unlock()?;
        // In a child a trapped page would read as zeros: there it shall not be at all.
        start.not_in_children()?;
        buffers.not_in_children()?;
        for index in 0..PAGES {
            let raw = start.start.wrapping_byte_add(2 * index * page);
            take_away(raw, page)?;
            trap.register(raw, page)?;
        }
        let (start, buffers) = (start.keep(), buffers.keep());
        // INVARIANT: 1 and 2.
        Ok(Self {
            start: start.expose_provenance().get(),
            page,
            records: core::array::from_fn(|index| {
                // SAFETY: within the mapping (invariant 2).
                let buffer = unsafe { buffers.byte_add(index * page) }.cast();
                let buffer = NonNull::slice_from_raw_parts(buffer, page);
                // SAFETY: invariant 2, and one record has each buffer.
                unsafe { Record::new(buffer) }
            }),
        })
    }

    fn address(&self, index: usize) -> usize {
        self.start + 2 * index * self.page
    }

    /// In a forked child, where the slab is not: lets nothing else come to be there, in the way of who
    /// kept a pointer.
    fn reserve(&self) {
        let length = 2 * PAGES * self.page;
        let start = core::ptr::with_exposed_provenance_mut(self.start);
        // Since Linux 4.17; an older one takes the address for a wish.
        let flags = libc::MAP_PRIVATE
            | libc::MAP_ANONYMOUS
            | libc::MAP_NORESERVE
            | libc::MAP_FIXED_NOREPLACE;
        // SAFETY: replaces nothing.
        let reserved = unsafe { libc::mmap(start, length, libc::PROT_NONE, flags, -1, 0) };
        // What cannot be reserved has something there, from a parent's reservation on.
        if reserved != libc::MAP_FAILED && reserved != start {
            // SAFETY: mapped above, and nobody has an address in it.
            unsafe { libc::munmap(reserved, length) };
        }
    }

    /// Which page `address` is in, if any.
    fn index_of(&self, address: usize) -> Option<usize> {
        let offset = address.checked_sub(self.start)?;
        let index = offset / (2 * self.page);
        (index < PAGES && offset % (2 * self.page) < self.page).then_some(index)
    }
}

/// All slabs of a trap.
///
/// # Invariants
///
/// 1. The first `used` pointers are slabs, never freed and never changed.
pub(super) struct Slabs {
    slabs: [AtomicPtr<Slab>; MAX_SLABS],
    used: AtomicUsize,
}

impl Slabs {
    pub(super) const fn new() -> Self {
        Self {
            slabs: [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_SLABS],
            used: AtomicUsize::new(0),
        }
    }

    /// Makes a slab and returns its pages. The caller sees to it that one does at a time.
    pub(super) fn add(&'static self, trap: &'static Trap) -> io::Result<Vec<Page>> {
        let used = self.used.load(Ordering::Relaxed);
        let place = self.slabs.get(used);
        let place = place.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        let slab: &'static Slab = Box::leak(Box::new(Slab::new(trap)?));
        place.store(core::ptr::from_ref(slab).cast_mut(), Ordering::Relaxed);
        // ORDERING: Release with the Acquire in `find`: the slab is complete. INVARIANT: 1.
        self.used.store(used + 1, Ordering::Release);
        Ok((0..PAGES)
            .map(|index| Page::new(trap, slab, index))
            .collect())
    }

    /// In a forked child: keeps all addresses of its parent's pages out of reach, as far as nothing is
    /// there. Async-signal-safe.
    pub(super) fn reserve(&self) {
        // ORDERING: Acquire, as in `find`.
        let used = self.used.load(Ordering::Acquire).min(MAX_SLABS);
        for place in &self.slabs[..used] {
            // SAFETY: invariant 1.
            if let Some(slab) = unsafe { place.load(Ordering::Relaxed).as_ref() } {
                slab.reserve();
            }
        }
    }

    /// The page that `address` is in: its record, start and length.
    pub(super) fn find(&self, address: usize) -> Option<(&Record, usize, usize)> {
        // ORDERING: Acquire with the Release in `add`.
        let used = self.used.load(Ordering::Acquire).min(MAX_SLABS);
        self.slabs[..used].iter().find_map(|place| {
            // SAFETY: invariant 1.
            let slab = unsafe { place.load(Ordering::Relaxed).as_ref() }?;
            let index = slab.index_of(address)?;
            Some((&slab.records[index], slab.address(index), slab.page))
        })
    }
}

/// A mapping that goes unless it is kept.
struct Mapping {
    start: *mut libc::c_void,
    length: usize,
}

impl Mapping {
    fn new(length: usize, protection: i32, sharing: i32) -> io::Result<Self> {
        let flags = sharing | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
        let start = unsafe { libc::mmap(core::ptr::null_mut(), length, protection, flags, -1, 0) };
        match start == libc::MAP_FAILED {
            true => Err(io::Error::last_os_error()),
            false => Ok(Self { start, length }),
        }
    }

    /// Has all its memory there, so that it cannot lack later.
    fn populate(&self) -> io::Result<()> {
        // SAFETY: mapped, and nothing is in it. Known since Linux 5.14, as what it is needed for.
        done(unsafe { libc::madvise(self.start, self.length, libc::MADV_POPULATE_WRITE) })
    }

    /// Maps a page of `other`, which is shared memory, once more in the place of what is mapped `at`.
    fn show_again(&self, at: usize, other: &Self, offset: usize, page: usize) -> io::Result<()> {
        debug_assert!(at + page <= self.length && offset + page <= other.length);
        let (from, to) = (
            other.start.wrapping_byte_add(offset),
            self.start.wrapping_byte_add(at),
        );
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: both are within mappings into which nobody has an address. An old size of 0 maps
        // the same memory again and leaves the old mapping (mremap(2)).
        let mapped = unsafe { libc::mremap(from, 0, page, flags, to) };
        match mapped == libc::MAP_FAILED {
            true => Err(io::Error::last_os_error()),
            false => Ok(()),
        }
    }

    fn unlock(&self) -> io::Result<()> {
        // SAFETY: mapped; it changes no byte.
        done(unsafe { libc::munlock(self.start, self.length) })
    }

    fn seal(&self) -> io::Result<()> {
        // SAFETY: mapped, and nobody has an address in it.
        done(unsafe { libc::mprotect(self.start, self.length, libc::PROT_NONE) })
    }

    fn not_in_children(&self) -> io::Result<()> {
        // SAFETY: mapped, and nothing is in it.
        done(unsafe { libc::madvise(self.start, self.length, libc::MADV_DONTFORK) })
    }

    /// For the rest of the process's life.
    fn keep(self) -> NonNull<libc::c_void> {
        let start = NonNull::new(self.start).unwrap_or(NonNull::dangling());
        core::mem::forget(self);
        start
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and nobody has an address in it.
        unsafe { libc::munmap(self.start, self.length) };
    }
}

/// What a system call says that answers 0 when it is done.
fn done(answer: i32) -> io::Result<()> {
    match answer {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A raw page, owned: nobody else opens or ends it.
pub(crate) struct Page {
    trap: &'static Trap,
    record: &'static Record,
    address: usize,
    length: usize,
    /// The version that the page holds, unwritten: of the state of its source, which stays the
    /// same for as long as the page is in a pool. Only with [`Memory::Shared`].
    holds: Option<Contents>,
    /// Whether the page may have to be taken away.
    present: bool,
}

impl Page {
    fn new(trap: &'static Trap, slab: &'static Slab, index: usize) -> Self {
        Self {
            trap,
            record: &slab.records[index],
            address: slab.address(index),
            length: slab.page,
            holds: None,
            present: false,
        }
    }

    /// Whether the calling process is the one the page belongs to.
    pub(crate) fn is_ours(&self) -> bool {
        self.trap.is_ours()
    }

    pub(crate) fn trap(&self) -> &'static Trap {
        self.trap
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        let start = core::ptr::with_exposed_provenance_mut(self.address);
        NonNull::new(start).unwrap_or(NonNull::dangling())
    }

    /// Gives the page to a transaction that begins from `base`: the next touch fills it from
    /// `source`, unless it holds that version.
    ///
    /// # Errors
    ///
    /// What the kernel says; the page is dead as before then.
    pub(crate) fn open<S: Source + 'static>(
        &mut self,
        source: &Arc<S>,
        base: Head,
    ) -> io::Result<()> {
        let held = self.holds.take().filter(|contents| contents.head == base);
        // Usually done at the end of the last transaction.
        self.clear()?;
        let mut known = self.record.lock();
        if known.sealed {
            self.protect(libc::PROT_READ | libc::PROT_WRITE)?;
            known.sealed = false;
        }
        if held.is_some() {
            self.trap.show(self.address, self.length)?;
            self.present = true;
        }
        known.phase = match held {
            Some(_) => Phase::Filled,
            None => Phase::Empty,
        };
        known.filled = held.map(Ok);
        known.base = Some(base);
        known.dirty = false;
        if known.source.is_none() {
            known.source = Some(Arc::<S>::clone(source));
        }
        Ok(())
    }

    /// Fills the page, if nobody has touched it, and marks it as written if it is going to be.
    pub(crate) fn touch(&self, to_write: bool) {
        let mut known = self.record.lock();
        self.trap.resolve(&mut known, self.address, self.length);
        if to_write && !known.dirty {
            known.dirty = true;
            self.trap.let_write(self.address, self.length);
        }
    }

    /// What it was filled with; `None` if nobody has touched it.
    pub(crate) fn filled(&self) -> Option<Result<Contents, ReadError>> {
        let known = self.record.lock();
        known.filled.filter(|_| known.phase == Phase::Filled)
    }

    /// Whether what it holds is lost when the kernel takes it away.
    #[cfg(test)]
    pub(crate) fn is_discarded_when_gone(&self) -> bool {
        self.trap.memory() == Memory::Anonymous
    }

    /// As [`Page::filled`], and whether somebody has said, or was seen, to write to it: if not, the
    /// kernel may know of a write.
    pub(crate) fn seen(&self) -> (Option<Result<Contents, ReadError>>, bool) {
        let known = self.record.lock();
        let filled = known.filled.filter(|_| known.phase == Phase::Filled);
        (filled, known.dirty)
    }

    /// Whether somebody has written to it.
    pub(crate) fn is_dirty(&self) -> bool {
        let known = self.record.lock();
        known.phase == Phase::Filled
            && (known.dirty || self.trap.was_written(self.address, self.length))
    }

    /// Takes the page from its transaction: whoever touches it from now on dies of it. If it
    /// `holds` a version unwritten, a transaction on that finds it filled.
    pub(crate) fn end(&mut self, holds: Option<Contents>) {
        let mut known = self.record.lock();
        let phase = std::mem::replace(&mut known.phase, Phase::Dead);
        drop(known);
        self.present |= phase == Phase::Filled;
        let keeps = phase == Phase::Filled && self.trap.memory() == Memory::Shared;
        self.holds = holds.filter(|_| keeps);
        if self.clear().is_err() {
            // Tried again at the next beginning, which reports what the kernel says.
            let mut known = self.record.lock();
            known.sealed |= self.protect(libc::PROT_NONE).is_ok();
        }
    }

    /// Forgets where its bytes came from and gives its memory back.
    pub(super) fn empty(&mut self) {
        self.record.lock().source = None;
        self.holds = None;
        let _ = self.clear();
    }

    /// Takes the page away: a touch is trapped from here on.
    fn clear(&mut self) -> io::Result<()> {
        if self.present {
            take_away(self.start().as_ptr().cast(), self.length)?;
            self.present = false;
        }
        Ok(())
    }

    fn protect(&self, protection: i32) -> io::Result<()> {
        let start = self.start().as_ptr().cast();
        // SAFETY: a page of ours (invariant 1 of `Slab`). To make it inaccessible is the meaning
        // of a transaction's end.
        done(unsafe { libc::mprotect(start, self.length, protection) })
    }
}

/// Unmaps a page of ours that no transaction has, so that touching it is trapped again.
fn take_away(start: *mut libc::c_void, length: usize) -> io::Result<()> {
    // SAFETY: a page of ours (invariant 1 of `Slab`), which nobody refers to.
    let advise = |advice| done(unsafe { libc::madvise(start, length, advice) });
    if advise(libc::MADV_DONTNEED).is_ok() {
        return Ok(());
    }
    // A program that has locked its memory. The second advice is known since Linux 5.18.
    advise(libc::MADV_DONTNEED_LOCKED).or_else(|_| {
        // SAFETY: as above.
        done(unsafe { libc::munlock(start, length) })?;
        advise(libc::MADV_DONTNEED)
    })
}

impl std::fmt::Debug for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Page")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
