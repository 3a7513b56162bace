#![expect(
    unsafe_code,
    reason = "turns mapped bytes into the words of the protocol"
)]
//! A region as it is mapped into a process.

use core::marker::PhantomData;
use core::ptr::NonNull;

use super::{Header, Memory, Payload, Recorded, Slot, SlotMeta};
use crate::abi::{ABI_VERSION, CLASSES, Class, Geometry, MAGIC};
use crate::clock::Clock;
use crate::sync::Ordering;

/// A mapped region: a base address, a length, a geometry. Copied freely, owns nothing.
///
/// # Invariants
///
/// 1. The `len` bytes that begin a page before `header` stay mapped for `'a`, at least up to the
///    end of the area of the smallest class, and `header` is page aligned.
/// 2. The mapping is only reached through the words and payloads handed out here: no reference
///    to shared bytes that are not atomics exists in this process.
/// 3. An area in `areas` is that many bytes behind `header`, and mapped to its end; 0 for one that is not.
#[derive(Clone, Copy, Debug)]
pub struct Mapped<'a> {
    /// Not the start: nearly everything is found from here, and with no page size to be fetched.
    header: NonNull<u8>,
    areas: [u32; CLASSES.len()],
    geometry: Geometry,
    len: usize,
    mapped: PhantomData<&'a ()>,
}

// SAFETY: what is handed out are atomics and payloads, both made for sharing (invariant 2).
unsafe impl Send for Mapped<'_> {}
// SAFETY: as for `Send`.
unsafe impl Sync for Mapped<'_> {}

/// Why bytes are no region of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// The first word is not [`MAGIC`].
    #[error("no kstate region: it begins with {found:#018x} instead of {MAGIC:#018x}")]
    Magic {
        /// What was found.
        found: u64,
    },
    /// Another version of the layout.
    #[error(
        "the region has ABI version {found}, this program knows version {ABI_VERSION}; run a \
         daemon and programs of one version"
    )]
    Version {
        /// What was found.
        found: u32,
    },
    /// Another page size than the machine's.
    #[error("the region has pages of {found} bytes, this machine of {expected}")]
    PageSize {
        /// What was found, in bytes.
        found: u32,
        /// This machine's, in bytes.
        expected: u32,
    },
    /// The mapping does not reach the end of the smallest class's slots.
    #[error(
        "the mapping has {found} bytes, a region's header, metadata and smallest slots {needed}"
    )]
    TooShort {
        /// Bytes mapped.
        found: usize,
        /// Bytes needed.
        needed: usize,
    },
}

impl<'a> Mapped<'a> {
    /// Takes a mapping for a region, without looking at its header.
    ///
    /// # Errors
    ///
    /// [`HeaderError::TooShort`].
    ///
    /// # Safety
    ///
    /// The invariants of this type hold for `base`, `len` and the lifetime chosen. Words and
    /// payloads may only be stored to if the mapping is writable.
    pub unsafe fn new(
        base: NonNull<u8>,
        len: usize,
        geometry: Geometry,
    ) -> Result<Self, HeaderError> {
        let needed = geometry.mapped_len(Class::B64);
        if len < needed {
            return Err(HeaderError::TooShort { found: len, needed });
        }
        let area = |class| match geometry.area_end(class) <= len {
            true => geometry.area_behind_header(class),
            false => 0,
        };
        // SAFETY: the header is mapped, by the caller's promise and the check.
        let header = unsafe { base.add(geometry.header()) };
        // INVARIANT: 1 and 2, by the caller's promise and the check; 3, by the look at each end.
        Ok(Self {
            header,
            areas: CLASSES.map(area),
            geometry,
            len,
            mapped: PhantomData,
        })
    }

    /// Checks that the header is of this version and this machine.
    ///
    /// # Errors
    ///
    /// [`HeaderError`] naming both sides.
    pub fn check(&self) -> Result<(), HeaderError> {
        let header = self.header();
        let found = header.magic.load(Ordering::Acquire);
        if found != MAGIC {
            return Err(HeaderError::Magic { found });
        }
        let found = header.abi_version.load(Ordering::Relaxed);
        if found != ABI_VERSION {
            return Err(HeaderError::Version { found });
        }
        let (found, expected) = (
            header.page_size.load(Ordering::Relaxed),
            self.geometry.page(),
        );
        if found != expected {
            return Err(HeaderError::PageSize { found, expected });
        }
        Ok(())
    }

    /// The geometry.
    #[inline]
    pub const fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Bytes mapped.
    #[inline]
    pub const fn mapped_len(&self) -> usize {
        self.len
    }

