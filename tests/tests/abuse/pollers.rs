//! Many descriptors that poll.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use kstate_tests::{Daemon, PATIENCE, Setup, both_transports, processor_ticks};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::{attribute, create, daemon_pid, raise_own_limit, without_passthrough};

/// More states than one call of `futex_waitv` holds.
const STATES: usize = 200;
const POLLERS_A_STATE: usize = 10;

/// Two thousand descriptors in one epoll, each with its index as data.
struct Pollers {
    epoll: Epoll,
    files: Vec<File>,
    writers: Vec<File>,
}

impl Pollers {
    fn start(daemon: &Daemon) -> Self {
        let flags = EpollCreateFlags::EPOLL_CLOEXEC;
        let epoll = Epoll::new(flags).unwrap();
        let (mut files, mut writers) = (Vec::new(), Vec::new());
        for state in 0..STATES {
            let name = format!("polled.{state}");
            writers.push(create(daemon, &name).unwrap());
            for _ in 0..POLLERS_A_STATE {
                let file = File::open(daemon.file(&name)).unwrap();
                let event = EpollEvent::new(EpollFlags::EPOLLIN, files.len() as u64);
                epoll.add(&file, event).unwrap();
                files.push(file);
            }
        }
        Self {
            epoll,
            files,
            writers,
        }
    }

    fn write(&self, state: usize, value: &str) {
        self.writers[state]
            .write_all_at(value.as_bytes(), 0)
            .unwrap();
    }

    /// Reads what is told of until all pollers of `states` have read `value`; the indices of all
    /// that were told of anything.
    fn read_until(&self, states: &[usize], value: &str) -> BTreeMap<usize, u32> {
        let start = Instant::now();
        let mut told = BTreeMap::new();
        let mut missing = states.len() * POLLERS_A_STATE;
        let mut events = [EpollEvent::empty(); 256];
        while missing > 0 {
            assert!(start.elapsed() < PATIENCE, "{missing} were not told");
            let timeout = EpollTimeout::from(100_u16);
            let ready = self.epoll.wait(&mut events, timeout).unwrap();
            for event in &events[..ready] {
                let index = usize::try_from(event.data()).unwrap();
                let mut bytes = [0; 64];
                let length = self.files[index].read_at(&mut bytes, 0).unwrap();
                if &bytes[..length] == value.as_bytes() {
                    missing -= 1;
                }
                *told.entry(index).or_insert(0) += 1;
            }
        }
        told
    }
}

fn of_state(state: usize) -> std::ops::Range<usize> {
    state * POLLERS_A_STATE..(state + 1) * POLLERS_A_STATE
}

fn wakes_who_polls(mut daemon: Daemon) {
    raise_own_limit();
    let pollers = Pollers::start(&daemon);
    assert_eq!(attribute(&pollers.writers[0], "waiters"), POLLERS_A_STATE);
    // One commit. A second one elsewhere shows that nobody else was told in the meantime.
    for state in [3, 150] {
        pollers.write(state, "once");
        let told = pollers.read_until(&[state], "once");
        assert!(told.keys().copied().eq(of_state(state)), "{told:?}");
        assert!(told.values().all(|times| *times == 1), "{told:?}");
    }
    // Many, faster than they are read.
    let changed: Vec<usize> = (0..STATES).step_by(7).collect();
    for number in 0..20 {
        for state in &changed {
            pollers.write(*state, &format!("version {number:2}"));
        }
    }
    let told = pollers.read_until(&changed, "version 19");
    assert!(
        told.keys()
            .copied()
            .eq(changed.iter().copied().flat_map(of_state))
    );
    // All asleep. This is a measurement, of a time in which nothing is to happen.
    let pid = daemon_pid(&mut daemon);
    let before = processor_ticks(pid);
    let mut none = [EpollEvent::empty(); 1];
    let second = EpollTimeout::try_from(Duration::from_secs(1)).unwrap();
    assert_eq!(pollers.epoll.wait(&mut none, second), Ok(0));
    let spent = processor_ticks(pid) - before;
    assert!(spent <= 3, "{spent} ticks in a second with nothing to do");
}

#[test]
fn of_two_thousand_descriptors_that_poll_a_commit_wakes_those_of_its_state() {
    wakes_who_polls(Daemon::start());
}

#[test]
fn of_two_thousand_descriptors_without_passthrough_as_well() {
    wakes_who_polls(without_passthrough().start());
}

#[test]
fn of_two_thousand_descriptors_without_io_uring_as_well() {
    wakes_who_polls(Setup::default().with("--notify-by=futex").start());
}

#[test]
fn two_thousand_descriptors_on_one_state_are_all_told_of_the_newest_version() {
    raise_own_limit();
    both_transports(|daemon| {
        let writer = create(daemon, "x").unwrap();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        let files: Vec<File> = (0..STATES * POLLERS_A_STATE)
            .map(|_| File::open(daemon.file("x")).unwrap())
            .collect();
        for (data, file) in (0..).zip(&files) {
            epoll
                .add(file, EpollEvent::new(EpollFlags::EPOLLIN, data))
                .unwrap();
        }
        assert_eq!(attribute(&writer, "waiters"), files.len());
        let pollers = Pollers {
            epoll,
            files,
            writers: vec![writer],
        };
        let everybody: Vec<usize> = (0..STATES).collect();
        for number in 0..3 {
            let value = number.to_string();
            pollers.write(0, &value);
            let told = pollers.read_until(&everybody, &value);
            assert!(told.values().all(|times| *times == 1));
        }
    });
}
