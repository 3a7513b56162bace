//! Files of states and other users; and a disk without room.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use kstate_tests::{Daemon, Setup, User, as_user, attribute, eventually, set_attribute};
use kstatefs::persist::{Image, StateFile};
use nix::fcntl::{FallocateFlags, fallocate};

use crate::full::SmallTmpfs;
use crate::{ALICE, BOB, DAVE, ROOT, create_for, open_home};

/// A directory that all may enter, with one of Alice's in it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        set_mode(&place.path(""), 0o755);
        fs::create_dir(place.path("alice")).unwrap();
        chown(place.path("alice"), Some(ALICE.uid), Some(ALICE.gid)).unwrap();
        set_mode(&place.path("alice"), 0o770);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().canonicalize().unwrap().join(name)
    }

    /// Of daemons whose persistent states come back.
    fn setup(&self) -> Setup {
        Setup::default().with(format!("--manifest={}", self.path("manifest").display()))
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// What a user hears who asks by an attribute for a state to be kept in `file`.
fn asked(user: User, daemon: &Daemon, state: &str, file: &Path) -> Result<(), i32> {
    let (state, text) = (daemon.file(state), file.as_os_str().as_encoded_bytes());
    let set = as_user(user, || set_attribute(&state, "persistent", text));
    set.map_err(|error| error.raw_os_error().unwrap())
}

pub(crate) fn a_file_is_opened_with_the_rights_of_who_asks() {
    let (daemon, place) = (Daemon::start(), Place::new());
    open_home(&daemon);
    let _state = create_for(&daemon, "x", ALICE);
    fs::create_dir(place.path("root")).unwrap();
    set_mode(&place.path("root"), 0o700);
    fs::write(place.path("root/file"), "").unwrap();
    fs::write(place.path("readable"), "secret").unwrap();
    set_mode(&place.path("readable"), 0o644);
    fs::write(place.path("writable"), "").unwrap();
    set_mode(&place.path("writable"), 0o666);
    symlink("/etc/passwd", place.path("alice/link")).unwrap();
    symlink(place.path("root"), place.path("alice/way")).unwrap();
    for (file, expected) in [
        ("new", libc::EACCES),
        ("root/new", libc::EACCES),
        ("root/file", libc::EACCES),
        ("readable", libc::EACCES),
        // It could be written by anybody, and is not the owner's.
        ("writable", libc::EOWNERDEAD),
        ("alice/link", libc::ELOOP),
        ("alice/way/file", libc::ELOOP),
    ] {
        let heard = asked(ALICE, &daemon, "x", &place.path(file));
        assert_eq!(heard, Err(expected), "{file}");
    }
    assert_eq!(fs::read(place.path("readable")).unwrap(), b"secret");
    assert_eq!(fs::read(place.path("writable")).unwrap(), b"");
    assert!(!place.path("new").exists() && !place.path("root/new").exists());
    // Nobody asks for a state of others.
    set_mode(&daemon.file("x"), 0o666);
    assert_eq!(
        asked(BOB, &daemon, "x", &place.path("alice/x")),
        Err(libc::EPERM)
    );
    assert_eq!(asked(ALICE, &daemon, "x", &place.path("alice/x")), Ok(()));
    let made = place.path("alice/x").metadata().unwrap();
    assert_eq!((made.uid(), made.gid()), (ALICE.uid, ALICE.gid));
    assert_eq!(made.mode() & 0o7777, 0o600);
}

pub(crate) fn all_groups_of_who_asks_count() {
    let (daemon, place) = (Daemon::start(), Place::new());
    open_home(&daemon);
    let _state = create_for(&daemon, "x", DAVE);
    // Alice's group may write there, of which Dave is one among others.
    let path = place.path("alice/dave");
    assert_eq!(asked(DAVE, &daemon, "x", &path), Ok(()));
    assert_eq!(path.metadata().unwrap().uid(), DAVE.uid);
}

pub(crate) fn root_gives_a_users_state_a_file_that_is_the_users() {
    let (daemon, place) = (Daemon::start(), Place::new());
    let _state = create_for(&daemon, "x", ALICE);
    let path = place.path("by-root");
    assert_eq!(asked(ROOT, &daemon, "x", &path), Ok(()));
    let made = path.metadata().unwrap();
    assert_eq!((made.uid(), made.gid()), (ALICE.uid, ALICE.gid));
    assert_eq!(made.mode() & 0o7777, 0o600);
}

pub(crate) fn a_users_file_is_opened_as_the_user_when_it_mounts() {
    let place = Place::new();
    {
        let daemon = place.setup().start();
        open_home(&daemon);
        for name in ["x", "y"] {
            let state = create_for(&daemon, name, ALICE);
            state.write_all_at(name.as_bytes(), 0).unwrap();
            let file = place.path("alice").join(name);
            assert_eq!(asked(ALICE, &daemon, name, &file), Ok(()));
        }
        let state = create_for(&daemon, "root", ROOT);
        state.write_all_at(b"root's", 0).unwrap();
        assert_eq!(asked(ROOT, &daemon, "root", &place.path("root")), Ok(()));
    }
    // She puts a way to root's where her own was.
    fs::remove_file(place.path("alice/x")).unwrap();
    symlink(place.path("root"), place.path("alice/x")).unwrap();
    let before = fs::read(place.path("root")).unwrap();
    {
        let daemon = place.setup().start();
        assert!(!daemon.file("x").exists());
        assert_eq!(fs::read(daemon.file("root")).unwrap(), b"root's");
        let back = daemon.file("y").metadata().unwrap();
        assert_eq!((back.uid(), back.gid()), (ALICE.uid, ALICE.gid));
        assert_eq!(fs::read(daemon.file("y")).unwrap(), b"y");
    }
    let after = StateFile::recover(File::open(place.path("root")).unwrap());
    assert_eq!(after.unwrap().1.value, b"root's");
    assert!(!before.is_empty());
}

pub(crate) fn a_full_disk_is_told_counted_and_got_over() {
    let disk = SmallTmpfs::new("256k");
    let path = disk.path().canonicalize().unwrap().join("x");
    let text = path.as_os_str().as_encoded_bytes();
    let daemon = Daemon::start();
    let state = create_for(&daemon, "x", ROOT);
    let file = daemon.file("x");
    state.write_all_at(b"first", 0).unwrap();
    disk.fill();
    let refused = set_attribute(&file, "persistent", text).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ENOSPC));
    assert!(!path.exists(), "nothing is left of a file that has no room");
    disk.empty();
    set_attribute(&file, "persistent", text).unwrap();
    set_attribute(&file, "durability", b"1h").unwrap();
    state.sync_all().unwrap();
    // Its blocks are allocated: another file fills the disk, and it is written all the same.
    disk.fill();
    state.write_all_at(b"second", 0).unwrap();
    state.sync_all().unwrap();
    // Somebody takes them away.
    let taken = File::options().write(true).open(&path).unwrap();
    let length = i64::try_from(taken.metadata().unwrap().len()).unwrap();
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(&taken, punch, 0, length).unwrap();
    disk.fill();
    state.write_all_at(b"third", 0).unwrap();
    assert_eq!(
        state.sync_all().unwrap_err().raw_os_error(),
        Some(libc::ENOSPC)
    );
    let errors = || -> u64 { attribute(&file, "flush_errors").unwrap().parse().unwrap() };
    assert!(errors() >= 1);
    // It goes on living, and being committed to.
    for number in 0..100_u32 {
        state.write_all_at(&number.to_ne_bytes(), 0).unwrap();
    }
    assert_eq!(fs::read(&file).unwrap()[..4], 99_u32.to_ne_bytes());
    let durable = || attribute(&file, "durable_generation").unwrap();
    assert_eq!(durable(), "2");
    disk.empty();
    // By itself as well.
    eventually("what is newest is in the file", || {
        (durable() == "103").then_some(())
    });
    state.sync_all().unwrap();
    let saved = StateFile::recover(File::open(&path).unwrap()).unwrap().1;
    assert_eq!(saved.value[..4], 99_u32.to_ne_bytes());
}

