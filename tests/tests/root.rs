//! What only root can test: other users, a full tmpfs, namespaces. Run by anybody else, each is
//! listed as left out.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use kstate::{Mount, SubscribeError};
use kstate_tests::{
    Daemon, PATIENCE, Running, Setup, as_user, both_transports, eventually, is_real_root, kstate,
    kstatefs, open_descriptors,
};
use kstatefs::mountpoint::{MountPointError, Unmount};
use libtest_mimic::{Arguments, Failed, Trial};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Two ordinary users.
const ALICE: u32 = 64_001;
const BOB: u32 = 64_002;

fn main() {
    let arguments = Arguments::from_args();
    let left_out = !is_real_root();
    let test = |name: &str, run: fn()| {
        let run = move || -> Result<(), Failed> {
            run();
            Ok(())
        };
        Trial::test(name, run).with_ignored_flag(left_out)
    };
    if left_out {
        eprintln!("not root of this machine: the tests listed as ignored are left out");
    }
    let tests = vec![
        test(
            "another_user_may_only_what_the_mode_says",
            another_user_may_only_what_the_mode_says,
        ),
        test(
            "an_owner_changes_the_mode_but_gives_nothing_away",
            an_owner_changes_the_mode_but_gives_nothing_away,
        ),
        test(
            "another_user_without_passthrough",
            another_user_without_passthrough,
        ),
        test(
            "a_reader_cannot_write_by_any_call",
            a_reader_cannot_write_by_any_call,
        ),
        test("only_the_owner_deletes", only_the_owner_deletes),
        test(
            "a_full_tmpfs_is_enospc_at_subscribe",
            a_full_tmpfs_is_enospc_at_subscribe,
        ),
        test(
            "a_full_tmpfs_refuses_plain_writes_and_keeps_the_old_value",
            a_full_tmpfs_refuses_plain_writes_and_keeps_the_old_value,
        ),
        test(
            "room_for_the_header_but_not_the_live_page",
            room_for_the_header_but_not_the_live_page,
        ),
        test(
            "a_hole_in_a_full_tmpfs_kills_nobody",
            a_hole_in_a_full_tmpfs_kills_nobody,
        ),
        test(
            "a_mapped_file_shows_the_live_value",
            a_mapped_file_shows_the_live_value,
        ),
        test(
            "a_mapped_file_tells_which_version_it_shows",
            a_mapped_file_tells_which_version_it_shows,
        ),
        test(
            "with_passthrough_states_cost_the_daemon_no_descriptor",
            with_passthrough_states_cost_the_daemon_no_descriptor,
        ),
        test(
            "a_layout_recorded_before_the_first_version_is_compared",
            a_layout_recorded_before_the_first_version_is_compared,
        ),
        test(
            "it_mounts_in_a_user_namespace",
            it_mounts_in_a_user_namespace,
        ),
        test(
            "a_private_mount_is_closed_to_others",
            a_private_mount_is_closed_to_others,
        ),
        test(
            "a_device_closed_to_the_user_is_said_to_be",
            a_device_closed_to_the_user_is_said_to_be,
        ),
        test(
            "the_demo_goes_on_to_a_namespace_where_fusermount_fails",
            the_demo_goes_on_to_a_namespace_where_fusermount_fails,
        ),
        test(
            "a_covered_mount_is_said_to_be_left_behind",
            a_covered_mount_is_said_to_be_left_behind,
        ),
        test(
            "a_mount_that_was_moved_is_unmounted_where_it_is",
            a_mount_that_was_moved_is_unmounted_where_it_is,
        ),
        test(
            "who_may_not_read_a_state_is_not_told_of_it",
            who_may_not_read_a_state_is_not_told_of_it,
        ),
        test(
            "only_the_owner_sets_a_deadline",
            only_the_owner_sets_a_deadline,
        ),
    ];
    libtest_mimic::run(&arguments, tests).exit();
}

/// Runs a Python program as a user, with the mount as its first argument.
fn python_as(uid: u32, daemon: &Daemon, program: &str) -> Output {
    let mut command = Command::new("python3");
    command
        .args(["-I", "-c", program])
        .arg(daemon.mount())
        .uid(uid)
        .gid(uid);
    command.output().unwrap()
}

fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Lets other users search the directories above the mount.
fn open_home(daemon: &Daemon) {
    fs::set_permissions(daemon.home(), Permissions::from_mode(0o755)).unwrap();
}

const TRY_ALL: &str = "
import errno, mmap, os, sys
def attempt(name, call):
    try: call(); print(name, 'ok')
    except OSError as e: print(name, errno.errorcode[e.errno])
path = sys.argv[1] + '/x'
attempt('read', lambda: os.read(os.open(path, os.O_RDONLY), 99))
attempt('write', lambda: os.write(os.open(path, os.O_WRONLY), b'evil'))
attempt('chmod', lambda: os.chmod(path, 0o666))
attempt('chown', lambda: os.chown(path, os.getuid(), -1))
attempt('truncate', lambda: os.truncate(path, 8))
attempt('unlink', lambda: os.unlink(path))
attempt('linger', lambda: os.setxattr(path, 'user.kstate.linger', b'99s'))
";

fn another_user_may_only_what_the_mode_says() {
    let daemon = Daemon::start();
    open_home(&daemon);
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(daemon.file("x"));
    let file = file.unwrap();
    file.write_all_at(b"good", 0).unwrap();
    std::os::unix::fs::chown(daemon.file("x"), Some(ALICE), Some(ALICE)).unwrap();
    let expect = |mode: u32, read: &str, write: &str| {
        fs::set_permissions(daemon.file("x"), Permissions::from_mode(mode)).unwrap();
        let refused = if write == "ok" { "EPERM" } else { "EACCES" };
        let expected = format!(
            "read {read}\nwrite {write}\nchmod EPERM\nchown EPERM\ntruncate {}\nunlink EPERM\n\
             linger {refused}\n",
            // After the first write the capacity does not shrink.
            if write == "ok" { "EINVAL" } else { "EACCES" }
        );
        assert_eq!(
            printed(&python_as(BOB, &daemon, TRY_ALL)),
            expected,
            "mode {mode:o}"
        );
    };
    expect(0o600, "EACCES", "EACCES");
    expect(0o644, "ok", "EACCES");
    assert_eq!(fs::read(daemon.file("x")).unwrap(), b"good");
    expect(0o666, "ok", "ok");
}

fn an_owner_changes_the_mode_but_gives_nothing_away() {
    both_transports(|daemon| {
        open_home(daemon);
        let file = as_user(ALICE, || {
            let mut options = File::options();
            options.read(true).write(true).create_new(true);
            options.open(daemon.file("x")).unwrap()
        });
        file.write_all_at(b"1", 0).unwrap();
        let program = "
import errno, os, sys
path = sys.argv[1] + '/x'
def attempt(name, call):
    try: call(); print(name, 'ok')
    except OSError as e: print(name, errno.errorcode[e.errno])
attempt('chmod', lambda: os.chmod(path, 0o640))
attempt('to itself', lambda: os.chown(path, os.getuid(), -1))
attempt('give away', lambda: os.chown(path, os.getuid() + 1, -1))
attempt('to a group', lambda: os.chown(path, -1, 1))
attempt('times', lambda: os.utime(path, (1, 1)))
attempt('linger', lambda: os.setxattr(path, 'user.kstate.linger', b'1ms'))
print(os.access(path, os.R_OK), os.access(path, os.W_OK))
";
        let refused = "give away EPERM\nto a group EPERM\n";
        let expected = format!("chmod ok\nto itself ok\n{refused}times ok\nlinger ok\nTrue True\n");
        assert_eq!(printed(&python_as(ALICE, daemon, program)), expected);
        // It was made 0640: to others it is closed.
        let refused = "chmod EPERM\nto itself EPERM\ngive away EPERM\nto a group EPERM\n";
        let expected = format!("{refused}times EPERM\nlinger EACCES\nFalse False\n");
        assert_eq!(printed(&python_as(BOB, daemon, program)), expected);
    });
}

