//! What a daemon has left, and who may have it.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use kstate_sys::ioctl::call;
use kstate_tests::{Daemon, Running, Setup, eventually};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;

use crate::full::SmallTmpfs;
use crate::restart::{attribute, counter, directories_of, each, mounts_at, set_attribute};

pub(crate) fn a_ledger_cut_short_is_believed_up_to_there() {
    each(|mut daemon| {
        let state = counter(&daemon.library(), "x");
        state.publish(&5).unwrap();
        set_attribute(&daemon.file("x"), "user.kstate.linger", "5s");
        daemon.kill();
        let ledger = open_ledger(&directories_of(daemon.mount())[0]);
        let length = ledger.metadata().unwrap().len();
        // Zeros are what the highest bytes of a duration are.
        ledger.set_len(length - 6).unwrap();
        // As room that was never written to.
        ledger.set_len(length + 100).unwrap();
        let daemon = daemon.kill_and_restart();
        assert_eq!(attribute(&daemon.file("x"), "user.kstate.linger"), "0ms");
        assert_eq!(fs::read(daemon.file("x")).unwrap(), 5_u64.to_ne_bytes());
        // What is noted behind it counts again.
        set_attribute(&daemon.file("x"), "user.kstate.linger", "6s");
        let daemon = daemon.kill_and_restart();
        assert_eq!(attribute(&daemon.file("x"), "user.kstate.linger"), "6000ms");
    });
}

fn open_ledger(directory: &Path) -> File {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true);
    options.open(directory.join("ledger")).unwrap()
}

/// Bytes of what a ledger begins with but for the checksum at its end.
fn label_bytes(mount: &Path) -> usize {
    24 + mount.as_os_str().len()
}

pub(crate) fn a_damaged_ledger_is_set_aside() {
    // In the first record, and in one that others follow.
    for behind in [4 + 9, 4 + 200] {
        each(|mut daemon| {
            let state = counter(&daemon.library(), "x");
            state.publish(&5).unwrap();
            daemon.kill();
            let directory = directories_of(daemon.mount()).remove(0);
            let ledger = open_ledger(&directory);
            let at = (label_bytes(daemon.mount()) + behind) as u64;
            assert!(at + 60 < ledger.metadata().unwrap().len());
            let mut bytes = [0; 4];
            ledger.read_exact_at(&mut bytes, at).unwrap();
            let damaged = bytes.map(|byte| !byte);
            ledger.write_all_at(&damaged, at).unwrap();
            let daemon = daemon.kill_and_restart();
            assert!(!daemon.file("x").exists());
            fs::write(daemon.file("y"), "served").unwrap();
            let name = directory.file_name().unwrap().to_str().unwrap();
            let aside = directory.with_file_name(format!("damaged-{name}"));
            assert!(!directory.exists() && aside.exists());
            fs::remove_dir_all(aside).unwrap();
        });
    }
}

pub(crate) fn what_another_version_has_left_is_not_given_up() {
    each(|mut daemon| {
        let state = counter(&daemon.library(), "x");
        state.publish(&5).unwrap();
        daemon.kill();
        let directory = directories_of(daemon.mount()).remove(0);
        let ledger = open_ledger(&directory);
        let mut label = vec![0; label_bytes(daemon.mount())];
        let set_version = |label: &mut Vec<u8>, version: u8| {
            label[8] = version;
            let checksum = crc32c::crc32c(label).to_le_bytes();
            ledger.write_all_at(label, 0).unwrap();
            ledger.write_all_at(&checksum, label.len() as u64).unwrap();
        };
        ledger.read_exact_at(&mut label, 0).unwrap();
        let version = label[8];
        set_version(&mut label, 77);
        let status = daemon.another().finish();
        assert_eq!(status.code(), Some(1), "{status}");
        // Nor does one elsewhere touch it, or end who holds it.
        fs::write(Setup::default().start().file("x"), "other").unwrap();
        set_version(&mut label, version);
        let daemon = daemon.kill_and_restart();
        assert_eq!(fs::read(daemon.file("x")).unwrap(), 5_u64.to_ne_bytes());
        // It can be given up unread.
        let mut daemon = daemon;
        daemon.kill();
        let directory = directories_of(daemon.mount()).remove(0);
        let ledger = open_ledger(&directory);
        label[8] = 77;
        let checksum = crc32c::crc32c(&label).to_le_bytes();
        ledger.write_all_at(&label, 0).unwrap();
        ledger.write_all_at(&checksum, label.len() as u64).unwrap();
        kstate_tests::unmount(daemon.mount());
        assert!(!directory.exists());
    });
}

