//! What is announced, and when.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use kstate::{Sinks, Stamping, TransactManyError};
use kstate_sys::announce::RECORD_VERSION;
use kstate_tests::{PATIENCE, Setup, eventually};
use nix::sys::signal::Signal;

use crate::device::{Device, Mood};
use crate::{WAYS, announcing, command, place, python, sent};

const FRED: &str = "$.KState.Committed.Fred.Jim";

fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_nanos()).unwrap()
}

#[test]
fn a_commit_is_announced_with_its_name_and_record() {
    let directory = place();
    let device = Device::mount(directory.path());
    for way in WAYS {
        let daemon = announcing(directory.path()).with(way).start();
        let library = daemon.library();
        let state = library.subscribe("Fred.Jim").write().bytes().unwrap();
        // What is there already is nobody's news.
        state.publish(b"before").unwrap();
        state.announce(Sinks::KBUS).unwrap();
        let begin = now_ns();
        state.publish(b"12345").unwrap();
        let message = device.message(FRED, 2);
        let record = message.record;
        assert_eq!((record.version, record.length), (RECORD_VERSION, 5));
        assert_eq!(record.pid, std::process::id());
        // Two clocks are compared.
        let slack = 10_000_000;
        let range = begin - slack..=now_ns() + slack;
        assert!(range.contains(&record.time_ns), "{record:?} {range:?}");
        state.set_stamping(Stamping::Off);
        state.publish(b"").unwrap();
        let record = device.message(FRED, 3).record;
        assert_eq!((record.time_ns, record.length), (0, 0));
        assert_eq!(device.messages().len(), 2);
        eventually("both are counted", || (sent(&daemon) == 2).then_some(()));
        drop((state, library, daemon));
        device.forget();
    }
}

#[test]
fn a_write_is_announced_as_its_process() {
    let directory = place();
    let device = Device::mount(directory.path());
    for way in WAYS {
        let daemon = announcing(directory.path()).with(way).start();
        let library = daemon.library();
        let kept = library.subscribe("Fred.Jim").announce(Sinks::KBUS).bytes();
        // Through a descriptor that another process has opened, and from a second thread.
        let program = "
import threading
file = os.open(path, os.O_WRONLY)
child = os.fork()
if child == 0:
    thread = threading.Thread(target=lambda: os.write(file, b'1'))
    thread.start()
    thread.join()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(child)
";
        let printed = python(program, &daemon.file("Fred.Jim"));
        let record = device.message(FRED, 1).record;
        assert_eq!((format!("{}\n", record.pid), record.length), (printed, 1));
        drop((kept, library, daemon));
        device.forget();
    }
}

#[test]
fn a_writer_that_has_gone_is_named_still() {
    let directory = place();
    let device = Device::mount(directory.path());
    for way in WAYS {
        let daemon = announcing(directory.path()).with(way).start();
        let library = daemon.library();
        let kept = library.subscribe("Fred.Jim").announce(Sinks::KBUS).bytes();
        // The device is slow: long before its turn comes the group has been given back.
        device.set(Mood::Hangs);
        let own = library.subscribe("Fred.Jim").write().bytes().unwrap();
        own.publish(b"0").unwrap();
        let mut set = command(&daemon, &["set", "Fred.Jim", "1"]).spawn().unwrap();
        let pid = set.id();
        assert!(set.wait().unwrap().success());
        // Whoever has it next is not taken for him.
        let next = library.subscribe("Fred.Jim").write().bytes().unwrap();
        device.set(Mood::Takes);
        assert_eq!(device.message(FRED, 2).record.pid, pid);
        drop((kept, own, next, library, daemon));
        device.forget();
    }
}

#[test]
fn commits_that_come_faster_are_announced_together_and_the_last_one_always() {
    const COMMITS: u64 = 2000;
    let directory = place();
    let device = Device::mount(directory.path());
    for way in WAYS {
        for notify in ["auto", "futex"] {
            let setup = announcing(directory.path()).with(way);
            let daemon = setup.with(format!("--notify-by={notify}")).start();
            let library = daemon.library();
            let state = library.subscribe("Fred.Jim").write().announce(Sinks::KBUS);
            let state = state.typed::<u64>().unwrap();
            for value in 0..COMMITS {
                state.publish(&value).unwrap();
            }
            device.message(FRED, COMMITS);
            // While the device takes none, what comes is one message behind that.
            device.set(Mood::Hangs);
            state.publish(&0).unwrap();
            let before = device.messages().len();
            for value in 0..COMMITS {
                state.publish(&value).unwrap();
            }
            device.set(Mood::Takes);
            device.message(FRED, 2 * COMMITS + 1);
            let messages = device.messages();
            assert!(messages.len() <= before + 2, "{}", messages.len() - before);
            let generations = messages.iter().map(|message| message.record.generation);
            assert!(generations.is_sorted_by(|a, b| a < b), "none comes twice");
            drop((state, library, daemon));
            device.forget();
        }
    }
}

