//! A daemon that is killed, and one that takes its states over.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kstate::{Mount, State};
use kstate_sys::ioctl::{Claim, call};
use kstate_tests::{Daemon, PATIENCE, Setup, eventually, number_of_bytes, open_descriptors};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use crate::full::SmallTmpfs;

/// Both ways to get at a region.
pub(crate) fn each(test: impl Fn(Daemon)) {
    for passthrough in ["require", "off"] {
        let setup = Setup::default().with(format!("--passthrough={passthrough}"));
        test(setup.start());
    }
}

/// The directories that daemons of this mount have.
pub(crate) fn directories_of(mount: &Path) -> Vec<PathBuf> {
    let wanted = mount.as_os_str().as_encoded_bytes();
    let mut found = Vec::new();
    for entry in fs::read_dir("/dev/shm").unwrap().flatten() {
        let ledger = fs::read(entry.path().join("ledger")).unwrap_or_default();
        if ledger.windows(wanted.len()).any(|bytes| bytes == wanted) {
            found.push(entry.path());
        }
    }
    found
}

/// Processes that hold regions and were split off by a daemon with `mark` in its environment.
fn holders(mark: &Path) -> usize {
    let wanted = mark.as_os_str().as_encoded_bytes();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let is_one = |path: PathBuf| {
        let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
        let environment = fs::read(path.join("environ")).unwrap_or_default();
        name.trim() == "kstate-holder" && environment.windows(wanted.len()).any(|b| b == wanted)
    };
    processes.filter(|entry| is_one(entry.path())).count()
}

pub(crate) fn mounts_at(path: &Path) -> usize {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let at = |line: &&str| line.split(' ').nth(4) == path.to_str();
    table.lines().filter(at).count()
}

pub(crate) fn counter(mount: &Mount, name: &str) -> State<u64> {
    mount.subscribe(name).write().typed::<u64>().unwrap()
}

