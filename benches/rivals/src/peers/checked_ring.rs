#![expect(
    unsafe_code,
    reason = "the limit is what a program without any library would do"
)]
//! The limit of reading one version: the bare ring with a tag a slot, looked at before and after.
//!
//! Each slot knows which version it holds, and what was copied is that if the tag is the same afterwards.
//! There is one writer, one length and nothing else: no rights, nobody who dies, nobody who waits.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use memmap2::MmapRaw;

use super::ring::{Copying, publishing};
use super::{Kind, Peer};
use crate::Result;
use crate::bare;
use crate::capability::{By, Can, Publishes, Reads};
use crate::site::{Home, Site};
use crate::value::{Value, for_size};

/// The ring.
#[derive(Debug)]
pub(crate) struct CheckedRing;

impl Peer for CheckedRing {
    fn id(&self) -> &'static str {
        "checked-ring"
    }

    fn title(&self) -> &'static str {
        "checked ring (limit)"
    }

    fn kind(&self) -> Kind {
        Kind::Limit
    }

    fn used(&self) -> &'static str {
        "The bare ring with a tag in front of each slot: the writer marks it, fills the slot and tags it; a \
         reader looks at the tag, copies and looks again. The least that a read of one version takes."
    }

    fn home(&self, site: &Site) -> Can<Home> {
        for_size!(site.size, home, site)
    }

    fn reads(&self, site: &Site) -> Can<Box<dyn Reads>> {
        for_size!(site.size, reads, site)
    }

    fn publishes(&self, site: &Site) -> Can<Box<dyn Publishes>> {
        for_size!(site.size, publishes, site)
    }
}

const SLOTS: u64 = 4;
const LINE: usize = 64;
/// What no version is.
const BUSY: u64 = u64::MAX;

/// A ring of values with tags, in a mapping that another process may share.
///
/// # Invariants
///
/// 1. The mapping has room for the index and four slots, page aligned; everything is reached by
///    raw pointers.
struct Ring<const W: usize>(MmapRaw);

impl<const W: usize> Ring<W> {
    /// A line for the tag, and the value.
    const STRIDE: usize = LINE + size_of::<Value<W>>().next_multiple_of(LINE);

    fn open(site: &Site) -> Result<Self> {
        let length = bare::FIRST + 4 * Self::STRIDE;
        // INVARIANT: 1: whoever opens it sets the same length.
        Ok(Self(bare::shared(&site.file_of("checked")?, length)?))
    }

    #[inline]
    fn head(&self) -> &AtomicU64 {
        // SAFETY: invariant 1: the first word, aligned, always an atomic.
        unsafe { AtomicU64::from_ptr(self.0.as_mut_ptr().cast()) }
    }

    #[inline]
    fn slot(&self, version: u64) -> (&AtomicU64, *mut Value<W>) {
        // Four slots: fits every usize.
        let index = usize::try_from(version % SLOTS).unwrap_or(0);
        // SAFETY: invariant 1: within the mapping.
        let start = unsafe { self.0.as_mut_ptr().add(bare::FIRST + index * Self::STRIDE) };
        // SAFETY: invariant 1: aligned, always an atomic.
        let tag = unsafe { AtomicU64::from_ptr(start.cast()) };
        // SAFETY: invariant 1: the slot is behind its tag.
        (tag, unsafe { start.add(LINE) }.cast())
    }
}

impl<const W: usize> bare::Ring<W> for Ring<W> {
    /// The newest value; again while it is overtaken.
    #[inline]
    fn read_into(&self, place: &mut Value<W>) {
        loop {
            // ORDERING: Acquire with the exchange in `publish`.
            let head = self.head().load(Ordering::Acquire);
            let (tag, value) = self.slot(head);
            // ORDERING: Acquire with the tag's Release, before the copy.
            let before = tag.load(Ordering::Acquire);
            // SAFETY: aligned and within the mapping. It may race, as in the bare ring; what was torn is copied anew.
            unsafe { std::ptr::copy_nonoverlapping(value, place, 1) };
            // ORDERING: the fence keeps the copy before the second look.
            fence(Ordering::Acquire);
            if before == head && tag.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }

    #[inline]
    fn publish(&self, value: &Value<W>) {
        let head = self.head().load(Ordering::Relaxed);
        let (tag, slot) = self.slot(head + 1);
        // ORDERING: the fence keeps the mark before the filling, Release the filling before the tag.
        tag.store(BUSY, Ordering::Relaxed);
        fence(Ordering::Release);
        // SAFETY: as in `read_into`; there is one writer.
        unsafe { std::ptr::copy_nonoverlapping(value, slot, 1) };
        tag.store(head + 1, Ordering::Release);
        // ORDERING: as of the bare ring.
        let swapped =
            self.head()
                .compare_exchange(head, head + 1, Ordering::SeqCst, Ordering::Relaxed);
        let _ = black_box(swapped);
    }
}

fn home<const W: usize>(site: &Site) -> Can<Home> {
    Ring::<W>::open(site)?;
    Ok(Arc::new(()))
}

fn reads<const W: usize>(site: &Site) -> Can<Box<dyn Reads>> {
    Ok(Box::new(By(Copying::of(Ring::<W>::open(site)?))))
}

fn publishes<const W: usize>(site: &Site) -> Can<Box<dyn Publishes>> {
    Ok(publishing(Ring::<W>::open(site)?))
}
