//! Finding written pages: the `PAGEMAP_SCAN` ioctl of `/proc/self/pagemap` (Linux 6.7).
//!
//! The interface is `<linux/fs.h>`'s; what it means is in the kernel's
//! `Documentation/admin-guide/mm/pagemap.rst`.

#![expect(unsafe_code, reason = "PAGEMAP_SCAN has no wrapper in nix")]

use crate::error::{Error, Result, calling};
use crate::raw::{_IOC_READ_WRITE, ioc, kernel_struct};
use bitflags::bitflags;
use libc::c_void;
use nix::errno::Errno;
use std::fs::File;
use std::os::fd::AsRawFd;

pub(crate) const PAGE_IS_WPALLOWED: u64 = 1 << 0;
pub(crate) const PAGE_IS_WRITTEN: u64 = 1 << 1;
pub(crate) const PAGE_IS_FILE: u64 = 1 << 2;
pub(crate) const PAGE_IS_PRESENT: u64 = 1 << 3;
pub(crate) const PAGE_IS_SWAPPED: u64 = 1 << 4;
pub(crate) const PAGE_IS_PFNZERO: u64 = 1 << 5;
pub(crate) const PAGE_IS_HUGE: u64 = 1 << 6;
pub(crate) const PAGE_IS_SOFT_DIRTY: u64 = 1 << 7;
pub(crate) const PM_SCAN_WP_MATCHING: u64 = 1 << 0;
pub(crate) const PM_SCAN_CHECK_WPASYNC: u64 = 1 << 1;

kernel_struct! {
    pm_scan_arg, 96 bytes:
    size: u64 = 0,
    flags: u64 = 8,
    start: u64 = 16,
    end: u64 = 24,
    walk_end: u64 = 32,
    vec: u64 = 40,
    vec_len: u64 = 48,
    max_pages: u64 = 56,
    category_inverted: u64 = 64,
    category_mask: u64 = 72,
    category_anyof_mask: u64 = 80,
    return_mask: u64 = 88,
}

nix::ioctl_readwrite!(pagemap_scan_call, b'f', 16, pm_scan_arg);
pub(crate) const PAGEMAP_SCAN: u64 = 0xC060_6610;
const _: () = assert!(PAGEMAP_SCAN == ioc(_IOC_READ_WRITE, b'f', 16, size_of::<pm_scan_arg>()));
const _: () =
    assert!(PAGEMAP_SCAN == nix::request_code_readwrite!(b'f', 16, size_of::<pm_scan_arg>()));

bitflags! {
    /// What is known of a page, by the name of the kernel's `PAGE_IS_`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct PageFlags: u64 {
        /// Its range is registered for asynchronous write-protection.
        const WPALLOWED = PAGE_IS_WPALLOWED;
        /// It is not write-protected: written since it was, or never protected at all.
        const WRITTEN = PAGE_IS_WRITTEN;
        /// A file is behind it.
        const FILE = PAGE_IS_FILE;
        /// It is in memory.
        const PRESENT = PAGE_IS_PRESENT;
        /// It is in swap.
        const SWAPPED = PAGE_IS_SWAPPED;
        /// It is the kernel's shared page of zeros.
        const PFNZERO = PAGE_IS_PFNZERO;
        /// It is part of a huge page.
        const HUGE = PAGE_IS_HUGE;
        /// It is soft-dirty.
        const SOFT_DIRTY = PAGE_IS_SOFT_DIRTY;
        const _ = !0;
    }
}

bitflags! {
    /// What a scan does beyond reporting.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct ScanFlags: u64 {
        /// Write-protects the pages it reports, in the same step: no write falls in between.
        const WP_MATCHING = PM_SCAN_WP_MATCHING;
        /// Fails with `EPERM` at a page outside of asynchronous write-protection.
        const CHECK_WPASYNC = PM_SCAN_CHECK_WPASYNC;
        const _ = !0;
    }
}

/// Pages in a row of which the same is true. The layout is the kernel's `struct page_region`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PageRegion {
    /// Address of the first byte.
    pub start: u64,
    /// Address one past the last byte.
    pub end: u64,
    /// [`PageFlags`], those that the scan was asked to report.
    pub categories: u64,
}

const _: () = {
    assert!(size_of::<PageRegion>() == 24);
    assert!(align_of::<PageRegion>() == 8);
    assert!(std::mem::offset_of!(PageRegion, start) == 0);
    assert!(std::mem::offset_of!(PageRegion, end) == 8);
    assert!(std::mem::offset_of!(PageRegion, categories) == 16);
};

