//! The file system's meanings, without a mount.

mod streams;

use std::sync::atomic::{AtomicUsize, Ordering};

use kstate_sys::abi::Geometry;
use kstate_sys::ioctl::{Wait, place};

use super::*;
use crate::announce;
use crate::backing::RegionFile;
use crate::blocked::Given;
use crate::config::NotifyBy;
use crate::inode::Node;
use crate::intents::Part;
use crate::xattr::Mode;

const OWNER: Caller = Caller {
    uid: 0,
    gid: 0,
    tid: 1,
};
const STRANGER: Caller = Caller {
    uid: 64_001,
    gid: 64_001,
    tid: 1,
};

/// A wait that lasts until it is ended.
const LASTING: Wait = Wait {
    place: place::HEAD,
    milliseconds: 0,
};

fn shared(transport: Transport) -> Shared {
    let backing = Backing::create(None).unwrap();
    let timer = Arc::new(Timer::default());
    let (hub, _thread) = Hub::start(NotifyBy::Auto, timer.clone()).unwrap();
    let settings = Settings {
        uid: 0,
        gid: 0,
        root_mode: 0o1777,
        linger: Duration::ZERO,
        announce: announce::Settings::default(),
        manifest: None,
    };
    let origin = Origin::fresh().unwrap();
    Shared::new(backing, transport, timer, Arc::new(hub), settings, origin).unwrap()
}

fn read(fs: &Shared, file: u64, offset: u64, size: usize) -> Vec<u8> {
    match fs.read(file, offset, size).unwrap() {
        Given::Bytes(bytes) => bytes,
        Given::NotYet => panic!("nothing to read"),
    }
}

fn create(fs: &Shared, name: &str) -> (u64, u64) {
    let (attr, opened) = fs
        .create(
            OWNER,
            Node::Root.ino(),
            name.as_bytes(),
            0o644,
            libc::O_RDWR,
        )
        .unwrap();
    (attr.ino, opened.file)
}

#[test]
fn a_state_lives_as_long_as_a_file_of_it_is_open() {
    for transport in [Transport::Passthrough, Transport::Socket] {
        let fs = shared(transport);
        let (ino, first) = create(&fs, "x");
        let second = fs.open(OWNER, ino, libc::O_RDONLY).unwrap();
        fs.write(OWNER, first, 0, b"value", 0).unwrap();
        fs.release(first);
        assert_eq!(read(&fs, second.file, 0, 99), b"value");
        fs.release(second.file);
        assert_eq!(
            fs.lookup(Node::Root.ino(), b"x").unwrap_err(),
            Errno::ENOENT
        );
        assert_eq!(
            fs.open(OWNER, ino, libc::O_RDONLY).unwrap_err(),
            Errno::ESTALE
        );
    }
}

#[test]
fn numbers_of_states_are_not_used_again() {
    let fs = shared(Transport::Passthrough);
    let (first, file) = create(&fs, "x");
    fs.release(file);
    let (second, _) = create(&fs, "x");
    assert_ne!(first, second);
}

#[test]
fn who_creates_what_is_there_already_gets_it_if_it_is_his_own() {
    let fs = shared(Transport::Passthrough);
    let (ino, _) = create(&fs, "x");
    let again = |caller, flags| fs.create(caller, Node::Root.ino(), b"x", 0o644, flags);
    assert_eq!(again(OWNER, libc::O_RDWR).unwrap().0.ino, ino);
    // Of others the kernel has not checked the rights: it shall look the name up again.
    let stranger = again(STRANGER, libc::O_RDONLY).map(|_| ());
    assert_eq!(stranger, Err(Errno::ESTALE));
    let exclusive = again(OWNER, libc::O_RDWR | libc::O_EXCL).map(|_| ());
    assert_eq!(exclusive, Err(Errno::EEXIST));
}

