#![expect(
    unsafe_code,
    reason = "hands out a pointer, and a slice of what is behind it"
)]
//! A transaction by pointer: for code that is handed an address and nothing else.

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::sync::Arc;

use kstate_sys::fork::Process;
use kstate_sys::region::{self, Generation, Head, Memory, SlotSize};
use kstate_sys::sync::Ordering;
use memmap2::{MmapMut, MmapOptions};

use super::{BeginError, CommitError, Outcome};
use crate::content::{Content, maybe_uninit};
use crate::fault::{Contents, Noting, Page, Source, Trap, TrapError, Trapping};
use crate::reader::Reader;
use crate::snapshot::ReadError;
use crate::state::State;

#[cfg(test)]
mod tests;

/// Pages of earlier raw transactions, and where their bytes come from.
pub(crate) struct RawPages<T> {
    trapping: Cell<Trapping>,
    noting: Cell<Noting>,
    source: OnceCell<Arc<Reader<T>>>,
    spare: RefCell<Vec<Page>>,
}

impl<T> Default for RawPages<T> {
    fn default() -> Self {
        Self {
            trapping: Cell::default(),
            noting: Cell::default(),
            source: OnceCell::new(),
            spare: RefCell::default(),
        }
    }
}

impl<T> Drop for RawPages<T> {
    fn drop(&mut self) {
        for page in self.spare.get_mut().drain(..) {
            give_back(page);
        }
    }
}

/// A parent's pages are not in a forked child: there is nothing to give back.
fn give_back(page: Page) {
    if page.is_ours() {
        page.trap().give_back(page);
    }
}

impl<T: Content> Source for Reader<T> {
    fn fill(&self, head: Head, into: &mut [u8]) -> Result<Contents, region::ReadError> {
        let memory = self.region();
        let version = match region::read_at(&memory, head, maybe_uninit(into))? {
            Some(version) => version,
            None => region::read(&memory, maybe_uninit(into))?,
        };
        Ok(Contents {
            length: version.length,
            head: version.head,
        })
    }
}

/// An optimistic transaction whose page is touched through a pointer.
///
/// Beginning copies nothing. The first touch of the page, by this program or by code that was
/// handed the pointer, is trapped and fills it with the value as of the beginning; the first
/// write is told apart from a read. How is [`State::set_trapping`]'s choice; what it costs is said
/// there: where the library can see the access, [`State::begin`] costs a hundredth of it.
///
/// The pointer is good until the transaction ends. Whoever touches it afterwards dies by `SIGSEGV`, as
/// does a forked child that touches its parent's; until a later transaction of the process is given
/// the same page, whose pointer it then is.
///
/// No signal handler of the program's may touch the page: one that interrupts this library while it is
/// at work on that page waits for ever.
///
/// # The kernel's own accesses
///
/// `read(fd, pointer, …)` and `write(fd, pointer, …)` on an untouched page are `EFAULT`, unless
/// [`Trapping::Kernel`] was chosen: [`touch`](RawTransaction::touch) it first, or
/// [`touch_mut`](RawTransaction::touch_mut) where the kernel is to write. [`bytes`](RawTransaction::bytes)
/// and [`bytes_mut`](RawTransaction::bytes_mut) do.
///
/// ```no_run
/// # fn legacy_library_call(_: *mut u8) {}
/// let state = kstate::subscribe("robot.table").write().capacity(64).bytes()?;
/// let mut tx = state.begin_raw()?;
/// tx.set_length(64);
/// legacy_library_call(tx.as_mut_ptr());
/// if !tx.commit()?.is_conflict() {
///     println!("committed, or nothing was written");
/// }
/// # Ok::<(), kstate::Error>(())
/// ```
pub struct RawTransaction<'s, T: Content> {
    state: &'s State<T>,
    base: Head,
    process: Process,
    page: RawPage,
    length: Option<u32>,
}

enum RawPage {
    Trapped(Page),
    Software(SoftwarePage),
    /// Taken, on the way to the end.
    Ended,
}

/// Memory that nobody watches over.
struct SoftwarePage {
    memory: MmapMut,
    filled: Option<Result<Contents, region::ReadError>>,
    dirty: bool,
}

impl<T: Content> State<T> {
    /// How the first touch of a raw page is noticed from the next [`State::begin_raw`] on.
    pub fn set_trapping(&self, trapping: Trapping) {
        self.raw.trapping.set(trapping);
    }

