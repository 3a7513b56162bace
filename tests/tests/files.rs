//! States as files: what plain system calls mean. One test a sentence of the design.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use kstate_sys::ioctl::{Ticket, call};
use kstate_tests::{Daemon, PATIENCE, Setup, both_transports, eventually};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

fn create(daemon: &Daemon, name: &str) -> File {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .open(daemon.file(name))
        .unwrap()
}

fn readable(file: &File, patience: Duration) -> bool {
    let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(patience).unwrap();
    poll(&mut fds, timeout).unwrap();
    fds[0].revents().unwrap().contains(PollFlags::POLLIN)
}

fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

#[test]
fn opening_with_o_creat_creates_and_the_last_close_evaporates() {
    let daemon = Daemon::start();
    assert_eq!(
        File::open(daemon.file("x")).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    let file = create(&daemon, "x");
    assert!(daemon.file("x").exists());
    let again = File::open(daemon.file("x")).unwrap();
    drop(file);
    assert!(
        daemon.file("x").exists(),
        "another descriptor is still open"
    );
    drop(again);
    eventually("the state evaporates", || {
        (!daemon.file("x").exists()).then_some(())
    });
}

#[test]
fn states_come_and_go_in_several_processes_at_a_time() {
    both_transports(|daemon| {
        let script = "import os,sys\n\
            for i in range(3000):\n\
            \x20   os.close(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o644))\n\
            print('done')\n";
        let processes: Vec<_> = (0..3)
            .map(|number| {
                let mut python = Command::new("python3");
                python
                    .args(["-c", script])
                    .arg(daemon.file(&format!("own{number}")));
                kstate_tests::Running::start(&mut python)
            })
            .collect();
        for mut process in processes {
            assert_eq!(process.line(), "done");
        }
    });
}

#[test]
fn a_file_open_for_writing_alone_is_no_way_to_read_the_value() {
    let daemon = Setup::default().with("--passthrough=off").start();
    let _keep = create(&daemon, "x");
    let writer = OpenOptions::new()
        .write(true)
        .open(daemon.file("x"))
        .unwrap();
    let mut ticket = Ticket::new([0; 16], b"").unwrap();
    assert_eq!(errno(call::ticket(&writer, &mut ticket)), libc::EACCES);
}

#[test]
fn nobody_is_kept_out_by_programs_that_hoard_tickets_or_keep_silent() {
    let daemon = Setup::default().with("--passthrough=off").start();
    let hoarder = create(&daemon, "x");
    let mut ticket = Ticket::new([0; 16], b"").unwrap();
    for _ in 0..5000 {
        call::ticket(&hoarder, &mut ticket).unwrap();
    }
    let socket = PathBuf::from(OsStr::from_bytes(ticket.path().unwrap()));
    let silent: Vec<_> = (0..100).map(|_| knock(&socket)).collect();
    let start = Instant::now();
    for name in ["a", "b", "c"] {
        let state = daemon.library().subscribe(name).write().bytes().unwrap();
        state.publish(b"served").unwrap();
    }
    // Each of the silent ones has a second.
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    drop(silent);
}

/// A connection to the daemon's socket.
fn knock(path: &Path) -> OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
    connect(socket.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    socket
}

#[test]
fn a_state_nobody_wrote_reads_as_nothing_and_is_not_readable() {
    let daemon = Daemon::start();
    let mut file = create(&daemon, "x");
    let mut text = String::new();
    assert_eq!(file.read_to_string(&mut text).unwrap(), 0);
    assert_eq!(file.metadata().unwrap().len(), 0);
    assert!(!readable(&file, Duration::ZERO));
}

#[test]
fn a_write_is_one_version_and_a_read_gives_it_whole() {
    let daemon = Daemon::start();
    let file = create(&daemon, "x");
    let writer = OpenOptions::new()
        .write(true)
        .open(daemon.file("x"))
        .unwrap();
    writer.write_all_at(b"first", 0).unwrap();
    let mut bytes = [0; 64];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), 5);
    assert_eq!(&bytes[..5], b"first");
    assert_eq!(file.metadata().unwrap().len(), 5);
}

