//! `.kstate/changes`: what happens to many states, as lines.

use kstate_tests::{Daemon, Running, Setup, eventually};
use nix::sys::signal::Signal;

use crate::{create, in_control, python, replace, shell, start_python};

both_ways!(
    what_is_there_is_told_at_open_and_then_what_happens,
    a_prefix_chooses_states,
    what_no_name_begins_with_is_einval,
    slow_readers_are_told_the_newest,
    what_came_and_went_untold_is_not_told,
    a_user_has_256_streams_of_changes,
    changes_are_polled_as_they_are_read,
    reads_give_whole_lines_as_far_as_there_is_room,
    a_stream_of_changes_is_a_pipe_and_cannot_be_written,
    a_state_that_is_not_there_yet_can_be_waited_for,
    a_publisher_that_goes_is_told_of,
    a_reader_that_waits_for_changes_is_let_go_by_signals_and_the_daemons_end,
);

/// Prints each line that is read as its event, its state and what else it says but the number.
const TELL: &str = "
import json
def tell(text):
    for line in text.decode().splitlines():
        line = json.loads(line)
        assert line.pop('id') > 0
        print(*line.values(), flush=True)
def follow(name):
    file = os.open(path + '/.kstate/' + name, os.O_RDONLY)
    while True: tell(os.read(file, 65536))
def opened(name='changes', flags=os.O_NONBLOCK):
    return os.open(path + '/.kstate/' + name, os.O_RDONLY | flags)
def created(name): return os.open(path + '/' + name, os.O_RDWR | os.O_CREAT, 0o644)
def write(name, value):
    file = os.open(path + '/' + name, os.O_WRONLY | os.O_TRUNC)
    os.write(file, value)
    os.close(file)
def gone(file, name):
    os.close(file)
    while os.path.exists(path + '/' + name): pass
