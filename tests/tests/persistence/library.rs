//! As the library asks for it.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use kstate::{Durability, DurableError, Generation, Outcome, PersistError, State, SyncError};
use kstate_tests::{Daemon, Setup, both_transports, eventually};

fn writer(daemon: &Daemon, name: &str) -> State<u64> {
    daemon.library().subscribe(name).write().typed().unwrap()
}

#[test]
fn a_state_is_kept_in_a_file_that_is_created_for_it() {
    both_transports(|daemon| {
        let state = writer(daemon, "x");
        state.publish(&1).unwrap();
        assert_eq!(state.info().unwrap().persistent, None);
        let path = daemon.home().join("file");
        state.set_persistent(&path).unwrap();
        state.set_persistent(&path).unwrap();
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        let info = state.info().unwrap().persistent.unwrap();
        assert_eq!(info.file, Some(path));
        assert_eq!(
            info.durability,
            Some(Durability::Within(Duration::from_secs(1)))
        );
        assert_eq!(info.durable, Generation(1));
        for durability in [
            Durability::Each,
            Durability::Within(Duration::from_millis(20)),
        ] {
            state.set_durability(durability).unwrap();
            let info = state.info().unwrap().persistent.unwrap();
            assert_eq!(info.durability, Some(durability));
            let newest = state.publish(&2).unwrap();
            eventually("it is in the file", || {
                let durable = state.info().unwrap().persistent.unwrap().durable;
                (durable == newest).then_some(())
            });
        }
    });
}

#[test]
fn it_can_be_asked_for_when_subscribing_and_the_value_comes_back() {
    both_transports(|daemon| {
        let path = daemon.home().join("file");
        let mount = daemon.library();
        let subscribe = || {
            let subscribe = mount.subscribe("x").write().persistent(&path);
            subscribe.durability(Durability::Each).typed::<u64>()
        };
        let state = subscribe().unwrap();
        state.publish_durable(&7).unwrap();
        state.delete().unwrap();
        assert!(mount.info("x").is_err());
        let state = subscribe().unwrap();
        assert_eq!(state.snapshot().unwrap().value, 7);
        // It stays without subscribers.
        drop(state);
        assert_eq!(subscribe().unwrap().snapshot().unwrap().value, 7);
        let info = mount.info("x").unwrap().persistent.unwrap();
        assert_eq!(info.durability, Some(Durability::Each));
    });
}

#[test]
fn durable_commits_return_when_their_version_is_in_the_file() {
    both_transports(|daemon| {
        let (state, other) = (writer(daemon, "x"), writer(daemon, "y"));
        for (state, file) in [(&state, "x-file"), (&other, "y-file")] {
            let slow = Durability::Within(Duration::from_secs(3600));
            let path = daemon.home().join(file);
            state.set_persistent_so(path, slow).unwrap();
        }
        let durable = |state: &State<u64>| state.info().unwrap().persistent.unwrap().durable;
        let first = state.publish_durable(&1).unwrap();
        assert_eq!(durable(&state), first);
        let mut begun = state.begin().unwrap();
        *begun.get_mut().unwrap() += 1;
        let committed = begun.commit_durable().unwrap();
        let second = first.next();
        assert_eq!(committed, Outcome::Committed { generation: second });
        assert_eq!(durable(&state), second);
        let mut several = kstate::begin_many();
        several.add(&state).unwrap();
        several.add(&other).unwrap();
        *several.get_mut(&state).unwrap() += 1;
        *several.get_mut(&other).unwrap() += 1;
        assert!(several.commit_durable().unwrap().is_committed());
        assert_eq!(durable(&state), second.next());
        assert_eq!(durable(&other), other.generation());
        let third = state.publish(&9).unwrap();
        assert!(durable(&state) < third);
        assert_eq!(state.sync().unwrap(), third);
        assert_eq!(state.sync_to(first).unwrap(), third);
        let refused = state.sync_to(third.next()).unwrap_err();
        assert!(matches!(refused, SyncError::NotThere { .. }), "{refused:?}");
        // Nothing to wait for.
        let lost = state.begin().unwrap();
        assert_eq!(
            lost.commit_durable().unwrap(),
            Outcome::Unchanged { base: third }
        );
    });
}

