//! Waiting for a version: poll, select, epoll by level and by edge.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use kstate_tests::{PATIENCE, Setup};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::select::{FdSet, select};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::{create, errno, replace, start_python};

both_ways!(
    poll_reports_a_version_newer_than_the_last_one_read,
    a_file_open_for_writing_is_always_writable,
    a_file_open_for_writing_alone_is_never_readable,
    select_reports_the_same,
    a_level_stays_until_the_version_is_read,
    after_estale_a_file_is_readable,
    an_edge_is_told_for_each_new_version_even_if_the_last_was_not_read,
    polling_works_without_io_uring_as_well,
    poll_on_a_deleted_state_hangs_up_and_does_not_spin,
    all_who_wait_are_woken_and_each_sees_for_itself,
);

pub(crate) fn readable(file: &File, patience: Duration) -> bool {
    events(file, PollFlags::POLLIN, patience).contains(PollFlags::POLLIN)
}

fn events(file: &File, wanted: PollFlags, patience: Duration) -> PollFlags {
    let mut fds = [PollFd::new(file.as_fd(), wanted)];
    poll(&mut fds, PollTimeout::try_from(patience).unwrap()).unwrap();
    fds[0].revents().unwrap()
}

/// How often `epoll` tells of its only file within `patience`: once or not.
fn told(epoll: &Epoll, patience: Duration) -> usize {
    let timeout = EpollTimeout::try_from(patience).unwrap();
    let mut events = [EpollEvent::empty(); 2];
    epoll.wait(&mut events, timeout).unwrap()
}

fn watching(file: &File, events: EpollFlags) -> Epoll {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    epoll.add(file, EpollEvent::new(events, 1)).unwrap();
    epoll
}

fn poll_reports_a_version_newer_than_the_last_one_read(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    replace(&daemon, "x", b"1");
    assert!(readable(&file, PATIENCE));
    let mut byte = [0; 1];
    file.read_exact_at(&mut byte, 0).unwrap();
    assert!(!readable(&file, Duration::ZERO));
    file.write_all_at(b"2", 0).unwrap();
    let own = readable(&file, Duration::ZERO);
    assert!(!own, "what was written after a read is nothing new");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let start = Instant::now();
            assert!(readable(&file, PATIENCE), "a sleeping poll is woken");
            assert!(start.elapsed() < PATIENCE);
        });
        // Whether it sleeps already or not, it must see this.
        replace(&daemon, "x", b"3");
    });
}

fn a_file_open_for_writing_is_always_writable(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    let both = PollFlags::POLLIN | PollFlags::POLLOUT;
    let found = |file: &File| events(file, both, Duration::ZERO);
    assert_eq!(found(&file), PollFlags::POLLOUT);
    let reader = File::open(daemon.file("x")).unwrap();
    assert_eq!(found(&reader), PollFlags::empty());
    file.write_all_at(b"1", 0).unwrap();
    assert_eq!(found(&file), both);
    assert_eq!(found(&reader), PollFlags::POLLIN);
}

fn a_file_open_for_writing_alone_is_never_readable(setup: Setup) {
    let daemon = setup.start();
    let keep = create(&daemon, "x");
    let mut options = std::fs::OpenOptions::new();
    let writer = options.write(true).open(daemon.file("x")).unwrap();
    keep.write_all_at(b"1", 0).unwrap();
    let both = PollFlags::POLLIN | PollFlags::POLLOUT;
    assert_eq!(events(&writer, both, PATIENCE), PollFlags::POLLOUT);
}

fn select_reports_the_same(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    let selected = |patience: i64| {
        let (mut read, mut write, mut except) = (FdSet::new(), FdSet::new(), FdSet::new());
        read.insert(file.as_fd());
        except.insert(file.as_fd());
        // Writable at once: asked for only where nothing is waited for.
        if patience == 0 {
            write.insert(file.as_fd());
        }
        let mut timeout = TimeVal::seconds(patience);
        select(None, &mut read, &mut write, &mut except, Some(&mut timeout)).unwrap();
        [&read, &write, &except].map(|set| set.contains(file.as_fd()))
    };
    assert_eq!(selected(0), [false, true, false]);
    replace(&daemon, "x", b"1");
    assert_eq!(selected(20), [true, false, false]);
    file.read_exact_at(&mut [0; 1], 0).unwrap();
    std::thread::scope(|scope| {
        let woken = scope.spawn(|| selected(20));
        replace(&daemon, "x", b"2");
        assert_eq!(woken.join().unwrap(), [true, false, false]);
    });
}

