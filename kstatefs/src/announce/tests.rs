//! Sinks that do not answer.

use std::sync::mpsc::{self, Receiver, Sender};

use kstate_sys::announce::Record;
use kstate_sys::name::StateName;

use super::sink::Refused;
use super::*;
use crate::Transport;
use crate::backing::Backing;
use crate::config::NotifyBy;
use crate::fs::{self, Caller, Shared};
use crate::inode::Node;
use crate::timer::Timer;

const PATIENCE: Duration = Duration::from_secs(20);

const OWNER: Caller = Caller {
    uid: 0,
    gid: 0,
    tid: 1,
};

/// Tells which generations come, and answers once there is something in `gate`, or nobody behind it.
struct Fake {
    tells: Sender<u64>,
    gate: Receiver<()>,
}

impl Sink for Fake {
    fn send(&mut self, _name: &StateName, record: &Record) -> Result<(), Refused> {
        // Nobody may listen any more.
        let _ = self.tells.send(record.generation);
        let _ = self.gate.recv();
        Ok(())
    }
}

/// The other end of a fake.
struct Peer {
    came: Receiver<u64>,
    gate: Option<Sender<()>>,
}

impl Peer {
    #[track_caller]
    fn gets(&self, generation: u64) {
        assert_eq!(self.came.recv_timeout(PATIENCE), Ok(generation));
    }
}

fn fake() -> (Box<dyn Sink>, Peer) {
    let (tells, came) = mpsc::channel();
    let (opens, gate) = mpsc::channel();
    let peer = Peer {
        came,
        gate: Some(opens),
    };
    (Box::new(Fake { tells, gate }), peer)
}

/// A state that is announced to two fakes, of which the first one hangs.
struct Bench {
    fs: Shared,
    file: u64,
    hangs: Peer,
    answers: Peer,
}

impl Bench {
    fn new() -> Self {
        let backing = Backing::create(None).unwrap();
        let timer = Arc::new(Timer::default());
        let (hub, _thread) = Hub::start(NotifyBy::Auto, timer.clone()).unwrap();
        let hub = Arc::new(hub);
        let settings = fs::Settings {
            manifest: None,
            uid: 0,
            gid: 0,
            root_mode: 0o1777,
            linger: Duration::ZERO,
            announce: Settings::default(),
        };
        let mut fs = Shared::new(
            backing,
            Transport::Passthrough,
            timer,
            hub.clone(),
            settings,
            fs::Origin::fresh().unwrap(),
        )
        .unwrap();
        fs.announcer.outlets = vec![outlet(Sinks::KBUS, &hub), outlet(Sinks::DBUS, &hub)];
        let (kbus, hangs) = fake();
        let (dbus, mut answers) = fake();
        answers.gate = None;
        fs.announcer.start_with([kbus, dbus].into_iter()).unwrap();
        let root = Node::Root.ino();
        let (_, opened) = fs.create(OWNER, root, b"x", 0o644, libc::O_RDWR).unwrap();
        let state = fs.states().remove(0);
        fs.announce(&state, Sinks::KBUS | Sinks::DBUS).unwrap();
        Self {
            fs,
            file: opened.file,
            hangs,
            answers,
        }
    }

    /// Commits one more version, which has to come where there are answers.
    #[track_caller]
    fn commit(&self, generation: u64) {
        self.fs.write(OWNER, self.file, 0, b"1", 0).unwrap();
        self.answers.gets(generation);
    }

    /// Sent to each, and dropped as `full`.
    fn counts(&self) -> [(u64, u64); 2] {
        let full = |counter: &Counter| {
            let mut dropped = counter.dropped();
            dropped.find(|(cause, _)| *cause == "full").unwrap().1
        };
        let counters = self.fs.announcer.counters();
        let counts: Vec<_> = counters.map(|each| (each.sent(), full(each))).collect();
        counts.try_into().unwrap()
    }

    #[track_caller]
    fn await_counts(&self, expected: [(u64, u64); 2]) {
        let begin = Instant::now();
        while self.counts() != expected {
            assert!(begin.elapsed() < PATIENCE, "{:?}", self.counts());
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}

#[test]
fn a_sink_that_does_not_answer_holds_up_no_other_and_gets_the_last_version() {
    let mut bench = Bench::new();
    bench.commit(1);
    bench.hangs.gets(1);
    for generation in 2..=4 {
        bench.commit(generation);
    }
    // Two of the three that came since will not be sent to it, which is known after a second.
    bench.await_counts([(0, 2), (4, 0)]);
    bench.commit(5);
    bench.await_counts([(0, 3), (5, 0)]);
    bench.hangs.gate = None;
    bench.hangs.gets(5);
    bench.await_counts([(2, 3), (5, 0)]);
    bench.commit(6);
    bench.hangs.gets(6);
    bench.await_counts([(3, 3), (6, 0)]);
}

#[test]
fn a_sink_that_does_not_answer_keeps_the_end_from_no_other() {
    let bench = Bench::new();
    bench.commit(1);
    bench.hangs.gets(1);
    bench.commit(2);
    let begin = Instant::now();
    bench.fs.announcer.stop(&bench.fs.states());
    assert!(begin.elapsed() < LAST_WORDS * 2);
    bench.await_counts([(0, 1), (2, 0)]);
}
