//! Missing pages, filled in every way.

use crate::mapping::{Mapping, page_bytes};
use crate::{create, event};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::thread;
use userfaultfd::{Errno, Event, FaultKind, FeatureFlags, IoctlFlags, ReadWrite, RegisterMode};

#[test]
fn missing_page_is_filled_by_a_handler_thread() {
    let Some(uffd) = create("missing pages", FeatureFlags::THREAD_ID) else {
        return;
    };
    let memory = Mapping::new(2);
    let source = Mapping::new(1);
    source.write(0, 0x5A);
    let ioctls = uffd.register(memory.page(0), memory.len()).unwrap();
    assert!(ioctls.contains(IoctlFlags::COPY | IoctlFlags::WAKE | IoctlFlags::ZEROPAGE));
    assert!(uffd.read_event().unwrap().is_none());

    let memory = &memory;
    // The closure owns `uffd`: should it panic, dropping that releases the waiting thread.
    thread::scope(move |scope| {
        let reader = scope.spawn(move || {
            // SAFETY: gettid takes nothing and cannot fail.
            let tid = unsafe { libc::gettid() };
            (memory.read(1), tid)
        });
        let Event::Pagefault {
            kind,
            rw,
            addr,
            thread_id,
        } = event(&uffd)
        else {
            panic!("not a page fault")
        };
        assert_eq!((kind, rw), (FaultKind::Missing, ReadWrite::Read));
        assert_eq!(addr, memory.page(1));
        // SAFETY: `source` is a page that nobody writes now; nobody refers into `memory`.
        let copied = unsafe { uffd.copy(source.page(0), addr, page_bytes(), true) };
        assert_eq!(copied, Ok(page_bytes()));
        let (value, tid) = reader.join().unwrap();
        assert_eq!(value, 0x5A);
        assert_eq!(thread_id, Some(tid));

        // SAFETY: as above.
        let again = unsafe { uffd.copy(source.page(0), addr, page_bytes(), true) };
        assert_eq!(again.unwrap_err().errno(), Some(Errno::EEXIST));
        assert_eq!(
            uffd.zeropage(memory.page(0), page_bytes(), true),
            Ok(page_bytes())
        );
        assert_eq!(memory.read(0), 0);
        uffd.wake(memory.page(0), memory.len()).unwrap();
        uffd.unregister(memory.page(0), memory.len()).unwrap();
    });
}

#[test]
fn minor_fault_is_answered_by_continuing() {
    let Some(uffd) = create("minor faults", FeatureFlags::MINOR_SHMEM) else {
        return;
    };
    let [writer, reader] = Mapping::shared_pair(1);
    writer.write(0, 9);
    uffd.register_with_mode(reader.page(0), reader.len(), RegisterMode::MINOR)
        .unwrap();
    let reader = &reader;
    thread::scope(move |scope| {
        let value = scope.spawn(move || reader.read(0));
        let Event::Pagefault { kind, addr, .. } = event(&uffd) else {
            panic!("not a page fault")
        };
        assert_eq!(kind, FaultKind::Minor);
        assert_eq!(
            uffd.continue_mapping(addr, page_bytes(), true),
            Ok(page_bytes())
        );
        assert_eq!(value.join().unwrap(), 9);
    });
}

#[test]
fn poisoned_page_cannot_be_read() {
    let Some(uffd) = create("poison", FeatureFlags::POISON) else {
        return;
    };
    let memory = Mapping::new(1);
    uffd.register(memory.page(0), memory.len()).unwrap();
    assert_eq!(
        uffd.poison(memory.page(0), page_bytes(), false),
        Ok(page_bytes())
    );
    // A plain read would be SIGBUS; a system call that reads the page fails instead.
    let mut pipe = [0; 2];
    // SAFETY: `pipe` has room for two descriptors.
    let made = unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC) };
    assert_eq!(made, 0);
    // SAFETY: pipe2 has just made both, and nobody else owns them.
    let [_read, write] = pipe.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    // SAFETY: the page is mapped; what is there is the kernel's to judge.
    let written = unsafe { libc::write(write.as_raw_fd(), memory.page(0), 1) };
    assert_eq!(written, -1);
}

#[test]
fn moved_page_arrives_and_is_gone_at_its_source() {
    let Some(uffd) = create("move", FeatureFlags::MOVE) else {
        return;
    };
    let memory = Mapping::new(1);
    let source = Mapping::new(1);
    source.write(0, 3);
    uffd.register(memory.page(0), memory.len()).unwrap();
    // SAFETY: both mappings are private anonymous memory that nobody refers to or touches now.
    let moved = unsafe { uffd.move_pages(source.page(0), memory.page(0), page_bytes(), false) };
    assert_eq!(moved, Ok(page_bytes()));
    assert_eq!((memory.read(0), source.read(0)), (3, 0));
}
