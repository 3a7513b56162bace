#![expect(unsafe_code, reason = "touches pages by pointer, forks")]

use std::io::Write;
use std::os::fd::AsRawFd;

use super::*;
use crate::testing::Region;

/// Each way, those that trap also as before the kernel noted writes.
const WAYS: [(Trapping, Noting); 7] = [
    (Trapping::Thread, Noting::WherePossible),
    (Trapping::Signal, Noting::WherePossible),
    (Trapping::Kernel, Noting::WherePossible),
    (Trapping::Software, Noting::WherePossible),
    (Trapping::Thread, Noting::Never),
    (Trapping::Signal, Noting::Never),
    (Trapping::Kernel, Noting::Never),
];

/// Runs `test` on a fresh state for each way that this machine has; says which it has not.
fn each_way(test: impl Fn(&Region, &State<u64>, Trapping)) {
    for (way, noting) in WAYS {
        let region = Region::new(8);
        let state = region.state::<u64>(1);
        state.set_trapping(way);
        state.raw.noting.set(noting);
        state.publish(&1).unwrap();
        match state.begin_raw() {
            Ok(found) if found.trapping() == way => drop(found),
            Ok(_) | Err(BeginError::Trap { .. }) => {
                // Not eprintln!, which the harness swallows when the test passes.
                let _ = writeln!(std::io::stderr(), "UNTESTED: {way:?} is not to be had here");
                continue;
            }
            Err(error) => panic!("{error}"),
        }
        test(&region, &state, way);
    }
}

fn read(pointer: *const u8) -> u64 {
    // SAFETY: a page of an open transaction; trapped memory holds plain bytes.
    unsafe { pointer.cast::<u64>().read_volatile() }
}

fn write(pointer: *mut u8, value: u64) {
    // SAFETY: as in `read`, and nobody holds a reference to it.
    unsafe { pointer.cast::<u64>().write_volatile(value) }
}

#[test]
fn a_read_fills_the_page_and_is_no_write() {
    each_way(|_, state, _| {
        let mut tx = state.begin_raw().unwrap();
        let pointer = tx.as_ptr();
        assert_eq!(read(pointer), 1);
        assert!(!tx.is_dirty() && !tx.is_doomed() && tx.validate());
        let base = tx.base();
        assert_eq!(tx.commit().unwrap(), Outcome::Unchanged { base });
    });
}

#[test]
fn a_page_nobody_touched_commits_nothing() {
    each_way(|_, state, _| {
        let tx = state.begin_raw().unwrap();
        let base = Generation(1);
        assert_eq!(tx.commit().unwrap(), Outcome::Unchanged { base });
        assert_eq!(state.generation(), base);
    });
}

#[test]
fn a_write_is_one_even_of_the_same_bytes_and_as_first_touch() {
    each_way(|_, state, _| {
        let mut tx = state.begin_raw().unwrap();
        write(tx.as_mut_ptr(), 1);
        assert!(tx.is_dirty());
        assert!(tx.commit().unwrap().is_committed());
        let mut tx = state.begin_raw().unwrap();
        let pointer = tx.as_mut_ptr();
        assert_eq!(read(pointer), 1);
        write(pointer, 7);
        assert_eq!(read(pointer), 7);
        let generation = Generation(3);
        assert_eq!(tx.commit().unwrap(), Outcome::Committed { generation });
        assert_eq!(state.snapshot().unwrap().value, 7);
    });
}

#[test]
fn the_value_is_that_of_the_beginning_until_its_slot_is_used_again() {
    each_way(|region, state, way| {
        let other = region.state::<u64>(2);
        let mut early = state.begin_raw().unwrap();
        other.publish(&2).unwrap();
        assert_eq!(read(early.as_ptr()), 1);
        assert!(!early.is_doomed() && !early.validate());
        write(early.as_mut_ptr(), 3);
        assert!(early.commit().unwrap().is_conflict());
        let mut late = state.begin_raw().unwrap();
        for value in 10..20 {
            other.publish(&value).unwrap();
        }
        assert_eq!(read(late.as_ptr()), 19, "{way:?}");
        assert!(late.is_doomed());
        write(late.as_mut_ptr(), 3);
        let conflict = Outcome::Conflict {
            base: Generation(2),
            found: Generation(12),
        };
        assert_eq!(late.commit().unwrap(), conflict);
        assert_eq!(state.snapshot().unwrap().value, 19);
    });
}

