//! Views whose reads wait, as those of a pipe do.

use std::fs::File;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use kstate_tests::{Daemon, Running, Setup, eventually};
use nix::sys::signal::Signal;

use crate::polling::readable;
use crate::{create, python, replace, shell, start_python};

both_ways!(
    a_waiting_view_is_read_like_a_pipe,
    a_read_at_the_end_waits_for_a_newer_version,
    an_empty_version_reads_as_an_end_of_file,
    the_end_of_a_waiting_view_is_the_deletion_of_its_state,
    cat_prints_each_change_as_it_comes,
    a_shell_reads_line_by_line,
    signals_let_a_blocked_read_go,
    readers_of_one_descriptor_share_and_of_many_all_get_a_version,
    a_waiting_view_is_polled_as_it_is_read,
    a_blocked_read_ends_with_the_daemon,
);

/// Waits until so many wait for the state: reads that are blocked, and polls.
#[track_caller]
fn await_waiters(daemon: &Daemon, name: &str, count: u32) {
    let library = daemon.library();
    eventually("they wait", || {
        (library.info(name).unwrap().waiters == count).then_some(())
    });
}

fn cat(view: &Path) -> Running {
    Running::start(Command::new("cat").arg(view))
}

fn a_waiting_view_is_read_like_a_pipe(setup: Setup) {
    let daemon = setup.start();
    let _keep = create(&daemon, "x");
    let program = "
view = os.open(path + '@wait', os.O_RDONLY | os.O_NONBLOCK)
print(said(lambda: os.read(view, 9)))
replace(b'hello')
print(os.read(view, 2))
replace(b'newer')
print(os.read(view, 9), os.read(view, 9), said(lambda: os.read(view, 9)))
print(*[said(work) for work in (
    lambda: os.lseek(view, 0, os.SEEK_SET), lambda: os.lseek(view, 0, os.SEEK_CUR),
    lambda: os.lseek(view, 0, os.SEEK_END), lambda: os.pread(view, 9, 0),
    lambda: os.preadv(view, [bytearray(9)], 0))])
buffers = [bytearray(2), bytearray(9)]
replace(b'hello')
print(os.readv(view, buffers), *buffers)
# Blocking or not is decided with each read.
other = os.open(path + '@wait', os.O_RDONLY)
print(os.read(other, 9))
os.set_blocking(other, False)
print(said(lambda: os.read(other, 9)))
";
    let expected = "EAGAIN\nb'he'\nb'llo' b'newer' EAGAIN\nESPIPE ESPIPE ESPIPE ESPIPE ESPIPE\n\
                    5 bytearray(b'he') bytearray(b'llo\\x00\\x00\\x00\\x00\\x00\\x00')\n\
                    b'hello'\nEAGAIN\n";
    assert_eq!(python(program, &daemon.file("x")), expected);
}