    /// Address of the live page: stable as long as the mapping.
    #[inline]
    pub const fn live_page(&self) -> NonNull<u8> {
        // SAFETY: invariant 1: it is the page before the header.
        unsafe { self.header.sub(self.geometry.header()) }
    }
}

impl Memory for Mapped<'_> {
    #[inline]
    fn header(&self) -> &Header {
        // SAFETY: page aligned, mapped as long as `self` (invariant 1); all fields are atomics, for
        // which any bytes are a value (invariant 2).
        unsafe { self.header.cast().as_ref() }
    }

    #[inline]
    fn slot(&self, slot: Slot) -> &SlotMeta {
        // SAFETY: invariant 1, and a `Slot` is below SLOTS.
        let meta = unsafe {
            self.header
                .add(Geometry::slot_meta_behind_header(slot.index()))
        };
        // SAFETY: 512 and 64 keep it aligned; all fields are atomics (invariant 2).
        unsafe { meta.cast().as_ref() }
    }

    #[inline]
    fn payload(&self, slot: Slot, class: Class) -> Option<Payload<'_>> {
        let area = self.areas[class as usize] as usize;
        if class == Class::B64 {
            // SAFETY: invariants 1 and 3: it is mapped, and not where the header is.
            unsafe { core::hint::assert_unchecked(area != 0) };
        }
        if area == 0 {
            return None;
        }
        let room = self.geometry.slot_bytes(class);
        // SAFETY: within the area, which is mapped (invariant 3), since a `Slot` is below SLOTS.
        let start = unsafe { self.header.add(area + usize::from(slot.index()) * room) };
        // SAFETY: invariants 1 and 2 are those of `Payload`.
        Some(unsafe { Payload::new(start, room) })
    }

    #[inline]
    fn live(&self) -> Payload<'_> {
        // SAFETY: invariants 1 and 2; page 0 is the live page.
        unsafe { Payload::new(self.live_page(), self.geometry.page() as usize) }
    }

    /// A region alone knows of no record: [`WithRecords`] does.
    #[inline]
    fn status(&self, _: u32) -> Recorded {
        Recorded::Unmapped
    }

    #[inline]
    fn slot_bytes(&self, class: Class) -> usize {
        self.geometry.slot_bytes(class)
    }
}

/// The records of a mount, as far as this process knows them.
pub trait Records {
    /// What is known of `record`.
    fn status(&self, record: u32) -> Recorded;
}

/// A mapped region with the records that decide commits of several states: what is needed where
/// an intent was met.
#[derive(Debug)]
pub struct WithRecords<'a, R> {
    mapped: Mapped<'a>,
    records: &'a R,
}

impl<'a, R: Records> WithRecords<'a, R> {
    /// The two together.
    pub const fn new(mapped: Mapped<'a>, records: &'a R) -> Self {
        Self { mapped, records }
    }

    /// The region alone.
    pub const fn mapped(&self) -> &Mapped<'a> {
        &self.mapped
    }
}

impl<R: Records> Memory for WithRecords<'_, R> {
    #[inline]
    fn header(&self) -> &Header {
        self.mapped.header()
    }

    #[inline]
    fn slot(&self, slot: Slot) -> &SlotMeta {
        self.mapped.slot(slot)
    }

    #[inline]
    fn payload(&self, slot: Slot, class: Class) -> Option<Payload<'_>> {
        self.mapped.payload(slot, class)
    }

    #[inline]
    fn live(&self) -> Payload<'_> {
        self.mapped.live()
    }

    #[inline]
    fn status(&self, record: u32) -> Recorded {
        self.records.status(record)
    }

    #[inline]
    fn slot_bytes(&self, class: Class) -> usize {
        self.mapped.slot_bytes(class)
    }
}

/// Writes the header of a fresh, zeroed region; the magic last.
///
/// # Memory ordering
///
/// Who finds the magic finds the rest.
pub fn initialise(region: &Mapped<'_>, state_id: u64, capacity: u32, clock: &Clock) {
    let header = region.header();
    header.abi_version.store(ABI_VERSION, Ordering::Relaxed);
    header
        .page_size
        .store(region.geometry.page(), Ordering::Relaxed);
    header.state_id.store(state_id, Ordering::Relaxed);
    header.capacity.store(capacity, Ordering::Relaxed);
    header
        .clock_kind
        .store(clock.kind() as u32, Ordering::Relaxed);
    header
        .clock_ns_per_tick_32
        .store(clock.ns_per_tick_32(), Ordering::Relaxed);
    // ORDERING: Release: pairs with `check`.
    header.magic.store(MAGIC, Ordering::Release);
}