fn a_level_stays_until_the_version_is_read(setup: Setup) {
    let daemon = setup.start();
    let writer = create(&daemon, "x");
    let reader = File::open(daemon.file("x")).unwrap();
    let epoll = watching(&reader, EpollFlags::EPOLLIN);
    for round in 0..3_u8 {
        assert_eq!(told(&epoll, Duration::ZERO), 0);
        writer.write_all_at(&[round, 0], 0).unwrap();
        assert_eq!(told(&epoll, PATIENCE), 1, "round {round}");
        assert_eq!(told(&epoll, Duration::ZERO), 1, "and still");
        let mut byte = [0; 1];
        if round > 0 {
            reader.read_exact_at(&mut byte, 1).unwrap();
            let still = told(&epoll, Duration::ZERO);
            assert_eq!(still, 1, "what is read behind offset 0 is an old version");
        }
        reader.read_exact_at(&mut byte, 0).unwrap();
        assert_eq!(byte, [round]);
    }
    // Disarmed by one event, and armed again.
    let once = EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT;
    epoll
        .modify(&reader, &mut EpollEvent::new(once, 1))
        .unwrap();
    writer.write_all_at(b"3", 0).unwrap();
    assert_eq!(told(&epoll, PATIENCE), 1);
    assert_eq!(told(&epoll, Duration::ZERO), 0);
    epoll
        .modify(&reader, &mut EpollEvent::new(once, 1))
        .unwrap();
    assert_eq!(told(&epoll, Duration::ZERO), 1);
}

fn after_estale_a_file_is_readable(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    file.write_all_at(b"1", 0).unwrap();
    file.read_exact_at(&mut [0; 1], 0).unwrap();
    replace(&daemon, "x", b"2");
    assert_eq!(errno(file.write_at(b"3", 0)), libc::ESTALE);
    assert!(readable(&file, Duration::ZERO));
    file.read_exact_at(&mut [0; 1], 0).unwrap();
    file.write_all_at(b"3", 0).unwrap();
    assert!(!readable(&file, Duration::ZERO));
}

fn an_edge_is_told_for_each_new_version_even_if_the_last_was_not_read(setup: Setup) {
    for way in ["auto", "futex"] {
        let daemon = setup.clone().with(format!("--notify-by={way}")).start();
        let writer = create(&daemon, "x");
        let reader = File::open(daemon.file("x")).unwrap();
        let epoll = watching(&reader, EpollFlags::EPOLLIN | EpollFlags::EPOLLET);
        assert_eq!(told(&epoll, Duration::ZERO), 0);
        for round in 0..6_u8 {
            writer.write_all_at(&[round], 0).unwrap();
            assert_eq!(told(&epoll, PATIENCE), 1, "round {round}");
            assert_eq!(told(&epoll, Duration::ZERO), 0, "one event an edge");
            if round % 2 == 0 {
                let mut byte = [0];
                reader.read_exact_at(&mut byte, 0).unwrap();
                assert_eq!(byte, [round]);
            }
        }
    }
}

fn polling_works_without_io_uring_as_well(setup: Setup) {
    // The same poll, with the daemon kept from io_uring as a container's filter would.
    let program = "
file = os.open(path, os.O_RDONLY)
poll = select.poll()
poll.register(file, select.POLLIN)
print('ready', flush=True)
for i in range(3):
    assert poll.poll(20000)
    print(os.pread(file, 99, 0).decode(), flush=True)
";
    let daemon = setup.with("--notify-by=futex").start();
    let keep = create(&daemon, "x");
    let mut python = start_python(program, &daemon.file("x"));
    assert_eq!(python.line(), "ready");
    for value in ["a", "b", "c"] {
        keep.write_all_at(value.as_bytes(), 0).unwrap();
        assert_eq!(python.line(), value);
    }
    assert!(python.finish().success());
}

fn poll_on_a_deleted_state_hangs_up_and_does_not_spin(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    file.write_all_at(b"1", 0).unwrap();
    file.read_exact_at(&mut [0; 1], 0).unwrap();
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| events(&file, PollFlags::POLLIN, PATIENCE));
        // Whether it sleeps already or not.
        std::fs::remove_file(daemon.file("x")).unwrap();
        assert!(sleeper.join().unwrap().contains(PollFlags::POLLHUP));
    });
}

fn all_who_wait_are_woken_and_each_sees_for_itself(setup: Setup) {
    let daemon = setup.start();
    let files: Vec<_> = (0..8).map(|_| create(&daemon, "x")).collect();
    // The library's publishes wake pollers too.
    let state = daemon.library().subscribe("x").write().bytes().unwrap();
    std::thread::scope(|scope| {
        for file in &files {
            scope.spawn(|| {
                assert!(readable(file, PATIENCE));
                file.read_exact_at(&mut [0; 1], 0).unwrap();
                assert!(!readable(file, Duration::ZERO));
            });
        }
        state.publish(b"1").unwrap();
    });
    state.publish(b"2").unwrap();
    let (first, others) = files.split_first().unwrap();
    first.read_exact_at(&mut [0; 1], 0).unwrap();
    assert!(!readable(first, Duration::ZERO));
    assert!(others.iter().all(|file| readable(file, Duration::ZERO)));
}
