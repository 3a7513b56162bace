//! What tells of many states at once tells nobody of one that he may not read.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use kstate_sys::ioctl::{call, record_file, record_list_file};
use kstate_tests::{Daemon, Running, User, as_user, both_transports, eventually};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::Value;

use crate::{
    ALICE, BOB, EVERYBODY, MODES, May, create_for, open_home, prepared, printed, python_as,
    set_mode,
};

/// A state of Alice's in each mode, named after it.
fn one_in_each_mode(daemon: &Daemon) -> Vec<File> {
    let create = |mode: u32| {
        let name = format!("mode.{mode:03o}");
        let file = create_for(daemon, &name, ALICE);
        set_mode(daemon, &name, mode);
        file
    };
    MODES.into_iter().map(create).collect()
}

/// Those of them that somebody may read.
fn readable_by(user: User) -> BTreeSet<String> {
    let may_read = MODES.into_iter().filter(|mode| May::of(user, *mode).read);
    may_read.map(|mode| format!("mode.{mode:03o}")).collect()
}

/// The names in a text that begin as those do, so that one in an unexpected place is found as well.
fn named(text: &str) -> BTreeSet<String> {
    let found = text.match_indices("mode.");
    found.map(|(at, _)| text[at..at + 8].to_owned()).collect()
}

fn open(path: &Path) -> File {
    let mut options = File::options();
    let options = options.read(true).custom_flags(libc::O_NONBLOCK);
    options.open(path).unwrap()
}

/// All that a stream of changes has to tell now.
fn told(mut stream: &File) -> String {
    let mut text = String::new();
    match stream.read_to_string(&mut text) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => text,
        other => panic!("{other:?}"),
    }
}

/// The events of a state in what a stream has told.
fn events(text: &str, name: &str) -> Vec<String> {
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let theirs = lines.filter(|line: &Value| line["state"] == name);
    theirs
        .map(|line| line["event"].as_str().unwrap().to_owned())
        .collect()
}

fn is_readable(stream: &File) -> bool {
    let mut fds = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).unwrap() > 0
}

pub(crate) fn nobody_is_told_of_states_that_he_may_not_read() {
    both_transports(|daemon| {
        open_home(daemon);
        let files = one_in_each_mode(daemon);
        for (who, user) in EVERYBODY {
            let readable = readable_by(user);
            let [states, metrics, changes, some] = as_user(user, || {
                let control = daemon.file(".kstate");
                let read = |report| fs::read_to_string(control.join(report)).unwrap();
                let changes = open(&control.join("changes"));
                let some = open(&control.join("changes@mode.6"));
                // All are changed again once they have been told.
                let first = [told(&changes), told(&some)];
                files
                    .iter()
                    .for_each(|file| file.write_all_at(b"v", 0).unwrap());
                let [changes, some] =
                    [(&changes, &first[0]), (&some, &first[1])].map(|(stream, first)| {
                        let wanted = named(first);
                        let mut text = String::new();
                        eventually("the changes are told", || {
                            text += &told(stream);
                            (named(&text) == wanted).then_some(())
                        });
                        format!("{first}{text}")
                    });
                [read("states"), read("metrics"), changes, some]
            });
            assert_eq!(named(&states), readable, "states, to the {who}");
            assert_eq!(named(&metrics), readable, "metrics, to the {who}");
            assert_eq!(named(&changes), readable, "changes, to the {who}");
            let six = |name: &String| name.starts_with("mode.6");
            let expected = readable.into_iter().filter(six).collect();
            assert_eq!(named(&some), expected, "some changes, to the {who}");
            // Of the others there is a number.
            let count = format!("\nkstate_states {}\n", MODES.len());
            assert!(metrics.contains(&count), "{metrics}");
            assert!(metrics.contains("\nkstate_subscribers 9\n"), "{metrics}");
        }
    });
}

pub(crate) fn an_open_stream_tells_no_more_of_a_state_that_is_closed_to_its_reader() {
    both_transports(|daemon| {
        open_home(daemon);
        let x = create_for(daemon, "x", ALICE);
        let untold = create_for(daemon, "untold", ALICE);
        let stream = as_user(BOB, || open(&daemon.file(".kstate/changes")));
        set_mode(daemon, "untold", 0o600);
        let before = told(&stream);
        assert_eq!(events(&before, "x"), ["present"]);
        assert!(!before.contains("untold"), "closed before it was told");
        // A change that waits to be told when the state is closed.
        x.write_all_at(b"seen", 0).unwrap();
        eventually("it is noticed", || is_readable(&stream).then_some(()));
        set_mode(daemon, "x", 0o600);
        assert!(!is_readable(&stream), "there is something, but not for him");
        // And what comes afterwards, to its end; then of a state that he may read.
        x.write_all_at(b"secret", 0).unwrap();
        drop((x, untold));
        eventually("both have gone", || {
            (!daemon.file("x").exists() && !daemon.file("untold").exists()).then_some(())
        });
        let _last = create_for(daemon, "last", ALICE);
        let after = told(&stream);
        assert_eq!(events(&after, "last"), ["created"]);
        assert_eq!(after.lines().count(), 1, "{after}");
    });
}

