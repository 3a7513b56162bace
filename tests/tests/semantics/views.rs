//! Views: what they show and how often, and what cannot be done with them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use kstate_sys::ioctl;
use kstate_tests::{PATIENCE, Setup, eventually};

use crate::polling::readable;
use crate::{create, errno, python, replace, start_python, value};

both_ways!(
    a_rate_view_shows_the_first_change_at_once_and_later_ones_a_period_apart,
    polling_a_rate_view_keeps_its_rate,
    edges_of_a_rate_view_are_a_period_apart_read_or_not,
    of_a_burst_a_rate_view_shows_what_its_period_allows_and_the_last,
    a_suffix_that_says_nothing_is_einval_and_an_absent_state_enoent,
    a_view_is_for_reading_alone,
    a_view_has_the_attributes_of_its_state,
    a_view_is_a_subscription,
    ioctls_of_a_view_only_tell,
);

fn a_rate_view_shows_the_first_change_at_once_and_later_ones_a_period_apart(setup: Setup) {
    let daemon = setup.start();
    let _keep = create(&daemon, "x");
    let program = "
import time
for suffix, period in ('@250ms', .25), ('@4hz', .25), ('@0.5hz', 2), ('@wait,4hz', .25):
    view = os.open(path + suffix, os.O_RDONLY)
    def read(): return os.read(view, 9) if 'wait' in suffix else os.pread(view, 9, 0)
    replace(b'first')
    before = time.monotonic()
    assert read() == b'first'
    replace(b'next')
    replace(b'last')
    value = b'first'
    while value == b'first' and time.monotonic() < before + 20:
        value = read()
        after = time.monotonic()
    assert after - before >= period, (suffix, after - before)
    assert value == b'last', (suffix, value)
    os.close(view)
";
    python(program, &daemon.file("x"));
}

fn polling_a_rate_view_keeps_its_rate(setup: Setup) {
    let daemon = setup.start();
    let _keep = create(&daemon, "x");
    let program = "
import time
period = .3
def polling(view):
    poll = select.poll()
    poll.register(view, select.POLLIN)
    return lambda seconds: poll.poll(seconds * 1000)
def selecting(view): return lambda seconds: select.select([view], [], [], seconds)[0]
def by_level(view):
    epoll = select.epoll()
    epoll.register(view, select.EPOLLIN)
    return epoll.poll
def by_edge(view):
    epoll = select.epoll()
    epoll.register(view, select.EPOLLIN | select.EPOLLET)
    return epoll.poll
for way in polling, selecting, by_level, by_edge:
    view = os.open(path + '@300ms', os.O_RDONLY)
    ready = way(view)
    ready(0)
    os.pread(view, 9, 0)
    for value in b'1', b'2', b'3':
        replace(b'0')
        replace(value)
        assert ready(20), (way, value)
        before = time.monotonic()
        assert os.pread(view, 9, 0) == value, (way, value)
        replace(b'middle')
        replace(b'later')
        assert ready(20), (way, value)
        later = time.monotonic()
        assert os.pread(view, 9, 0) == b'later', (way, value)
        assert later - before >= period, (way, value, later - before)
        assert not ready(0), (way, value)
    os.close(view)
";
    python(program, &daemon.file("x"));
}

fn edges_of_a_rate_view_are_a_period_apart_read_or_not(setup: Setup) {
    for way in ["auto", "futex"] {
        let daemon = setup.clone().with(format!("--notify-by={way}")).start();
        let _keep = create(&daemon, "x");
        let program = "
import time
for reads in False, True:
    view = os.open(path + '@100ms', os.O_RDONLY)
    epoll = select.epoll()
    epoll.register(view, select.EPOLLIN | select.EPOLLET)
    epoll.poll(0)
    os.pread(view, 9, 0)
    before = time.monotonic()
    for change in range(7):
        replace(b'1')
        assert epoll.poll(20), (reads, change)
        if reads: os.pread(view, 9, 0)
    # Each is told a period behind the last one was told, or read.
    assert time.monotonic() - before >= 6 * .1
    os.close(view)
";
        python(program, &daemon.file("x"));
    }
}

