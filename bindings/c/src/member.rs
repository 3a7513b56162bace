#![expect(
    unsafe_code,
    reason = "keeps a transaction beside what it borrows from"
)]
//! A state of a transaction: to be read, or to be changed.

use std::ffi::c_void;
use std::mem::ManuallyDrop;
use std::sync::Arc;

use kstate::{Bytes, Generation, RawTransaction, Trapping};
use kstate_sys::fork::Process;

use crate::failure::{Failure, Outcome};
use crate::page::Page;
use crate::shared::{Shared, Using};

/// A state, and what the transaction has of it.
pub(crate) struct Member {
    pub(crate) access: Access,
    // Behind what borrows from it.
    pub(crate) shared: Arc<Shared>,
}

/// What is done with it.
pub(crate) enum Access {
    Read(Reading),
    Write(Writing),
}

/// A copy of the version that was the newest.
pub(crate) struct Reading {
    page: Page,
    pub(crate) generation: Generation,
    length: usize,
    /// Whether the program has its address.
    pub(crate) is_read: bool,
}

/// A page of the library's that the program writes to.
///
/// # Invariants
///
/// 1. `raw` borrows from the `Shared` of the same [`Member`], which is behind an `Arc` that is there for as long as this:
///    the lifetime that it says is longer than that, and is not let out. It is used, and ended, only by who uses that
///    `Shared`.
pub(crate) struct Writing {
    raw: ManuallyDrop<RawTransaction<'static, Bytes>>,
    /// Whose the page is.
    process: Process,
    /// Where no touch is trapped: the page as it was when the program was given its address.
    before: Option<Box<[u8]>>,
    /// The length was chosen.
    is_resized: bool,
}

impl Member {
    /// The newest version, to be read from a page like `spare`.
    pub(crate) fn to_read(shared: &Arc<Shared>, spare: Option<Page>) -> Outcome<Self> {
        let mut page = spare.map_or_else(Page::new, Ok)?;
        let mut seen = (Generation::NEVER, 0);
        page.fill(|into| {
            let now = shared.reader().snapshot_into(into)?;
            seen = (now.generation(), now.value);
            Ok(now.value)
        })?;
        Ok(Self {
            access: Access::Read(Reading {
                page,
                generation: seen.0,
                length: seen.1,
                is_read: false,
            }),
            shared: shared.clone(),
        })
    }

    /// The newest version, to be changed.
    #[inline]
    pub(crate) fn to_write(shared: &Arc<Shared>) -> Outcome<Self> {
        let using = shared.using()?;
        let process = Process::current().map_err(|_| Failure::NO_MEMORY)?;
        let raw = using.begin_raw()?;
        // SAFETY: only the lifetime changes (invariant 1 of `Writing`): it borrows the library's handle, which `Shared` has
        // at an address that stays (its invariant 2), and which is there as long as the `Arc` beside it. Fields are
        // dropped in their order, and `end` ends it before that.
        let raw: RawTransaction<'static, Bytes> = unsafe { core::mem::transmute(raw) };
        drop(using);
        Ok(Self {
            access: Access::Write(Writing {
                raw: ManuallyDrop::new(raw),
                process,
                before: None,
                is_resized: false,
            }),
            shared: shared.clone(),
        })
    }

    /// Where the program finds its page.
    pub(crate) fn pointer(&mut self) -> Outcome<*mut c_void> {
        match &mut self.access {
            Access::Read(reading) => {
                reading.is_read = true;
                Ok(reading.page.start()?.as_ptr())
            }
            Access::Write(writing) => {
                if !writing.process.is_current() {
                    return Err(Failure::PARENTS);
                }
                let using = self.shared.using()?;
                Ok(writing.pointer(&using))
            }
        }
    }

    /// How many bytes the value has, or will have at commit.
    pub(crate) fn length(&mut self) -> Outcome<usize> {
        match &mut self.access {
            Access::Read(reading) => Ok(reading.length),
            Access::Write(writing) => {
                let using = self.shared.using()?;
                writing.touch(&using)?;
                Ok(writing.raw.length())
            }
        }
    }