#[test]
fn later_reads_go_on_in_the_version_read_at_offset_0() {
    let daemon = Daemon::start();
    let mut file = create(&daemon, "x");
    fs::write(daemon.file("x"), "aaaa").unwrap();
    let mut two = [0; 2];
    file.read_exact(&mut two).unwrap();
    fs::write(daemon.file("x"), "bbbb").unwrap();
    file.read_exact(&mut two).unwrap();
    assert_eq!(&two, b"aa", "the same version, though a newer one exists");
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_exact(&mut two).unwrap();
    assert_eq!(&two, b"bb");
}

#[test]
fn a_write_after_a_read_is_validated_and_the_loser_gets_estale() {
    let daemon = Daemon::start();
    fs::write(daemon.file("keep"), "").ok();
    let winner = create(&daemon, "x");
    winner.write_all_at(b"0", 0).unwrap();
    let loser = create(&daemon, "x");
    let mut byte = [0; 1];
    winner.read_exact_at(&mut byte, 0).unwrap();
    loser.read_exact_at(&mut byte, 0).unwrap();
    winner.write_all_at(b"1", 0).unwrap();
    assert_eq!(errno(loser.write_at(b"2", 0)), libc::ESTALE);
    loser.read_exact_at(&mut byte, 0).unwrap();
    assert_eq!(&byte, b"1", "the loser's value was not applied");
    loser.write_all_at(b"2", 0).unwrap();
    winner.read_exact_at(&mut byte, 0).unwrap();
    assert_eq!(&byte, b"2");
}

#[test]
fn after_estale_only_reading_offset_0_renews_the_base() {
    let daemon = Daemon::start();
    let file = create(&daemon, "x");
    file.write_all_at(b"ab", 0).unwrap();
    let mut two = [0; 2];
    file.read_exact_at(&mut two, 0).unwrap();
    fs::write(daemon.file("x"), "cd").unwrap();
    assert_eq!(errno(file.write_at(b"z", 0)), libc::ESTALE);
    let mut one = [0; 1];
    file.read_exact_at(&mut one, 1).unwrap();
    assert_eq!(&one, b"b", "still the version read first");
    assert_eq!(errno(file.write_at(b"z", 0)), libc::ESTALE);
    file.read_exact_at(&mut two, 0).unwrap();
    file.write_all_at(b"z", 0).unwrap();
}

#[test]
fn truncating_commits_nothing_and_the_next_write_replaces_the_whole_value() {
    let daemon = Daemon::start();
    let file = create(&daemon, "x");
    file.write_all_at(b"longer value", 0).unwrap();
    let watcher = File::open(daemon.file("x")).unwrap();
    let mut bytes = [0; 64];
    let length = watcher.read_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes[..length], b"longer value");
    let truncated = OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(daemon.file("x"))
        .unwrap();
    assert!(
        !readable(&watcher, Duration::ZERO),
        "O_TRUNC alone is no commit"
    );
    truncated.write_all_at(b"s", 0).unwrap();
    assert!(readable(&watcher, PATIENCE));
    let length = watcher.read_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes[..length], b"s");
    file.set_len(0).unwrap();
    file.write_all_at(b"tt", 0).unwrap();
    let length = watcher.read_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes[..length], b"tt");
}

#[test]
fn other_writes_splice_into_the_base() {
    let daemon = Daemon::start();
    let file = create(&daemon, "x");
    file.write_all_at(b"hello", 0).unwrap();
    file.write_all_at(b"EL", 1).unwrap();
    file.write_all_at(b"!", 6).unwrap();
    assert_eq!(fs::read(daemon.file("x")).unwrap(), b"hELlo\0!");
}