fn another_user_without_passthrough() {
    let daemon = Setup::default().with("--passthrough=off").start();
    open_home(&daemon);
    let mount = Mount::at(daemon.mount()).unwrap();
    let state = mount
        .subscribe("x")
        .write()
        .mode(0o644)
        .typed::<kstate_tests::Checked>()
        .unwrap();
    state.publish(&kstate_tests::checked(5)).unwrap();
    // The worker, copied to where another user may run it.
    let program = daemon.home().join("worker");
    fs::copy(env!("CARGO_BIN_EXE_kstate-worker"), &program).unwrap();
    let run = |role: &[&str]| {
        let mut command = Command::new(&program);
        command
            .arg(daemon.mount())
            .arg("x")
            .args(role)
            .uid(BOB)
            .gid(BOB);
        command
    };
    let mut reader = Running::start(&mut run(&["check", "10"]));
    assert_eq!(reader.line(), "ready");
    assert_eq!(reader.line(), "torn 0 backwards 0");
    let refused = run(&["publish"]).output().unwrap();
    assert!(!refused.status.success());
    fs::set_permissions(daemon.file("x"), Permissions::from_mode(0o600)).unwrap();
    let refused = run(&["check", "1"]).output().unwrap();
    assert!(!refused.status.success());
    assert_eq!(
        kstate_tests::number_of(&state.snapshot().unwrap().value),
        Some(5)
    );
}

fn a_reader_cannot_write_by_any_call() {
    let daemon = Daemon::start();
    open_home(&daemon);
    fs::write(daemon.file("keep"), "").ok();
    let file = File::options()
        .write(true)
        .create_new(true)
        .open(daemon.file("x"))
        .unwrap();
    file.write_all_at(b"good", 0).unwrap();
    fs::set_permissions(daemon.file("x"), Permissions::from_mode(0o644)).unwrap();
    let program = "
import ctypes, errno, fcntl, mmap, os, sys
def attempt(name, call):
    try: call(); print(name, 'ok')
    except OSError as e: print(name, errno.errorcode[e.errno])
path = sys.argv[1] + '/x'
f = os.open(path, os.O_RDONLY)
attempt('write', lambda: os.write(f, b'evil'))
attempt('map', lambda: mmap.mmap(f, 0, prot=mmap.PROT_READ|mmap.PROT_WRITE))
m = mmap.mmap(f, 0, prot=mmap.PROT_READ)
libc = ctypes.CDLL(None, use_errno=True)
maps = [l for l in open('/proc/self/maps') if l.rstrip().endswith('/x')]
start = int(maps[0].split('-')[0], 16)
def protect():
    if libc.mprotect(ctypes.c_void_p(start), 4096, 3): raise OSError(ctypes.get_errno(), '')
attempt('mprotect', protect)
attempt('reopen', lambda: os.open('/proc/self/fd/%d' % f, os.O_RDWR))
attempt('ftruncate', lambda: os.ftruncate(f, 10))
attempt('claim', lambda: fcntl.ioctl(f, 0x8010b502, bytes(16)))
attempt('capacity', lambda: fcntl.ioctl(f, 0xc004b504, bytes(4)))
print(m[:4])
";
    let expected = "write EBADF\nmap EACCES\nmprotect EACCES\nreopen EACCES\nftruncate EINVAL\n\
                    claim EBADF\ncapacity EBADF\nb'good'\n";
    assert_eq!(printed(&python_as(BOB, &daemon, program)), expected);
}

fn only_the_owner_deletes() {
    let daemon = Daemon::start();
    open_home(&daemon);
    let create = "import os, sys\n\
        f = os.open(sys.argv[1] + '/alices', os.O_CREAT | os.O_RDWR, 0o1666)\n\
        os.fchmod(f, 0o1666); os.write(f, b'hers')\n";
    printed(&python_as(ALICE, &daemon, create));
    assert_eq!(fs::read(daemon.file("alices")).unwrap(), b"hers");
    let delete = "import errno, os, sys\n\
        try: os.unlink(sys.argv[1] + '/alices'); print('gone')\n\
        except OSError as e: print(errno.errorcode[e.errno])\n";
    assert_eq!(printed(&python_as(BOB, &daemon, delete)), "EPERM\n");
    assert_eq!(printed(&python_as(ALICE, &daemon, delete)), "gone\n");
}

