//! Mounts that are moved, covered or refused.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::Command;

use kstate::Mount;
use kstate_tests::{Running, eventually, kstate, kstatefs};
use kstatefs::mountpoint::{MountPointError, Unmount};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// How many mounts the table lists at `path`.
fn listed_at(path: &Path) -> usize {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let lines = table.lines();
    lines
        .filter(|line| line.split(' ').nth(4) == path.to_str())
        .count()
}

pub(crate) fn a_covered_mount_is_said_to_be_left_behind() {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(kstatefs());
    command
        .arg(home.path())
        .env("KSTATE_LOG", "info")
        .stderr(std::process::Stdio::piped());
    let mut daemon = command.spawn().unwrap();
    // It answers before it knows which connection is its own, and then says so.
    let mut said = BufReader::new(daemon.stderr.take().unwrap());
    let mut text = String::new();
    while !text.contains(" mounted") {
        assert_ne!(said.read_line(&mut text).unwrap(), 0, "{text}");
    }
    let none: Option<&Path> = None;
    let flags = MsFlags::empty();
    mount(Some("cover"), home.path(), Some("tmpfs"), flags, none).unwrap();
    fs::write(home.path().join("covering"), "x").unwrap();
    let pid = nix::unistd::Pid::from_raw(daemon.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    said.read_to_string(&mut text).unwrap();
    let ended = daemon.wait().unwrap();
    let unmounted = kstatefs::mountpoint::unmount(home.path(), Unmount::IfUnused);
    let covers = fs::read(home.path().join("covering"));
    umount2(home.path(), MntFlags::empty()).unwrap();
    let left = listed_at(home.path());
    kstate_tests::unmount(home.path());
    assert_eq!(ended.code(), Some(1), "{text}");
    assert!(
        text.contains("another file system is mounted over"),
        "{text}"
    );
    assert!(matches!(unmounted, Err(MountPointError::Covered(_))));
    assert_eq!(covers.unwrap(), b"x", "what covers it is none of ours");
    assert_eq!((left, listed_at(home.path())), (1, 0));
}

pub(crate) fn a_mount_that_was_moved_is_unmounted_where_it_is() {
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

pub(crate) fn a_device_closed_to_the_user_is_said_to_be() {
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
