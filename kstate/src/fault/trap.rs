#![expect(unsafe_code, reason = "installs pages where nobody can look yet")]
//! The userfaultfd of the process, and who answers it.

use core::ffi::c_void;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
use std::io;
use std::sync::{Mutex, PoisonError};

use kstate_sys::fork::Process;
use userfaultfd::{
    Errno, Event, FaultKind, FeatureFlags, PageRegion, Pagemap, RegisterMode, ScanRequest, Uffd,
    UffdBuilder,
};

use super::Trapping;
use super::emulated::is_emulated;
use super::record::{Known, Phase};
use super::sigbus;
use super::slab::{Memory, Page, Slabs};

/// Why nothing is trapped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrapError {
    /// userfaultfd is not to be had.
    #[error("first touches cannot be trapped: {0}; `kstate doctor` says what to change")]
    Refused(#[source] userfaultfd::Error),
    /// Valgrind runs the program, one thread at a time: nobody could answer.
    #[error("first touches cannot be trapped under valgrind; use `Trapping::Software`")]
    Emulated,
    /// The kernel refused memory or a thread.
    #[error("cannot trap first touches: {0}")]
    Io(#[from] io::Error),
}

/// How pages appear, and how first writes are told from reads.
#[derive(Debug)]
enum Writes {
    /// The kernel notes them, and is asked at commit (Linux 6.7). Pages are of [`Memory::Shared`].
    Noted(Pagemap),
    /// Each is trapped. Pages are of [`Memory::Anonymous`].
    Trapped,
}

/// Whether the kernel is to note writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Noting {
    /// If it can.
    #[default]
    WherePossible,
    /// As if it could not: what is done where it cannot is tested where it can.
    #[cfg(test)]
    Never,
}

/// One way of trapping, for the life of a process.
pub(crate) struct Trap {
    process: Process,
    uffd: Uffd,
    writes: Writes,
    way: Trapping,
    slabs: Slabs,
    /// Pages that no transaction and no pool has.
    free: Mutex<Vec<Page>>,
}

/// One a way; of the process that made it, which a forked child is not. Tests have more, which do
/// as an older kernel makes them do.
static TRAPS: [AtomicPtr<Trap>; if cfg!(test) { 6 } else { 3 }] =
    [const { AtomicPtr::new(core::ptr::null_mut()) }; if cfg!(test) { 6 } else { 3 }];
/// The process that is making a trap, 0 for none.
static MAKING: AtomicU32 = AtomicU32::new(0);
/// Whether children reserve their parent's pages as they begin.
static WATCHED: AtomicBool = AtomicBool::new(false);

