//! What the mode bits allow to whom.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::Command;

use kstate::{AnnounceError, Mount, Sinks, SubscribeError};
use kstate_tests::{Daemon, PATIENCE, Running, Setup, as_user, both_transports, eventually};

use crate::{ALICE, BOB, ROOT, open_home, printed, python_as};

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

pub(crate) fn another_user_may_only_what_the_mode_says() {
    let daemon = Daemon::start();
    open_home(&daemon);
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(daemon.file("x"));
    let file = file.unwrap();
    file.write_all_at(b"good", 0).unwrap();
    std::os::unix::fs::chown(daemon.file("x"), Some(ALICE.uid), Some(ALICE.gid)).unwrap();
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

pub(crate) fn an_owner_changes_the_mode_but_gives_nothing_away() {
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

pub(crate) fn another_user_without_passthrough() {
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
            .uid(BOB.uid)
            .gid(BOB.gid);
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

pub(crate) fn a_reader_cannot_write_by_any_call() {
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

pub(crate) fn only_the_owner_deletes() {
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

pub(crate) fn a_private_mount_is_closed_to_others() {
    let daemon = Setup::default().with("--allow-other=false").start();
    open_home(&daemon);
    let _file = File::create(daemon.file("x")).unwrap();
    let look = "import errno, os, sys\n\
        try: os.listdir(sys.argv[1]); print('open')\n\
        except OSError as e: print(errno.errorcode[e.errno])\n";
    assert_eq!(printed(&python_as(BOB, &daemon, look)), "EACCES\n");
}

pub(crate) fn a_layout_recorded_before_the_first_version_is_compared() {
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

pub(crate) fn only_the_owner_chooses_where_a_state_is_announced() {
    let daemon = Setup::default().with("--kbus=/nowhere/kbus").start();
    open_home(&daemon);
    let mut options = File::options();
    let options = options.read(true).write(true).create(true);
    let file = options.open(daemon.file("x")).unwrap();
    file.set_permissions(Permissions::from_mode(0o666)).unwrap();
    let program = "
import errno, os, sys
path, name = sys.argv[1] + '/x', 'user.kstate.announce'
for work in (lambda: os.setxattr(path, name, b'kbus'), lambda: os.getxattr(path, name).decode(),
        lambda: os.removexattr(path, name)):
    try: print(work(), end=' ')
    except OSError as error: print(errno.errorcode[error.errno], end=' ')
";
    let said = |user| printed(&python_as(user, &daemon, program));
    assert_eq!(said(BOB), "EPERM ENODATA EPERM ");
    let library = daemon.library();
    let error = as_user(BOB, || {
        let state = library.subscribe("x").write().existing().bytes().unwrap();
        state.announce(Sinks::KBUS).unwrap_err()
    });
    assert!(matches!(error, AnnounceError::NotOwner { .. }), "{error}");
    assert!(library.info("x").unwrap().announced.is_empty());
    std::os::unix::fs::fchown(&file, Some(BOB.uid), None).unwrap();
    assert_eq!(said(BOB), "None kbus None ");
    assert_eq!(said(ROOT), "None kbus None ");
}

pub(crate) fn only_the_owner_sets_a_deadline() {
    let daemon = Daemon::start();
    open_home(&daemon);
    let mut options = File::options();
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
    let said = |user| printed(&python_as(user, &daemon, program));
    assert_eq!(said(BOB), "EPERM EPERM ENODATA ");
    let deadline = std::time::Duration::from_secs(1);
    let library = daemon.library();
    let refused = as_user(BOB, || {
        let subscribe = library.subscribe("x").existing().deadline(deadline);
        subscribe.bytes().is_err()
    });
    assert!(refused && library.info("x").unwrap().deadline.is_none());
    std::os::unix::fs::fchown(&file, Some(BOB.uid), None).unwrap();
    assert_eq!(said(BOB), "None None ENODATA ");
}