#[test]
fn nested_transactions_have_pages_and_bases_of_their_own() {
    each_way(|_, state, _| {
        let mut outer = state.begin_raw().unwrap();
        write(outer.as_mut_ptr(), 10);
        let mut inner = state.begin_raw().unwrap();
        assert_ne!(inner.as_ptr(), outer.as_ptr());
        assert_eq!(
            read(inner.as_ptr()),
            1,
            "not what the outer one has written"
        );
        write(inner.as_mut_ptr(), 20);
        assert!(inner.commit().unwrap().is_committed());
        assert_eq!(read(outer.as_ptr()), 10);
        assert!(outer.commit().unwrap().is_conflict());
        assert_eq!(state.snapshot().unwrap().value, 20);
    });
}

#[test]
fn pages_are_used_again_and_hold_what_they_should() {
    each_way(|region, state, way| {
        let other = region.state::<u64>(2);
        let mut seen = std::collections::BTreeSet::new();
        for round in 0..50 {
            let mut tx = state.begin_raw().unwrap();
            let pointer = tx.as_mut_ptr();
            seen.insert(pointer.addr());
            let before = state.snapshot().unwrap().value;
            assert_eq!(read(pointer), before, "{way:?}, round {round}");
            match round % 5 {
                // Only read; a held page is then read again.
                0 => assert!(way == Trapping::Software || !tx.is_dirty()),
                1 => drop(tx),
                2 => {
                    write(pointer, before + 1);
                    tx.abort();
                }
                3 => {
                    write(pointer, before + 1);
                    assert!(tx.commit().unwrap().is_committed());
                }
                _ => {
                    other.publish(&(before + 100)).unwrap();
                    write(pointer, 0);
                    assert!(tx.commit().unwrap().is_conflict());
                }
            }
        }
        assert!(
            way == Trapping::Software || seen.len() == 1,
            "{way:?}: {}",
            seen.len()
        );
    });
}

#[test]
fn another_thread_that_has_the_pointer_is_trapped_as_well() {
    each_way(|_, state, _| {
        let mut tx = state.begin_raw().unwrap();
        let address = tx.as_mut_ptr().expose_provenance();
        let threads: Vec<_> = (0..4)
            .map(|_| std::thread::spawn(move || read(std::ptr::with_exposed_provenance(address))))
            .collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), 1);
        }
        let writer = std::thread::spawn(move || {
            write(std::ptr::with_exposed_provenance_mut(address), 5);
        });
        writer.join().unwrap();
        assert!(tx.commit().unwrap().is_committed());
        assert_eq!(state.snapshot().unwrap().value, 5);
    });
}

#[test]
fn the_kernel_gets_at_a_page_that_was_touched() {
    each_way(|_, state, way| {
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        let errno = |done: isize| (done < 0).then(std::io::Error::last_os_error);
        let mut tx = state.begin_raw().unwrap();
        let pointer = tx.as_mut_ptr();
        // SAFETY: 8 bytes of the transaction's page.
        let sent = unsafe { libc::write(writer.as_raw_fd(), pointer.cast(), 8) };
        if matches!(way, Trapping::Thread | Trapping::Signal) {
            assert_eq!(errno(sent).unwrap().raw_os_error(), Some(libc::EFAULT));
            tx.touch().unwrap();
            // SAFETY: as above.
            let sent = unsafe { libc::write(writer.as_raw_fd(), pointer.cast(), 8) };
            assert_eq!(sent, 8);
        } else {
            assert_eq!(sent, 8);
        }
        let mut bytes = [0; 8];
        std::io::Read::read_exact(&mut reader, &mut bytes).unwrap();
        assert_eq!(u64::from_ne_bytes(bytes), 1);
        assert!(way == Trapping::Software || !tx.is_dirty());
        writer.write_all(&9_u64.to_ne_bytes()).unwrap();
        tx.touch_mut().unwrap();
        // SAFETY: as above; nobody refers to it.
        let got = unsafe { libc::read(reader.as_raw_fd(), pointer.cast(), 8) };
        assert_eq!(got, 8);
        assert!(tx.commit().unwrap().is_committed());
        assert_eq!(state.snapshot().unwrap().value, 9);
    });
}