    /// Says how many bytes a commit makes it.
    pub(crate) fn set_length(&mut self, length: usize) -> Outcome<()> {
        match &mut self.access {
            Access::Read(_) => Err(Failure::plain(
                libc::EINVAL,
                c"the state is in the transaction for reading",
            )),
            Access::Write(writing) => {
                let using = self.shared.using()?;
                if length > using.capacity() as usize {
                    return Err(Failure::plain(
                        libc::EFBIG,
                        c"the state has no room for so many bytes; set its size",
                    ));
                }
                writing.raw.set_length(length);
                writing.is_resized = true;
                Ok(())
            }
        }
    }

    /// Whether nobody has committed since.
    pub(crate) fn is_current(&self) -> Outcome<bool> {
        match &self.access {
            Access::Read(reading) => Ok(self.shared.reader().generation() == reading.generation),
            Access::Write(writing) => {
                let _using = self.shared.using()?;
                Ok(writing.raw.validate())
            }
        }
    }

    /// Throws away what was written; the page of a copy, to be used again.
    pub(crate) fn end(self) -> Option<Page> {
        match self.access {
            Access::Read(Reading { mut page, .. }) => {
                page.close();
                Some(page)
            }
            Access::Write(mut writing) => {
                if let Ok(using) = self.shared.using() {
                    drop(writing.take(&using));
                }
                // Else this is a child, in which the page is not, nor what it was of in use.
                None
            }
        }
    }
}

impl Writing {
    fn pointer(&mut self, _using: &Using<'_>) -> *mut c_void {
        if self.raw.trapping() != Trapping::Software {
            return self.raw.as_mut_ptr().cast();
        }
        // Not a write in itself: what is the same at commit counts as unwritten.
        let page = self.raw.as_ptr();
        if self.before.is_none() {
            // SAFETY: a page of the transaction's, which nobody else knows yet.
            let bytes = unsafe { core::slice::from_raw_parts(page, self.raw.page_len()) };
            self.before = Some(bytes.into());
        }
        page.cast_mut().cast()
    }

    /// Whether the program has written to it, or chosen its length.
    pub(crate) fn is_dirty(&mut self, using: &Using<'_>) -> Outcome<bool> {
        if self.is_resized {
            self.touch(using)?;
            return Ok(true);
        }
        let Some(before) = &self.before else {
            return Ok(self.raw.is_dirty());
        };
        // SAFETY: a page of the transaction's. The program does not write to it while it commits, which is what
        // the header says.
        let now = unsafe { core::slice::from_raw_parts(self.raw.as_ptr(), before.len()) };
        Ok(*now != **before)
    }

    /// Whether its value was looked at or changed.
    pub(crate) fn is_touched(&self, _using: &Using<'_>) -> bool {
        self.is_resized || self.before.is_some() || self.raw.is_touched()
    }

    fn touch(&mut self, _using: &Using<'_>) -> Outcome<()> {
        Ok(self.raw.touch()?)
    }

    /// The generation that it began from.
    pub(crate) fn base(&self, _using: &Using<'_>) -> Generation {
        self.raw.base()
    }

    /// What a commit makes the state's value.
    pub(crate) fn bytes(&mut self, _using: &Using<'_>) -> Outcome<&[u8]> {
        Ok(self.raw.bytes()?)
    }

    /// The library's transaction, known to it as changed if it is; none is left here.
    pub(crate) fn take(&mut self, using: &Using<'_>) -> RawTransaction<'_, Bytes> {
        if self.before.is_some() && matches!(self.is_dirty(using), Ok(true)) {
            // What could not be filled says so at commit.
            let _ = self.raw.touch_mut();
        }
        // SAFETY: taken once: by `end` or a commit, which have the member by value, and it goes with them.
        unsafe { ManuallyDrop::take(&mut self.raw) }
    }
}
