//! Constants and geometry of a region, ABI version 1.
//!
//! The page size is the machine's and stands in the header; every offset below follows from it.

/// Version of the region layout and of the ioctls that hand it out.
pub const ABI_VERSION: u32 = 1;

/// First eight bytes of a region's header page: `kstate`, NUL, and a byte that is not text.
pub const MAGIC: u64 = u64::from_le_bytes(*b"kstate\0\xb5");

/// First eight bytes of the mount's registry page.
pub const REGISTRY_MAGIC: u64 = u64::from_le_bytes(*b"kstreg\0\xb5");

/// Slots that belong to one writer.
pub const SLOTS_PER_GROUP: u16 = 4;

/// Slots of a region: what the ten slot bits of `head` can name.
pub const SLOTS: u16 = 1024;

/// Slot groups of a region. Group 0 is the daemon's, so one fewer writers can claim one.
pub const GROUPS: u16 = SLOTS / SLOTS_PER_GROUP;

/// Bytes at the start of the header page before the first slot's metadata.
pub const HEADER_BYTES: usize = 512;

/// Bytes of one slot's metadata: a cache line, so that two writers never share one.
pub const SLOT_META_BYTES: usize = 64;

/// Smallest and largest page size, in bytes, that a region may have.
pub const PAGE_SIZE_RANGE: core::ops::RangeInclusive<u32> = 4096..=65536;

/// The open flag with which the library tells the daemon that it needs no live page.
///
/// `open(2)` documents `O_ASYNC` as having no effect there, so no other program sets it; FUSE
/// hands it on. An open without it *arms* the live page, since such a program may map the file.
pub const O_LIBRARY: i32 = libc::O_ASYNC;

/// Size class of a slot: how many payload bytes it has room for.
///
/// Each class is an area of its own in the sparse region file, so that a small state touches
/// small pages only. A state that grows publishes its next versions in a bigger class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    /// 64 bytes.
    B64 = 0,
    /// 256 bytes.
    B256 = 1,
    /// 1024 bytes.
    B1024 = 2,
    /// The machine's page.
    Page = 3,
}

/// All classes, smallest first.
pub const CLASSES: [Class; 4] = [Class::B64, Class::B256, Class::B1024, Class::Page];

impl Class {
    /// The class a raw byte of a region names, if it names one.
    #[inline]
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            0 => Some(Self::B64),
            1 => Some(Self::B256),
            2 => Some(Self::B1024),
            3 => Some(Self::Page),
            _ => None,
        }
    }

    /// The class that versions of `length` bytes are usually in: the smallest that has room, or
    /// a page.
    #[inline]
    pub const fn usual(length: usize) -> Self {
        match length {
            0..=64 => Self::B64,
            65..=256 => Self::B256,
            257..=1024 => Self::B1024,
            _ => Self::Page,
        }
    }
}

/// Where things are in a region whose pages have a given size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    page: u32,
    /// Offset in bytes of each class's area.
    areas: [u32; 4],
}

impl Geometry {
    /// The geometry for pages of `page` bytes; `None` unless a power of two within
    /// [`PAGE_SIZE_RANGE`].
    pub const fn new(page: u32) -> Option<Self> {
        if !page.is_power_of_two()
            || page < *PAGE_SIZE_RANGE.start()
            || page > *PAGE_SIZE_RANGE.end()
        {
            return None;
        }
        // 512 + 1024 * 64 bytes: far from overflow.
        let metadata_end = page + 512 + 1024 * 64;
        let first = metadata_end.next_multiple_of(page);
        let slots = 1024;
        let areas = [
            first,
            first + (slots << 6),
            first + (slots << 6) + (slots << 8),
            first + (slots << 6) + (slots << 8) + (slots << 10),
        ];
        Some(Self { page, areas })
    }

    /// The geometry of this machine's pages.
    ///
    /// # Panics
    ///
    /// When the machine's page size is outside [`PAGE_SIZE_RANGE`]: no such Linux exists.
    pub fn of_this_machine() -> Self {
        Self::new(page_size()).expect("page size of this machine is outside 4 to 64 KiB")
    }

    /// Page size in bytes.
    #[inline]
    pub const fn page(&self) -> u32 {
        self.page
    }