#[test]
fn appending_adds_to_the_newest_value() {
    let daemon = Daemon::start();
    let _keep = create(&daemon, "x");
    for word in ["a", "bc", "d"] {
        let mut file = OpenOptions::new()
            .append(true)
            .open(daemon.file("x"))
            .unwrap();
        file.write_all(word.as_bytes()).unwrap();
    }
    assert_eq!(fs::read(daemon.file("x")).unwrap(), b"abcd");
}

#[test]
fn four_shells_counting_through_one_descriptor_each_lose_nothing() {
    let daemon = Daemon::start();
    let keep = create(&daemon, "counter");
    keep.write_all_at(b"0\n", 0).unwrap();
    // Read a line, write the next: a loser gets ESTALE and opens again.
    let script = r#"
        i=0
        while [ $i -lt 25 ]; do
            exec 3<>"$1" || exit 1
            read x <&3
            if echo $((x + 1)) >&3; then i=$((i + 1)); fi
            exec 3<&-
        done 2>/dev/null
    "#;
    let shells: Vec<_> = (0..4)
        .map(|_| {
            let mut shell = Command::new("bash");
            shell
                .args(["-c", script, "count"])
                .arg(daemon.file("counter"));
            shell.spawn().unwrap()
        })
        .collect();
    for mut shell in shells {
        assert!(shell.wait().unwrap().success());
    }
    assert_eq!(fs::read_to_string(daemon.file("counter")).unwrap(), "100\n");
}

#[test]
fn ftruncate_sets_the_capacity_and_never_shrinks_after_the_first_write() {
    let daemon = Daemon::start();
    let file = create(&daemon, "x");
    file.set_len(8).unwrap();
    assert_eq!(errno(file.write_at(&[1; 9], 0)), libc::EFBIG);
    file.write_all_at(&[1; 8], 0).unwrap();
    assert_eq!(errno(file.set_len(7)), libc::EINVAL);
    file.set_len(100).unwrap();
    file.write_all_at(&[2; 100], 0).unwrap();
    assert_eq!(errno(file.set_len(1 << 20)), libc::EFBIG);
    assert_eq!(fs::read(daemon.file("x")).unwrap(), [2; 100]);
}

#[test]
fn a_value_beyond_the_capacity_is_efbig_and_changes_nothing() {
    let daemon = Daemon::start();
    let file = create(&daemon, "x");
    file.write_all_at(b"kept", 0).unwrap();
    let page = usize::try_from(kstate_sys::abi::page_size()).unwrap();
    assert_eq!(errno(file.write_at(&vec![0; page + 1], 0)), libc::EFBIG);
    assert_eq!(errno(file.write_at(b"x", page as u64)), libc::EFBIG);
    assert_eq!(errno(file.write_at(b"x", 1 << 40)), libc::EFBIG);
    assert_eq!(fs::read(daemon.file("x")).unwrap(), b"kept");
    file.write_all_at(&vec![7; page], 0).unwrap();
    assert_eq!(fs::read(daemon.file("x")).unwrap(), vec![7; page]);
}

#[test]
fn poll_reports_a_version_newer_than_the_last_one_read() {
    let daemon = Daemon::start();
    let file = create(&daemon, "x");
    fs::write(daemon.file("x"), "1").unwrap();
    assert!(readable(&file, PATIENCE));
    let mut byte = [0; 1];
    file.read_exact_at(&mut byte, 0).unwrap();
    assert!(!readable(&file, Duration::ZERO));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let start = Instant::now();
            assert!(readable(&file, PATIENCE), "a sleeping poll is woken");
            assert!(start.elapsed() < PATIENCE);
        });
        // Whether it sleeps already or not, it must see this.
        fs::write(daemon.file("x"), "2").unwrap();
    });
}