/// A tmpfs of a size of its own, unmounted when dropped.
struct SmallTmpfs(tempfile::TempDir);

impl SmallTmpfs {
    fn new(size: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let size = format!("size={size}");
        mount(
            Some("kstate-test"),
            home.path(),
            Some("tmpfs"),
            MsFlags::empty(),
            Some(&*size),
        )
        .unwrap();
        Self(home)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Leaves not a page free.
    fn fill(&self) {
        let file = File::create(self.path().join("filler")).unwrap();
        let mut offset = 0;
        while file.write_at(&[1; 4096], offset).is_ok() {
            offset += 4096;
        }
    }
}

impl Drop for SmallTmpfs {
    fn drop(&mut self) {
        let _ = umount2(self.0.path(), MntFlags::MNT_DETACH);
    }
}

fn a_full_tmpfs_is_enospc_at_subscribe() {
    let tmpfs = SmallTmpfs::new("256k");
    let backing = format!("--backing={}", tmpfs.path().display());
    let daemon = Setup::default().with(backing).start();
    let mount = Mount::at(daemon.mount()).unwrap();
    let state = mount.subscribe("x").write().typed::<u64>().unwrap();
    state.publish(&1).unwrap();
    let unwritten = mount.subscribe("y").write().typed::<u64>().unwrap();
    let _read_only = mount.subscribe("r").typed::<u64>().unwrap();
    tmpfs.fill();
    let write = |name| mount.subscribe(name).write().typed::<u64>();
    // One has no page at all, the other a header but no slots.
    for name in ["z", "r"] {
        let error = write(name).unwrap_err();
        assert!(matches!(error, SubscribeError::NoSpace { .. }), "{error:?}");
        assert!(error.to_string().contains("no memory"), "{error}");
        assert_eq!(kstate::Error::from(error).errno(), libc::ENOSPC);
    }
    let create = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .clone();
    let plain = create.open(daemon.file("z")).unwrap_err();
    assert_eq!(plain.kind(), io::ErrorKind::StorageFull, "{plain:?}");
    let kept = mount.subscribe("z").keep().write().typed::<u64>();
    assert!(matches!(kept, Err(SubscribeError::NoSpace { .. })));
    assert!(
        !daemon.file("z").exists(),
        "nothing is left of a state that has no room"
    );
    // Whoever is subscribed has all that it will ever touch.
    for value in 0..100 {
        unwritten.publish(&value).unwrap();
    }
    state.publish(&2).unwrap();
    assert_eq!(state.snapshot().unwrap().value, 2);
    fs::remove_file(tmpfs.path().join("filler")).unwrap();
    write("z").unwrap().publish(&1).unwrap();
    write("r").unwrap().publish(&1).unwrap();
}

fn a_full_tmpfs_refuses_plain_writes_and_keeps_the_old_value() {
    let tmpfs = SmallTmpfs::new("256k");
    let backing = format!("--backing={}", tmpfs.path().display());
    let daemon = Setup::default().with(backing).start();
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true);
    let open = |name| options.open(daemon.file(name));
    let full = |result: io::Result<()>| {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error:?}");
    };
    // One that the daemon has written for a program, in small slots; one that it has not, as its
    // writer uses the library; one that nobody has written.
    let small = open("small").unwrap();
    small.set_len(64).unwrap();
    small.write_all_at(b"old", 0).unwrap();
    let mount = Mount::at(daemon.mount()).unwrap();
    let mapped = mount.subscribe("mapped").write().bytes().unwrap();
    mapped.publish(b"old").unwrap();
    let plain = open("mapped").unwrap();
    let never = open("never").unwrap();
    tmpfs.fill();
    for _ in 0..3 {
        full(plain.write_all_at(b"new", 0));
        full(never.write_all_at(b"new", 0));
        full(small.set_len(4096));
        full(open("other").map(drop));
    }
    assert!(!daemon.file("other").exists());
    assert_eq!(fs::read(daemon.file("mapped")).unwrap(), b"old");
    assert_eq!(mapped.info().unwrap().generation.0, 1);
    assert_eq!(fs::read(daemon.file("never")).unwrap(), b"");
    assert_eq!(fs::read(daemon.file("small")).unwrap(), b"old");
    // Who has his slots goes on in them.
    small.write_all_at(b"new", 0).unwrap();
    let beyond = small.write_all_at(&[1; 65], 0).unwrap_err();
    assert_eq!(beyond.raw_os_error(), Some(libc::EFBIG));
    assert_eq!(fs::read(daemon.file("small")).unwrap(), b"new");
    fs::remove_file(tmpfs.path().join("filler")).unwrap();
    plain.write_all_at(b"new", 0).unwrap();
    never.write_all_at(b"new", 0).unwrap();
    small.set_len(4096).unwrap();
    open("other").unwrap();
    assert_eq!(fs::read(daemon.file("mapped")).unwrap(), b"new");
}