    /// Offset in bytes of the header page; the live page is before it, at 0.
    #[inline]
    pub const fn header(&self) -> usize {
        self.page as usize
    }

    /// Offset in bytes of the metadata of slot `index`.
    #[inline]
    pub const fn slot_meta(&self, index: u16) -> usize {
        self.header() + Self::slot_meta_behind_header(index)
    }

    /// As [`slot_meta`](Self::slot_meta), from the header page on.
    #[inline]
    pub const fn slot_meta_behind_header(index: u16) -> usize {
        HEADER_BYTES + index as usize * SLOT_META_BYTES
    }

    /// Payload bytes of one slot of `class`.
    #[inline]
    pub const fn slot_bytes(&self, class: Class) -> usize {
        // No table: with a class that the compiler knows, all but the page's are constants. No
        // branch either: a jump by class would be foretold wrong for states of several.
        let is_page = matches!(class, Class::Page) as usize;
        (64 << (2 * class as u8)) * (1 - is_page) + self.page as usize * is_page
    }

    /// Where the area of `class` begins, in bytes behind the start of the header page.
    #[inline]
    pub const fn area_behind_header(&self, class: Class) -> u32 {
        self.areas[class as usize] - self.page
    }

    /// Offset in bytes of the payload of slot `index` in the area of `class`.
    #[inline]
    pub const fn payload(&self, index: u16, class: Class) -> usize {
        self.areas[class as usize] as usize + index as usize * self.slot_bytes(class)
    }

    /// Offset in bytes of the end of the area of `class`.
    #[inline]
    pub const fn area_end(&self, class: Class) -> usize {
        self.payload(SLOTS, class)
    }

    /// Length in bytes of the whole region file, holes included.
    #[inline]
    pub const fn region_len(&self) -> usize {
        self.area_end(Class::Page)
    }

    /// Length in bytes that a process must map to reach slots of `class` and all smaller ones.
    ///
    /// Mapping no more keeps ten thousand small states within a few page tables.
    #[inline]
    pub const fn mapped_len(&self, class: Class) -> usize {
        self.area_end(class)
    }

    /// The smallest class whose slots hold `capacity` bytes; `None` beyond a page.
    #[inline]
    pub const fn class_for(&self, capacity: u32) -> Option<Class> {
        match capacity {
            0..=64 => Some(Class::B64),
            65..=256 => Some(Class::B256),
            257..=1024 => Some(Class::B1024),
            _ if capacity <= self.page => Some(Class::Page),
            _ => None,
        }
    }
}

/// Page size of this machine in bytes.
///
/// # Panics
///
/// When the kernel does not tell, which `sysconf(3)` does not allow.
pub fn page_size() -> u32 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|bytes| u32::try_from(bytes).ok())
        .expect("sysconf(_SC_PAGESIZE) always succeeds on Linux")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_follow_each_other_page_aligned_without_overlap() {
        for page in [4096_u32, 16384, 65536] {
            let geometry = Geometry::new(page).unwrap();
            let mut end = geometry.slot_meta(SLOTS);
            for class in CLASSES {
                let start = geometry.payload(0, class);
                assert!(
                    start >= end,
                    "{class:?} of {page} overlaps what is before it"
                );
                assert_eq!(
                    start % page as usize,
                    0,
                    "{class:?} of {page} is not page aligned"
                );
                end = geometry.area_end(class);
                assert_eq!(end - start, usize::from(SLOTS) * geometry.slot_bytes(class));
            }
            assert_eq!(geometry.region_len(), end);
        }
    }

    #[test]
    fn class_is_the_smallest_that_fits() {
        let geometry = Geometry::new(4096).unwrap();
        let cases = [
            (1, Class::B64),
            (64, Class::B64),
            (65, Class::B256),
            (256, Class::B256),
            (257, Class::B1024),
            (1024, Class::B1024),
            (1025, Class::Page),
            (4096, Class::Page),
        ];
        for (capacity, class) in cases {
            assert_eq!(
                geometry.class_for(capacity),
                Some(class),
                "capacity {capacity}"
            );
        }
        assert_eq!(geometry.class_for(4097), None);
    }

    #[test]
    fn odd_page_sizes_are_refused() {
        for page in [0, 1, 2048, 4095, 12288, 131_072] {
            assert_eq!(Geometry::new(page), None, "page size {page}");
        }
    }
}
