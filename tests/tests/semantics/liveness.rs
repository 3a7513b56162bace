//! Deadlines, and publishers that go: how those who wait are told that nothing comes.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use kstate::{Generation, Waited};
use kstate_tests::{Daemon, PATIENCE, Running, Setup, eventually};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use crate::{create, python, replace, shell, start_python, value};

both_ways!(
    a_deadline_is_set_read_and_removed,
    a_deadline_that_passes_is_told_by_poll_until_it_is_seen,
    an_exceptional_condition_wakes_select_and_epoll,
    a_blocked_read_ends_once_when_a_deadline_passes,
    a_commit_is_in_time_again,
    commits_in_time_are_never_overdue,
    the_value_of_an_overdue_state_stays,
    the_last_publisher_to_go_is_missed_at_once,
    who_writes_once_is_not_missed,
    what_is_overdue_is_told_as_a_change,
    the_library_is_told_as_well,
    who_sleeps_is_left_alone_while_a_state_stays_overdue,
);

/// Longer than any test takes.
const HOUR: &str = "1h";

fn set_deadline(daemon: &Daemon, name: &str, value: &str) {
    let program = format!("os.setxattr(path, 'user.kstate.deadline', b'{value}')");
    python(&program, &daemon.file(name));
}

fn is_overdue(daemon: &Daemon, name: &str) -> bool {
    daemon.library().info(name).unwrap().overdue
}

#[track_caller]
fn await_overdue(daemon: &Daemon, name: &str) {
    eventually("it is overdue", || is_overdue(daemon, name).then_some(()));
}

fn urgent(file: &File, patience: Duration) -> bool {
    let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLPRI)];
    poll(&mut fds, PollTimeout::try_from(patience).unwrap()).unwrap();
    fds[0].revents().unwrap().contains(PollFlags::POLLPRI)
}

/// A process of the library that has published, and so counts as a writer.
#[track_caller]
fn publisher(daemon: &Daemon, name: &str) -> Running {
    let mut worker = daemon.worker(name, &["publish-lines"]);
    assert_eq!(worker.line(), "ready");
    worker.say("go");
    assert_eq!(worker.line(), "go");
    worker
}

fn a_deadline_is_set_read_and_removed(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    let program = "
name = 'user.kstate.deadline'
def get(): return said(lambda: os.getxattr(path, name))
def put(value, flags=0): return said(lambda: os.setxattr(path, name, value, flags))
print(get(), name in os.listxattr(path), said(lambda: os.removexattr(path, name)))
print(put(b'1h', os.XATTR_REPLACE), put(b'1h', os.XATTR_CREATE), get(), name in os.listxattr(path))
print(put(b'1h', os.XATTR_CREATE), put(b'2500ms'), get(), put(b'70000'), get())
print({put(value) for value in
    (b'', b'soon', b'-1s', b'0.5ms', b'999us', b'100ns', b'1ms2', b'nan', b'infs', b'\\xff')}, get())
print(put(b'1'), get())
print(said(lambda: os.removexattr(path, name)), get(), os.getxattr(path, 'user.kstate.overdue'))
print(put(b'1h'), put(b'0'), get())
";
    let printed = python(program, &daemon.file("x"));
    let expected = "ENODATA False ENODATA\nENODATA None b'3600000ms' True\n\
                    EEXIST None b'2500ms' None b'70000ms'\n{'EINVAL'} b'70000ms'\n\
                    None b'1ms'\nNone ENODATA b'0'\nNone None ENODATA\n";
    assert_eq!(printed, expected);
    file.write_all_at(b"1", 0).unwrap();
    assert!(!is_overdue(&daemon, "x"));
}

fn a_deadline_that_passes_is_told_by_poll_until_it_is_seen(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    let view = File::open(daemon.file("x@1h")).unwrap();
    file.write_all_at(b"12", 0).unwrap();
    file.read_exact_at(&mut [0; 2], 0).unwrap();
    assert!(!urgent(&file, Duration::ZERO));
    let (start, deadline) = (Instant::now(), Duration::from_millis(150));
    set_deadline(&daemon, "x", "150ms");
    assert!(urgent(&file, PATIENCE));
    assert!(start.elapsed() >= deadline);
    assert!(urgent(&view, PATIENCE), "a view as well");
    assert!(urgent(&file, Duration::ZERO), "and it stays so");
    file.read_exact_at(&mut [0; 1], 1).unwrap();
    assert!(urgent(&file, Duration::ZERO));
    file.read_exact_at(&mut [0; 1], 0).unwrap();
    assert!(!urgent(&file, Duration::ZERO));
    assert!(urgent(&view, Duration::ZERO), "each for itself");
    set_deadline(&daemon, "x", HOUR);
    assert!(!urgent(&view, Duration::ZERO));
    assert!(!is_overdue(&daemon, "x"));
}