    /// Begins a transaction by pointer from the newest version.
    ///
    /// # Errors
    ///
    /// [`BeginError`]: as [`State::begin`]; and [`BeginError::Trap`] when the [`Trapping`] chosen is
    /// not to be had, except that [`Trapping::Thread`] then turns into [`Trapping::Software`].
    ///
    /// # Cost
    ///
    /// A system call of 0.5 µs if an earlier page holds the version already and is shown again; else
    /// none but for a first page. Nothing is copied.
    pub fn begin_raw(&self) -> Result<RawTransaction<'_, T>, BeginError> {
        let base = self.writing.base()?;
        let io = |source| BeginError::Io {
            name: self.name().clone(),
            source,
        };
        let page = match self.trap()? {
            None => RawPage::Software(SoftwarePage {
                memory: MmapOptions::new()
                    .len(self.geometry().page() as usize)
                    .map_anon()
                    .map_err(io)?,
                filled: None,
                dirty: false,
            }),
            Some(trap) => {
                let mut page = self.raw_page(trap).map_err(io)?;
                let source = self.raw_source(base).map_err(io)?;
                let opened = page.open(source, base);
                if let Err(error) = opened {
                    give_back(page);
                    return Err(io(error));
                }
                RawPage::Trapped(page)
            }
        };
        Ok(RawTransaction {
            state: self,
            base,
            process: self.writing.process.get(),
            page,
            length: None,
        })
    }

    fn trap(&self) -> Result<Option<&'static Trap>, BeginError> {
        let wanted = self.raw.trapping.get();
        match Trap::of_this_process(wanted, self.raw.noting.get()) {
            Ok(trap) => Ok(trap),
            Err(TrapError::Refused(_) | TrapError::Emulated) if wanted == Trapping::Thread => {
                Ok(None)
            }
            Err(source) => Err(BeginError::Trap {
                name: self.name().clone(),
                source,
            }),
        }
    }

    /// A page of an earlier transaction, or a new one.
    fn raw_page(&self, trap: &'static Trap) -> std::io::Result<Page> {
        let mut spare = self.raw.spare.borrow_mut();
        while let Some(page) = spare.pop() {
            if std::ptr::eq(page.trap(), trap) {
                return Ok(page);
            }
            give_back(page);
        }
        trap.page()
    }

    /// Where pages are filled from, mapped as far as `base` lies: who fills may not map.
    fn raw_source(&self, base: Head) -> std::io::Result<&Arc<Reader<T>>> {
        let source = match self.raw.source.get() {
            Some(source) => source,
            None => self.raw.source.get_or_init(|| Arc::new(self.reader())),
        };
        let memory = source.memory();
        let size = SlotSize::from_raw(memory.slot(base.slot()).size.load(Ordering::Relaxed));
        if let Some(class) = size.class()
            && memory.payload(base.slot(), class).is_none()
        {
            source.grow(class)?;
        }
        Ok(source)
    }
}

impl<'s, T: Content> RawTransaction<'s, T> {
    /// The address of the page, for reading. It stays for as long as the transaction; the bytes
    /// behind it are the caller's and of whoever it hands the pointer to.
    pub fn as_ptr(&mut self) -> *const u8 {
        if let RawPage::Software(_) = self.page {
            self.fill_software();
        }
        self.start()
    }

