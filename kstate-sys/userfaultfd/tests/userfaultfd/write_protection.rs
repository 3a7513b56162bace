//! First writes, found by stopping the writer and by scanning for what it wrote.

use crate::mapping::{Mapping, page_bytes};
use crate::{create, event, untested};
use std::thread;
use userfaultfd::{
    Errno, Error, Event, FaultKind, FeatureFlags, PageFlags, PageRegion, Pagemap, ReadWrite,
    RegisterMode, ScanRequest,
};

/// Regions that a scan of the whole mapping reports, as (first page, one past the last page).
fn written(pagemap: &Pagemap, memory: &Mapping, request: &ScanRequest) -> Vec<(usize, usize)> {
    let mut regions = [PageRegion::default(); 16];
    let scan = pagemap
        .scan(memory.page(0), memory.len(), request, &mut regions)
        .unwrap();
    assert_eq!(scan.scanned_bytes, memory.len(), "the scan stopped early");
    let page =
        |address: u64| (usize::try_from(address).unwrap() - memory.page(0).addr()) / page_bytes();
    regions[..scan.regions]
        .iter()
        .inspect(|region| assert_eq!(region.categories, PageFlags::WRITTEN.bits()))
        .map(|region| (page(region.start), page(region.end)))
        .collect()
}

#[test]
fn asynchronous_write_protection_finds_exactly_the_written_page() {
    let features = FeatureFlags::WP_ASYNC | FeatureFlags::WP_UNPOPULATED;
    let Some(uffd) = create("asynchronous write-protection", features) else {
        return;
    };
    let pagemap = Pagemap::open().unwrap();
    let memory = Mapping::new(8);
    // Page 2 exists before, page 5 does not: both must be found, and no other.
    memory.write(1, 1);
    memory.write(2, 1);
    uffd.register_with_mode(memory.page(0), memory.len(), RegisterMode::WRITE_PROTECT)
        .unwrap();
    uffd.write_protect(memory.page(0), memory.len()).unwrap();

    assert_eq!(written(&pagemap, &memory, &ScanRequest::written()), []);
    memory.write(2, 2);
    assert_eq!(
        written(&pagemap, &memory, &ScanRequest::written()),
        [(2, 3)]
    );
    assert_eq!(memory.read(1), 1);
    memory.write(5, 2);
    let request = ScanRequest::written_and_protect();
    assert_eq!(written(&pagemap, &memory, &request), [(2, 3), (5, 6)]);
    assert_eq!(
        written(&pagemap, &memory, &request),
        [],
        "they were protected again"
    );
    memory.write(5, 2);
    assert_eq!(
        written(&pagemap, &memory, &request),
        [(5, 6)],
        "the same bytes are a write too"
    );

    uffd.remove_write_protection(memory.page(0), memory.len(), true)
        .unwrap();
    assert_eq!(
        written(&pagemap, &memory, &ScanRequest::written()),
        [(0, 8)]
    );
    assert!(
        uffd.read_event().unwrap().is_none(),
        "asynchronous means: no events"
    );
}

#[test]
fn page_filled_write_protected_is_found_after_its_first_write() {
    let features = FeatureFlags::WP_ASYNC | FeatureFlags::SIGBUS;
    let Some(uffd) = create("filling under asynchronous protection", features) else {
        return;
    };
    let pagemap = Pagemap::open().unwrap();
    let memory = Mapping::new(2);
    let source = Mapping::new(2);
    source.write(0, 7);
    source.write(1, 7);
    let mode = RegisterMode::MISSING | RegisterMode::WRITE_PROTECT;
    uffd.register_with_mode(memory.page(0), memory.len(), mode)
        .unwrap();
    // SAFETY: `source` is two pages that nobody writes now; nobody refers into `memory`.
    let copied =
        unsafe { uffd.copy_write_protected(source.page(0), memory.page(0), memory.len(), true) };
    assert_eq!(copied, Ok(memory.len()));
    assert_eq!((memory.read(0), memory.read(1)), (7, 7));
    assert_eq!(written(&pagemap, &memory, &ScanRequest::written()), []);
    memory.write(0, 7);
    assert_eq!(
        written(&pagemap, &memory, &ScanRequest::written()),
        [(0, 1)]
    );
}

#[test]
fn scan_refuses_pages_without_asynchronous_write_protection() {
    let memory = Mapping::new(1);
    let mut regions = [PageRegion::default(); 1];
    let scan = Pagemap::open().unwrap().scan(
        memory.page(0),
        memory.len(),
        &ScanRequest::written(),
        &mut regions,
    );
    match scan {
        Err(Error::SystemError {
            errno: Errno::EPERM,
            ..
        }) => {}
        Err(
            error @ Error::SystemError {
                errno: Errno::ENOTTY,
                ..
            },
        ) => {
            untested("PAGEMAP_SCAN", &error);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn synchronous_write_protection_stops_the_writer() {
    let needed = FeatureFlags::PAGEFAULT_FLAG_WP;
    let Some(uffd) = create("synchronous write-protection", needed) else {
        return;
    };
    let memory = Mapping::new(1);
    memory.write(0, 1);
    uffd.register_with_mode(memory.page(0), memory.len(), RegisterMode::WRITE_PROTECT)
        .unwrap();
    uffd.write_protect(memory.page(0), memory.len()).unwrap();
    let memory = &memory;
    thread::scope(move |scope| {
        let writer = scope.spawn(move || memory.write(0, 2));
        let Event::Pagefault {
            kind,
            rw,
            addr,
            thread_id,
        } = event(&uffd)
        else {
            panic!("not a page fault")
        };
        assert_eq!((kind, rw), (FaultKind::WriteProtected, ReadWrite::Write));
        assert_eq!(thread_id, None, "the feature was not required");
        assert_eq!(memory.read(0), 1);
        uffd.remove_write_protection(addr, page_bytes(), true)
            .unwrap();
        writer.join().unwrap();
        assert_eq!(memory.read(0), 2);
    });
}

#[test]
fn a_page_of_a_file_mapped_on_and_off_keeps_its_bytes_and_its_protection() {
    let features =
        FeatureFlags::WP_ASYNC | FeatureFlags::MINOR_SHMEM | FeatureFlags::WP_HUGETLBFS_SHMEM;
    let Some(uffd) = create("write-protected minor faults", features) else {
        return;
    };
    let pagemap = Pagemap::open().unwrap();
    let [alias, memory] = Mapping::shared_pair(1);
    alias.write(0, 9);
    let mode = RegisterMode::MINOR | RegisterMode::WRITE_PROTECT;
    uffd.register_with_mode(memory.page(0), memory.len(), mode)
        .unwrap();
    for value in 10..13 {
        let mapped = uffd.continue_write_protected(memory.page(0), page_bytes(), false);
        assert_eq!(mapped, Ok(page_bytes()));
        assert_eq!(memory.read(0), value - 1);
        assert_eq!(written(&pagemap, &memory, &ScanRequest::written()), []);
        memory.write(0, value);
        assert_eq!(
            written(&pagemap, &memory, &ScanRequest::written()),
            [(0, 1)]
        );
        assert_eq!(alias.read(0), value);
        // SAFETY: takes the page out of this mapping, and out of no other.
        let gone = unsafe { libc::madvise(memory.page(0), page_bytes(), libc::MADV_DONTNEED) };
        assert_eq!(gone, 0);
    }
}