fn of_a_burst_a_rate_view_shows_what_its_period_allows_and_the_last(setup: Setup) {
    let daemon = setup.start();
    let period = Duration::from_millis(50);
    let writer = create(&daemon, "x");
    for (by_library, numbers) in [(true, 1..=1000_u32), (false, 1001..=2000)] {
        let view = File::open(daemon.file("x@50ms")).unwrap();
        let start = Instant::now();
        let (mut changes, newest) = (0, *numbers.end());
        let writer = &writer;
        let state = daemon.library().subscribe("x").write().bytes().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for number in numbers {
                    let bytes = number.to_ne_bytes();
                    match by_library {
                        true => drop(state.publish(&bytes).unwrap()),
                        false => writer.write_all_at(&bytes, 0).unwrap(),
                    }
                }
            });
            let mut last = 0;
            while last < newest {
                assert!(readable(&view, PATIENCE), "after {last}");
                let mut bytes = [0; 4];
                view.read_exact_at(&mut bytes, 0).unwrap();
                let number = u32::from_ne_bytes(bytes);
                changes += u32::from(number != last);
                last = number;
            }
        });
        let elapsed = start.elapsed();
        assert!(
            period * (changes - 1) <= elapsed,
            "{changes} in {elapsed:?}"
        );
        assert!(!readable(&view, Duration::ZERO));
    }
}

fn a_suffix_that_says_nothing_is_einval_and_an_absent_state_enoent(setup: Setup) {
    let daemon = setup.start();
    let _keep = create(&daemon, "x");
    let program = "
print(*{said(lambda: os.open(path + suffix, os.O_RDONLY | flags))
    for flags in (0, os.O_CREAT)
    for suffix in ('@', '@,', '@wait,', '@wait,wait', '@4hz,4hz', '@4hz,250ms', '@4', '@0hz', '@0s',
        '@-1s', '@fast', '@Wait', '@wait@4hz', '@99999999h')})
for view in 'y@4hz', 'y@wait':
    absent = os.path.dirname(path) + '/' + view
    print(said(lambda: os.open(absent, os.O_RDONLY)), said(lambda: os.stat(absent)),
        said(lambda: os.open(absent, os.O_RDONLY | os.O_CREAT)),
        said(lambda: os.open(absent, os.O_RDWR | os.O_CREAT)))
print(os.listdir(os.path.dirname(path)))
";
    let printed = python(program, &daemon.file("x"));
    let absent = "ENOENT ENOENT ENOENT ENOENT\n";
    assert_eq!(
        printed,
        format!("EINVAL\n{absent}{absent}['.kstate', 'x']\n")
    );
}

fn a_view_is_for_reading_alone(setup: Setup) {
    let daemon = setup.start();
    let _keep = create(&daemon, "x");
    replace(&daemon, "x", b"hello");
    let program = "
for view in path + '@4hz', path + '@wait':
    print(*[said(lambda: os.open(view, flags))
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_RDWR | os.O_CREAT)],
        said(lambda: os.open(view, os.O_RDONLY | os.O_CREAT | os.O_EXCL)))
    file = os.open(view, os.O_RDONLY)
    print(*[said(work) for work in (
        lambda: os.unlink(view), lambda: os.chmod(view, 0o600), lambda: os.chmod(file, 0o600),
        lambda: os.rename(view, path + '2'), lambda: os.rename(path, view),
        lambda: os.link(view, path + '2'))])
    # Who is no superuser is not let in for writing at all.
    print({said(work) for work in (
        lambda: os.truncate(view, 0), lambda: os.truncate(view, 9),
        lambda: os.setxattr(view, 'user.kstate.linger', b'1s'),
        lambda: os.setxattr(view, 'user.kstate.deadline', b'1s'),
        lambda: os.removexattr(view, 'user.kstate.deadline'))} <= {'EPERM', 'EACCES'})
    print(*[said(lambda: mmap.mmap(file, 5, flags=flags, prot=mmap.PROT_READ))
        for flags in (mmap.MAP_SHARED,)], said(lambda: os.write(file, b'x')))