pub(crate) fn attribute(path: &Path, name: &str) -> String {
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    let name = std::ffi::CString::new(name).unwrap();
    let mut value = [0_u8; 256];
    #[expect(unsafe_code, reason = "getxattr(2) has no wrapper in nix")]
    // SAFETY: both names end with NUL, and the room is as long as it says.
    let length = unsafe {
        libc::getxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    let length = usize::try_from(length).unwrap();
    String::from_utf8(value[..length].to_vec()).unwrap()
}

pub(crate) fn set_attribute(path: &Path, name: &str, value: &str) {
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    let name = std::ffi::CString::new(name).unwrap();
    #[expect(unsafe_code, reason = "setxattr(2) has no wrapper in nix")]
    // SAFETY: both names end with NUL, and the value is as long as it says.
    let set = unsafe {
        libc::setxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    assert_eq!(set, 0, "{name:?}: {}", std::io::Error::last_os_error());
}

pub(crate) fn states_are_as_they_were_behind_a_daemon_that_was_killed() {
    each(|mut daemon| {
        let state = counter(&daemon.library(), "x");
        for value in 1..=5 {
            state.publish(&value).unwrap();
        }
        let bytes = daemon.library().subscribe("bytes").write().bytes().unwrap();
        bytes.set_capacity(3000).unwrap();
        bytes.publish(b"0123456789").unwrap();
        let long = vec![7; 3000];
        bytes.publish(&long).unwrap();
        let plain = File::create(daemon.file("plain")).unwrap();
        fs::set_permissions(daemon.file("plain"), Permissions::from_mode(0o1640)).unwrap();
        std::os::unix::fs::chown(daemon.file("plain"), Some(64_001), Some(64_002)).unwrap();
        plain.write_at(b"text", 0).unwrap();
        set_attribute(&daemon.file("plain"), "user.kstate.deadline", "1h");
        set_attribute(&daemon.file("plain"), "user.kstate.linger", "7s");
        drop(plain);
        let look = |daemon: &Daemon| {
            let mut all = Vec::new();
            for name in ["x", "bytes", "plain"] {
                let path = daemon.file(name);
                let stat = fs::metadata(&path).unwrap();
                all.push(format!("{name} {} {:o}", stat.ino(), stat.mode()));
                all.push(format!("{} {} {}", stat.uid(), stat.gid(), stat.len()));
                all.push(attribute(&path, "user.kstate.capacity"));
                all.push(attribute(&path, "user.kstate.linger"));
            }
            all.push(attribute(&daemon.file("x"), "user.kstate.layout"));
            all.push(attribute(&daemon.file("plain"), "user.kstate.deadline"));
            all
        };
        let before = look(&daemon);
        daemon.kill();
        // Nobody needs it.
        let seen = state.publish(&6).unwrap();
        assert_eq!(state.snapshot().unwrap().value, 6);
        let daemon = daemon.kill_and_restart();
        assert_eq!(look(&daemon), before);
        assert_eq!(fs::read(daemon.file("x")).unwrap(), 6_u64.to_ne_bytes());
        assert_eq!(fs::read(daemon.file("bytes")).unwrap(), long);
        assert_eq!(fs::read(daemon.file("plain")).unwrap(), b"text");
        // A handle of before and one of now are of the same state.
        let again = counter(&daemon.library(), "x");
        assert_eq!(again.generation(), seen);
        again.publish(&7).unwrap();
        assert_eq!(state.snapshot().unwrap().value, 7);
        state.publish(&8).unwrap();
        assert_eq!(again.snapshot().unwrap().value, 8);
        // A number is not used again.
        File::create(daemon.file("new")).unwrap();
        let of = |name: &str| fs::metadata(daemon.file(name)).map(|found| found.ino());
        assert!(of("new").is_err() || of("new").unwrap() > of("plain").unwrap());
    });
}

pub(crate) fn programs_without_the_library_open_their_files_again() {
    each(|daemon| {
        let state = counter(&daemon.library(), "x");
        state.publish(&1).unwrap();
        let open = |daemon: &Daemon| File::open(daemon.file("x")).unwrap();
        let mut file = open(&daemon);
        let daemon = daemon.kill_and_restart();
        let mut bytes = [0; 8];
        let error = file.read(&mut bytes).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
        let mut file = open(&daemon);
        file.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, 1_u64.to_ne_bytes());
        // Who polls is told of a commit by a handle that the last daemon has given.
        let ready = |patience: Duration| {
            let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
            let patience = PollTimeout::try_from(patience).unwrap();
            poll(&mut fds, patience).unwrap() == 1
        };
        assert!(!ready(Duration::ZERO));
        std::thread::scope(|scope| {
            let polls = scope.spawn(|| ready(PATIENCE));
            state.publish(&2).unwrap();
            assert!(polls.join().unwrap());
        });
        fs::write(daemon.file("x"), 3_u64.to_ne_bytes()).unwrap();
        assert_eq!(state.snapshot().unwrap().value, 3);
    });
}

pub(crate) fn a_daemon_that_is_killed_again_and_again_leaves_nothing_behind() {
    for passthrough in ["require", "off"] {
        let home = tempfile::tempdir().unwrap();
        let setup = Setup::default().with(format!("--passthrough={passthrough}"));
        let mut daemon = setup.environment("KSTATE_TEST_MARK", home.path()).start();
        let state = counter(&daemon.library(), "x");
        let expected = usize::from(passthrough == "off");
        let mut descriptors = 0;
        for value in 0..20 {
            state.publish(&value).unwrap();
            daemon = daemon.kill_and_restart();
            assert_eq!(state.snapshot().unwrap().value, value);
            assert_eq!(fs::read(daemon.file("x")).unwrap(), value.to_ne_bytes());
            assert_eq!(mounts_at(daemon.mount()), 1);
            assert_eq!(directories_of(daemon.mount()).len(), 1);
            assert_eq!(holders(home.path()), expected);
            if value == 1 {
                descriptors = open_descriptors(daemon.pid());
            }
            // One is open for a moment here and there.
            eventually("it has as many descriptors as at first", || {
                (value < 2 || open_descriptors(daemon.pid()) <= descriptors).then_some(())
            });
        }
        let mount = daemon.mount().to_owned();
        drop(daemon);
        assert_eq!(directories_of(&mount), Vec::<PathBuf>::new());
        assert_eq!(mounts_at(&mount), 0);
        eventually("the holder ends", || {
            (holders(home.path()) == 0).then_some(())
        });
    }
}

pub(crate) fn groups_of_the_dead_are_free_again_and_those_of_the_living_are_not() {
    each(|daemon| {
        let publisher = |daemon: &Daemon| {
            let mut worker = daemon.worker("x", &["publish"]);
            assert_eq!(worker.line(), "ready");
            worker
        };
        let mut dead = publisher(&daemon);
        let _living = [publisher(&daemon), publisher(&daemon)];
        let mut daemon = daemon;
        daemon.kill();
        dead.signal(Signal::SIGKILL);
        dead.finish();
        let daemon = daemon.kill_and_restart();
        let mount = daemon.library();
        let state = mount.subscribe("x").bytes().unwrap();
        assert_eq!(state.info().unwrap().writers, 2);
        // New ones write beside them.
        let _new = [publisher(&daemon), publisher(&daemon)];
        assert_eq!(state.info().unwrap().writers, 4);
        let before = state.generation();
        for _ in 0..100_000 {
            let snapshot = state.snapshot().unwrap();
            assert!(number_of_bytes(&snapshot.value).is_some(), "torn");
        }
        assert!(state.generation() > before);
    });
}

pub(crate) fn a_group_of_before_is_held_through_a_new_file() {
    each(|daemon| {
        let open = |daemon: &Daemon| {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true);
            options.open(daemon.file("x")).unwrap()
        };
        let file = open(&daemon);
        let mut claim = Claim::new(0, 0, 0);
        call::claim(&file, &mut claim).unwrap();
        let error = call::reclaim(&file, claim.group).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        let daemon = daemon.kill_and_restart();
        let file = open(&daemon);
        let writers = || attribute(&daemon.file("x"), "user.kstate.writers");
        // The group, and the file that is open for writing.
        assert_eq!(writers(), "2");
        let errno = |group| call::reclaim(&file, group).unwrap_err().raw_os_error();
        assert_eq!(errno(claim.group + 1), Some(libc::EINVAL));
        let reader = File::open(daemon.file("x")).unwrap();
        let error = call::reclaim(&reader, claim.group).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
        call::reclaim(&file, claim.group).unwrap();
        assert_eq!(errno(claim.group), Some(libc::EINVAL));
        drop(file);
        eventually("the group goes with its file", || {
            (writers() == "0").then_some(())
        });
    });
}