pub(crate) fn a_state_opened_again_to_the_reader_of_a_stream_is_present() {
    both_transports(|daemon| {
        open_home(daemon);
        let x = create_for(daemon, "x", ALICE);
        let stream = as_user(BOB, || open(&daemon.file(".kstate/changes")));
        assert_eq!(events(&told(&stream), "x"), ["present"]);
        set_mode(daemon, "x", 0o600);
        x.write_all_at(b"secret", 0).unwrap();
        set_mode(daemon, "x", 0o644);
        assert_eq!(events(&told(&stream), "x"), ["present"]);
        // It is followed once, not twice.
        x.write_all_at(b"told", 0).unwrap();
        eventually("it is noticed", || is_readable(&stream).then_some(()));
        assert_eq!(events(&told(&stream), "x"), ["changed"]);
        assert!(!is_readable(&stream));
    });
}

pub(crate) fn what_is_passed_on_tells_what_its_opener_may_read() {
    both_transports(|daemon| {
        open_home(daemon);
        let _files = one_in_each_mode(daemon);
        for (opener, reader) in [(ALICE, BOB), (BOB, ALICE)] {
            for report in ["states", "metrics", "changes"] {
                // Threads share descriptors, as those do who pass them on.
                let mut passed =
                    as_user(opener, || open(&daemon.file(&format!(".kstate/{report}"))));
                let text = as_user(reader, || match report {
                    "changes" => told(&passed),
                    _ => {
                        let mut text = String::new();
                        passed.seek(SeekFrom::Start(0)).unwrap();
                        passed.read_to_string(&mut text).unwrap();
                        text
                    }
                });
                let opener_reads = readable_by(opener);
                assert_eq!(named(&text), opener_reads, "{report} of {opener:?}");
            }
        }
    });
}

pub(crate) fn records_of_commits_are_their_owners() {
    both_transports(|daemon| {
        open_home(daemon);
        let registry = File::open(daemon.file(".kstate/registry")).unwrap();
        let mut number = 0;
        as_user(ALICE, || call::record(&registry, &mut number).unwrap());
        let program = format!(
            "
import ctypes, errno, fcntl, os, struct, sys
def attempt(name, call):
    try: call(); print(name, 'ok')
    except OSError as e: print(name, errno.errorcode[e.errno])
for name in '{status}', '{list}':
    path = sys.argv[1] + '/' + name
    attempt('read', lambda: os.open(path, os.O_RDONLY))
    attempt('write', lambda: os.open(path, os.O_RDWR))
    attempt('truncate', lambda: os.truncate(path, 0))
    attempt('chmod', lambda: os.chmod(path, 0o666))
    attempt('unlink', lambda: os.unlink(path))
    attempt('reopen', lambda: os.open('/proc/self/fd/%d' % os.open(path, os.O_PATH), os.O_RDWR))
file = os.open(sys.argv[1] + '/{status}', os.O_RDONLY)
print(os.read(file, 99), os.listxattr(file))
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
mapped = lambda how: libc.mmap(None, ctypes.c_size_t(4096), how, 1, file, ctypes.c_long(0))
print(mapped(3) == ctypes.c_void_p(-1).value, errno.errorcode[ctypes.get_errno()])
registry = os.open(sys.argv[1] + '/.kstate/registry', os.O_RDONLY)
attempt('give back', lambda: fcntl.ioctl(registry, {release}, struct.pack('I', {number})))
",
            status = record_file(number),
            list = record_list_file(number),
            release = kstate_sys::ioctl::RELEASE_RECORD,
        );
        let others = "write EACCES\ntruncate EACCES\nchmod EPERM\nunlink EACCES\nreopen EACCES\n";
        let expected = format!(
            "read ok\n{others}read EACCES\n{others}b'' []\nTrue EACCES\ngive back EINVAL\n"
        );
        assert_eq!(printed(&python_as(BOB, daemon, &program)), expected);
        call::release_record(&registry, number).unwrap();
    });
}

pub(crate) fn what_any_directory_shows_is_shown() {
    both_transports(|daemon| {
        open_home(daemon);
        let file = create_for(daemon, "x", ALICE);
        set_mode(daemon, "x", 0o600);
        let program = "
inotify = checked(libc.inotify_init())
checked(libc.inotify_add_watch(inotify, mount.encode(), 2))
before = os.stat(x)
print(before.st_size, before.st_uid, '%o' % before.st_mode, flush=True)
event = os.read(inotify, 4096)
after = os.stat(x)
print(event[16:].rstrip(bytes(1)), after.st_size, after.st_mtime > before.st_mtime)
";
        let mut watcher = Running::start(&mut prepared(BOB, daemon, program));
        assert_eq!(watcher.line(), format!("0 {} 100600", ALICE.uid));
        file.write_all_at(b"12345", 0).unwrap();
        assert_eq!(watcher.line(), "b'x' 5 True");
    });
}