#[test]
fn slices_need_no_trap_and_count_as_what_they_are() {
    each_way(|_, state, _| {
        let mut tx = state.begin_raw().unwrap();
        assert_eq!(tx.bytes().unwrap(), 1_u64.to_ne_bytes());
        assert!(!tx.is_dirty());
        tx.bytes_mut().unwrap()[..8].copy_from_slice(&6_u64.to_ne_bytes());
        assert!(tx.is_dirty());
        assert!(tx.commit().unwrap().is_committed());
        assert_eq!(state.snapshot().unwrap().value, 6);
    });
}

#[test]
fn a_version_of_bytes_has_the_length_it_had_unless_another_is_said() {
    for (way, noting) in WAYS {
        let region = Region::new(100);
        let state = region.state::<crate::Bytes>(1);
        state.set_trapping(way);
        state.raw.noting.set(noting);
        let Ok(mut tx) = state.begin_raw() else {
            continue;
        };
        write(tx.as_mut_ptr(), u64::MAX);
        assert_eq!(tx.length(), 100, "never written: the capacity");
        assert!(tx.commit().unwrap().is_committed());
        state.publish(b"12345678901").unwrap();
        let mut tx = state.begin_raw().unwrap();
        write(tx.as_mut_ptr(), u64::from_ne_bytes(*b"abcdefgh"));
        assert!(tx.commit().unwrap().is_committed());
        assert_eq!(state.snapshot().unwrap().value, b"abcdefgh901");
        let mut tx = state.begin_raw().unwrap();
        tx.touch_mut().unwrap();
        tx.set_length(3);
        assert!(tx.commit().unwrap().is_committed());
        assert_eq!(state.snapshot().unwrap().value, b"abc");
        let mut tx = state.begin_raw().unwrap();
        assert_eq!(
            tx.bytes_mut().unwrap()[..11],
            *b"abc\0\0\0\0\0\0\0\0",
            "{way:?}"
        );
        tx.set_length(101);
        assert!(matches!(
            tx.commit(),
            Err(CommitError::TooLong { .. } | CommitError::Io { .. })
        ));
    }
}

/// How a forked child ends that does `work`: the signal that ends it, or what it returns.
fn in_child(work: impl FnOnce() -> i32) -> Result<i32, i32> {
    // SAFETY: the child does what follows and leaves by `_exit`; what it allocates is safe after
    // a fork with glibc, whose allocator resets itself.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // A panic would end the thread alone, and another one of the child's would go on.
        let work = std::panic::AssertUnwindSafe(work);
        let result = std::panic::catch_unwind(work).unwrap_or(101);
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(result) }
    }
    let mut status = 0;
    // SAFETY: `status` is a valid place; the child is ours.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    match libc::WIFSIGNALED(status) {
        true => Err(libc::WTERMSIG(status)),
        false => Ok(libc::WEXITSTATUS(status)),
    }
}