fn room_for_the_header_but_not_the_live_page() {
    let tmpfs = SmallTmpfs::new("256k");
    let backing = format!("--backing={}", tmpfs.path().display());
    let daemon = Setup::default().with(backing).start();
    tmpfs.fill();
    // One page is given back: enough for a header, not for the live page that a plain open arms.
    let filler = File::options()
        .write(true)
        .open(tmpfs.path().join("filler"))
        .unwrap();
    filler
        .set_len(filler.metadata().unwrap().len() - 4096)
        .unwrap();
    let create = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .clone();
    for _ in 0..3 {
        let refused = create.open(daemon.file("x")).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::StorageFull, "{refused:?}");
        assert!(!daemon.file("x").exists());
    }
}

fn a_hole_in_a_full_tmpfs_kills_nobody() {
    let tmpfs = SmallTmpfs::new("512k");
    let backing = format!("--backing={}", tmpfs.path().display());
    let mut daemon = Setup::default().with(backing).start();
    let mount = Mount::at(daemon.mount()).unwrap();
    let victim = mount.subscribe("other").write().typed::<u64>().unwrap();
    victim.publish(&7).unwrap();
    // A writer punches out all of its own state's region, then the tmpfs fills up.
    let program = "
import ctypes, mmap, os, sys
f = os.open(sys.argv[1] + '/holed', os.O_CREAT | os.O_RDWR)
os.write(f, b'value')
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
address = libc.mmap(None, ctypes.c_size_t(1 << 16), 3, 1, f, ctypes.c_long(0))
assert libc.madvise(ctypes.c_void_p(address), 1 << 16, 9) == 0
print('punched', flush=True)
input()
";
    let mut command = Command::new("python3");
    command.args(["-c", program]).arg(daemon.mount());
    let mut puncher = Running::start(&mut command);
    assert_eq!(puncher.line(), "punched");
    tmpfs.fill();
    // Each of these makes the daemon touch the hole.
    let read = fs::read(daemon.file("holed")).unwrap_err();
    assert_eq!(read.raw_os_error(), Some(libc::EIO));
    let _ = fs::metadata(daemon.file("holed"));
    let _ = fs::write(daemon.file("holed"), "again");
    drop(puncher);
    eventually("the damaged state can evaporate", || {
        (!daemon.file("holed").exists()).then_some(())
    });
    assert!(daemon.process().ended().is_none(), "the daemon lives");
    victim.publish(&8).unwrap();
    assert_eq!(victim.snapshot().unwrap().value, 8);
}

fn a_mapped_file_shows_the_live_value() {
    let daemon = Setup::default().with("--passthrough=require").start();
    let file = File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(daemon.file("x"))
        .unwrap();
    file.write_all_at(b"first", 0).unwrap();
    let script = "import mmap,os,sys\n\
        f=os.open(sys.argv[1],os.O_RDONLY)\n\
        m=mmap.mmap(f,0,prot=mmap.PROT_READ)\n\
        print(m[:].decode(),flush=True); input(); print(m[:5].decode(),flush=True)\n";
    let mut python = Command::new("python3");
    python.args(["-c", script]).arg(daemon.file("x"));
    let mut python = Running::start(&mut python);
    assert_eq!(python.line(), "first");
    file.write_all_at(b"later", 0).unwrap();
    python.say("");
    assert_eq!(python.line(), "later");
    assert!(python.finish().success());
}