impl Trap {
    /// The trap of this process that works this way, made at the first call; `None` for
    /// [`Trapping::Software`].
    ///
    /// # Errors
    ///
    /// [`TrapError`].
    pub(crate) fn of_this_process(
        way: Trapping,
        noting: Noting,
    ) -> Result<Option<&'static Self>, TrapError> {
        let place = match way {
            Trapping::Thread => 0,
            Trapping::Signal => 1,
            Trapping::Kernel => 2,
            Trapping::Software => return Ok(None),
        };
        let place = match noting {
            Noting::WherePossible => &TRAPS[place],
            #[cfg(test)]
            Noting::Never => &TRAPS[3 + place],
        };
        if let Some(trap) = current(place) {
            return Ok(Some(trap));
        }
        if is_emulated() {
            return Err(TrapError::Emulated);
        }
        // A forked child finds the word of its parent, whose thread it does not have.
        let me = std::process::id();
        while let Err(other) = MAKING.compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed)
        {
            if other != me {
                let _ = MAKING.compare_exchange(other, 0, Ordering::Relaxed, Ordering::Relaxed);
            }
            std::thread::yield_now();
        }
        let made = match current(place) {
            Some(trap) => Ok(trap),
            None => Self::make(way, noting, place),
        };
        MAKING.store(0, Ordering::Release);
        made.map(Some)
    }

    fn make(
        way: Trapping,
        noting: Noting,
        place: &AtomicPtr<Self>,
    ) -> Result<&'static Self, TrapError> {
        // A child that was made without the C library's knowing does it now.
        reserve_parents();
        if !WATCHED.load(Ordering::Relaxed) {
            // SAFETY: the handler is async-signal-safe. One more of them does no harm.
            let watched = unsafe { libc::pthread_atfork(None, None, Some(reserve_parents)) } == 0;
            WATCHED.store(watched, Ordering::Relaxed);
        }
        let kernel = way == Trapping::Kernel;
        let signal = match way {
            Trapping::Signal => FeatureFlags::SIGBUS,
            _ => FeatureFlags::empty(),
        };
        let noted =
            FeatureFlags::WP_ASYNC | FeatureFlags::WP_HUGETLBFS_SHMEM | FeatureFlags::MINOR_SHMEM;
        let trapped = FeatureFlags::PAGEFAULT_FLAG_WP;
        let create = |features| {
            let mut builder = UffdBuilder::new();
            builder.user_mode_only(!kernel).require_features(features);
            builder.create()
        };
        let noting = (noting == Noting::WherePossible).then(|| create(noted | signal));
        let noting = noting.map(|uffd| uffd.map(|uffd| (uffd, Pagemap::open())));
        let (uffd, writes) = match noting {
            Some(Ok((uffd, Ok(pagemap)))) => (uffd, Writes::Noted(pagemap)),
            _ => {
                let uffd = create(trapped | signal).map_err(refused)?;
                (uffd, Writes::Trapped)
            }
        };
        let process = Process::current()?;
        if way == Trapping::Signal {
            sigbus::install()?;
        }
        let trap: &'static Self = Box::leak(Box::new(Self {
            process,
            uffd,
            writes,
            way,
            slabs: Slabs::new(),
            free: Mutex::new(Vec::new()),
        }));
        if way != Trapping::Signal {
            let thread = std::thread::Builder::new().name("kstate-fault".into());
            if let Err(error) = thread.spawn(|| trap.answer()) {
                // SAFETY: made just above, by a box, and nobody else has it: there is no thread.
                drop(unsafe { Box::from_raw(core::ptr::from_ref(trap).cast_mut()) });
                return Err(error.into());
            }
        }
        // ORDERING: Release with the Acquire in `current`: the trap is complete.
        place.store(core::ptr::from_ref(trap).cast_mut(), Ordering::Release);
        Ok(trap)
    }

    /// Answers a touch in the thread that touched; `false` if the address is in no page of a trap
    /// that works so. Async-signal-safe.
    pub(super) fn signalled(address: usize, wrote: bool) -> bool {
        let traps = TRAPS.iter().filter_map(current);
        let mut by_signal = traps.filter(|trap| trap.way == Trapping::Signal);
        by_signal.any(|trap| trap.touched(address, wrote))
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.process.is_current()
    }

    pub(crate) fn way(&self) -> Trapping {
        self.way
    }

    /// A page for a pool.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(crate) fn page(&'static self) -> io::Result<Page> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.is_empty() {
            free.extend(self.slabs.add(self)?);
        }
        free.pop()
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))
    }

    /// Takes back a page that no transaction has.
    pub(crate) fn give_back(&self, mut page: Page) {
        page.empty();
        self.free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(page);
    }

    /// What is behind its pages.
    pub(super) fn memory(&self) -> Memory {
        match self.writes {
            Writes::Noted(_) => Memory::Shared,
            Writes::Trapped => Memory::Anonymous,
        }
    }

    /// Registers `length` bytes from `start`.
    pub(super) fn register(&self, start: *mut c_void, length: usize) -> io::Result<()> {
        let untouched = match self.memory() {
            Memory::Shared => RegisterMode::MINOR,
            Memory::Anonymous => RegisterMode::MISSING,
        };
        let mode = untouched | RegisterMode::WRITE_PROTECT;
        self.uffd
            .register_with_mode(start, length, mode)
            .map(|_| ())
            .map_err(io::Error::other)
    }

    /// Makes a page of [`Memory::Shared`] appear with what its buffer holds, the next write to be
    /// noticed.
    pub(super) fn show(&self, address: usize, length: usize) -> io::Result<()> {
        let start = core::ptr::with_exposed_provenance_mut(address);
        self.uffd
            .continue_write_protected(start, length, false)
            .map(|_| ())
            .map_err(io::Error::other)
    }

    /// Lets a page be written that was marked as such.
    pub(super) fn let_write(&self, address: usize, length: usize) {
        if matches!(self.writes, Writes::Trapped) {
            let start = core::ptr::with_exposed_provenance_mut(address);
            // Fails only for a range that is not registered.
            let _ = self.uffd.remove_write_protection(start, length, true);
        }
    }

    /// Whether the kernel has noted a write since the page was filled or protected.
    pub(super) fn was_written(&self, address: usize, length: usize) -> bool {
        match &self.writes {
            Writes::Trapped => false,
            Writes::Noted(pagemap) => {
                let start = core::ptr::with_exposed_provenance(address);
                let mut found = [PageRegion::default(); 1];
                // If it cannot be known, a write is the safe answer: nothing written is lost.
                pagemap
                    .scan(start, length, &ScanRequest::written(), &mut found)
                    .is_ok_and(|scan| scan.regions == 0)
                    .eq(&false)
            }
        }
    }

    /// Answers a touch of `address`; `false` if that is in no page of ours.
    ///
    /// Async-signal-safe: a copy, ioctls, a lock that its holder never faults under.
    pub(super) fn touched(&self, address: usize, wrote: bool) -> bool {
        let Some((record, start, length)) = self.slabs.find(address) else {
            return false;
        };
        let mut known = record.lock();
        match known.phase {
            Phase::Filled if wrote && matches!(self.writes, Writes::Trapped) => {
                known.dirty = true;
                self.let_write(start, length);
            }
            _ => self.resolve(&mut known, start, length),
        }
        true
    }

    /// Fills the page if it is empty, and lets whoever touched it go on: to find it dead, perhaps.
    pub(super) fn resolve(&self, known: &mut Known, address: usize, length: usize) {
        let start = core::ptr::with_exposed_provenance_mut(address);
        match known.phase {
            Phase::Empty => {
                known.prepare();
                if self.appear(known, start, length) {
                    known.phase = Phase::Filled;
                    return;
                }
            }
            // Two threads touched it at once; or the kernel has put it out of memory meanwhile,
            // and then remembers of a page that nobody has written to that it was protected.
            Phase::Filled => {
                if self.memory() == Memory::Shared {
                    known.dirty |= self.was_written(address, length);
                    if self.appear(known, start, length) {
                        return;
                    }
                }
            }
            Phase::Dead => {}
        }
        if known.phase != Phase::Filled {
            // No transaction has the page, or no memory is left for it. Whoever touched it would
            // fault for ever: it dies instead.
            // SAFETY: a page of ours, which no reference points into while it is trapped.
            known.sealed |= unsafe { libc::mprotect(start, length, libc::PROT_NONE) } == 0;
        }
        // Fails only for a range that is not registered.
        let _ = self.uffd.wake(start, length);
    }

    /// Has the page there, write-protected if it comes now, and lets go on who waits for it;
    /// `false` if it does not come.
    fn appear(&self, known: &Known, start: *mut c_void, length: usize) -> bool {
        let appeared = match self.memory() {
            Memory::Shared => self.uffd.continue_write_protected(start, length, true),
            Memory::Anonymous => {
                let from = known.buffer.start().cast();
                // SAFETY: the buffer has a page of bytes and is not this page. Nobody can have
                // looked at a page that was not there, so no reference sees it change.
                unsafe { self.uffd.copy_write_protected(from, start, length, true) }
            }
        };
        match appeared {
            Ok(_) => true,
            // It is there: the kernel's own access was first.
            Err(error) if error.errno() == Some(Errno::EEXIST) => {
                let _ = self.uffd.wake(start, length);
                true
            }
            Err(_) => false,
        }
    }

    /// The thread that answers.
    fn answer(&self) {
        block_signals();
        loop {
            match self.uffd.read_event() {
                Ok(Some(Event::Pagefault { kind, addr, .. })) => {
                    self.touched(addr.addr(), kind == FaultKind::WriteProtected);
                }
                Ok(_) => {}
                // Not to be had again: touches of raw pages wait for ever, and say so to a
                // debugger by their stack.
                Err(_) => return,
            }
        }
    }
}