#[test]
fn nothing_is_committed_durably_to_a_state_without_a_file() {
    both_transports(|daemon| {
        let (state, kept) = (writer(daemon, "x"), writer(daemon, "kept"));
        kept.set_persistent(daemon.home().join("file")).unwrap();
        let refused = state.publish_durable(&1).unwrap_err();
        assert!(
            matches!(refused, DurableError::NotPersistent { .. }),
            "{refused:?}"
        );
        let mut begun = state.begin().unwrap();
        begun.set(&1);
        assert!(!begun.commit_durable().unwrap_err().is_committed());
        let mut several = kstate::begin_many();
        several.add(&kept).unwrap();
        several.add(&state).unwrap();
        *several.get_mut(&kept).unwrap() = 1;
        *several.get_mut(&state).unwrap() = 1;
        let refused = several.commit_durable().unwrap_err();
        assert!(
            matches!(refused, DurableError::NotPersistent { .. }),
            "{refused:?}"
        );
        assert!(state.generation().is_never() && kept.generation().is_never());
        let refused = state.sync().unwrap_err();
        assert!(
            matches!(refused, SyncError::NotPersistent { .. }),
            "{refused:?}"
        );
        let refused = state.set_durability(Durability::Each).unwrap_err();
        assert!(
            matches!(refused, PersistError::NotPersistent { .. }),
            "{refused:?}"
        );
    });
}

#[test]
fn each_reason_against_a_file_is_told_apart_and_no_file_is_left() {
    both_transports(|daemon| {
        let home = daemon.home();
        let state = writer(daemon, "x");
        let taken = writer(daemon, "taken");
        state.publish(&1).unwrap();
        taken.publish(&2).unwrap();
        taken.set_persistent(home.join("taken")).unwrap();
        let refusal = |state: &State<u64>, path: &str| {
            let path = home.join(path);
            let refused = state.set_persistent(&path).unwrap_err();
            let text = refused.to_string();
            assert!(text.contains(&*path.to_string_lossy()), "{text}");
            refused
        };
        std::fs::write(home.join("text"), "something else").unwrap();
        let fifo = home.join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink("text", home.join("link")).unwrap();
        type Check = fn(&PersistError) -> bool;
        let cases: [(&str, Check); 7] = [
            ("text", |e| matches!(e, PersistError::NotEmpty { .. })),
            ("fifo", |e| matches!(e, PersistError::NoFile { .. })),
            ("link", |e| matches!(e, PersistError::Open { .. })),
            ("no/such/directory", |e| {
                matches!(e, PersistError::Open { .. })
            }),
            (".", |e| matches!(e, PersistError::Open { .. })),
            ("mount/taken", |e| {
                matches!(e, PersistError::OnTheMount { .. })
            }),
            ("taken", |e| matches!(e, PersistError::InUse { .. })),
        ];
        for (path, is_right) in cases {
            let refused = refusal(&state, path);
            assert!(is_right(&refused), "{path}: {refused:?}");
        }
        let refused = refusal(&taken, "another");
        assert!(
            matches!(refused, PersistError::OtherFile { .. }),
            "{refused:?}"
        );
        assert!(!home.join("another").exists());
        taken.delete().unwrap();
        let refused = refusal(&state, "taken");
        assert!(
            matches!(refused, PersistError::OtherState { .. }),
            "{refused:?}"
        );
        let again = writer(daemon, "taken");
        again.publish(&3).unwrap();
        let refused = refusal(&again, "taken");
        assert!(
            matches!(refused, PersistError::TwoValues { .. }),
            "{refused:?}"
        );
        assert_eq!(state.info().unwrap().persistent, None);
    });
}

#[test]
fn a_durable_commit_lasts_from_one_daemon_to_the_next() {
    for setup in [Setup::default(), Setup::default().with("--passthrough=off")] {
        let mut daemon = setup.start();
        let state = writer(&daemon, "x");
        let reader = state.reader();
        state.set_persistent(daemon.home().join("file")).unwrap();
        let first = state.publish_durable(&1).unwrap();
        daemon.process().stop();
        let (tell, told) = std::sync::mpsc::channel();
        let committing = std::thread::spawn(move || {
            tell.send(nix::unistd::gettid()).unwrap();
            state.publish_durable(&2)
        });
        let path = format!("/proc/self/task/{}/syscall", told.recv().unwrap());
        let asking = libc::SYS_ioctl.to_string();
        eventually("it is asking", || {
            let call = std::fs::read_to_string(&path).unwrap_or_default();
            let asks = call.split_whitespace().next() == Some(&*asking);
            (reader.generation() > first && asks).then_some(())
        });
        let _daemon = daemon.kill_and_restart();
        let committed = committing.join().unwrap().unwrap();
        let durable = reader.info().unwrap().persistent.unwrap().durable;
        assert!(durable >= committed && committed == first.next());
    }
}

#[test]
fn a_commit_without_a_daemon_is_said_to_be_committed_and_not_durable() {
    let mut daemon = Daemon::start();
    let state = writer(&daemon, "x");
    state.set_persistent(daemon.home().join("file")).unwrap();
    daemon.kill();
    let refused = state.publish_durable(&2).unwrap_err();
    assert!(refused.is_committed(), "{refused:?}");
    let text = refused.to_string();
    assert!(text.contains("was committed, but"), "{text}");
    assert_eq!(state.snapshot().unwrap().value, 2);
    let _daemon = daemon.kill_and_restart();
    assert_eq!(state.sync().unwrap(), state.generation());
}