";
    let once = "EACCES EACCES EACCES EACCES EEXIST\nEPERM EPERM EPERM EPERM EPERM EPERM\nTrue\n\
                ENODEV EBADF\n";
    let printed = python(program, &daemon.file("x"));
    assert_eq!(printed, once.repeat(2));
    assert_eq!(value(&daemon, "x"), b"hello");
}

fn a_view_has_the_attributes_of_its_state(setup: Setup) {
    let daemon = setup.start();
    let _keep = create(&daemon, "x");
    replace(&daemon, "x", b"hello");
    let program = "
os.chmod(path, 0o640)
for view in path + '@4hz', path + '@wait':
    print(os.stat(view).st_size, oct(stat.S_IMODE(os.stat(view).st_mode)),
        os.stat(view).st_mtime == os.stat(path).st_mtime, os.stat(view).st_uid == os.getuid(),
        os.stat(view).st_ino != os.stat(path).st_ino, os.listxattr(view) == os.listxattr(path),
        *[os.getxattr(view, 'user.kstate.' + name) == os.getxattr(path, 'user.kstate.' + name)
            for name in ('generation', 'length', 'capacity', 'linger', 'subscribers')])
print(os.listdir(os.path.dirname(path)))
";
    let expected = "5 0o440 True True True True True True True True True\n";
    let printed = python(program, &daemon.file("x"));
    assert_eq!(printed, format!("{}['.kstate', 'x']\n", expected.repeat(2)));
}

fn a_view_is_a_subscription(setup: Setup) {
    let daemon = setup.start();
    for suffix in ["@4hz", "@wait"] {
        let keep = create(&daemon, "x");
        replace(&daemon, "x", b"hello");
        let program = format!(
            "
view = os.open(path + '{suffix}', os.O_RDONLY)
print('open', flush=True)
input()
print(os.read(view, 9).decode(), flush=True)
input()
"
        );
        let mut python = start_python(&program, &daemon.file("x"));
        assert_eq!(python.line(), "open");
        assert_eq!(errno(std::fs::remove_file(daemon.file("x"))), libc::EBUSY);
        drop(keep);
        python.say("");
        assert_eq!(python.line(), "hello");
        assert!(daemon.file("x").exists());
        python.say("");
        assert!(python.finish().success());
        let gone = || (!daemon.file("x").exists()).then_some(());
        eventually("it evaporates with its view", gone);
    }
}

fn ioctls_of_a_view_only_tell(setup: Setup) {
    let daemon = setup.start();
    let _keep = create(&daemon, "x");
    let tell = [ioctl::VERSION, ioctl::INFO, ioctl::SEEN];
    let others = [
        ioctl::SUBSCRIBE,
        ioctl::CLAIM,
        ioctl::RELEASE,
        ioctl::SET_CAPACITY,
        ioctl::WAIT_BEGIN,
        ioctl::WAIT_END,
        ioctl::ARM,
        ioctl::SET_LINGER,
        ioctl::SET_DEADLINE,
        ioctl::TICKET,
        ioctl::SETTLE,
        ioctl::TURN,
        ioctl::TURN_END,
        ioctl::RECORD,
    ];
    let program = format!(
        "
for view in path + '@4hz', path + '@wait':
    file = os.open(view, os.O_RDONLY)
    def answers(numbers):
        sizes = [number >> 16 & 0x3fff for number in numbers]
        return {{said(lambda: fcntl.ioctl(file, number, bytearray(size)))
            for number, size in zip(numbers, sizes)}}
    print(answers({tell:?}), answers({others:?}))
"
    );
    let expected = "{0} {'ENOTTY'}\n".repeat(2);
    assert_eq!(python(&program, &daemon.file("x")), expected);
}