pub(crate) fn commits_of_several_states_cut_short_with_the_daemon_are_settled() {
    each(|mut daemon| {
        let accounts = |daemon: &Daemon| {
            let mount = daemon.library();
            [0, 1].map(|number| {
                let name = format!("a.{number}");
                mount.subscribe(name).write().typed::<i64>().unwrap()
            })
        };
        let first = accounts(&daemon);
        first[0].publish(&1000).unwrap();
        first[1].publish(&1000).unwrap();
        let mut held = vec![first];
        for round in 0..12_u64 {
            let mut workers = [
                daemon.worker("a", &["transfer", "2"]),
                daemon.worker("a", &["transfer", "2", "--reverse"]),
            ];
            let before = held.last().unwrap()[0].generation();
            eventually("they transfer", || {
                (held.last().unwrap()[0].generation().0 > before.0 + 100).then_some(())
            });
            std::thread::sleep(Duration::from_micros(round * 137));
            if round % 2 == 0 {
                daemon.process().signal(Signal::SIGKILL);
            }
            for worker in &mut workers {
                worker.signal(Signal::SIGKILL);
            }
            daemon = daemon.kill_and_restart();
            for worker in &mut workers {
                worker.finish();
            }
            let now = accounts(&daemon);
            let sum = || {
                let values = now
                    .each_ref()
                    .map(|account| account.snapshot().unwrap().value);
                values[0] + values[1]
            };
            assert_eq!(sum(), 2000, "round {round}");
            // Nothing is in the way of whoever commits next.
            for account in &now {
                account.transact(|value| *value += 1).unwrap();
                account.transact(|value| *value -= 1).unwrap();
            }
            assert_eq!(sum(), 2000, "round {round}");
            let info = now[0].info().unwrap();
            // Own handles of before count, those of the dead do not.
            assert!(info.writers <= 14, "{info:?}");
            held.push(now);
        }
    });
}

