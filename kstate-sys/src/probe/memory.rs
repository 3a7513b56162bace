//! Memory: where regions can live, and how touching a page can be noticed.

use super::child::survives;
use super::pages::{Pages, page_bytes};
use super::{Capability, Feature, Status};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, fchmod};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::unistd::ftruncate;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use userfaultfd::{
    FeatureFlags, PageFlags, PageRegion, Pagemap, RegisterMode, ScanRequest, Uffd, UffdBuilder,
};

const BACKING: &str = "/dev/shm";

pub(super) fn shared_memory() -> Capability {
    let feature = Feature::SharedMemory;
    let without = "the daemon needs another tmpfs for its backing files, or keeps them in memfds";
    match try_shared_memory() {
        Ok(free_bytes) => Capability::available(
            feature,
            format!(
                "{BACKING} is a tmpfs and writable, {} MiB free",
                free_bytes >> 20
            ),
            "regions can be files on it",
        ),
        Err(why) => Capability::unavailable(
            feature,
            format!("{BACKING}: {why}"),
            without,
            "mount a tmpfs there (containers: `--shm-size`), or name another to the daemon",
        ),
    }
}

/// Allocates a page in a file without a name, which is gone when closed.
fn try_shared_memory() -> Result<u64, String> {
    let found = statfs(BACKING).map_err(|errno| errno.to_string())?;
    if found.filesystem_type() != TMPFS_MAGIC {
        return Err("is not a tmpfs".into());
    }
    let file = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .mode(0o600)
        .open(BACKING)
        .map_err(|error| error.to_string())?;
    let bytes = libc::off_t::try_from(page_bytes()).map_err(|error| error.to_string())?;
    fallocate(&file, FallocateFlags::empty(), 0, bytes)
        .map_err(|errno| format!("fallocate: {errno}"))?;
    let block_bytes = u64::try_from(found.block_size()).unwrap_or(0);
    Ok(found.blocks_available().saturating_mul(block_bytes))
}

pub(super) fn memfd_sealing() -> Capability {
    let feature = Feature::MemfdSealing;
    match try_memfd_sealing() {
        Ok(()) => Capability::available(
            feature,
            "a memfd sealed against shrinking and growing keeps its size",
            "without passthrough, regions are memfds",
        ),
        Err(why) => Capability::unavailable(
            feature,
            why,
            "without passthrough there is no safe region to hand out",
            "let the container's seccomp filter pass memfd_create(2) and fcntl(2)",
        ),
    }
}

fn try_memfd_sealing() -> Result<(), String> {
    survives(libc::SYS_memfd_create).map_err(|why| format!("memfd_create: {why}"))?;
    let says = |call: &'static str| move |errno: Errno| format!("{call}: {errno}");
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let memfd = memfd_create(c"kstate-probe", flags).map_err(says("memfd_create"))?;
    let bytes = libc::off_t::try_from(page_bytes()).map_err(|error| error.to_string())?;
    ftruncate(&memfd, bytes).map_err(says("ftruncate"))?;
    // A memfd is born 0777: whoever gets a descriptor could open it anew with more rights.
    fchmod(&memfd, Mode::S_IRUSR | Mode::S_IWUSR).map_err(says("fchmod"))?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&memfd, FcntlArg::F_ADD_SEALS(seals)).map_err(says("fcntl(F_ADD_SEALS)"))?;
    for wrong in [0, 2 * bytes] {
        if ftruncate(&memfd, wrong) != Err(Errno::EPERM) {
            return Err("a sealed memfd changed its size".into());
        }
    }
    Ok(())
}

pub(super) fn userfaultfd() -> Capability {
    let feature = Feature::Userfaultfd;
    match try_missing(UffdBuilder::new().non_blocking(true)) {
        Ok(_) => Capability::available(
            feature,
            "a missing page was registered and filled (faults of user mode)",
            "the first touch of a transaction's raw page is trapped, and copies then",
        ),
        Err(why) => Capability::unavailable(
            feature,
            why,
            "raw pages are copied when the transaction begins; typed access is unaffected",
            "let the container's seccomp filter pass userfaultfd(2), or open /dev/userfaultfd \
             to this user",
        ),
    }
}

pub(super) fn userfaultfd_kernel() -> Capability {
    let feature = Feature::UserfaultfdKernel;
    match try_missing(UffdBuilder::new().non_blocking(true).user_mode_only(false)) {
        Ok(_) => Capability::available(
            feature,
            "faults of the kernel can be caught, too",
            "not used: a debugger that reads such a page of a stopped process would hang",
        ),
        Err(why) => Capability::new(
            feature,
            Status::Unavailable,
            why,
            "none: kstate catches faults of user mode only",
            None,
        ),
    }
}