fn an_exceptional_condition_wakes_select_and_epoll(setup: Setup) {
    let daemon = setup.start();
    let _keep = create(&daemon, "x");
    let program = "
file = os.open(path, os.O_RDONLY)
level, edge = select.epoll(), select.epoll()
level.register(file, select.EPOLLPRI)
edge.register(file, select.EPOLLPRI | select.EPOLLET)
for way in (lambda: select.select([], [], [file], 20)[2] == [file],
        lambda: level.poll(20) == [(file, select.EPOLLPRI)],
        lambda: edge.poll(20) == [(file, select.EPOLLPRI)]):
    os.pread(file, 1, 0)
    replace(b'in time')
    os.setxattr(path, 'user.kstate.deadline', b'50ms')
    print(way())
    os.setxattr(path, 'user.kstate.deadline', b'1h')
";
    let printed = python(program, &daemon.file("x"));
    assert_eq!(printed, "True\nTrue\nTrue\n");
}

fn a_blocked_read_ends_once_when_a_deadline_passes(setup: Setup) {
    let daemon = setup.start();
    let _keep = create(&daemon, "x");
    let program = "
view = os.open(path + '@wait', os.O_RDONLY)
other = os.open(path + '@wait', os.O_RDONLY | os.O_NONBLOCK)
while True: print(said(lambda: os.read(view, 9)), said(lambda: os.read(other, 9)), flush=True)
";
    let mut python = start_python(program, &daemon.file("x"));
    let waits = || (daemon.library().info("x").unwrap().waiters == 1).then_some(());
    eventually("it waits", waits);
    set_deadline(&daemon, "x", "50ms");
    assert_eq!(python.line(), "ETIMEDOUT ETIMEDOUT");
    // It waits again, and is not told again.
    eventually("it waits", waits);
    replace(&daemon, "x", b"1");
    assert_eq!(python.line(), "b'1' b'1'");
    assert_eq!(python.line(), "ETIMEDOUT ETIMEDOUT");
}

fn a_commit_is_in_time_again(setup: Setup) {
    let daemon = setup.start();
    let mut worker = publisher(&daemon, "x");
    let file = File::open(daemon.file("x")).unwrap();
    set_deadline(&daemon, "x", HOUR);
    worker.signal(Signal::SIGKILL);
    worker.finish();
    assert!(urgent(&file, PATIENCE));
    replace(&daemon, "x", b"1");
    assert!(!urgent(&file, Duration::ZERO) && !is_overdue(&daemon, "x"));
    // The time of the next one counts from it.
    set_deadline(&daemon, "x", "20ms");
    for _ in 0..3 {
        assert!(urgent(&file, PATIENCE));
        await_overdue(&daemon, "x");
        replace(&daemon, "x", b"1");
    }
}