def ready(file, seconds):
    poll = select.poll()
    poll.register(file, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
";

#[track_caller]
fn tell(daemon: &Daemon, program: &str) -> String {
    python(&format!("{TELL}{program}"), daemon.mount())
}

#[track_caller]
fn follow(daemon: &Daemon, name: &str) -> Running {
    start_python(&format!("{TELL}follow('{name}')"), daemon.mount())
}

fn what_is_there_is_told_at_open_and_then_what_happens(setup: Setup) {
    let daemon = setup.start();
    let _a = create(&daemon, "a");
    let b = create(&daemon, "b");
    replace(&daemon, "b", b"1");
    let mut changes = follow(&daemon, "changes");
    assert_eq!(changes.line(), "present a 0");
    assert_eq!(changes.line(), "present b 1");
    let library = daemon.library();
    let c = library.subscribe("c").write().bytes().unwrap();
    assert_eq!(changes.line(), "created c 0");
    for generation in 1..4 {
        c.publish(b"library").unwrap();
        assert_eq!(changes.line(), format!("changed c {generation}"));
        replace(&daemon, "a", b"file");
        assert_eq!(changes.line(), format!("changed a {generation}"));
    }
    std::fs::remove_file(daemon.file("a")).unwrap();
    assert_eq!(changes.line(), "deleted a");
    drop(b);
    assert_eq!(changes.line(), "deleted b");
    // Another one of that name.
    let _b = create(&daemon, "b");
    assert_eq!(changes.line(), "created b 0");
}

fn a_prefix_chooses_states(setup: Setup) {
    let daemon = setup.start();
    let _keep = ["gps.fix", "gpsx", "other"].map(|name| create(&daemon, name));
    let program = "
for prefix in '', '@', '@gps', '@gps.', '@gps.fix', '@gps.fix.more':
    tell(os.read(file, 999)) if ready(file := opened('changes' + prefix), 0) else print('none')
    write('gpsx', b'1')
    if prefix == '@gps.': print(ready(file, 0))
";
    let expected = "present gps.fix 0\npresent gpsx 0\npresent other 0\n\
                    present gps.fix 0\npresent gpsx 1\npresent other 0\n\
                    present gps.fix 0\npresent gpsx 2\n\
                    present gps.fix 0\nFalse\npresent gps.fix 0\nnone\n";
    assert_eq!(tell(&daemon, program), expected);
}

fn what_no_name_begins_with_is_einval(setup: Setup) {
    let daemon = setup.start();
    let program = "
print({said(lambda: opened('changes@' + prefix)) for prefix in
    ('.a', 'a..b', 'a b', 'a@', '@', 'a,', 'é', '*')})
print(said(lambda: opened('changes@' + 'a' * 248)), said(lambda: opened('changesa')))
print(*os.listdir(path + '/.kstate'))
";
    let expected = "{'EINVAL'}\nENAMETOOLONG ENOENT\n\
                    registry intents version states metrics changes\n";
    assert_eq!(tell(&daemon, program), expected);
}

fn slow_readers_are_told_the_newest(setup: Setup) {
    let daemon = setup.start();
    let library = daemon.library();
    let fast = library.subscribe("fast").write().bytes().unwrap();
    let mut changes = start_python(
        &format!("{TELL}\nfile = opened(flags=0)\nfor line in sys.stdin: tell(os.read(file, 999))"),
        daemon.mount(),
    );
    changes.say("");
    assert_eq!(changes.line(), "present fast 0");
    for _ in 0..1000 {
        fast.publish(b"1").unwrap();
    }
    let _slow = create(&daemon, "slow");
    replace(&daemon, "slow", b"1");
    let mut told = vec![];
    while told.len() < 2 {
        changes.say("");
        told.push(changes.line());
    }
    // What was published is found out by a thread that may be late.
    told.sort();
    assert_eq!(told, ["changed fast 1000", "created slow 1"]);
}

fn what_came_and_went_untold_is_not_told(setup: Setup) {
    let daemon = setup.start();
    let program = "
file = opened()
x = created('x')
print(ready(file, 20))
gone(x, 'x')
# Nothing is readable that would keep a reader.
print(ready(file, 0), said(lambda: os.read(file, 999)))
x, y = created('x'), created('y')
write('y', b'1')
gone(x, 'x')
print(ready(file, 20))
tell(os.read(file, 999))
print(ready(file, 0))
";
    let expected = "True\nFalse EAGAIN\nTrue\ncreated y 1\nFalse\n";
    assert_eq!(tell(&daemon, program), expected);
}

fn a_user_has_256_streams_of_changes(setup: Setup) {
    let daemon = setup.start();
    let program = "
files = [opened('changes@x') for _ in range(256)]
print(said(opened))
os.close(files.pop())
while said(opened) == 'ENFILE': pass
print('open')
";
    assert_eq!(tell(&daemon, program), "ENFILE\nopen\n");
}

fn changes_are_polled_as_they_are_read(setup: Setup) {
    for way in ["auto", "futex"] {
        let daemon = setup.clone().with(format!("--notify-by={way}")).start();
        let program = "
file = opened()
x = created('x')
level, edge = select.epoll(), select.epoll()
level.register(file, select.EPOLLIN)
edge.register(file, select.EPOLLIN | select.EPOLLET)
def selected(seconds): return select.select([file], [file], [file], seconds)
assert edge.poll(20)
for change in range(5):
    assert ready(file, 20) and level.poll(20) and selected(20) == ([file], [], [])
    assert level.poll(0) and not edge.poll(0)
    tell(os.read(file, 999))
    assert not ready(file, 0) and not level.poll(0) and selected(0) == ([], [], [])
    print(said(lambda: os.read(file, 999)))
    write('x', b'1')
    assert edge.poll(20)
";
        let printed = tell(&daemon, program);
        let mut expected = "created x 0\nEAGAIN\n".to_owned();
        for generation in 1..5 {
            expected.push_str(&format!("changed x {generation}\nEAGAIN\n"));
        }
        assert_eq!(printed, expected);
    }
}

fn reads_give_whole_lines_as_far_as_there_is_room(setup: Setup) {
    let daemon = setup.start();
    let program = "
states = [created(name) for name in ('a', 'b', 'c')]
whole = os.read(opened(), 999)
length = whole.index(b'\\n') + 1
for size in length, 2 * length - 1, 2 * length, 999:
    file = opened()
    print(os.read(file, size).count(b'\\n'), end=' ')
file = opened()
# A line longer than the room comes in parts, and nothing is lost.
parts = [os.read(file, 7) for _ in range((length + 6) // 7)]
print(b''.join(parts) == whole[:length], os.read(file, 999) == whole[length:])
";
    assert_eq!(tell(&daemon, program), "1 1 2 3 True True\n");
}

fn a_stream_of_changes_is_a_pipe_and_cannot_be_written(setup: Setup) {
    let daemon = setup.start();
    let program = "
_x = created('x')
for name in 'changes', 'changes@x':
    file, at = opened(name), path + '/.kstate/' + name
    print(*[said(work) for work in (
        lambda: os.lseek(file, 0, os.SEEK_SET), lambda: os.pread(file, 9, 0),
        lambda: os.open(at, os.O_WRONLY), lambda: os.open(at, os.O_RDWR | os.O_CREAT),
        lambda: os.unlink(at), lambda: os.chmod(at, 0o600),
        lambda: fcntl.ioctl(file, 0x1234, 0), lambda: os.getxattr(at, 'user.kstate.length'))],
        os.listxattr(at), os.stat(at).st_size)
";
    let unlinked = in_control("EPERM");
    let expected =
        format!("ESPIPE ESPIPE EACCES EACCES {unlinked} EPERM ENOTTY ENODATA [] 0\n").repeat(2);
    assert_eq!(tell(&daemon, program), expected);
}

fn a_state_that_is_not_there_yet_can_be_waited_for(setup: Setup) {
    let daemon = setup.start();
    let script = r#"
        exec 3< "$1/.kstate/changes@late"
        (echo ready; timeout 20 head -n 1 <&3 | grep -o '"event":"[a-z]*"')
    "#;
    let waiting = std::thread::scope(|scope| {
        let path = daemon.mount();
        let waiting = scope.spawn(move || shell(script, path));
        let _early = create(&daemon, "early");
        let _late = create(&daemon, "late.x");
        waiting.join().unwrap()
    });
    let event = waiting.lines().last().unwrap();
    assert!(
        [r#""event":"created""#, r#""event":"present""#].contains(&event),
        "{waiting}"
    );
}

fn a_publisher_that_goes_is_told_of(setup: Setup) {
    let daemon = setup.start();
    let _x = create(&daemon, "x");
    let mut changes = follow(&daemon, "changes");
    assert_eq!(changes.line(), "present x 0");
    // Who writes once and is done was no publisher: the next thing told is another change.
    shell("echo 1 > \"$1\"", &daemon.file("x"));
    assert_eq!(changes.line(), "changed x 1");
    shell("{ echo 1; echo 2; } > \"$1\"", &daemon.file("x"));
    let mut gone = changes.line();
    assert!(gone.starts_with("changed"), "{gone}");
    while gone.starts_with("changed") {
        gone = changes.line();
    }
    assert_eq!(gone, "publisher_gone x 1");
    let mut worker = daemon.worker("y", &["publish-lines"]);
    assert_eq!(worker.line(), "ready");
    worker.say("go");
    assert_eq!(worker.line(), "go");
    let mut line = changes.line();
    assert!(line.starts_with("created y"), "{line}");
    let keep = daemon.library().subscribe("y").bytes().unwrap();
    worker.signal(Signal::SIGKILL);
    worker.finish();
    while line.contains("created") || line.contains("changed") {
        line = changes.line();
    }
    assert_eq!(line, "publisher_gone y 0");
    drop(keep);
    assert_eq!(changes.line(), "deleted y");
}

fn a_reader_that_waits_for_changes_is_let_go_by_signals_and_the_daemons_end(setup: Setup) {
    let mut daemon = setup.start();
    let _x = create(&daemon, "x");
    let program = format!("{TELL}said(lambda: follow('changes@x'))");
    let mut changes = [(); 2].map(|()| start_python(&program, daemon.mount()));
    let read = format!("{} ", libc::SYS_read);
    for changes in &mut changes {
        assert_eq!(changes.line(), "present x 0");
        eventually("it sleeps in its next read", || {
            let call = std::fs::read_to_string(format!("/proc/{}/syscall", changes.pid()));
            call.unwrap().starts_with(&read).then_some(())
        });
    }
    changes[0].signal(Signal::SIGKILL);
    changes[0].finish();
    daemon.process().signal(Signal::SIGTERM);
    assert!(daemon.process().finish().success());
    assert!(changes[1].finish().success());
}