pub(crate) fn what_does_not_say_whose_it_is_is_left_alone() {
    let directory = tempfile::Builder::new()
        .prefix("kstatefs-test")
        .tempdir_in("/dev/shm")
        .unwrap();
    fs::write(directory.path().join("lock"), "").unwrap();
    fs::write(directory.path().join("ledger"), [0xa5; 5000]).unwrap();
    let daemon = Setup::default().start();
    fs::write(daemon.file("x"), "served").unwrap();
    let daemon = daemon.kill_and_restart();
    fs::write(daemon.file("x"), "served").unwrap();
    let ledger = fs::read(directory.path().join("ledger")).unwrap();
    assert_eq!(ledger, [0xa5; 5000]);
}

pub(crate) fn what_somebody_holds_is_waited_for_and_never_given_up() {
    let mut daemon = Setup::default().start();
    let state = counter(&daemon.library(), "x");
    state.publish(&5).unwrap();
    daemon.kill();
    let lock = File::open(directories_of(daemon.mount())[0].join("lock")).unwrap();
    let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).unwrap();
    let start = Instant::now();
    let mut refused = daemon.another();
    let status = eventually("it loses patience", || refused.ended());
    assert_eq!(status.code(), Some(1), "{status}");
    assert!(start.elapsed() >= Duration::from_secs(9));
    // One elsewhere needs none of it.
    fs::write(Setup::default().start().file("x"), "other").unwrap();
    let mut waits = daemon.another();
    // Longer than an end takes.
    let start = Instant::now();
    eventually("it waits", || {
        (start.elapsed() > Duration::from_secs(2)).then_some(())
    });
    assert!(waits.ended().is_none());
    drop(lock);
    let value = eventually("it serves", || fs::read(daemon.file("x")).ok());
    assert_eq!(value, 5_u64.to_ne_bytes());
    waits.signal(Signal::SIGKILL);
    waits.finish();
    let daemon = daemon.kill_and_restart();
    assert_eq!(fs::read(daemon.file("x")).unwrap(), 5_u64.to_ne_bytes());
}

/// A daemon for the mount of `daemon` with these arguments.
fn with_arguments(daemon: &Daemon, arguments: &[&str]) -> Running {
    let mut command = Command::new(kstate_tests::kstatefs());
    Running::start(command.args(arguments).arg(daemon.mount()))
}

pub(crate) fn who_cannot_take_the_place_of_a_daemon_does_not_end_it() {
    let tmpfs = SmallTmpfs::new("8m");
    let backing = format!("--backing={}", tmpfs.path().display());
    let elsewhere = Setup::default().with(backing).start();
    let over_socket = Setup::default().with("--passthrough=off").start();
    for (mut daemon, argument) in [
        (elsewhere, "--linger=0s"),
        (over_socket, "--passthrough=require"),
    ] {
        let state = counter(&daemon.library(), "x");
        state.publish(&5).unwrap();
        let status = with_arguments(&daemon, &["--replace", argument]).finish();
        assert_eq!(status.code(), Some(1), "{status}");
        assert!(daemon.process().ended().is_none());
        assert_eq!(fs::read(daemon.file("x")).unwrap(), 5_u64.to_ne_bytes());
        let again = counter(&daemon.library(), "x");
        again.publish(&6).unwrap();
        assert_eq!(state.snapshot().unwrap().value, 6);
    }
}