fn a_mapped_file_tells_which_version_it_shows() {
    let daemon = Setup::default().with("--passthrough=require").start();
    let mut options = File::options();
    let file = options
        .create_new(true)
        .read(true)
        .write(true)
        .open(daemon.file("x"))
        .unwrap();
    let script = "\
import ctypes, os, sys
f = os.open(sys.argv[1] + '/x', os.O_RDONLY)
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
page = os.sysconf('SC_PAGE_SIZE')
at = libc.mmap(None, ctypes.c_size_t(2 * page), 1, 1, f, ctypes.c_long(0))
tag = lambda: ctypes.c_uint64.from_address(at + page + 192).value
while True:
    before = tag()
    length = ctypes.c_uint32.from_address(at + page + 200).value
    value = ctypes.string_at(at, length)
    if before == tag() and not before >> 63: print(before, value.decode(), flush=True)
    if not sys.stdin.readline(): break
";
    file.write_all_at(b"first", 0).unwrap();
    let mut command = Command::new("python3");
    command.args(["-c", script]).arg(daemon.mount());
    let mut python = Running::start(&mut command);
    assert_eq!(python.line(), "1 first");
    file.set_len(0).unwrap();
    file.write_all_at(b"2nd", 0).unwrap();
    python.say("");
    assert_eq!(python.line(), "2 2nd");
}

fn with_passthrough_states_cost_the_daemon_no_descriptor() {
    let limit = 200;
    let setup = Setup::default().with("--passthrough=require");
    let mut daemon = setup.descriptors(limit).start();
    let pid = daemon.process().pid();
    let before = open_descriptors(pid);
    let files: Vec<File> = (0..2 * limit)
        .map(|number| File::create_new(daemon.file(&format!("many.{number}"))).unwrap())
        .collect();
    assert_eq!(open_descriptors(pid), before);
    files[0].write_all_at(b"works", 0).unwrap();
    assert_eq!(fs::read(daemon.file("many.0")).unwrap(), b"works");
}

fn a_layout_recorded_before_the_first_version_is_compared() {
    let daemon = Daemon::start();
    open_home(&daemon);
    // Somebody's file, of no layout; a reader who owns nothing may not record his own.
    let _creator = File::create(daemon.file("x")).unwrap();
    let mount = Mount::at(daemon.mount()).unwrap();
    std::thread::scope(|scope| {
        let consumer = scope.spawn(|| {
            as_user(BOB, || {
                let wanted = mount.subscribe("x").wait_for(PATIENCE);
                wanted.typed::<f64>().map(|_| ())
            })
        });
        eventually("he waits", || {
            (mount.info("x").unwrap().waiters == 1).then_some(())
        });
        let publisher = mount.subscribe("x").write().typed::<u64>().unwrap();
        publisher.publish(&u64::MAX).unwrap();
        let refused = consumer.join().unwrap().unwrap_err();
        assert!(
            matches!(refused, SubscribeError::Layout { .. }),
            "{refused:?}"
        );
    });
}

fn it_mounts_in_a_user_namespace() {
    let home = tempfile::tempdir().unwrap();
    let script = "
        \"$1\" \"$2\" & daemon=$!
        while [ ! -e \"$2/.kstate/registry\" ]; do
            kill -0 $daemon || exit 1
        done
        exec 3<>\"$2/x\"; echo hello >&3; cat \"$2/x\"
        grep -c \" $2 .*fuse.kstatefs\" /proc/self/mountinfo
        exec 3<&-; kill $daemon; wait $daemon";
    let mut command = Command::new("unshare");
    command.args([
        "--user",
        "--map-root-user",
        "--mount",
        "bash",
        "-c",
        script,
        "script",
    ]);
    let output = command.arg(kstatefs()).arg(home.path()).output().unwrap();
    assert_eq!(printed(&output), "hello\n1\n");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        !mounts.contains(home.path().to_str().unwrap()),
        "seen outside the namespace"
    );
}