pub(crate) fn a_state_goes_whose_subscribers_died_with_the_daemon_and_stays_for_a_silent_one() {
    each(|mut daemon| {
        let hold = |name: &str| {
            let mut worker = daemon.worker(name, &["hold"]);
            assert_eq!(worker.line(), "ready");
            worker
        };
        let (mut gone, mut silent) = (hold("gone"), hold("quiet"));
        daemon.kill();
        gone.signal(Signal::SIGKILL);
        gone.finish();
        let daemon = daemon.kill_and_restart();
        assert!(daemon.file("gone").exists(), "somebody may open it again");
        eventually("nobody has come", || {
            (!daemon.file("gone").exists()).then_some(())
        });
        assert!(daemon.file("quiet").exists());
        silent.signal(Signal::SIGKILL);
        silent.finish();
        eventually("it goes with its reader", || {
            (!daemon.file("quiet").exists()).then_some(())
        });
    });
}

pub(crate) fn who_waited_is_woken_by_a_commit_behind_the_restart() {
    each(|daemon| {
        let state = daemon.library().subscribe("x").write();
        let state = state.typed::<kstate_tests::Checked>().unwrap();
        state.publish(&kstate_tests::checked(1)).unwrap();
        let mut waiter = daemon.worker("x", &["wait"]);
        assert_eq!(waiter.line(), "ready");
        let _daemon = daemon.kill_and_restart();
        let start = Instant::now();
        state.publish(&kstate_tests::checked(2)).unwrap();
        assert_eq!(waiter.line(), "2");
        assert!(start.elapsed() < Duration::from_secs(1));
    });
}

pub(crate) fn of_two_daemons_started_at_once_one_serves_and_the_other_says_so() {
    let mut daemon = Setup::default().start();
    let state = counter(&daemon.library(), "x");
    for value in 0..20 {
        state.publish(&value).unwrap();
        daemon.kill();
        let mut both = [daemon.another(), daemon.another()];
        let loser = eventually("one gives up", || {
            both.iter_mut().position(|one| one.ended().is_some())
        });
        let status = both[loser].finish();
        assert_eq!(status.code(), Some(1), "{status}");
        eventually("the other serves", || fs::read(daemon.file("x")).ok());
        assert!(both[1 - loser].ended().is_none());
        assert_eq!(fs::read(daemon.file("x")).unwrap(), value.to_ne_bytes());
        assert_eq!(mounts_at(daemon.mount()), 1);
        both[1 - loser].signal(Signal::SIGKILL);
        both[1 - loser].finish();
    }
    let daemon = daemon.kill_and_restart();
    assert_eq!(fs::read(daemon.file("x")).unwrap(), 19_u64.to_ne_bytes());
}