/// Which pages a scan reports, and what of them.
///
/// On kernels before the 2025 fixes (Ubuntu's 6.8 among them) only the masks of
/// [`written`](Self::written) see a page that was written and then dropped as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScanRequest {
    /// What else to do.
    pub flags: ScanFlags,
    /// A page is reported only if all of these hold.
    pub all_of: PageFlags,
    /// If not empty: a page is reported only if one of these holds.
    pub any_of: PageFlags,
    /// Those of the two above that shall not hold instead.
    pub inverted: PageFlags,
    /// What is reported of a page.
    pub report: PageFlags,
    /// If not 0: how many pages to report at most.
    pub max_pages: u64,
}

impl ScanRequest {
    /// The pages written since they were write-protected; refuses pages that cannot be.
    pub const fn written() -> ScanRequest {
        ScanRequest {
            flags: ScanFlags::CHECK_WPASYNC,
            all_of: PageFlags::WRITTEN,
            any_of: PageFlags::empty(),
            inverted: PageFlags::empty(),
            report: PageFlags::WRITTEN,
            max_pages: 0,
        }
    }

    /// [`written`](Self::written), and protects them again in the same step.
    pub const fn written_and_protect() -> ScanRequest {
        let both = ScanFlags::CHECK_WPASYNC.union(ScanFlags::WP_MATCHING);
        ScanRequest {
            flags: both,
            ..ScanRequest::written()
        }
    }
}

/// How far a scan came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scan {
    /// How many regions were filled in.
    pub regions: usize,
    /// Where it stopped, as a number of bytes from the start: less than the length when the
    /// regions or the pages allowed ran out.
    pub scanned_bytes: usize,
}

/// `/proc/self/pagemap`, open for scanning the memory of the process that opened it.
///
/// After a fork the child's still shows the parent's memory; the child opens its own.
#[derive(Debug)]
pub struct Pagemap {
    file: File,
}

impl Pagemap {
    /// Opens this process's pagemap. The right to scan one's own pages needs no privilege, but a
    /// process that may not be dumped (`PR_SET_DUMPABLE`, a changed user id) cannot open it.
    ///
    /// # Errors
    ///
    /// [`Error::SystemError`] when `/proc` is not mounted or not readable.
    pub fn open() -> Result<Pagemap> {
        match File::open("/proc/self/pagemap") {
            Ok(file) => Ok(Pagemap { file }),
            Err(error) => Err(Error::SystemError {
                call: "open(/proc/self/pagemap)",
                errno: Errno::try_from(error).unwrap_or(Errno::EIO),
            }),
        }
    }

    /// Scans `len` bytes from `start` and fills `regions` from the front, in ascending order.
    ///
    /// # Errors
    ///
    /// [`Error::SystemError`]: `ENOTTY` before Linux 6.7, `EPERM` as
    /// [`ScanFlags::CHECK_WPASYNC`] says. Pages before the failing one may have been protected.
    ///
    /// # Cost
    ///
    /// One system call; 0.7 µs for a page.
    pub fn scan(
        &self,
        start: *const c_void,
        len: usize,
        request: &ScanRequest,
        regions: &mut [PageRegion],
    ) -> Result<Scan> {
        let start = start.addr() as u64;
        let mut arg = pm_scan_arg {
            size: size_of::<pm_scan_arg>() as u64,
            flags: request.flags.bits(),
            start,
            end: start.saturating_add(len as u64),
            walk_end: 0,
            vec: regions.as_mut_ptr().expose_provenance() as u64,
            vec_len: regions.len() as u64,
            max_pages: request.max_pages,
            category_inverted: request.inverted.bits(),
            category_mask: request.all_of.bits(),
            category_anyof_mask: request.any_of.bits(),
            return_mask: request.report.bits(),
        };
        // SAFETY: `arg` is a `struct pm_scan_arg` and `regions` an array of `vec_len` of `struct
        // page_region` (layouts asserted above), both alive and exclusively ours throughout. The
        // scanned pages are not written: protecting one changes no byte.
        let filled = unsafe { pagemap_scan_call(self.file.as_raw_fd(), &raw mut arg) }
            .map_err(calling("PAGEMAP_SCAN"))?;
        let scanned = usize::try_from(arg.walk_end.saturating_sub(start));
        Ok(Scan {
            regions: usize::try_from(filled).unwrap_or(0).min(regions.len()),
            scanned_bytes: scanned.unwrap_or(len).min(len),
        })
    }
}