#[test]
fn an_edge_is_told_for_each_new_version_even_if_the_last_was_not_read() {
    for way in ["auto", "futex"] {
        let daemon = Setup::default().with(format!("--notify-by={way}")).start();
        let writer = create(&daemon, "x");
        let reader = File::open(daemon.file("x")).unwrap();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        let edges = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        epoll.add(&reader, EpollEvent::new(edges, 1)).unwrap();
        let wait = |timeout: Duration| {
            let timeout = EpollTimeout::try_from(timeout).unwrap();
            epoll.wait(&mut [EpollEvent::empty()], timeout).unwrap()
        };
        assert_eq!(wait(Duration::ZERO), 0);
        for round in 0..6_u8 {
            writer.write_all_at(&[round], 0).unwrap();
            assert_eq!(wait(PATIENCE), 1, "round {round}");
            assert_eq!(wait(Duration::ZERO), 0, "one event an edge");
            if round % 2 == 0 {
                let mut byte = [0];
                reader.read_exact_at(&mut byte, 0).unwrap();
                assert_eq!(byte, [round]);
            }
        }
    }
}

#[test]
fn polling_works_without_io_uring_as_well() {
    // The same poll, with the daemon kept from io_uring as a container's filter would.
    let script = "import select,os,sys\n\
        f=os.open(sys.argv[1],os.O_RDONLY)\n\
        p=select.poll(); p.register(f,select.POLLIN)\n\
        print('ready',flush=True)\n\
        for i in range(3):\n\
        \x20   assert p.poll(20000); print(os.pread(f,99,0).decode(),flush=True)\n";
    let daemon = Setup::default().with("--notify-by=futex").start();
    let keep = create(&daemon, "x");
    let mut python = Command::new("python3");
    python.args(["-c", script]).arg(daemon.file("x"));
    let mut python = kstate_tests::Running::start(&mut python);
    assert_eq!(python.line(), "ready");
    for value in ["a", "b", "c"] {
        keep.write_all_at(value.as_bytes(), 0).unwrap();
        assert_eq!(python.line(), value);
    }
    assert!(python.finish().success());
}

#[test]
fn without_passthrough_a_shared_map_is_refused() {
    let daemon = Setup::default().with("--passthrough=off").start();
    let file = create(&daemon, "x");
    file.write_all_at(b"value", 0).unwrap();
    let script = "import errno,mmap,os,sys\n\
        f=os.open(sys.argv[1],os.O_RDWR)\n\
        for prot in (mmap.PROT_READ, mmap.PROT_READ|mmap.PROT_WRITE):\n\
        \x20   try: mmap.mmap(f,5,prot=prot); print('mapped')\n\
        \x20   except OSError as e: print(errno.errorcode[e.errno])\n";
    let mut python = Command::new("python3");
    let output = python.args(["-c", script]).arg(daemon.file("x")).output();
    assert_eq!(output.unwrap().stdout, b"ENODEV\nENODEV\n");
}

#[test]
fn the_sticky_bit_keeps_a_state_and_clearing_it_lets_go() {
    let daemon = Daemon::start();
    let file = create(&daemon, "x");
    file.write_all_at(b"kept", 0).unwrap();
    fs::set_permissions(daemon.file("x"), fs::Permissions::from_mode(0o1644)).unwrap();
    drop(file);
    // A second state that has gone shows that the first had its chance to.
    drop(create(&daemon, "y"));
    eventually("y evaporates", || {
        (!daemon.file("y").exists()).then_some(())
    });
    assert_eq!(fs::read(daemon.file("x")).unwrap(), b"kept");
    fs::set_permissions(daemon.file("x"), fs::Permissions::from_mode(0o644)).unwrap();
    eventually("x evaporates", || {
        (!daemon.file("x").exists()).then_some(())
    });
}

#[test]
fn a_state_lingers_as_long_as_the_mount_says() {
    let daemon = Setup::default().with("--linger=300ms").start();
    let start = Instant::now();
    drop(create(&daemon, "x"));
    eventually("x evaporates", || {
        (!daemon.file("x").exists()).then_some(())
    });
    assert!(start.elapsed() >= Duration::from_millis(300));
}