/// Dies of what kills a program that handles nothing, without a report.
fn die_plainly() {
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: resetting a signal to its default action is always allowed.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

#[test]
fn a_pointer_kept_after_the_end_kills_whoever_uses_it() {
    each_way(|_, state, way| {
        let mut tx = state.begin_raw().unwrap();
        let pointer = tx.as_mut_ptr();
        write(pointer, 3);
        assert!(tx.commit().unwrap().is_committed());
        // In a child of its own that begins and ends there, since pages are not in children.
        let killed = in_child(|| {
            let mut own = state.begin_raw().unwrap();
            let pointer = own.as_ptr();
            let seen = read(pointer);
            drop(own);
            // SAFETY: as in `die_plainly`.
            unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
            i32::try_from(read(pointer) + seen).unwrap_or(99)
        });
        assert_eq!(killed, Err(libc::SIGSEGV), "{way:?}");
    });
}

#[test]
fn a_forked_child_dies_of_its_parents_page_and_has_its_own() {
    each_way(|_, state, way| {
        let mut open = state.begin_raw().unwrap();
        let pointer = open.as_mut_ptr();
        write(pointer, 50);
        if way != Trapping::Software {
            let touched = in_child(|| {
                die_plainly();
                i32::from(read(pointer) == 0)
            });
            assert_eq!(touched, Err(libc::SIGSEGV), "{way:?}");
        }
        let refused = in_child(|| {
            let forked = matches!(open.bytes(), Err(ReadError::Forked { .. }));
            let mut own = state.begin_raw().unwrap();
            let reads = read(own.as_ptr()) == 1 && !own.is_dirty();
            drop(own);
            i32::from(!(forked && reads))
        });
        assert_eq!(refused, Ok(0), "{way:?}");
        assert!(open.commit().unwrap().is_committed());
        assert_eq!(state.snapshot().unwrap().value, 50);
    });
}

#[test]
fn a_bus_error_of_another_kind_still_kills_or_goes_to_who_was_there_before() {
    let region = Region::new(8);
    let state = region.state::<u64>(1);
    state.set_trapping(Trapping::Signal);
    state.publish(&1).unwrap();
    let beyond_the_end = || {
        let file = tempfile();
        let map = MmapOptions::new()
            .len(4096)
            .map_raw_read_only(&file)
            .unwrap();
        // SAFETY: mapped; there is nothing behind it, which is the point.
        i32::from(unsafe { map.as_ptr().read_volatile() })
    };
    let killed = in_child(|| {
        die_plainly();
        let Ok(mut tx) = state.begin_raw() else {
            return 77;
        };
        assert_eq!(read(tx.as_ptr()), 1);
        beyond_the_end()
    });
    if killed == Ok(77) {
        let _ = writeln!(
            std::io::stderr(),
            "UNTESTED: trapping by signal is not to be had"
        );
        return;
    }
    assert_eq!(killed, Err(libc::SIGBUS));
}

fn tempfile() -> std::fs::File {
    let name = std::ffi::CString::new("empty").unwrap();
    let memfd = nix::sys::memfd::memfd_create(&*name, nix::sys::memfd::MFdFlags::MFD_CLOEXEC);
    memfd.unwrap().into()
}

#[test]
fn a_page_that_is_put_out_of_memory_comes_back_as_it_was() {
    each_way(|_, state, way| {
        let mut tx = state.begin_raw().unwrap();
        let pointer = tx.as_mut_ptr();
        // Only of shared memory does the kernel take the page away and keep the bytes.
        let RawPage::Trapped(page) = &tx.page else {
            return;
        };
        if page.is_discarded_when_gone() {
            return;
        }
        let put_out = || {
            let page = pointer.cast();
            // SAFETY: a whole page of the transaction; what it holds is in its file.
            let gone = unsafe { libc::madvise(page, tx.page_len(), libc::MADV_DONTNEED) };
            assert_eq!(gone, 0);
        };
        assert_eq!(read(pointer), 1);
        put_out();
        assert!(!tx.is_dirty(), "{way:?}");
        assert_eq!(read(pointer), 1);
        assert!(!tx.is_dirty(), "{way:?}");
        write(pointer, 1);
        put_out();
        assert!(tx.is_dirty(), "{way:?}");
        assert_eq!(read(pointer), 1);
        assert!(tx.is_dirty(), "{way:?}");
        assert!(tx.commit().unwrap().is_committed());
    });
}

#[test]
fn a_type_keeps_its_length_and_of_bytes_another_one_is_a_write() {
    let region = Region::new(8);
    let state = region.state::<u64>(1);
    state.publish(&1).unwrap();
    let mut tx = state.begin_raw().unwrap();
    tx.set_length(3);
    tx.bytes_mut().unwrap()[0] = 2;
    assert!(tx.commit().unwrap().is_committed());
    assert_eq!(state.snapshot().unwrap().value, 2);
    for (way, noting) in WAYS {
        let region = Region::new(8);
        let state = region.state::<crate::Bytes>(1);
        state.set_trapping(way);
        state.raw.noting.set(noting);
        state.publish(b"12345678").unwrap();
        let Ok(mut tx) = state.begin_raw() else {
            continue;
        };
        tx.set_length(8);
        let base = Generation(1);
        assert_eq!(tx.commit().unwrap(), Outcome::Unchanged { base }, "{way:?}");
        let mut tx = state.begin_raw().unwrap();
        tx.set_length(4);
        assert!(tx.commit().unwrap().is_committed(), "{way:?}");
        assert_eq!(state.snapshot().unwrap().value, b"1234");
        let mut tx = state.begin_raw().unwrap();
        tx.set_length(5000);
        let error = tx.commit().unwrap_err();
        assert!(
            matches!(error, CommitError::TooLong { length: 5000, .. }),
            "{error}"
        );
    }
}

/// Says what is wrong, past the harness, which is the parent's.
fn wrong(what: &dyn std::fmt::Display) -> i32 {
    let _ = writeln!(std::io::stderr(), "{what}");
    1
}

#[test]
fn a_program_that_has_locked_its_memory_has_raw_transactions() {
    // The kernel itself touches locked memory, and in the way left out it would wait for itself.
    let ways = WAYS.into_iter();
    for (way, noting) in ways.filter(|(way, _)| *way != Trapping::Kernel) {
        let region = Region::new(8);
        let state = region.state::<u64>(1);
        state.publish(&1).unwrap();
        let ended = in_child(|| {
            // SAFETY: takes flags.
            if unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) } != 0 {
                return 77;
            }
            let state = region.state::<u64>(2);
            state.set_trapping(way);
            state.raw.noting.set(noting);
            for round in 0..3 {
                let pointer = match state.begin_raw() {
                    Ok(mut tx) if tx.trapping() == way => {
                        let pointer = tx.as_ptr();
                        assert_eq!(read(pointer), 1);
                        pointer
                    }
                    Ok(_) | Err(BeginError::Trap { .. }) => return 0,
                    Err(error) => return wrong(&format!("{way:?}, round {round}: {error}")),
                };
                let (_reader, writer) = std::io::pipe().unwrap();
                // SAFETY: the kernel says what is there.
                let sent = unsafe { libc::write(writer.as_raw_fd(), pointer.cast(), 8) };
                if way != Trapping::Software && sent == 8 {
                    return wrong(&format!(
                        "{way:?}, round {round}: it is there after the end"
                    ));
                }
            }
            0
        });
        assert!(matches!(ended, Ok(0 | 77)), "{way:?} {noting:?}: {ended:?}");
    }
}

