//! Every call there is on a state, in each mode, by each kind of user.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;

use kstate::SubscribeError;
use kstate_tests::{Daemon, PATIENCE, Setup, as_user, both_transports};

use crate::{ALICE, EVERYBODY, MODES, May, create_for, open_home, printed, set_mode};

/// Who may make a call.
enum Need {
    Nothing,
    Read,
    Write,
    Both,
    Owner,
    /// What sets a time to the present.
    OwnerOrWrite,
    /// An attribute: write permission, or the kernel says `EACCES`; and to be the owner, or the
    /// daemon says `EPERM`.
    Attribute,
    /// Not the owner either.
    Root,
    /// Not root either.
    Never,
}

use Need::{Attribute, Both, Never, Nothing, Owner, OwnerOrWrite, Read, Root, Write};

/// Each call of `calls.py`: who may make it, what it says to those who may, and to others.
const CALLS: [(&str, Need, &str, &str); 71] = [
    ("stat", Nothing, "ok", ""),
    ("statx", Nothing, "ok", ""),
    ("access F_OK", Nothing, "ok", ""),
    ("O_PATH", Nothing, "ok", ""),
    ("name_to_handle_at", Nothing, "ok", ""),
    ("listed in the directory", Nothing, "ok", ""),
    ("access R_OK", Read, "ok", "EACCES"),
    ("open to read", Read, "ok", "EACCES"),
    ("open to read with O_CREAT", Read, "ok", "EACCES"),
    ("read", Read, "ok", "EACCES"),
    ("pread", Read, "ok", "EACCES"),
    ("readv", Read, "ok", "EACCES"),
    ("map shared", Read, "mapped", "EACCES"),
    ("map private", Read, "ok", "EACCES"),
    ("map private to write", Read, "ok", "EACCES"),
    ("poll", Read, "ok", "EACCES"),
    ("select", Read, "ok", "EACCES"),
    ("epoll", Read, "ok", "EACCES"),
    ("view", Read, "ok", "EACCES"),
    ("view that waits", Read, "ok", "EACCES"),
    ("view by O_PATH", Read, "ok", "EACCES"),
    ("O_PATH reopened to read", Read, "ok", "EACCES"),
    ("getxattr", Read, "ok", "EACCES"),
    ("getxattr of a view", Read, "ok", "EACCES"),
    // Here the empty list.
    ("listxattr", Read, "ok", "ENODATA"),
    ("listxattr of a view", Read, "ok", "ENODATA"),
    ("inotify", Read, "ok", "EACCES"),
    ("flock", Read, "ok", "EACCES"),
    ("access W_OK", Write, "ok", "EACCES"),
    ("open to write", Write, "ok", "EACCES"),
    ("open to write with O_CREAT", Write, "ok", "EACCES"),
    ("open with O_TRUNC", Write, "ok", "EACCES"),
    ("write", Write, "ok", "EACCES"),
    ("pwrite", Write, "ok", "EACCES"),
    ("writev", Write, "ok", "EACCES"),
    ("append", Write, "ok", "EACCES"),
    ("truncate", Write, "ok", "EACCES"),
    ("truncate to nothing", Write, "ok", "EACCES"),
    ("ftruncate", Write, "ok", "EACCES"),
    ("O_PATH reopened to write", Write, "ok", "EACCES"),
    ("open for both", Both, "ok", "EACCES"),
    ("open to read with O_TRUNC", Both, "ok", "EACCES"),
    ("map shared to write", Both, "mapped", "EACCES"),
    ("read descriptor reopened to write", Both, "ok", "EACCES"),
    ("write descriptor reopened to read", Both, "ok", "EACCES"),
    ("chmod", Owner, "ok", "EPERM"),
    ("fchmod", Owner, "ok", "EPERM"),
    ("chown", Owner, "ok", "EPERM"),
    ("chgrp", Owner, "ok", "EPERM"),
    ("utime", Owner, "ok", "EPERM"),
    ("utime now", OwnerOrWrite, "ok", "EACCES"),
    // It would, but for those who have it open.
    ("unlink", Owner, "EBUSY", "EPERM"),
    ("linger", Attribute, "ok", "EPERM"),
    ("deadline", Attribute, "ok", "EPERM"),
    // One that a state cannot be without.
    ("removexattr", Attribute, "EPERM", "EPERM"),
    ("give away", Root, "ok", "EPERM"),
    ("open by handle", Root, "ok", "EPERM"),
    ("rename", Never, "", "EPERM"),
    ("rename over", Never, "", "EPERM"),
    ("link", Never, "", "EPERM"),
    ("access X_OK", Never, "", "EACCES"),
    ("run", Never, "", "EACCES"),
    ("map to run", Never, "", "EPERM"),
    ("map what is open to write", Never, "", "EACCES"),
    ("poll of O_PATH", Never, "", "not readable"),
    ("epoll of O_PATH", Never, "", "EBADF"),
    ("write to a view", Never, "", "EACCES"),
    ("write to a view that waits", Never, "", "EACCES"),
    ("chmod of a view", Never, "", "EPERM"),
    ("unlink of a view", Never, "", "EPERM"),
    ("setxattr of a view", Never, "", "EACCES"),
];