pub(super) fn userfaultfd_sigbus() -> Capability {
    let feature = Feature::UserfaultfdSigbus;
    let mut builder = UffdBuilder::new();
    match try_missing(
        builder
            .non_blocking(true)
            .require_features(FeatureFlags::SIGBUS),
    ) {
        Ok(_) => Capability::available(
            feature,
            "accepted, with a page registered for it",
            "a trap is answered in the touching thread, in 5 µs",
        ),
        Err(why) => Capability::unavailable(
            feature,
            why,
            "a trap is answered by a handler thread, in 8 to 70 µs, or not trapped at all",
            "see `userfaultfd`; the feature itself is in Linux 4.14 and later",
        ),
    }
}

pub(super) fn userfaultfd_wp_async() -> Capability {
    let feature = Feature::UserfaultfdWpAsync;
    match try_wp_async() {
        Ok(()) => Capability::available(
            feature,
            "of two protected pages, the written one was found",
            "the first write to a raw page costs 0.8 µs to notice",
        ),
        Err(why) => Capability::unavailable(
            feature,
            why,
            "the first write to a raw page is trapped for itself, in 6 to 54 µs",
            "use a kernel of 6.7 or later; see `userfaultfd` and `pagemap-scan`",
        ),
    }
}

pub(super) fn pagemap_scan() -> Capability {
    let feature = Feature::PagemapScan;
    match try_pagemap_scan() {
        Ok(()) => Capability::available(
            feature,
            "of two pages, the present one was found",
            "written pages are found without a trap each",
        ),
        Err(why) => Capability::unavailable(
            feature,
            why,
            "asynchronous write-protection is of no use: writes are trapped",
            "use a kernel of 6.7 or later, with CONFIG_PROC_PAGE_MONITOR and /proc mounted",
        ),
    }
}

/// Registers a missing page and fills it.
fn try_missing(builder: &UffdBuilder) -> Result<Uffd, String> {
    survives(libc::SYS_userfaultfd)?;
    let uffd = builder.create().map_err(|error| error.to_string())?;
    let page = Pages::private(1).map_err(|errno| format!("mmap: {errno}"))?;
    uffd.register(page.start(), page.len())
        .map_err(|error| error.to_string())?;
    uffd.zeropage(page.start(), page.len(), true)
        .map_err(|error| error.to_string())?;
    Ok(uffd)
}

/// Protects two pages, writes the first, and has the kernel tell which was written.
fn try_wp_async() -> Result<(), String> {
    survives(libc::SYS_userfaultfd)?;
    let text = |error: userfaultfd::Error| error.to_string();
    let features = FeatureFlags::WP_ASYNC | FeatureFlags::WP_UNPOPULATED;
    let mut builder = UffdBuilder::new();
    let uffd = builder
        .non_blocking(true)
        .require_features(features)
        .create()
        .map_err(text)?;
    let pages = Pages::private(2).map_err(|errno| format!("mmap: {errno}"))?;
    uffd.register_with_mode(pages.start(), pages.len(), RegisterMode::WRITE_PROTECT)
        .map_err(text)?;
    uffd.write_protect(pages.start(), pages.len())
        .map_err(text)?;
    pages.touch();
    expect_first_page_only(&pages, &ScanRequest::written())
}

fn try_pagemap_scan() -> Result<(), String> {
    let pages = Pages::private(2).map_err(|errno| format!("mmap: {errno}"))?;
    pages.touch();
    let present = PageFlags::PRESENT;
    let request = ScanRequest {
        all_of: present,
        report: present,
        ..ScanRequest::default()
    };
    expect_first_page_only(&pages, &request)
}

fn expect_first_page_only(pages: &Pages, request: &ScanRequest) -> Result<(), String> {
    let mut regions = [PageRegion::default(); 2];
    let scan = Pagemap::open()
        .and_then(|pagemap| pagemap.scan(pages.start(), pages.len(), request, &mut regions))
        .map_err(|error| error.to_string())?;
    let start = pages.start().addr() as u64;
    let first = PageRegion {
        start,
        end: start + page_bytes() as u64,
        categories: request.report.bits(),
    };
    if scan.regions == 1 && regions[0] == first {
        Ok(())
    } else {
        Err(format!(
            "PAGEMAP_SCAN found {:x?} instead of {first:x?}",
            &regions[..scan.regions]
        ))
    }
}