#[test]
fn unlink_is_busy_while_another_process_is_subscribed() {
    let daemon = Daemon::start();
    let file = create(&daemon, "x");
    let other = Command::new("rm").arg(daemon.file("x")).output().unwrap();
    assert!(!other.status.success());
    assert!(String::from_utf8_lossy(&other.stderr).contains("busy"));
    fs::remove_file(daemon.file("x")).unwrap();
    assert!(!daemon.file("x").exists());
    drop(file);
}

#[test]
fn names_outside_the_rules_are_einval_and_too_long_ones_enametoolong() {
    let daemon = Daemon::start();
    let open = |name: &str| {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(daemon.file(name))
    };
    for name in ["a b", ".a", "a..b", "a.", "ü", "a@4hz"] {
        assert_eq!(errno(open(name)), libc::EINVAL, "{name}");
    }
    for length in [248, 255, 256] {
        assert_eq!(
            errno(open(&"x".repeat(length))),
            libc::ENAMETOOLONG,
            "{length} bytes"
        );
    }
    open(&"x".repeat(247)).unwrap();
}

#[test]
fn directories_links_and_renames_are_not_there() {
    let daemon = Daemon::start();
    let _file = create(&daemon, "x");
    assert_eq!(errno(fs::create_dir(daemon.file("d"))), libc::EPERM);
    assert_eq!(
        errno(fs::hard_link(daemon.file("x"), daemon.file("y"))),
        libc::EPERM
    );
    assert_eq!(
        errno(std::os::unix::fs::symlink("x", daemon.file("y"))),
        libc::EPERM
    );
    assert_eq!(
        errno(fs::rename(daemon.file("x"), daemon.file("y"))),
        libc::EPERM
    );
}

#[test]
fn the_time_of_modification_is_the_last_commits() {
    let daemon = Daemon::start();
    let file = create(&daemon, "x");
    file.write_all_at(b"1", 0).unwrap();
    let first = file.metadata().unwrap().modified().unwrap();
    let age = first.elapsed().unwrap_or_default();
    assert!(age < PATIENCE, "{age:?}");
    eventually("a later commit has a later time", || {
        file.write_all_at(b"2", 0).unwrap();
        (file.metadata().unwrap().modified().unwrap() > first).then_some(())
    });
}

#[test]
fn every_state_is_listed_with_its_length() {
    let daemon = Daemon::start();
    let files: Vec<_> = (0..500)
        .map(|i| {
            let file = create(&daemon, &format!("state.{i:03}"));
            file.write_all_at(&vec![1; i], 0).unwrap();
            file
        })
        .collect();
    let mut names: Vec<_> = fs::read_dir(daemon.mount())
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            (
                entry.file_name().into_string().unwrap(),
                entry.metadata().unwrap().size(),
            )
        })
        .filter(|(name, _)| !name.starts_with('.'))
        .collect();
    names.sort();
    let expected: Vec<_> = (0..500_u64).map(|i| (format!("state.{i:03}"), i)).collect();
    assert_eq!(names, expected);
    drop(files);
}

#[test]
fn what_is_known_of_a_state_can_be_read_as_attributes() {
    let daemon = Daemon::start();
    let file = create(&daemon, "x");
    file.write_all_at(b"12345", 0).unwrap();
    file.write_all_at(b"6", 5).unwrap();
    let script = "import os,sys\n\
        for k in ('generation','length','capacity','subscribers'):\n\
        \x20   print(k, os.getxattr(sys.argv[1], 'user.kstate.'+k).decode())\n\
        print('layout' in str(os.listxattr(sys.argv[1])))\n";
    let output = Command::new("python3")
        .args(["-c", script])
        .arg(daemon.file("x"))
        .output()
        .unwrap();
    let page = kstate_sys::abi::page_size();
    let expected = format!("generation 2\nlength 6\ncapacity {page}\nsubscribers 1\nFalse\n");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        expected,
        "{output:?}"
    );
}

