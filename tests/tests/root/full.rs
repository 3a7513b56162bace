//! A tmpfs without a page left.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use kstate::{Mount, SubscribeError};
use kstate_tests::{Running, Setup, eventually};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A tmpfs of a size of its own, unmounted when dropped.
pub(crate) struct SmallTmpfs(tempfile::TempDir);

impl SmallTmpfs {
    pub(crate) fn new(size: &str) -> Self {
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

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Leaves not a page free.
    pub(crate) fn fill(&self) {
        let file = File::create(self.path().join("filler")).unwrap();
        let mut offset = 0;
        while file.write_at(&[1; 4096], offset).is_ok() {
            offset += 4096;
        }
    }

    /// Gives them back.
    pub(crate) fn empty(&self) {
        fs::remove_file(self.path().join("filler")).unwrap();
    }
}

impl Drop for SmallTmpfs {
    fn drop(&mut self) {
        let _ = umount2(self.0.path(), MntFlags::MNT_DETACH);
    }
}

pub(crate) fn a_full_tmpfs_is_enospc_at_subscribe() {
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

pub(crate) fn a_full_tmpfs_refuses_plain_writes_and_keeps_the_old_value() {
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

pub(crate) fn room_for_the_header_but_not_the_live_page() {
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

pub(crate) fn a_hole_in_a_full_tmpfs_kills_nobody() {
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