fn a_read_at_the_end_waits_for_a_newer_version(setup: Setup) {
    let daemon = setup.start();
    let _keep = create(&daemon, "x");
    let state = daemon.library().subscribe("x").write().bytes().unwrap();
    let mut view = File::open(daemon.file("x@wait")).unwrap();
    let mut read = || {
        let mut bytes = [0; 64];
        let length = view.read(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    };
    for round in 0..20 {
        let value = format!("value {round}");
        std::thread::scope(|scope| {
            let reader = scope.spawn(&mut read);
            if round % 4 < 2 {
                await_waiters(&daemon, "x", 1);
            }
            // Whether it waits already or not.
            match round % 2 {
                0 => replace(&daemon, "x", value.as_bytes()),
                _ => drop(state.publish(value.as_bytes()).unwrap()),
            }
            assert_eq!(reader.join().unwrap(), value);
        });
    }
}

fn an_empty_version_reads_as_an_end_of_file(setup: Setup) {
    let daemon = setup.start();
    let _keep = create(&daemon, "x");
    let state = daemon.library().subscribe("x").write().bytes().unwrap();
    let mut view = File::open(daemon.file("x@wait")).unwrap();
    state.publish(b"").unwrap();
    let mut text = String::new();
    assert_eq!(view.read_to_string(&mut text).unwrap(), 0);
    state.publish(b"1").unwrap();
    // That has been told, and is over.
    let mut byte = [0; 1];
    assert_eq!(view.read(&mut byte).unwrap(), 1);
    let cat = std::thread::scope(|scope| {
        let path = daemon.file("x@wait");
        let cat = scope.spawn(move || std::fs::read(path).unwrap());
        await_waiters(&daemon, "x", 1);
        state.publish(b"").unwrap();
        cat.join().unwrap()
    });
    assert_eq!(cat, b"1");
}

fn the_end_of_a_waiting_view_is_the_deletion_of_its_state(setup: Setup) {
    let daemon = setup.start();
    let keep = create(&daemon, "x");
    replace(&daemon, "x", b"1");
    let mut views = [(); 2].map(|()| File::open(daemon.file("x@wait")).unwrap());
    let mut byte = [0; 1];
    views[0].read_exact(&mut byte).unwrap();
    std::thread::scope(|scope| {
        let [first, _] = &mut views;
        let reader = scope.spawn(move || first.read(&mut [0; 9]).unwrap());
        await_waiters(&daemon, "x", 1);
        std::fs::remove_file(daemon.file("x")).unwrap();
        assert_eq!(reader.join().unwrap(), 0);
    });
    // What was not read yet comes first.
    let mut text = String::new();
    views[1].read_to_string(&mut text).unwrap();
    assert_eq!(text, "1");
    drop(keep);
    // A state of the same name is another one.
    let _new = create(&daemon, "x");
    replace(&daemon, "x", b"2");
    assert_eq!(views[1].read(&mut byte).unwrap(), 0);
}

fn cat_prints_each_change_as_it_comes(setup: Setup) {
    let daemon = setup.start();
    let _keep = create(&daemon, "x");
    replace(&daemon, "x", b"first\n");
    let mut cats = ["@wait", "@wait,1ms"].map(|view| cat(&daemon.file(&format!("x{view}"))));
    for value in ["first", "second", "third"] {
        replace(&daemon, "x", format!("{value}\n").as_bytes());
        for cat in &mut cats {
            cat.lines_until(value);
        }
    }
    for cat in &mut cats {
        cat.signal(Signal::SIGINT);
        assert_eq!(cat.finish().signal(), Some(libc::SIGINT));
    }
}

fn a_shell_reads_line_by_line(setup: Setup) {
    let daemon = setup.start();
    let _keep = create(&daemon, "x");
    let script = r#"
        exec 3< "$1@wait"
        for value in one two three; do
            echo $value > "$1"
            read -r line <&3
            echo "$line"
        done
        timeout 20 head -n 1 "$1@wait"
        timeout 20 dd if="$1@wait" bs=2 count=2 status=none
    "#;
    let printed = shell(script, &daemon.file("x"));
    assert_eq!(printed, "one\ntwo\nthree\nthree\nthre");
}

fn signals_let_a_blocked_read_go(setup: Setup) {
    let daemon = setup.start();
    let _keep = create(&daemon, "x");
    // Of the C library, which does not begin again.
    let program = "
import signal, threading
if sys.stdin.readline() == 'handle\\n':
    signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.siginterrupt(signal.SIGUSR1, False)
if sys.stdin.readline() == 'threads\\n':
    def other():
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        room = ctypes.create_string_buffer(9)
        call('read', os.open(path + '@wait', os.O_RDONLY), room, 9)
        print(room.value.decode(), flush=True)
    threading.Thread(target=other).start()
else:
    # One that is blocked is not delivered, and lets nobody go.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
view = os.open(path + '@wait', os.O_RDONLY)
print(said(lambda: call('read', view, ctypes.create_string_buffer(9), 9)), flush=True)
";
    let start = |handling: &str, threads: &str, waiters| {
        let mut python = start_python(program, &daemon.file("x"));
        python.say(handling);
        python.say(threads);
        await_waiters(&daemon, "x", waiters);
        python
    };
    for signal in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGUSR1] {
        let mut python = start("default", "one", 1);
        python.signal(signal);
        assert_eq!(python.finish().signal(), Some(signal as i32));
    }
    let mut python = start("handle", "one", 1);
    python.signal(Signal::SIGUSR2);
    python.signal(Signal::SIGUSR1);
    assert_eq!(python.line(), "EINTR");
    assert!(python.finish().success());
    // Of two threads, that goes on to which the signal is delivered.
    let mut python = start("handle", "threads", 2);
    python.signal(Signal::SIGUSR1);
    assert_eq!(python.line(), "EINTR");
    await_waiters(&daemon, "x", 2);
    replace(&daemon, "x", b"value");
    assert_eq!(python.line(), "value");
    assert!(python.finish().success());
    await_waiters(&daemon, "x", 0);
}