impl May {
    /// Where `fs.protected_regular` is set, `O_CREAT` of what is there is for its owner and that of
    /// the directory alone (proc_sys_fs(5)).
    fn is_kept_from_creating(self) -> bool {
        let set = fs::read_to_string("/proc/sys/fs/protected_regular");
        set.is_ok_and(|value| value.trim() != "0") && (self.root || !self.own)
    }
}

/// What a call is to say to somebody.
fn expected(call: &(&str, Need, &'static str, &'static str), may: May) -> &'static str {
    let (name, need, granted, refused) = call;
    let allowed = match need {
        Nothing => true,
        Read => may.read,
        Write => may.write,
        Both => may.read && may.write,
        Owner => may.own,
        OwnerOrWrite => may.own || may.write,
        Attribute if !may.write => return "EACCES",
        Attribute => may.own,
        Root => may.root,
        Never => false,
    };
    match (*name, allowed) {
        (name, true) if name.ends_with("O_CREAT") && may.is_kept_from_creating() => "EACCES",
        // Who may not open it is told so before.
        ("map to run", _) if !may.read => "EACCES",
        // The kernel lets root ask.
        ("setxattr of a view", _) if may.root => "EPERM",
        (_, true) => granted,
        (_, false) => refused,
    }
}

pub(crate) fn every_call_says_what_the_mode_says() {
    for (setup, mapped) in [
        (Setup::default(), "ok"),
        (Setup::default().with("--passthrough=off"), "ENODEV"),
    ] {
        let daemon = setup.start();
        open_home(&daemon);
        let keeper = create_for(&daemon, "x", ALICE);
        keeper.write_all_at(b"value", 0).unwrap();
        let _theirs = File::create(daemon.file("theirs")).unwrap();
        let modes: Vec<_> = MODES.iter().map(|mode| format!("{mode:o}")).collect();
        let mut command = Command::new("python3");
        command.args(["-I", "-c", include_str!("calls.py")]);
        command.arg(daemon.mount()).arg(modes.join(","));
        command.env("OWNER", ALICE.uid.to_string());
        for (name, user) in EVERYBODY {
            let groups: Vec<_> = user.groups.iter().map(u32::to_string).collect();
            let (uid, gid, groups) = (user.uid, user.gid, groups.join(","));
            command.arg(format!("{name}:{uid}:{gid}:{groups}"));
        }
        let said = printed(&command.output().unwrap());
        let mut wrong = Vec::new();
        let mut lines = said.lines();
        for mode in MODES {
            for (name, user) in EVERYBODY {
                let may = May::of(user, mode);
                for call in &CALLS {
                    let outcome = match expected(call, may) {
                        "mapped" => mapped,
                        outcome => outcome,
                    };
                    let expected = format!("{mode:o}|{name}|{}|{outcome}", call.0);
                    let said = lines.next().unwrap_or_default();
                    if said != expected {
                        wrong.push(format!("{said} and not {outcome}, {}", call.0));
                    }
                }
            }
        }
        assert!(wrong.is_empty(), "{mapped}: {wrong:#?}");
        assert_eq!(lines.next(), None);
    }
}

/// Whether the library lets somebody in.
fn subscribed(daemon: &Daemon, write: bool) -> bool {
    // The mode alone decides about one that is there, and `O_CREAT` may not be for everybody.
    let subscribe = daemon.library().subscribe("x").existing();
    let subscribe = if write { subscribe.write() } else { subscribe };
    match subscribe.bytes() {
        Ok(state) => {
            state.snapshot().unwrap();
            if write {
                state.publish(b"published").unwrap();
            }
            true
        }
        Err(SubscribeError::Denied { access, .. }) => {
            assert_eq!(access.is_write(), write);
            false
        }
        Err(error) => panic!("{error:?}"),
    }
}

pub(crate) fn the_library_subscribes_as_the_mode_says() {
    both_transports(|daemon| {
        open_home(daemon);
        let _keeper = create_for(daemon, "x", ALICE);
        fs::write(daemon.file("x"), "value").unwrap();
        for mode in MODES {
            set_mode(daemon, "x", mode);
            for (name, user) in EVERYBODY {
                let may = May::of(user, mode);
                let let_in = as_user(user, || [false, true].map(|w| subscribed(daemon, w)));
                let expected = [may.read, may.read && may.write];
                assert_eq!(let_in, expected, "{name} in mode {mode:o}");
                let waited = as_user(user, || {
                    let wanted = daemon.library().subscribe("x").wait_for(PATIENCE);
                    wanted.bytes().map(drop)
                });
                match waited {
                    Ok(()) => assert!(may.read),
                    // At once: that he may come to read it is not waited for.
                    Err(SubscribeError::Denied { .. }) => assert!(!may.read),
                    Err(error) => panic!("{error:?}"),
                }
            }
        }
    });
}