pub(crate) fn a_user_has_no_power_over_the_daemon_that_opens_for_him() {
    let (daemon, place) = (Daemon::start(), Place::new());
    open_home(&daemon);
    let _state = create_for(&daemon, "x", ALICE);
    let pid = daemon.pid();
    // As long as it takes to look for a file that is not there.
    let deep = format!("alice/{}x", "none/".repeat(700));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            as_user(ALICE, || {
                let tasks = format!("/proc/{pid}/task");
                while !done.load(Ordering::Relaxed) {
                    for task in fs::read_dir(&tasks).unwrap().flatten() {
                        let task: i32 = task.file_name().to_str().unwrap().parse().unwrap();
                        #[expect(unsafe_code, reason = "tgkill(2)")]
                        // SAFETY: takes three integers.
                        let sent = unsafe {
                            libc::syscall(libc::SYS_tgkill, pid.as_raw(), task, libc::SIGSTOP)
                        };
                        assert_eq!(sent, -1, "thread {task} could be stopped");
                    }
                }
            });
        });
        for _ in 0..300 {
            assert_eq!(
                asked(ALICE, &daemon, "x", &place.path(&deep)),
                Err(libc::ENOENT)
            );
        }
        done.store(true, Ordering::Relaxed);
    });
}

pub(crate) fn what_is_written_in_a_file_does_not_say_whose_its_state_is() {
    let place = Place::new();
    let file = place.path("alice/x");
    {
        let daemon = place.setup().start();
        open_home(&daemon);
        let state = create_for(&daemon, "x", ALICE);
        state.write_all_at(b"hers", 0).unwrap();
        assert_eq!(asked(ALICE, &daemon, "x", &file), Ok(()));
    }
    let forge = |change: &dyn Fn(&mut Image)| {
        let open = File::options().read(true).write(true).open(&file).unwrap();
        let (mut forged, mut image) = StateFile::recover(open).unwrap();
        change(&mut image);
        forged.save(&image).unwrap();
    };
    forge(&|image| (image.uid, image.mode) = (0, 0o666));
    assert!(!place.setup().start().file("x").exists());
    // Nor does anything else in it end the daemon.
    forge(&|image| {
        image.uid = ALICE.uid;
        image.time = Some(Duration::MAX);
    });
    let daemon = place.setup().start();
    assert_eq!(fs::read(daemon.file("x")).unwrap(), b"hers");
    drop(daemon);
    forge(&|image| (image.generation, image.ceiling) = (u64::MAX, u64::MAX));
    let before = fs::read(&file).unwrap();
    assert!(!place.setup().start().file("x").exists());
    assert_eq!(fs::read(&file).unwrap(), before, "it stays as it is");
}

