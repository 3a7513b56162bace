//! What inotify sees of a state, and what it does not.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use kstate_tests::{Setup, eventually};
use nix::sys::inotify::{AddWatchFlags as Event, InitFlags, Inotify};

use crate::{create, errno, replace};

both_ways!(
    inotify_sees_the_calls_made_on_files,
    inotify_sees_nothing_of_the_librarys_versions,
    inotify_sees_deletion_but_no_evaporation,
);

/// What happens to one file, or in one directory.
struct Watched(Inotify);

impl Watched {
    fn new(path: &Path) -> Self {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).unwrap();
        inotify.add_watch(path, Event::IN_ALL_EVENTS).unwrap();
        Self(inotify)
    }

    /// What has happened since the last look, without whose it was. The kernel notes it before
    /// the call that does it returns.
    fn seen(&self) -> Vec<Event> {
        match self.0.read_events() {
            Ok(events) => events.into_iter().map(|event| event.mask).collect(),
            Err(nix::errno::Errno::EAGAIN) => Vec::new(),
            Err(error) => panic!("{error}"),
        }
    }
}

fn inotify_sees_the_calls_made_on_files(setup: Setup) {
    let daemon = setup.start();
    let directory = Watched::new(daemon.mount());
    let keep = create(&daemon, "x");
    assert_eq!(directory.seen(), [Event::IN_CREATE, Event::IN_OPEN]);
    let state = Watched::new(&daemon.file("x"));
    let seen = || {
        let (state, directory) = (state.seen(), directory.seen());
        assert_eq!(state, directory);
        state
    };
    let file = File::options().write(true).open(daemon.file("x")).unwrap();
    assert_eq!(seen(), [Event::IN_OPEN]);
    file.write_all_at(b"1", 0).unwrap();
    assert_eq!(seen(), [Event::IN_MODIFY]);
    drop(file);
    assert_eq!(seen(), [Event::IN_CLOSE_WRITE]);
    keep.read_exact_at(&mut [0; 1], 0).unwrap();
    assert_eq!(seen(), [Event::IN_ACCESS]);
    replace(&daemon, "x", b"2");
    let replaced = [Event::IN_OPEN, Event::IN_MODIFY, Event::IN_CLOSE_WRITE];
    assert_eq!(seen(), replaced);
    // A loser has changed nothing, and nothing is told of it.
    assert_eq!(errno(keep.write_at(b"3", 0)), libc::ESTALE);
    assert_eq!(seen(), []);
    // Told although there is no new version.
    keep.set_len(0).unwrap();
    assert_eq!(seen(), [Event::IN_MODIFY]);
    keep.set_permissions(Permissions::from_mode(0o600)).unwrap();
    assert_eq!(seen(), [Event::IN_ATTRIB]);
}

fn inotify_sees_nothing_of_the_librarys_versions(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    let state = daemon.library().subscribe("x").write().bytes().unwrap();
    let watched = Watched::new(&daemon.file("x"));
    for value in [b"1", b"2"] {
        state.publish(value).unwrap();
        assert_eq!(state.snapshot().unwrap().value, value);
    }
    assert_eq!(watched.seen(), []);
    file.write_all_at(b"3", 0).unwrap();
    assert_eq!(watched.seen(), [Event::IN_MODIFY]);
}

fn inotify_sees_deletion_but_no_evaporation(setup: Setup) {
    let daemon = setup.start();
    let directory = Watched::new(daemon.mount());
    let file = create(&daemon, "x");
    let x = daemon.file("x");
    let state = Watched::new(&x);
    drop(file);
    eventually("the state evaporates", || (!x.exists()).then_some(()));
    let came_and_went = [Event::IN_CREATE, Event::IN_OPEN, Event::IN_CLOSE_WRITE];
    assert_eq!(directory.seen(), came_and_went);
    assert_eq!(state.seen(), [Event::IN_CLOSE_WRITE]);
    // Another state, of which a watch on the one before tells nothing.
    let file = create(&daemon, "x");
    let second = Watched::new(&x);
    fs::remove_file(&x).unwrap();
    assert_eq!(state.seen(), []);
    let deleted = [Event::IN_CREATE, Event::IN_OPEN, Event::IN_DELETE];
    assert_eq!(directory.seen(), deleted);
    assert_eq!(second.seen(), [Event::IN_ATTRIB]);
    drop(file);
    let last = [
        Event::IN_CLOSE_WRITE,
        Event::IN_DELETE_SELF,
        Event::IN_IGNORED,
    ];
    assert_eq!(second.seen(), last);
}