#[test]
fn a_poller_is_called_once_for_what_it_has_not_seen() {
    let fs = shared(Transport::Passthrough);
    let (ino, writer) = create(&fs, "x");
    let reader = fs.open(OWNER, ino, libc::O_RDONLY).unwrap().file;
    let calls = Arc::new(AtomicUsize::new(0));
    let poller = || {
        let calls = calls.clone();
        Poller::new(move || {
            calls.fetch_add(1, Ordering::SeqCst);
        })
    };
    assert!(!fs.poll(reader, Some(poller())).unwrap().readable);
    fs.write(OWNER, writer, 0, b"1", 0).unwrap();
    let state = fs.state(ino).unwrap();
    let called = |times| {
        // What the hub's thread does, which may have done it already.
        state.tell();
        assert_eq!(calls.load(Ordering::SeqCst), times);
    };
    called(1);
    // Readable already, and told of the next version all the same: who watches for edges does
    // not ask again before that.
    assert!(fs.poll(reader, Some(poller())).unwrap().readable);
    called(1);
    fs.write(OWNER, writer, 0, b"2", 0).unwrap();
    called(2);
    read(&fs, reader, 0, 9);
    assert!(!fs.poll(reader, None).unwrap().readable);
    fs.write(OWNER, writer, 0, b"3", 0).unwrap();
    called(2);
}

#[test]
fn nothing_is_remembered_of_a_state_that_has_gone() {
    let fs = shared(Transport::Passthrough);
    let caller = Caller {
        tid: std::process::id(),
        ..OWNER
    };
    for _ in 0..3 {
        let (ino, file) = create(&fs, "x");
        let state = fs.state(ino).unwrap();
        state.claim(&fs.reaper, caller.tid, file).unwrap();
        state
            .wait_begin(&fs.reaper, caller.tid, file, LASTING)
            .unwrap();
        assert!(fs.reaper.find(caller.tid).is_some());
        fs.release(file);
        drop(state);
        assert!(fs.reaper.find(caller.tid).is_none());
    }
}

#[test]
fn a_file_opened_by_the_library_arms_nothing() {
    let fs = shared(Transport::Passthrough);
    let flags = libc::O_RDWR | kstate_sys::abi::O_LIBRARY;
    let (attr, opened) = fs
        .create(OWNER, Node::Root.ino(), b"x", 0o644, flags)
        .unwrap();
    let state = fs.state(attr.ino).unwrap();
    assert!(!state.is_armed());
    let plain = fs.open(OWNER, attr.ino, libc::O_RDONLY).unwrap();
    assert!(state.is_armed());
    fs.release(plain.file);
    assert!(state.is_armed(), "a map outlives its descriptor");
    fs.release(opened.file);
}

#[test]
fn a_state_that_has_gone_is_mapped_as_it_was() {
    let fs = shared(Transport::Passthrough);
    let flags = libc::O_RDWR | kstate_sys::abi::O_LIBRARY;
    let (attr, opened) = fs
        .create(OWNER, Node::Root.ino(), b"x", 0o644, flags)
        .unwrap();
    fs.write(OWNER, opened.file, 0, b"last", 0).unwrap();
    let state = fs.state(attr.ino).unwrap();
    fs.unlink(OWNER, Node::Root.ino(), b"x").unwrap();
    assert!(!state.is_armed());
    state.arm().unwrap();
    assert!(state.is_armed());
    let mut page = [0; 5];
    state
        .region_file()
        .with(|fd| Ok(nix::sys::uio::pread(fd, &mut page, 0)?))
        .unwrap();
    assert_eq!(&page, b"last\0");
}

#[test]
fn only_an_owner_says_how_long_a_state_lingers() {
    let fs = shared(Transport::Passthrough);
    let (ino, _) = create(&fs, "x");
    let set = |caller| fs.set_xattr(caller, ino, "user.kstate.linger", Some(b"2s"), Mode::Any);
    assert_eq!(set(STRANGER), Err(Errno::EPERM));
    set(OWNER).unwrap();
    assert_eq!(fs.get_xattr(ino, "user.kstate.linger").unwrap(), b"2000ms");
    assert_eq!(
        fs.set_xattr(OWNER, ino, "user.kstate.generation", Some(b"7"), Mode::Any),
        Err(Errno::EPERM)
    );
    assert_eq!(
        fs.set_xattr(OWNER, ino, "user.other", Some(b""), Mode::Any),
        Err(Errno::EOPNOTSUPP)
    );
}