fn a_private_mount_is_closed_to_others() {
    let daemon = Setup::default().with("--allow-other=false").start();
    open_home(&daemon);
    let _file = File::create(daemon.file("x")).unwrap();
    let look = "import errno, os, sys\n\
        try: os.listdir(sys.argv[1]); print('open')\n\
        except OSError as e: print(errno.errorcode[e.errno])\n";
    assert_eq!(printed(&python_as(BOB, &daemon, look)), "EACCES\n");
}

/// How many mounts the table lists at `path`.
fn listed_at(path: &Path) -> usize {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let lines = table.lines();
    lines
        .filter(|line| line.split(' ').nth(4) == path.to_str())
        .count()
}

fn a_covered_mount_is_said_to_be_left_behind() {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(kstatefs());
    command
        .arg(home.path())
        .stderr(std::process::Stdio::piped());
    let daemon = command.spawn().unwrap();
    eventually("it is mounted", || Mount::at(home.path()).ok());
    let none: Option<&Path> = None;
    let flags = MsFlags::empty();
    mount(Some("cover"), home.path(), Some("tmpfs"), flags, none).unwrap();
    fs::write(home.path().join("covering"), "x").unwrap();
    let pid = nix::unistd::Pid::from_raw(daemon.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let ended = daemon.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&ended.stderr);
    let unmounted = kstatefs::mountpoint::unmount(home.path(), Unmount::IfUnused);
    let covers = fs::read(home.path().join("covering"));
    umount2(home.path(), MntFlags::empty()).unwrap();
    let left = listed_at(home.path());
    kstate_tests::unmount(home.path());
    assert_eq!(ended.status.code(), Some(1), "{text}");
    assert!(
        text.contains("another file system is mounted over"),
        "{text}"
    );
    assert!(matches!(unmounted, Err(MountPointError::Covered(_))));
    assert_eq!(covers.unwrap(), b"x", "what covers it is none of ours");
    assert_eq!((left, listed_at(home.path())), (1, 0));
}

fn a_mount_that_was_moved_is_unmounted_where_it_is() {
    // Only below a mount that is private can one be moved.
    let home = tempfile::tempdir().unwrap();
    let none: Option<&Path> = None;
    let flags = MsFlags::empty();
    mount(Some("home"), home.path(), Some("tmpfs"), flags, none).unwrap();
    mount(none, home.path(), none, MsFlags::MS_PRIVATE, none).unwrap();
    let (from, to) = (home.path().join("from"), home.path().join("to"));
    fs::create_dir(&from).unwrap();
    fs::create_dir(&to).unwrap();
    let mut daemon = Running::start(Command::new(kstatefs()).arg(&from));
    eventually("it is mounted", || Mount::at(&from).ok());
    mount(Some(&from), &to, none, MsFlags::MS_MOVE, none).unwrap();
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    let ended = daemon.finish();
    let left = listed_at(&to);
    umount2(home.path(), MntFlags::MNT_DETACH).unwrap();
    assert_eq!((ended.code(), left), (Some(0), 0));
}

fn a_device_closed_to_the_user_is_said_to_be() {
    let home = tempfile::tempdir().unwrap();
    let run = |program: &Path, arguments: &[&str]| {
        // A device of mode 0 in the place of the real one, and root without the right to open all.
        let script = "mknod -m 0 $0/fuse$$ c 10 229 && mount --bind $0/fuse$$ /dev/fuse && \
                      exec setpriv --bounding-set=-dac_override,-dac_read_search \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", script]);
        command.arg(home.path()).arg(program).args(arguments);
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.code(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    };
    let (code, said) = run(&kstatefs(), &[home.path().to_str().unwrap()]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("chmod 0666 /dev/fuse"), "{said}");
    assert!(!said.contains("modprobe"), "{said}");
    assert!(!said.contains("package fuse3"), "{said}");
    let (code, said) = run(&kstate(), &["doctor"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("chmod 0666 /dev/fuse"), "{said}");
}