#[test]
fn unknown_ioctls_are_enotty_and_preallocation_makes_no_versions() {
    let daemon = Daemon::start();
    let file = create(&daemon, "x");
    file.write_all_at(b"1", 0).unwrap();
    let script = "import os,sys,fcntl,errno\n\
        f=os.open(sys.argv[1],os.O_RDWR)\n\
        try: fcntl.ioctl(f,0x5401,b'\\0'*64); print('no error')\n\
        except OSError as e: print(errno.errorcode[e.errno])\n\
        try: os.posix_fallocate(f,0,8192); print('no error')\n\
        except OSError as e: print(errno.errorcode[e.errno])\n\
        print(os.getxattr(f,'user.kstate.generation').decode())\n";
    let output = Command::new("python3")
        .args(["-c", script])
        .arg(daemon.file("x"))
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "ENOTTY\nEINVAL\n1\n",
        "{output:?}"
    );
}

#[test]
fn copying_programs_get_the_newest_value_each_time() {
    let daemon = Daemon::start();
    let file = create(&daemon, "x");
    for value in ["one", "three", "two"] {
        file.set_len(0).unwrap();
        file.write_all_at(value.as_bytes(), 0).unwrap();
        let copy = daemon.home().join("copy");
        let copied = Command::new("cp")
            .arg(daemon.file("x"))
            .arg(&copy)
            .status()
            .unwrap();
        assert!(copied.success());
        assert_eq!(fs::read_to_string(&copy).unwrap(), value);
    }
}

#[test]
fn exclusive_creation_fails_where_the_state_exists() {
    let daemon = Daemon::start();
    let _file = create(&daemon, "x");
    let again = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(daemon.file("x"));
    assert_eq!(errno(again), libc::EEXIST);
    let mode = |mode: u32| {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .clone()
    };
    let file = mode(0o600).open(daemon.file("y")).unwrap();
    assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o600);
}

#[test]
fn poll_on_a_deleted_state_hangs_up_and_does_not_spin() {
    let daemon = Daemon::start();
    let file = create(&daemon, "x");
    file.write_all_at(b"1", 0).unwrap();
    let mut byte = [0; 1];
    file.read_exact_at(&mut byte, 0).unwrap();
    let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            poll(&mut fds, PollTimeout::try_from(PATIENCE).unwrap()).unwrap();
            fds[0].revents().unwrap()
        });
        // Whether it sleeps already or not.
        fs::remove_file(daemon.file("x")).unwrap();
        assert!(sleeper.join().unwrap().contains(PollFlags::POLLHUP));
    });
}

#[test]
fn a_time_to_linger_can_be_changed_after_the_last_close() {
    let daemon = Daemon::start();
    // Closed with one time, then given another before that has passed; how long the state was
    // there afterwards is printed in milliseconds.
    let script = "import os,sys,time\n\
        path, first, then = sys.argv[1:]\n\
        set = lambda time: os.setxattr(path, 'user.kstate.linger', time.encode())\n\
        f = os.open(path, os.O_CREAT | os.O_RDWR); set(first)\n\
        closed = time.monotonic(); os.close(f); set(then)\n\
        while os.path.exists(path): time.sleep(0.005)\n\
        print(int((time.monotonic() - closed) * 1000))\n";
    // The longer time must hold although the shorter was in force when the file was closed. Were
    // the shorter one forgotten, this would take an hour.
    for (name, first, then) in [("longer", "3s", "4s"), ("shorter", "3600s", "500ms")] {
        let mut python = Command::new("python3");
        python
            .args(["-c", script])
            .arg(daemon.file(name))
            .args([first, then]);
        let mut python = kstate_tests::Running::start(&mut python);
        let lived: u64 = python.line().parse().unwrap();
        assert!(
            lived >= if name == "longer" { 4000 } else { 500 },
            "{name}: {lived} ms"
        );
        assert!(python.finish().success());
    }
}