pub(crate) fn a_daemon_takes_the_place_of_one_that_serves() {
    each(|mut daemon| {
        let state = counter(&daemon.library(), "x");
        let mut worker = daemon.worker("y", &["publish"]);
        assert_eq!(worker.line(), "ready");
        for value in 1..=5 {
            state.publish(&value).unwrap();
            daemon = daemon.replace();
            assert_eq!(fs::read(daemon.file("x")).unwrap(), value.to_ne_bytes());
            assert_eq!(state.snapshot().unwrap().value, value);
            assert_eq!(directories_of(daemon.mount()).len(), 1);
        }
        let seen = counter(&daemon.library(), "z");
        drop(seen);
        let reader = daemon.library().subscribe("y").bytes().unwrap();
        let before = reader.generation();
        eventually("it writes on", || {
            (reader.generation() > before).then_some(())
        });
        let mount = daemon.mount().to_owned();
        drop(daemon);
        assert_eq!(directories_of(&mount), Vec::<PathBuf>::new());
    });
    // Where nobody serves it is a start as any other.
    let daemon = Setup::default().with("--replace").start();
    fs::write(daemon.file("x"), "served").unwrap();
}

pub(crate) fn a_daemon_elsewhere_leaves_the_states_of_a_dead_one_alone() {
    each(|mut daemon| {
        let state = counter(&daemon.library(), "x");
        state.publish(&5).unwrap();
        daemon.kill();
        for _ in 0..3 {
            let other = Setup::default().start();
            fs::write(other.file("x"), "other").unwrap();
        }
        let daemon = daemon.kill_and_restart();
        assert_eq!(fs::read(daemon.file("x")).unwrap(), 5_u64.to_ne_bytes());
    });
}

pub(crate) fn a_daemon_killed_while_it_takes_over_loses_nothing() {
    each(|mut daemon| {
        let states = ["a", "b", "c"].map(|name| counter(&daemon.library(), name));
        for round in 0..25_u64 {
            for state in &states {
                state.publish(&round).unwrap();
            }
            daemon.kill();
            let mut cut = daemon.another();
            // It is serving after some 40 milliseconds.
            std::thread::sleep(Duration::from_millis(round * 2));
            cut.signal(Signal::SIGKILL);
            cut.finish();
            daemon = daemon.kill_and_restart();
            for name in ["a", "b", "c"] {
                let value = fs::read(daemon.file(name)).unwrap();
                assert_eq!(value, round.to_ne_bytes(), "{name} after {round}");
            }
            assert_eq!(mounts_at(daemon.mount()), 1);
        }
    });
}

pub(crate) fn a_daemon_takes_over_on_a_full_tmpfs() {
    let tmpfs = SmallTmpfs::new("512k");
    let backing = format!("--backing={}", tmpfs.path().display());
    let mut daemon = Setup::default().with(backing).start();
    let state = counter(&daemon.library(), "x");
    let released = counter(&daemon.library(), "x");
    state.publish(&1).unwrap();
    // The page that whoever opens its file may look at.
    fs::read(daemon.file("x")).unwrap();
    tmpfs.fill();
    for value in 2..6 {
        daemon = daemon.kill_and_restart();
        state.publish(&value).unwrap();
        assert_eq!(fs::read(daemon.file("x")).unwrap(), value.to_ne_bytes());
    }
    drop(released);
    let error = fs::write(daemon.file("y"), "no room").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    fs::remove_file(tmpfs.path().join("filler")).unwrap();
    fs::write(daemon.file("y"), "room").unwrap();
}

pub(crate) fn undoing_a_dead_mount_gives_its_states_up() {
    for passthrough in ["require", "off"] {
        let home = tempfile::tempdir().unwrap();
        let setup = Setup::default().with(format!("--passthrough={passthrough}"));
        let mut daemon = setup.environment("KSTATE_TEST_MARK", home.path()).start();
        let state = counter(&daemon.library(), "x");
        state.publish(&1).unwrap();
        let mount = daemon.mount().to_owned();
        daemon.kill();
        assert_eq!(directories_of(&mount).len(), 1);
        kstate_tests::unmount(&mount);
        assert_eq!(directories_of(&mount), Vec::<PathBuf>::new());
        eventually("the holder ends", || {
            (holders(home.path()) == 0).then_some(())
        });
        // Its map goes on by itself.
        state.publish(&2).unwrap();
        let daemon = daemon.kill_and_restart();
        assert!(!daemon.file("x").exists());
    }
}