/// Sets a limit of the process's own.
fn limit(resource: libc::__rlimit_resource_t, most: libc::rlim_t) {
    let limit = libc::rlimit {
        rlim_cur: most,
        rlim_max: 4096,
    };
    // SAFETY: a valid place.
    assert_eq!(unsafe { libc::setrlimit(resource, &raw const limit) }, 0);
}

#[test]
fn a_limit_on_the_size_of_files_is_nothing_to_raw_pages() {
    let region = Region::new(8);
    let state = region.state::<u64>(1);
    let ended = in_child(|| {
        limit(libc::RLIMIT_FSIZE, 0);
        match state.begin_raw() {
            Ok(_) => 0,
            Err(error) => wrong(&error),
        }
    });
    assert_eq!(ended, Ok(0));
}

#[test]
fn a_lack_of_descriptors_is_an_error_and_changes_no_meaning() {
    let region = Region::new(8);
    let state = region.state::<u64>(1);
    state.publish(&1).unwrap();
    let ended = in_child(|| {
        limit(libc::RLIMIT_NOFILE, 3);
        let refused = match state.begin_raw() {
            Err(BeginError::Trap { .. }) => 0,
            Ok(tx) => wrong(&format!("{:?}", tx.trapping())),
            Err(error) => wrong(&error),
        };
        limit(libc::RLIMIT_NOFILE, 64);
        match state.begin_raw() {
            Ok(_) => refused,
            Err(error) => wrong(&error),
        }
    });
    assert_eq!(ended, Ok(0));
}