#[test]
fn states_committed_at_once_are_announced_each() {
    let directory = place();
    let device = Device::mount(directory.path());
    let daemon = announcing(directory.path()).start();
    let library = daemon.library();
    let [a, b] = ["a", "b"].map(|name| {
        let state = library.subscribe(name).write().announce(Sinks::KBUS);
        state.typed::<u64>().unwrap()
    });
    kstate::transact_many(|tx| {
        for state in [&a, &b] {
            tx.add(state)?;
            *tx.get_mut(state)? = 1;
        }
        Ok::<_, TransactManyError>(())
    })
    .unwrap();
    for name in ["a", "b"] {
        let message = device.message(&format!("$.KState.Committed.{name}"), 1);
        assert_eq!(message.record.pid, std::process::id());
    }
}

#[test]
fn whoever_mounts_chooses_how_names_begin() {
    let directory = place();
    let device = Device::mount(directory.path());
    let path = Device::path_in(directory.path());
    let options = format!("kbus={},kbus_prefix=$.Here", path.display());
    let daemon = Setup::default().with("-o").with(options).start();
    let library = daemon.library();
    let state = library.subscribe("x").write().announce(Sinks::KBUS);
    state.bytes().unwrap().publish(b"1").unwrap();
    device.message("$.Here.x", 1);
}

#[test]
fn the_last_version_of_a_state_that_goes_is_announced() {
    let directory = place();
    let device = Device::mount(directory.path());
    let daemon = announcing(directory.path()).start();
    let library = daemon.library();
    for (name, deletes) in [("deleted", true), ("abandoned", false)] {
        let state = library.subscribe(name).write().announce(Sinks::KBUS);
        let state = state.bytes().unwrap();
        state.publish(b"1").unwrap();
        device.message(&format!("$.KState.Committed.{name}"), 1);
        device.set(Mood::Hangs);
        state.publish(b"2").unwrap();
        state.publish(b"3").unwrap();
        if deletes {
            std::fs::remove_file(daemon.file(name)).unwrap();
        }
        drop(state);
        eventually("it has gone", || {
            (!daemon.file(name).exists()).then_some(())
        });
        device.set(Mood::Takes);
        device.message(&format!("$.KState.Committed.{name}"), 3);
    }
}

#[test]
fn an_unmount_waits_for_the_last_announcement() {
    let directory = place();
    let device = Device::mount(directory.path());
    let mut daemon = announcing(directory.path()).start();
    let library = daemon.library();
    let state = library.subscribe("Fred.Jim").write().announce(Sinks::KBUS);
    let state = state.bytes().unwrap();
    for _ in 0..100 {
        state.publish(b"1").unwrap();
    }
    daemon.process().signal(Signal::SIGTERM);
    assert!(daemon.process().finish().success());
    device.message(FRED, 100);
}

/// In this process, which outlives the device's wait: one that is killed meanwhile cannot end, as
/// nobody who waits for a FUSE file system's answer can.
#[test]
fn an_unmount_does_not_wait_for_ever() {
    let directory = place();
    let device = Device::mount(directory.path());
    let mount = place();
    let mut config = kstatefs::Config::new(mount.path());
    config.kbus = Some(Device::path_in(directory.path()));
    config.handle_signals = false;
    let server = kstatefs::Server::start(config).unwrap();
    let library = kstate::Mount::at(mount.path()).unwrap();
    let state = library.subscribe("Fred.Jim").write().announce(Sinks::KBUS);
    let state = state.bytes().unwrap();
    device.set(Mood::Hangs);
    state.publish(b"1").unwrap();
    eventually("it is written", || device.is_hanging().then_some(()));
    let start = Instant::now();
    server.stop().unwrap();
    assert!(start.elapsed() < PATIENCE / 2);
    assert!(device.messages().is_empty());
    device.set(Mood::Takes);
    device.message(FRED, 1);
}