fn the_demo_goes_on_to_a_namespace_where_fusermount_fails() {
    let home = tempfile::tempdir().unwrap();
    let helper = home.path().join("fusermount3");
    fs::write(&helper, "#!/bin/sh\nexit 1\n").unwrap();
    fs::set_permissions(&helper, Permissions::from_mode(0o4755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", home.path().display());
    // Root that may not mount is as good as an ordinary user.
    let mut command = Command::new("setpriv");
    command.arg("--bounding-set=-sys_admin").arg(kstate());
    command.args(["demo", "--seconds", "1", "--json"]);
    let output = command.env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("user namespace"), "{said}");
}

fn who_may_not_read_a_state_is_not_told_of_it() {
    let daemon = Daemon::start();
    fs::set_permissions(daemon.home(), Permissions::from_mode(0o755)).unwrap();
    let create = |name: &str, mode| {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true);
        let file = options.open(daemon.file(name)).unwrap();
        file.set_permissions(Permissions::from_mode(mode)).unwrap();
        file
    };
    let (x, y) = (create("x", 0o644), create("y", 0o600));
    let open = |name: &str| {
        let mut options = OpenOptions::new();
        let options = options.read(true).custom_flags(libc::O_NONBLOCK);
        as_user(ALICE, || options.open(daemon.file(name)).unwrap())
    };
    // What is open keeps the rights of who opened it.
    let mut changes = open(".kstate/changes");
    let mut told = || {
        let mut bytes = [0; 4096];
        let lines = match changes.read(&mut bytes) {
            Ok(length) => String::from_utf8_lossy(&bytes[..length]).into_owned(),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                String::new()
            }
        };
        let words = lines.lines().map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let word = |key: &str| line[key].as_str().unwrap().to_owned();
            format!("{} {}", word("event"), word("state"))
        });
        words.collect::<Vec<_>>()
    };
    let chmod = |file: &File, mode| file.set_permissions(Permissions::from_mode(mode)).unwrap();
    let write = |file: &File| file.write_all_at(b"1", 0).unwrap();
    assert_eq!(told(), ["present x"]);
    write(&y);
    assert!(told().is_empty());
    let mut text = String::new();
    open(".kstate/states").read_to_string(&mut text).unwrap();
    assert!(text.contains("\"x\"") && !text.contains("\"y\""), "{text}");
    open(".kstate/metrics").read_to_string(&mut text).unwrap();
    assert!(!text.contains("\"y\""), "{text}");
    chmod(&y, 0o644);
    assert_eq!(told(), ["present y"]);
    write(&y);
    assert_eq!(told(), ["changed y"]);
    // What is known already is not told of while it may not be read, and goes on afterwards.
    chmod(&y, 0o600);
    write(&y);
    assert!(told().is_empty());
    write(&y);
    chmod(&y, 0o644);
    eventually("it goes on", || (told() == ["changed y"]).then_some(()));
    // Its end is told all the same.
    chmod(&x, 0o600);
    write(&x);
    assert!(told().is_empty());
    fs::remove_file(daemon.file("x")).unwrap();
    assert_eq!(told(), ["deleted x"]);
}

fn only_the_owner_sets_a_deadline() {
    let daemon = Daemon::start();
    fs::set_permissions(daemon.home(), Permissions::from_mode(0o755)).unwrap();
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true);
    let file = options.open(daemon.file("x")).unwrap();
    file.set_permissions(Permissions::from_mode(0o666)).unwrap();
    let program = "
import errno, os, sys
path, name = sys.argv[1] + '/x', 'user.kstate.deadline'
for work in (lambda: os.setxattr(path, name, b'1s'), lambda: os.removexattr(path, name),
        lambda: os.getxattr(path, name)):
    try: print(work(), end=' ')
    except OSError as error: print(errno.errorcode[error.errno], end=' ')
";
    let said = |uid| String::from_utf8(python_as(uid, &daemon, program).stdout).unwrap();
    assert_eq!(said(BOB), "EPERM EPERM ENODATA ");
    let deadline = std::time::Duration::from_secs(1);
    let library = daemon.library();
    let refused = as_user(BOB, || {
        let subscribe = library.subscribe("x").existing().deadline(deadline);
        subscribe.bytes().is_err()
    });
    assert!(refused && library.info("x").unwrap().deadline.is_none());
    std::os::unix::fs::fchown(&file, Some(BOB), None).unwrap();
    assert_eq!(said(BOB), "None None ENODATA ");
}
