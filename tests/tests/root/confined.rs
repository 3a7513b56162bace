//! The daemon with the rights that its unit for systemd leaves it, and no others.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use kstate_tests::{Daemon, Setup, Unit, as_user, eventually};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::{ALICE, BOB, create_for, open_home};

const UNIT: &str = include_str!("../../../packaging/systemd/system/kstate.service");

/// Where the manifest and states' files are.
struct Kept {
    home: TempDir,
}

impl Kept {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        fs::set_permissions(home.path(), PermissionsExt::from_mode(0o755)).unwrap();
        for (name, owner) in [("alices", ALICE.uid), ("roots", 0)] {
            let path = home.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).unwrap();
            chown(&path, Some(owner), Some(owner)).unwrap();
        }
        Self { home }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.home.path().canonicalize().unwrap().join(name)
    }

    fn setup(&self) -> Setup {
        Setup::default().with(format!("--manifest={}", self.file("manifest").display()))
    }
}

/// `setfattr`, as the calling thread's user.
fn persist(state: &Path, file: &Path) -> Result<(), i32> {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;
    let text = |bytes: &[u8]| CString::new(bytes).unwrap();
    let (state, value) = (
        text(state.as_os_str().as_bytes()),
        file.as_os_str().as_bytes(),
    );
    #[expect(unsafe_code, reason = "setxattr(2) has no wrapper")]
    // SAFETY: a path and a name that end in NUL, and bytes of the length given.
    let set = unsafe {
        libc::setxattr(
            state.as_ptr(),
            c"user.kstate.persistent".as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    match set {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error().raw_os_error().unwrap()),
    }
}

/// All that takes a right: users' files, files given away, claims, waits, and what is there when it is mounted again.
fn use_all(kept: &Kept, setup: impl Fn() -> Setup) -> Result<(), String> {
    let mut daemon = setup().start();
    open_home(&daemon);
    let own = create_for(&daemon, "alices", ALICE);
    let roots = create_for(&daemon, "roots", ALICE);
    own.write_all_at(b"own", 0).map_err(|e| e.to_string())?;
    roots.write_all_at(b"roots", 0).map_err(|e| e.to_string())?;
    let failed = |what: &str| {
        let what = what.to_owned();
        move |errno| format!("{what}: {errno}")
    };
    let (path, file) = (daemon.file("alices"), kept.file("alices/file"));
    as_user(ALICE, || persist(&path, &file)).map_err(failed("a user's file"))?;
    let file = kept.file("roots/file");
    persist(&daemon.file("roots"), &file).map_err(failed("a file of root's"))?;
    let owner = file.metadata().unwrap().uid();
    (owner == ALICE.uid)
        .then_some(())
        .ok_or("it was not given away")?;
    let mount = daemon.library();
    as_user(BOB, || {
        let state = mount.subscribe("bobs").write().bytes().unwrap();
        let next = state.publish(b"1").unwrap();
        let timeout = Some(std::time::Duration::from_millis(1));
        let _ = state.wait(next, timeout).unwrap();
        assert_eq!(state.snapshot().unwrap().value, b"1");
    });
    eventually("what Bob had is free", || {
        (!daemon.file("bobs").exists()).then_some(())
    });
    drop((own, roots));
    daemon.process().signal(Signal::SIGTERM);
    assert!(daemon.process().finish().success());
    drop(daemon);
    let again = setup().start();
    for (name, value) in [("alices", "own"), ("roots", "roots")] {
        let found = fs::read(again.file(name)).map_err(|error| format!("{name}: {error}"))?;
        assert_eq!(found, value.as_bytes());
    }
    Ok(())
}

/// The lines of what a process may that are its own.
fn status(daemon: &Daemon, word: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(word));
    line.unwrap().trim_start_matches(':').trim().to_owned()
}

pub(crate) fn it_serves_with_no_more_rights_than_its_unit_has() {
    let unit = Unit::parse(UNIT);
    let rights = unit.words("CapabilityBoundingSet");
    for way in ["--passthrough=auto", "--passthrough=off"] {
        let kept = Kept::new();
        let free = Setup::default().with(way).start();
        let daemon = Setup::default().with(way).confined_to(&rights).start();
        let mask = u64::from_str_radix(&status(&daemon, "CapEff"), 16).unwrap();
        assert_eq!(mask.count_ones() as usize, rights.len());
        assert_eq!(status(&daemon, "NoNewPrivs"), "1");
        let version = |daemon: &Daemon| fs::read(daemon.file(".kstate/version")).unwrap();
        assert_eq!(version(&daemon), version(&free), "{way}");
        drop((free, daemon));
        use_all(&kept, || kept.setup().with(way).confined_to(&rights)).unwrap();
    }
}

/// But for two: without CAP_SYS_ADMIN nothing is mounted, and CAP_SYS_PTRACE is for a `/proc` that hides processes.
pub(crate) fn each_right_of_the_unit_is_needed() {
    let unit = Unit::parse(UNIT);
    let rights = unit.words("CapabilityBoundingSet");
    for left_out in ["CAP_SETUID", "CAP_SETGID", "CAP_CHOWN", "CAP_DAC_OVERRIDE"] {
        let others: Vec<_> = rights
            .iter()
            .copied()
            .filter(|right| *right != left_out)
            .collect();
        assert_eq!(others.len() + 1, rights.len(), "{left_out} is there");
        let kept = Kept::new();
        let done = use_all(&kept, || kept.setup().confined_to(&others));
        assert!(done.is_err(), "{left_out} is not needed");
    }
}