pub(crate) fn a_server_is_asked_to_leave_before_it_waits_for_that() {
    let home = tempfile::tempdir().unwrap();
    let server = kstatefs::Server::start(kstatefs::Config::new(home.path())).unwrap();
    let registry = File::open(home.path().join(".kstate/registry")).unwrap();
    call::leave(registry.as_fd()).unwrap();
    server.wait().unwrap();
    drop(registry);
    kstate_tests::unmount(home.path());
    assert_eq!(directories_of(home.path()), Vec::<PathBuf>::new());
}

/// As if the last daemon had ended some minutes ago.
fn make_old(directory: &Path) {
    let long_ago = SystemTime::now() - Duration::from_secs(600);
    open_ledger(directory).set_modified(long_ago).unwrap();
}

pub(crate) fn states_stay_where_a_takeover_fails() {
    // Before anything is detached.
    let mut daemon = Setup::default().with("--passthrough=off").start();
    let state = counter(&daemon.library(), "x");
    state.publish(&5).unwrap();
    daemon.kill();
    make_old(&directories_of(daemon.mount())[0]);
    let status = with_arguments(&daemon, &["--passthrough=require"]).finish();
    assert_eq!(status.code(), Some(1), "{status}");
    assert_eq!(mounts_at(daemon.mount()), 1);
    fs::write(Setup::default().start().file("x"), "other").unwrap();
    let daemon = daemon.kill_and_restart();
    assert_eq!(fs::read(daemon.file("x")).unwrap(), 5_u64.to_ne_bytes());

    // Behind that, and for a reason that passes.
    let mut daemon = Setup::default().with("--passthrough=require").start();
    let states = ["x", "y"].map(|name| counter(&daemon.library(), name));
    for state in &states {
        state.publish(&5).unwrap();
    }
    let number = fs::metadata(daemon.file("x")).unwrap().ino().to_string();
    daemon.kill();
    let directory = directories_of(daemon.mount()).remove(0);
    make_old(&directory);
    fs::rename(directory.join(&number), directory.join("away")).unwrap();
    fs::create_dir(directory.join(&number)).unwrap();
    let status = daemon.another().finish();
    assert_eq!(status.code(), Some(1), "{status}");
    assert_eq!(mounts_at(daemon.mount()), 0);
    fs::write(Setup::default().start().file("x"), "other").unwrap();
    fs::remove_dir(directory.join(&number)).unwrap();
    fs::rename(directory.join("away"), directory.join(&number)).unwrap();
    let daemon = daemon.kill_and_restart();
    for name in ["x", "y"] {
        assert_eq!(fs::read(daemon.file(name)).unwrap(), 5_u64.to_ne_bytes());
    }
    states[0].publish(&6).unwrap();
    assert_eq!(fs::read(daemon.file("x")).unwrap(), 6_u64.to_ne_bytes());
}

pub(crate) fn a_daemon_shares_no_map_of_a_region_with_what_it_splits_off() {
    each(|daemon| {
        let mount = daemon.library();
        let accounts = ["a.0", "a.1"].map(|name| {
            let account = mount.subscribe(name).write().typed::<i64>().unwrap();
            account.publish(&1000).unwrap();
            account
        });
        // With a record of commits of several states.
        let mut worker = daemon.worker("a", &["transfer", "2"]);
        let before = accounts[0].generation();
        eventually("it transfers", || {
            (accounts[0].generation() > before).then_some(())
        });
        let maps = fs::read_to_string(format!("/proc/{}/smaps", daemon.pid())).unwrap();
        let directory = directories_of(daemon.mount()).remove(0);
        let (mut is_ours, mut found) = (false, 0);
        for line in maps.lines() {
            if let Some(flags) = line.strip_prefix("VmFlags:") {
                assert!(
                    !is_ours || flags.split(' ').any(|flag| flag == "dc"),
                    "{flags}"
                );
                found += usize::from(is_ours);
            } else if !line.split(' ').next().unwrap().ends_with(':') {
                is_ours = line.contains("/memfd:kstate-")
                    || line.contains(directory.file_name().unwrap().to_str().unwrap());
            }
        }
        // Regions of two states, two pages of a record, the registry.
        assert!(found >= 5, "{found}: {maps}");
        worker.signal(Signal::SIGKILL);
        worker.finish();
    });
}