#[test]
fn an_attempt_that_gets_no_thread_leaves_nothing_behind() {
    let region = Region::new(8);
    let state = region.state::<u64>(1);
    let ended = in_child(|| {
        let open = || {
            let descriptors = std::fs::read_dir("/proc/self/fd");
            descriptors.map_or(0, Iterator::count)
        };
        limit(libc::RLIMIT_NPROC, 0);
        // SAFETY: takes numbers. Root is not limited so.
        let left = unsafe { libc::setresuid(65534, 65534, 65534) };
        // SAFETY: takes numbers. Else /proc is not to be read any more.
        let readable = unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1) };
        let before = open();
        if (left, readable) != (0, 0) || before == 0 {
            return 77;
        }
        for _ in 0..5 {
            let _ = state.begin_raw();
        }
        i32::from(open() != before)
    });
    assert!(matches!(ended, Ok(0 | 77)), "{ended:?}");
}

/// Has userfaultfd(2) refused from here on, as a container's filter does, and its device closed.
fn refuse_userfaultfd() -> bool {
    let code = |code: u32| u16::try_from(code).unwrap();
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let call = u32::try_from(libc::SYS_userfaultfd).unwrap();
    let refusal = libc::SECCOMP_RET_ERRNO | u32::try_from(libc::EPERM).unwrap();
    let answer = code(libc::BPF_RET | libc::BPF_K);
    let mut program = [
        // The number is the first word of seccomp_data.
        step(code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS), 0, 0, 0),
        step(
            code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K),
            0,
            1,
            call,
        ),
        step(answer, 0, 0, refusal),
        step(answer, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog {
        len: 4,
        filter: program.as_mut_ptr(),
    };
    // In a user namespace there may be no such user, and the device is closed anyway.
    // SAFETY: takes numbers.
    let _ = unsafe { libc::setresuid(65534, 65534, 65534) };
    // SAFETY: takes numbers.
    let alone = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: `filter` names a program of four steps that outlives the call.
    let filtered = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const filter) };
    (alone, filtered) == (0, 0)
}

#[test]
fn where_userfaultfd_is_refused_the_page_is_copied_in_software() {
    let region = Region::new(8);
    let state = region.state::<u64>(1);
    state.publish(&1).unwrap();
    let ended = in_child(|| {
        if !refuse_userfaultfd() {
            return wrong(&"no filter");
        }
        let state = region.state::<u64>(2);
        for way in [Trapping::Signal, Trapping::Kernel] {
            state.set_trapping(way);
            if !matches!(state.begin_raw(), Err(BeginError::Trap { .. })) {
                return wrong(&format!("{way:?} is to be had"));
            }
        }
        state.set_trapping(Trapping::Thread);
        let mut tx = state.begin_raw().unwrap();
        assert_eq!(tx.trapping(), Trapping::Software);
        assert_eq!(read(tx.as_ptr()), 1);
        write(tx.as_mut_ptr(), 2);
        assert!(tx.commit().unwrap().is_committed());
        i32::from(state.snapshot().unwrap().value != 2)
    });
    assert_eq!(ended, Ok(0));
}