fn readers_of_one_descriptor_share_and_of_many_all_get_a_version(setup: Setup) {
    let daemon = setup.start();
    let _keep = create(&daemon, "x");
    let program = "
import threading
print_one = threading.Lock()
def reader(view):
    got = os.read(view, 2).decode()
    with print_one: print(got, flush=True)
shared = os.open(path + '@wait', os.O_RDONLY)
views = [shared] * 3 + [os.open(path + '@wait', os.O_RDONLY) for _ in range(5)]
threads = [threading.Thread(target=reader, args=[view]) for view in views]
for thread in threads: thread.start()
for thread in threads: thread.join()
";
    let mut python = start_python(program, &daemon.file("x"));
    // The shared one waits as one.
    await_waiters(&daemon, "x", 6);
    // Two bytes for each of those who share.
    replace(&daemon, "x", b"aabbcc");
    let mut lines: Vec<_> = (0..8).map(|_| python.line()).collect();
    lines.sort();
    assert_eq!(lines, ["aa", "aa", "aa", "aa", "aa", "aa", "bb", "cc"]);
    assert!(python.finish().success());
}

fn a_waiting_view_is_polled_as_it_is_read(setup: Setup) {
    let daemon = setup.start();
    let _keep = create(&daemon, "x");
    let now = std::time::Duration::ZERO;
    let mut view = File::open(daemon.file("x@wait")).unwrap();
    assert!(!readable(&view, now));
    for value in ["1", "2", "3"] {
        replace(&daemon, "x", value.as_bytes());
        assert!(readable(&view, kstate_tests::PATIENCE));
        let mut byte = [0; 1];
        assert_eq!(view.read(&mut byte).unwrap(), 1);
        assert!(!readable(&view, now));
    }
    let mut late = File::open(daemon.file("x@wait")).unwrap();
    assert!(readable(&late, now), "the newest is there at once");
    assert_eq!(late.read(&mut [0; 9]).unwrap(), 1);
    std::fs::remove_file(daemon.file("x")).unwrap();
    assert!(readable(&late, now), "and so is the end");
    assert_eq!(late.read(&mut [0; 9]).unwrap(), 0);
}

fn a_blocked_read_ends_with_the_daemon(setup: Setup) {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let mut daemon = setup.clone().start();
        let keep = create(&daemon, "x");
        let mut python = start_python(
            "print(said(lambda: os.read(os.open(path + '@wait', os.O_RDONLY), 9)), flush=True)",
            &daemon.file("x"),
        );
        await_waiters(&daemon, "x", 1);
        daemon.process().signal(signal);
        daemon.process().finish();
        let said = python.line();
        assert!(
            ["ENOTCONN", "ECONNABORTED"].contains(&said.as_str()),
            "{said}"
        );
        drop(keep);
    }
}