#[test]
fn the_directories_hold_what_there_is() {
    let fs = shared(Transport::Passthrough);
    let _files = [create(&fs, "b"), create(&fs, "a.x")];
    let names = |ino| -> Vec<String> {
        fs.list(ino)
            .unwrap()
            .into_iter()
            .map(|entry| entry.name)
            .collect()
    };
    assert_eq!(names(Node::Root.ino()), [".", "..", ".kstate", "a.x", "b"]);
    assert_eq!(
        names(Node::Control.ino()),
        [
            ".", "..", "registry", "intents", "version", "states", "metrics", "changes"
        ]
    );
    assert_eq!(names(Node::Intents.ino()), [".", ".."]);
    assert_eq!(
        fs.lookup(Node::Control.ino(), b"absent").unwrap_err(),
        Errno::ENOENT
    );
    assert_eq!(
        fs.unlink(OWNER, Node::Root.ino(), b".kstate"),
        Err(Errno::EPERM)
    );
    assert_eq!(
        fs.create(OWNER, Node::Control.ino(), b"x", 0o644, 0)
            .unwrap_err(),
        Errno::EPERM
    );
}

#[test]
fn the_first_subscriber_chooses_the_capacity_and_later_ones_only_ask_for_more() {
    let fs = shared(Transport::Passthrough);
    let (ino, file) = create(&fs, "x");
    let state = fs.state(ino).unwrap();
    assert_eq!(state.capacity(), state.page());
    assert_eq!(state.want_capacity(64), Ok(64));
    assert_eq!(state.want_capacity(16), Ok(64));
    assert_eq!(state.want_capacity(300), Ok(300));
    fs.write(OWNER, file, 0, &[1; 300], 0).unwrap();
    assert_eq!(state.set_capacity(299), Err(Errno::EINVAL));
    assert_eq!(state.want_capacity(state.page() + 1), Err(Errno::EFBIG));
    assert_eq!(fs.write(OWNER, file, 0, &[1; 301], 0), Err(Errno::EFBIG));
    assert_eq!(read(&fs, file, 0, 999), [1; 300]);
}

/// What a client can do to the pages it has mapped.
fn scribble(file: &RegionFile, offset: usize, words: &[u64]) {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let offset = i64::try_from(offset).unwrap();
    file.with(|fd| Ok(nix::sys::uio::pwrite(fd, &bytes, offset)?))
        .unwrap();
}

#[test]
fn a_commit_of_several_states_is_settled_only_where_its_owner_may_write() {
    use kstate_sys::region::{IntentRef, Round};
    for transport in [Transport::Passthrough, Transport::Socket] {
        let fs = shared(transport);
        let (ino, file) = create(&fs, "x");
        fs.write(OWNER, file, 0, b"value", 0).unwrap();
        let state = fs.state(ino).unwrap();
        let tid = std::process::id();
        let make = |process, owner| {
            fs.common
                .intents
                .create(&fs.backing, transport, process, owner, (0, 0))
        };
        let number = fs.reaper.hold_record(tid, make).unwrap();
        let record = fs.common.intents.get(number).unwrap();
        let group = state.claim(&fs.reaper, tid, file).unwrap().group;
        let commit = IntentRef::new(number, Round(1));
        // A commit that is undecided: the slot of the client's group, the head, list and status.
        let geometry = Geometry::of_this_machine();
        let slot = u16::try_from(4 * group).unwrap();
        let base = state.describe().unwrap().head;
        let meta = [2, u64::from(base.slot().index()) << 32, 0, commit.raw()];
        scribble(state.region_file(), geometry.slot_meta(slot), &meta);
        let intent = 1 << 63 | u64::from(slot) << 53 | 1;
        let place = || scribble(state.region_file(), geometry.header() + 64, &[intent]);
        place();
        scribble(record.file(Part::Status), 0, &[1 << 3]);
        let list = |words: &[u64]| scribble(record.file(Part::List), 0, words);
        let settle = || {
            let find = |process, ino| fs.reaper.held(process, ino);
            while !fs.common.intents.settle(commit, find) {
                std::thread::sleep(Duration::from_micros(500));
            }
            !state.has_intent_of(commit)
        };
        assert_eq!(read(&fs, file, 0, 99), b"value");
        assert!(state.has_intent_of(commit));
        // What is not of one commit, what is of no state, what is too much.
        list(&[1, ino, base.raw() + 1, intent]);
        assert!(!settle());
        list(&[1, ino + 1, base.raw(), intent]);
        assert!(!settle());
        list(&[u64::MAX, ino, base.raw(), intent ^ 1 << 53]);
        assert!(!settle());
        // And what is right.
        list(&[1, ino, base.raw(), intent]);
        assert!(settle());
        assert_eq!(state.describe().unwrap().head, base);
        // A group that is not the owner's any more.
        place();
        state.release(&fs.reaper, tid, group).unwrap();
        assert!(!settle());
        state.claim(&fs.reaper, tid, file).unwrap();
        assert!(settle());
        // A write meets one and waits for nobody.
        place();
        fs.write(OWNER, file, 0, b"other", 0).unwrap();
        assert_eq!(state.read().unwrap().1, b"other");
    }
}