pub(crate) fn a_state_that_is_given_away_takes_its_file_along() {
    let place = Place::new();
    let file = place.path("alice/x");
    {
        let daemon = place.setup().start();
        open_home(&daemon);
        let state = create_for(&daemon, "x", ALICE);
        state.write_all_at(b"value", 0).unwrap();
        assert_eq!(asked(ALICE, &daemon, "x", &file), Ok(()));
        chown(daemon.file("x"), Some(BOB.uid), Some(BOB.gid)).unwrap();
        assert_eq!(file.metadata().unwrap().uid(), BOB.uid);
    }
    let daemon = place.setup().start();
    assert_eq!(daemon.file("x").metadata().unwrap().uid(), BOB.uid);
    assert_eq!(fs::read(daemon.file("x")).unwrap(), b"value");
}

pub(crate) fn a_listed_name_is_its_owners_while_its_file_is_away() {
    let place = Place::new();
    let file = place.path("alice/x");
    {
        let daemon = place.setup().start();
        open_home(&daemon);
        let state = create_for(&daemon, "x", ALICE);
        state.write_all_at(b"hers", 0).unwrap();
        assert_eq!(asked(ALICE, &daemon, "x", &file), Ok(()));
    }
    fs::rename(&file, place.path("away")).unwrap();
    fs::create_dir(place.path("bob")).unwrap();
    chown(place.path("bob"), Some(BOB.uid), Some(BOB.gid)).unwrap();
    {
        let daemon = place.setup().start();
        open_home(&daemon);
        let _his = create_for(&daemon, "x", BOB);
        let his = place.path("bob/x");
        assert_eq!(asked(BOB, &daemon, "x", &his), Err(libc::EEXIST));
        assert!(!his.exists());
    }
    fs::rename(place.path("away"), &file).unwrap();
    let daemon = place.setup().start();
    assert_eq!(fs::read(daemon.file("x")).unwrap(), b"hers");
}
