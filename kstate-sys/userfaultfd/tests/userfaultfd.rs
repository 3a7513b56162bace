//! What this crate promises, tried against the running kernel.
//!
//! A kernel or container may refuse a feature. Then a test says `UNTESTED` on standard error, past
//! the test harness's capture, and only then passes.

#![expect(unsafe_code, reason = "maps memory and touches registered pages")]
#![expect(
    clippy::unwrap_used,
    reason = "a test's helpers fail by panicking, too"
)]

mod mapping;

use mapping::{Mapping, page_bytes};
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;
use userfaultfd::{
    Errno, Error, Event, FaultKind, FeatureFlags, IoctlFlags, PageFlags, PageRegion, Pagemap,
    ReadWrite, RegisterMode, ScanRequest, Uffd, UffdBuilder,
};

const NOBODY: u32 = 65534;
const DEADLINE_MS: i32 = 10_000;

fn untested(what: &str, why: &Error) {
    // Not eprintln!, which the harness swallows when the test passes.
    let _ = writeln!(std::io::stderr(), "UNTESTED: {what}: {why}");
}

/// A non-blocking userfaultfd, or `None` after saying loudly that `what` was left out.
fn create(what: &str, features: FeatureFlags) -> Option<Uffd> {
    match UffdBuilder::new()
        .non_blocking(true)
        .require_features(features)
        .create()
    {
        Ok(uffd) => Some(uffd),
        Err(error @ (Error::Refused { .. } | Error::UnsupportedFeatures { .. })) => {
            untested(what, &error);
            None
        }
        Err(error) => panic!("{what}: {error}"),
    }
}

/// The next event, waited for with a deadline.
fn event(uffd: &Uffd) -> Event {
    let mut poll = libc::pollfd {
        fd: uffd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: `poll` is one pollfd, alive throughout.
    let ready = unsafe { libc::poll(&raw mut poll, 1, DEADLINE_MS) };
    assert_eq!(
        (ready, poll.revents),
        (1, libc::POLLIN),
        "no event within the deadline"
    );
    uffd.read_event().unwrap().expect("poll promised an event")
}

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
fn kernel_reports_the_sigbus_feature() {
    let Some(uffd) = create("SIGBUS", FeatureFlags::SIGBUS) else {
        return;
    };
    assert!(uffd.features().contains(FeatureFlags::SIGBUS));
    assert_eq!(uffd.enabled_features(), FeatureFlags::SIGBUS);
    assert!(
        uffd.ioctls()
            .contains(IoctlFlags::API | IoctlFlags::REGISTER | IoctlFlags::UNREGISTER)
    );
}

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
    assert_eq!(
        unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC) },
        0
    );
    // SAFETY: pipe2 has just made both, and nobody else owns them.
    let [_read, write] = pipe.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    // SAFETY: the page is mapped; what is there is the kernel's to judge.
    assert_eq!(
        unsafe { libc::write(write.as_raw_fd(), memory.page(0), 1) },
        -1
    );
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

#[test]
fn unknown_feature_is_named_with_what_is_offered() {
    let Some(uffd) = create("any userfaultfd", FeatureFlags::empty()) else {
        return;
    };
    let unknown = FeatureFlags::from_bits_retain(1 << 63);
    let wanted = unknown | FeatureFlags::SIGBUS;
    let error = UffdBuilder::new()
        .require_features(wanted)
        .create()
        .unwrap_err();
    assert_eq!(
        error,
        Error::UnsupportedFeatures {
            wanted,
            offered: uffd.features()
        }
    );
    assert!(error.to_string().contains("0x8000000000000000"), "{error}");
    assert!(
        !error.to_string().contains("features FeatureFlags(SIGBUS"),
        "{error}"
    );
}

#[test]
fn unmapped_range_is_refused() {
    let Some(uffd) = create("any userfaultfd", FeatureFlags::empty()) else {
        return;
    };
    let gone = Mapping::new(1).page(0);
    let error = uffd.register(gone, page_bytes() + 1).unwrap_err();
    assert_eq!(
        error,
        Error::SystemError {
            call: "UFFDIO_REGISTER",
            errno: Errno::EINVAL
        }
    );
}

#[test]
fn descriptor_closes_on_exec_unless_asked_not_to() {
    if create("any userfaultfd", FeatureFlags::empty()).is_none() {
        return;
    }
    for close_on_exec in [true, false] {
        let uffd = UffdBuilder::new()
            .close_on_exec(close_on_exec)
            .create()
            .unwrap();
        // SAFETY: F_GETFD takes no argument.
        let flags = unsafe { libc::fcntl(uffd.as_raw_fd(), libc::F_GETFD) };
        assert_eq!(flags == libc::FD_CLOEXEC, close_on_exec);
    }
}

#[test]
fn refused_system_call_falls_back_to_the_device() {
    let device = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/userfaultfd");
    for errno in [Errno::EPERM, Errno::ENOSYS] {
        // A filter binds the thread that installs it, and ends with it.
        let made = thread::spawn(move || {
            refuse_the_system_call(errno);
            UffdBuilder::new().create()
        });
        match (made.join().unwrap(), &device) {
            (Ok(uffd), Ok(_)) => assert!(uffd.ioctls().contains(IoctlFlags::API)),
            (Err(error), Err(_)) => {
                assert_eq!(
                    error,
                    Error::Refused {
                        user_mode_only: true,
                        errno
                    }
                );
            }
            (made, device) => panic!("made {made:?}, device {device:?}"),
        }
    }
}

/// Lets userfaultfd(2) fail with `errno` in this thread from now on, as a container's filter does.
fn refuse_the_system_call(errno: Errno) {
    let number = u32::try_from(libc::SYS_userfaultfd).unwrap();
    let answer = libc::SECCOMP_RET_ERRNO | u32::try_from(errno as i32).unwrap();
    let instruction = |code: u32, jf, k| libc::sock_filter {
        code: u16::try_from(code).unwrap(),
        jt: 0,
        jf,
        k,
    };
    let mut filter = [
        // The call's number is the first word of struct seccomp_data.
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, number),
        instruction(libc::BPF_RET | libc::BPF_K, 0, answer),
        instruction(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: 4,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the option takes plain numbers.
    assert_eq!(
        unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) },
        0
    );
    // SAFETY: `program` and its four instructions are alive throughout.
    let set = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn everything_works_as_an_ordinary_user() {
    // SAFETY: geteuid takes nothing and cannot fail.
    let user = unsafe { libc::geteuid() };
    writeln!(std::io::stdout(), "tested as user {user}").unwrap();
    if user != 0 {
        // Then so did every other test of this file.
        return;
    }
    // Not fork and setuid alone: that makes a process undumpable and hides its own pagemap from it.
    // The link is followed by the kernel, so the user needs no way through the directories above.
    let child = Command::new("/proc/self/exe")
        .uid(NOBODY)
        .gid(NOBODY)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "as user {NOBODY}:\n{said}");
    assert!(said.contains(&format!("tested as user {NOBODY}")), "{said}");
    for test in [
        "kernel_reports_the_sigbus_feature",
        "missing_page_is_filled_by_a_handler_thread",
        "asynchronous_write_protection_finds_exactly_the_written_page",
    ] {
        assert!(said.contains(test), "{test} did not run:\n{said}");
    }
}