#[test]
fn a_records_files_are_its_users_and_last_as_long_as_it() {
    let fs = shared(Transport::Passthrough);
    let make = |process, owner| {
        let user = (STRANGER.uid, STRANGER.gid);
        fs.common
            .intents
            .create(&fs.backing, fs.transport, process, owner, user)
    };
    let number = fs.reaper.hold_record(std::process::id(), make).unwrap();
    let mode = |name: &str| {
        let attr = fs.lookup(Node::Intents.ino(), name.as_bytes()).unwrap();
        assert_eq!(fs.getattr(attr.ino).unwrap().ino, attr.ino);
        assert_eq!(
            fs.setattr(attr.ino, None, Change::default()).unwrap_err(),
            Errno::EPERM
        );
        (attr.uid, attr.mode)
    };
    assert_eq!(mode(&number.to_string()), (STRANGER.uid, 0o644));
    assert_eq!(mode(&format!("{number}.list")), (STRANGER.uid, 0o600));
    for absent in ["0", "01", "2", "1.lists", ".list", "x"] {
        let found = fs.lookup(Node::Intents.ino(), absent.as_bytes());
        assert_eq!(found.unwrap_err(), Errno::ENOENT, "{absent}");
    }
    let record = fs.common.intents.get(number).unwrap();
    fs.common.intents.remove(&record);
    assert!(fs.lookup(Node::Intents.ino(), b"1").is_err());
}

#[test]
fn an_open_that_comes_late_to_a_record_finds_it_gone() {
    let fs = shared(Transport::Passthrough);
    let caller = Caller {
        tid: std::process::id(),
        ..OWNER
    };
    let hold = |process, owner| {
        let (backing, transport) = (&fs.backing, fs.transport());
        fs.common
            .intents
            .create(backing, transport, process, owner, (0, 0))
    };
    let number = fs.reaper.hold_record(caller.tid, hold).unwrap();
    let record = fs.common.intents.get(number).unwrap();
    let status = crate::intents::Part::Status;
    let opened = fs
        .open(caller, record.node(status).ino(), libc::O_RDONLY)
        .unwrap();
    assert!(!fs.region_of(&opened).unwrap().is_gone());
    assert!(fs.reaper.release_record(caller.tid, number));
    assert!(fs.region_of(&opened).unwrap().is_gone());
}

#[test]
fn nobody_begins_to_wait_at_a_state_that_has_gone() {
    let fs = shared(Transport::Passthrough);
    let caller = Caller {
        tid: std::process::id(),
        ..OWNER
    };
    // Something else keeps the process known.
    let (other, kept) = create(&fs, "other");
    let other = fs.state(other).unwrap();
    other
        .wait_begin(&fs.reaper, caller.tid, kept, LASTING)
        .unwrap();
    let (attr, opened) = fs
        .create(caller, Node::Root.ino(), b"x", 0o644, libc::O_RDWR)
        .unwrap();
    let (state, file) = (fs.state(attr.ino).unwrap(), opened.file);
    state.claim(&fs.reaper, caller.tid, file).unwrap();
    fs.unlink(caller, Node::Root.ino(), b"x").unwrap();
    let begun = state.wait_begin(&fs.reaper, caller.tid, file, LASTING);
    assert_eq!(begun.unwrap_err(), Errno::ESTALE);
    let process = fs.reaper.find(caller.tid).unwrap();
    assert!(fs.reaper.held(process, attr.ino).is_none());
    fs.release(file);
}