fn commits_in_time_are_never_overdue(setup: Setup) {
    let daemon = setup.start();
    let _keep = create(&daemon, "x");
    let state = daemon.library().subscribe("x").write().bytes().unwrap();
    state.publish(b"1").unwrap();
    let deadline = Duration::from_secs(3);
    set_deadline(&daemon, "x", "3s");
    let start = Instant::now();
    // For longer than it, by commits that a slow machine brings in time as well.
    while start.elapsed() < deadline + Duration::from_millis(500) {
        let committed = Instant::now();
        state.publish(b"1").unwrap();
        let overdue = is_overdue(&daemon, "x");
        assert!(!overdue || committed.elapsed() >= deadline);
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn the_value_of_an_overdue_state_stays(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    file.write_all_at(b"value", 0).unwrap();
    set_deadline(&daemon, "x", "1ms");
    await_overdue(&daemon, "x");
    assert_eq!(value(&daemon, "x"), b"value");
    assert_eq!(value(&daemon, "x@4hz"), b"value");
    let mut view = File::open(daemon.file("x@wait")).unwrap();
    let mut bytes = [0; 5];
    view.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"value");
    let printed = python(
        "print(os.getxattr(path, 'user.kstate.overdue').decode())",
        &daemon.file("x"),
    );
    assert_eq!(printed, "1\n");
    let states = std::fs::read_to_string(daemon.file(".kstate/states")).unwrap();
    let state: serde_json::Value = serde_json::from_str(&states).unwrap();
    assert_eq!(
        (&state["overdue"], &state["deadline_ns"]),
        (&true.into(), &1_000_000.into())
    );
}

fn the_last_publisher_to_go_is_missed_at_once(setup: Setup) {
    let daemon = setup.start();
    let mut workers = [(); 2].map(|()| publisher(&daemon, "x"));
    let file = File::open(daemon.file("x")).unwrap();
    set_deadline(&daemon, "x", HOUR);
    let writers = || daemon.library().info("x").unwrap().writers;
    workers[0].signal(Signal::SIGKILL);
    workers[0].finish();
    eventually("one is left", || (writers() == 1).then_some(()));
    assert!(!urgent(&file, Duration::ZERO) && !is_overdue(&daemon, "x"));
    workers[1].signal(Signal::SIGKILL);
    assert!(urgent(&file, PATIENCE));
    await_overdue(&daemon, "x");
    workers[1].finish();
    // One that comes and commits makes up for it; that it ends well is no less an end.
    let mut worker = publisher(&daemon, "x");
    assert!(!is_overdue(&daemon, "x"));
    worker.close_input();
    assert!(worker.finish().success());
    await_overdue(&daemon, "x");
    // A program of files that goes on writing, as well.
    shell("{ echo 1; echo 2; } > \"$1\"", &daemon.file("x"));
    await_overdue(&daemon, "x");
    // Without a deadline nobody is missed.
    let mut worker = publisher(&daemon, "y");
    let _file = File::open(daemon.file("y")).unwrap();
    worker.signal(Signal::SIGKILL);
    worker.finish();
    eventually("it is buried", || {
        (daemon.library().info("y").unwrap().writers == 0).then_some(())
    });
    assert!(!is_overdue(&daemon, "y"));
}

fn who_writes_once_is_not_missed(setup: Setup) {
    let daemon = setup.start();
    let writer = create(&daemon, "x");
    let _reader = File::open(daemon.file("x")).unwrap();
    drop(writer);
    set_deadline(&daemon, "x", HOUR);
    for value in ["1", "2", "3"] {
        shell(&format!("echo {value} > \"$1\""), &daemon.file("x"));
        eventually("it has closed its file", || {
            (daemon.library().info("x").unwrap().writers == 0).then_some(())
        });
        assert!(!is_overdue(&daemon, "x"));
    }
}

fn what_is_overdue_is_told_as_a_change(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    file.write_all_at(b"1", 0).unwrap();
    let program = "
import json
file = os.open(path, os.O_RDONLY)
while True:
    for line in os.read(file, 9999).splitlines():
        line = json.loads(line)
        if line['event'] != 'changed': print(line['event'], line['generation'], flush=True)
";
    let changes = || start_python(program, &daemon.file(".kstate/changes"));
    let mut early = changes();
    assert_eq!(early.line(), "present 1");
    set_deadline(&daemon, "x", "30ms");
    assert_eq!(early.line(), "overdue 1");
    // Who comes later is told that it is.
    let mut late = changes();
    assert_eq!(late.line(), "present 1");
    assert_eq!(late.line(), "overdue 1");
    file.write_all_at(b"2", 0).unwrap();
    assert_eq!(early.line(), "overdue 2");
    assert_eq!(late.line(), "overdue 2");
}

fn the_library_is_told_as_well(setup: Setup) {
    let daemon = setup.start();
    let library = daemon.library();
    let state = library.subscribe("x").write().bytes().unwrap();
    let reader = library.subscribe("x").bytes().unwrap();
    let mut watch = reader.watch();
    state.publish(b"1").unwrap();
    let first = watch.next(Some(PATIENCE)).unwrap().unwrap();
    assert_eq!((&first.value[..], first.is_overdue()), (&b"1"[..], false));
    let since = first.generation();
    let soon = Some(Duration::from_millis(1));
    assert_eq!(
        reader.wait_or_overdue(since, soon).unwrap(),
        Waited::TimedOut
    );
    std::thread::scope(|scope| {
        let watching = scope.spawn(move || {
            let again = watch.next(Some(PATIENCE)).unwrap().unwrap();
            assert_eq!((&again.value[..], again.is_overdue()), (&b"1"[..], true));
            assert_eq!(again.generation(), since);
            watch
        });
        let _same = library
            .subscribe("x")
            .deadline(Duration::from_millis(30))
            .bytes()
            .unwrap();
        let mut watch = watching.join().unwrap();
        assert!(watch.next(soon).unwrap().is_none(), "told once");
        assert_eq!(
            reader.wait_or_overdue(since, None).unwrap(),
            Waited::Overdue(since)
        );
        assert_eq!(reader.wait(since, soon).unwrap(), Waited::TimedOut);
        assert!(reader.snapshot().unwrap().is_overdue());
        let info = library.info("x").unwrap();
        assert!(info.overdue && info.deadline == Some(Duration::from_millis(30)));
        let _same = library
            .subscribe("x")
            .deadline(Duration::ZERO)
            .bytes()
            .unwrap();
        assert_eq!(library.info("x").unwrap().deadline, None);
        state.publish(b"2").unwrap();
        let next = watch.next(Some(PATIENCE)).unwrap().unwrap();
        assert_eq!(
            (next.generation(), next.is_overdue()),
            (Generation(2), false)
        );
    });
    let shortest = library.subscribe("x").deadline(Duration::from_micros(999));
    assert!(shortest.bytes().is_err());
}

fn who_sleeps_is_left_alone_while_a_state_stays_overdue(setup: Setup) {
    let daemon = setup.start();
    let mut worker = daemon.worker("x", &["wait"]);
    assert_eq!(worker.line(), "ready");
    let sleeps = || -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", worker.pid())).unwrap();
        let mut lines = status.lines();
        let count = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        count.unwrap().trim().parse().unwrap()
    };
    set_deadline(&daemon, "x", "1ms");
    await_overdue(&daemon, "x");
    // By themselves they look every four seconds.
    eventually("it is woken no more", || {
        let (before, start) = (sleeps(), Instant::now());
        while start.elapsed() < Duration::from_millis(300) {
            std::thread::park_timeout(Duration::from_millis(50));
        }
        (sleeps() - before <= 1).then_some(())
    });
}