    /// The address of the page, for reading and writing. It is [`as_ptr`](RawTransaction::as_ptr)'s;
    /// asking for it counts as a write under [`Trapping::Software`] alone.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        if let RawPage::Software(_) = self.page {
            self.fill_software();
            if let RawPage::Software(page) = &mut self.page {
                page.dirty = true;
            }
        }
        self.start()
    }

    /// Bytes of the page: the machine's page.
    pub fn page_len(&self) -> usize {
        self.state.geometry().page() as usize
    }

    /// Fills the page now, as a read of it would.
    ///
    /// # Errors
    ///
    /// [`ReadError`]; the page then holds zeros and cannot be committed.
    pub fn touch(&mut self) -> Result<(), ReadError> {
        self.touched(false)
    }

    /// Fills the page now, as a write to it would, and counts as one.
    ///
    /// # Errors
    ///
    /// As [`touch`](RawTransaction::touch).
    pub fn touch_mut(&mut self) -> Result<(), ReadError> {
        self.touched(true)
    }

    /// The value as of the beginning, with what was written since.
    ///
    /// # Errors
    ///
    /// As [`touch`](RawTransaction::touch).
    ///
    /// # Cost
    ///
    /// One copy at the first touch; no trap.
    pub fn bytes(&mut self) -> Result<&[u8], ReadError> {
        self.touched(false)?;
        // SAFETY: a page of this transaction, filled just now; whoever else has the pointer may
        // not write while the slice is used, which is what handing the pointer out means.
        Ok(unsafe { std::slice::from_raw_parts(self.start(), self.length()) })
    }

    /// The whole page to write to. Counts as a write.
    ///
    /// # Errors
    ///
    /// As [`touch`](RawTransaction::touch).
    ///
    /// # Cost
    ///
    /// As [`bytes`](RawTransaction::bytes).
    pub fn bytes_mut(&mut self) -> Result<&mut [u8], ReadError> {
        self.touched(true)?;
        // SAFETY: as in `bytes`, and `self` is borrowed exclusively.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.start(), self.page_len()) })
    }

    /// How many bytes a commit makes the version: what [`set_length`](RawTransaction::set_length)
    /// said; else a type's size, or the length that the base had, or the capacity if that was 0.
    pub fn length(&self) -> usize {
        self.length_over(|| self.filled().and_then(Result::ok))
    }

    fn length_over(&self, filled: impl FnOnce() -> Option<Contents>) -> usize {
        let chosen = self.length.map(|length| length as usize);
        let length = chosen.unwrap_or_else(|| {
            let found = filled().map_or(0, |contents| contents.length);
            T::raw_length(found, self.state.capacity())
        });
        length.min(self.page_len())
    }

    /// Says how many bytes a commit makes the version. Another length than the version's counts as a
    /// write. A type has the length it has: of one it says nothing.
    pub fn set_length(&mut self, bytes: usize) {
        if !T::HAS_LENGTH {
            self.length = Some(u32::try_from(bytes).unwrap_or(u32::MAX));
        }
    }

    /// The generation it began from.
    pub fn base(&self) -> Generation {
        self.base.generation()
    }

    /// Whether it would still commit: nobody has committed since it began.
    pub fn validate(&self) -> bool {
        self.state.is_newest(self.base)
    }

    /// Whether the page was written to.
    ///
    /// # Cost
    ///
    /// A system call, 0.7 µs.
    pub fn is_dirty(&self) -> bool {
        match &self.page {
            RawPage::Trapped(page) => self.process.is_current() && page.is_dirty(),
            RawPage::Software(page) => page.dirty,
            RawPage::Ended => false,
        }
    }

    /// Whether the page was read or written to.
    pub fn is_touched(&self) -> bool {
        self.filled().is_some()
    }

    /// Whether the page was filled with a version newer than its base, which was overwritten before
    /// the first touch: a commit is going to conflict.
    pub fn is_doomed(&self) -> bool {
        let filled = self.filled().and_then(Result::ok);
        filled.is_some_and(|contents| contents.head != self.base)
    }

    /// How its page's first touch is noticed.
    pub fn trapping(&self) -> Trapping {
        match &self.page {
            RawPage::Trapped(page) => page.trap().way(),
            _ => Trapping::Software,
        }
    }

    /// Makes the page the newest version, if the base still is. Nobody may write to it meanwhile.
    ///
    /// # Errors
    ///
    /// [`CommitError`]; a conflict is an [`Outcome`].
    ///
    /// # Memory ordering
    ///
    /// What happened before this call is visible to whoever reads the version.
    ///
    /// # Cost
    ///
    /// One copy and one compare-and-swap; a system call of 0.7 µs that takes the page away, and one of 0.4 µs
    /// that asks for writes where none can be seen.
    pub fn commit(mut self) -> Result<Outcome, CommitError> {
        if !self.process.is_current() {
            return Err(self.state.writing.forked());
        }
        let base = self.base.generation();
        self.apply_length()?;
        let (filled, known_dirty) = match &self.page {
            RawPage::Trapped(page) => page.seen(),
            RawPage::Software(page) => (page.filled, page.dirty),
            RawPage::Ended => (None, false),
        };
        let Some(contents) = filled else {
            return Ok(Outcome::Unchanged { base });
        };
        if !known_dirty && !self.was_written(contents) {
            let unwritten = contents.ok().filter(|contents| contents.head == self.base);
            self.end(unwritten);
            return Ok(Outcome::Unchanged { base });
        }
        if let Err(error) = contents {
            // What could not be read may only have been a later version, in the way of which
            // there was something.
            return match self.state.look()?.head {
                head if head != self.base => {
                    self.state.memory().header().count_conflict();
                    Ok(Outcome::Conflict {
                        base,
                        found: head.generation(),
                    })
                }
                _ => Err(self.state.named(error).into()),
            };
        }
        let length = self.length_over(|| contents.ok());
        // SAFETY: a page of this transaction, filled; nobody writes to it now, which is what this
        // function asks of who has the pointer.
        let bytes = unsafe { std::slice::from_raw_parts(self.start().cast_const(), length) };
        let outcome = self.state.writing.commit_slowly(self.base, bytes)?;
        if let Outcome::Committed { generation } = outcome {
            let newest = region::newest(self.state.memory()).ok();
            let head = newest.filter(|head| head.generation() == generation);
            if length < self.page_len() {
                // SAFETY: within the page.
                let rest = unsafe { self.start().add(length) };
                // SAFETY: the rest of the page, which the version does not have.
                unsafe { rest.write_bytes(0, self.page_len() - length) };
            }
            // At most a page.
            let length = u32::try_from(length).unwrap_or(u32::MAX);
            self.end(head.map(|head| Contents { length, head }));
        }
        Ok(outcome)
    }

    pub(crate) fn state(&self) -> &'s State<T> {
        self.state
    }

    /// Throws away what was written.
    pub fn abort(self) {}

    /// Makes a length that was said, if it is another one, a write.
    fn apply_length(&mut self) -> Result<(), CommitError> {
        let Some(length) = self.length.map(|length| length as usize) else {
            return Ok(());
        };
        if length > self.page_len() {
            let name = self.state.name().clone();
            return Err(CommitError::TooLong {
                name,
                length,
                capacity: self.state.capacity(),
            });
        }
        // What cannot be read is reported, or conflicts, below.
        let _ = self.touched(false);
        let found = self.filled().and_then(Result::ok);
        if found.is_some_and(|contents| contents.length as usize != length) {
            let _ = self.touched(true);
        }
        Ok(())
    }

    /// Whether the page, which has `contents`, was written to, though nobody said so. Whose bytes are
    /// others than it was filled with was; only of one that has the same the kernel must be asked.
    fn was_written(&self, contents: Result<Contents, region::ReadError>) -> bool {
        let RawPage::Trapped(page) = &self.page else {
            return false;
        };
        let changed = |contents: Contents| {
            // SAFETY: a page of this transaction, filled; nobody writes to it now, which is what
            // `commit` asks of who has the pointer.
            let bytes = unsafe { std::slice::from_raw_parts(self.start(), self.page_len()) };
            region::differs(self.state.memory(), contents.head, bytes)
        };
        contents.is_ok_and(changed) || page.is_dirty()
    }

    fn start(&self) -> *mut u8 {
        match &self.page {
            RawPage::Trapped(page) => page.start().as_ptr(),
            RawPage::Software(page) => page.memory.as_ptr().cast_mut(),
            RawPage::Ended => std::ptr::null_mut(),
        }
    }

    fn filled(&self) -> Option<Result<Contents, region::ReadError>> {
        match &self.page {
            // The page's lock may have come along with a fork as somebody held it.
            RawPage::Trapped(page) if self.process.is_current() => page.filled(),
            RawPage::Trapped(_) => None,
            RawPage::Software(page) => page.filled,
            RawPage::Ended => None,
        }
    }

    fn touched(&mut self, to_write: bool) -> Result<(), ReadError> {
        if !self.process.is_current() {
            return Err(self.state.touched_by_child());
        }
        match &mut self.page {
            RawPage::Trapped(page) => page.touch(to_write),
            RawPage::Software(page) => {
                page.dirty |= to_write;
                self.fill_software();
            }
            RawPage::Ended => {}
        }
        match self.filled() {
            Some(Err(error)) => Err(self.state.named(error)),
            _ => Ok(()),
        }
    }

    fn fill_software(&mut self) {
        let (state, base) = (self.state, self.base);
        if let RawPage::Software(page) = &mut self.page
            && page.filled.is_none()
        {
            let contents = Source::fill(&**state, base, &mut page.memory);
            let length = contents.map_or(0, |contents| contents.length as usize);
            page.memory[length..].fill(0);
            page.filled = Some(contents);
        }
    }

    /// Gives the page back, which may hold a version unwritten.
    fn end(&mut self, holds: Option<Contents>) {
        if let RawPage::Trapped(mut page) = std::mem::replace(&mut self.page, RawPage::Ended) {
            // A child has no page there, and shall not take away what it may have there instead.
            if self.process.is_current() && page.is_ours() {
                page.end(holds);
                self.state.raw.spare.borrow_mut().push(page);
            }
        }
    }
}

impl<T: Content> Drop for RawTransaction<'_, T> {
    fn drop(&mut self) {
        self.end(None);
    }
}

impl<T: Content> fmt::Debug for RawTransaction<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawTransaction")
            .field("state", &self.state.name().as_str())
            .field("base", &self.base())
            .field("trapping", &self.trapping())
            .finish_non_exhaustive()
    }
}