/// In a forked child: keeps out of reach what was its parent's. The kernel leaves these addresses free
/// there, and a pointer into a page would come to point at whatever is mapped next.
extern "C" fn reserve_parents() {
    for place in &TRAPS {
        // ORDERING: Acquire, as in `current`.
        let trap = place.load(Ordering::Acquire);
        // SAFETY: null, or leaked by `make`.
        if let Some(trap) = unsafe { trap.as_ref() }.filter(|trap| !trap.is_ours()) {
            trap.slabs.reserve();
        }
    }
}

/// The trap at `place`, if it is this process's.
fn current(place: &AtomicPtr<Trap>) -> Option<&'static Trap> {
    // ORDERING: Acquire with the Release in `make`.
    let trap = place.load(Ordering::Acquire);
    // SAFETY: null, or leaked by `make`.
    unsafe { trap.as_ref() }.filter(|trap| trap.is_ours())
}

/// What making a userfaultfd failed for: a lack that may pass, or for good.
fn refused(error: userfaultfd::Error) -> TrapError {
    match error.errno() {
        Some(errno @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM)) => {
            TrapError::Io(io::Error::from(errno))
        }
        _ => TrapError::Refused(error),
    }
}

/// A program's handlers shall not run in a thread it knows nothing of.
fn block_signals() {
    let all = nix::sys::signal::SigSet::all();
    // Fails for no set.
    let _ = all.thread_block();
}
