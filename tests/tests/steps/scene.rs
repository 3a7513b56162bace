//! The states of an operation, and the others who use them.

use std::fmt;
use std::time::{Duration, Instant};

use kstate::{Bytes, Live, Mount, Snapshot, State, TransactManyError};
use kstate_tests::{Daemon, bytes_of, eventually, number_of_bytes};

use crate::operation::{Effect, Operation};
use crate::waiter::Waiter;

/// How long the others may be held up. It is milliseconds at most; the rest is for machines that
/// are busy with something else. A waiter that was not woken looks again after four seconds.
const BOUND: Duration = Duration::from_secs(1);

/// What another writer's commit adds to a number.
const OTHERS_ADD: u64 = 1000;

/// How often another writer commits while a reader is stopped: it goes round its slots.
const ROUNDS_BESIDE_READERS: u32 = 6;

/// Ways in which others commit.
pub(crate) const WAYS: u32 = 5;

/// A version of a state, as others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) generation: u64,
    pub(crate) number: u64,
}

impl Version {
    /// The number when only others have committed up to that generation.
    pub(crate) fn number_after(self, generation: u64) -> u64 {
        self.number + OTHERS_ADD * (generation - self.generation)
    }
}

/// What the daemon and its mount hold for processes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Holdings {
    /// Subscribers, writers and waiters of each state.
    states: Vec<(u32, u32, u32)>,
    record_files: usize,
}

/// How long others were held up at most.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Longest {
    snapshot: Duration,
    cut: Duration,
    file: Duration,
    commit: Duration,
    commit_of_several: Duration,
}

/// The states of an operation, with other readers, writers, a waiter and a live pointer.
pub(crate) struct Scene<'d> {
    daemon: &'d Daemon,
    mount: Mount,
    operation: &'static Operation,
    /// `x`, or `x`, `y` and `z`; of these the first two always carry the same number.
    states: Vec<State<Bytes>>,
    live: Option<Live<Bytes>>,
    waiter: Option<Waiter>,
    /// What is held when no process has come.
    held: Holdings,
    pub(crate) longest: Longest,
}

impl<'d> Scene<'d> {
    #[track_caller]
    pub(crate) fn new(daemon: &'d Daemon, operation: &'static Operation) -> Self {
        let mount = daemon.library();
        let suffixes: &[&str] = match operation.several {
            true => &["x", "y", "z"],
            false => &["x"],
        };
        let length = u32::try_from(operation.length).unwrap();
        let states: Vec<State<Bytes>> = (suffixes.iter())
            .map(|suffix| {
                let name = format!("{}.{suffix}", operation.name);
                let subscribe = mount.subscribe(name).write().capacity(length).keep();
                let state = subscribe.bytes().unwrap();
                state.publish(&bytes_of(0, operation.length)).unwrap();
                state
            })
            .collect();
        let mut scene = Self {
            daemon,
            mount,
            operation,
            live: operation.armed.then(|| states[0].live().unwrap()),
            waiter: None,
            held: Holdings::default(),
            states,
            longest: Longest::default(),
        };
        // What is done once is done: claims, records.
        for way in 0..WAYS {
            scene.others_commit(way);
        }
        scene.longest = Longest::default();
        if operation.awaited {
            scene.waiter = Some(Waiter::start(scene.awaited().reader()));
            scene.settle();
        }
        scene.held = scene.holdings();
        scene
    }

    /// Waits until nothing is held any more for a process that came and went.
    #[track_caller]
    pub(crate) fn await_nothing_held(&self) {
        eventually("what it held is free", || {
            (self.holdings() == self.held).then_some(())
        });
    }

    /// What the daemon holds for processes. Not to be asked in the middle of reading files.
    #[track_caller]
    fn holdings(&self) -> Holdings {
        let held = |state: &State<Bytes>| {
            let info = state.info().unwrap();
            (info.subscribers, info.writers, info.waiters)
        };
        let records = std::fs::read_dir(self.daemon.file(".kstate/intents")).unwrap();
        Holdings {
            states: self.states.iter().map(held).collect(),
            record_files: records.count(),
        }
    }

    /// Waits until the waiter, if there is one, knows the newest version and sleeps.
    #[track_caller]
    pub(crate) fn settle(&self) {
        if let Some(waiter) = &self.waiter {
            let newest = self.awaited().generation().0;
            eventually("the waiter sleeps", || {
                waiter.is_asleep_at(newest).then_some(())
            });
        }
    }

    fn awaited(&self) -> &State<Bytes> {
        &self.states[usize::from(self.operation.several)]
    }

    /// Reads all states in all ways: each value is whole, and all or nothing of a commit of several
    /// is there.
    #[track_caller]
    pub(crate) fn look(&mut self) -> Vec<Version> {
        // May be old or half-written, and says so then.
        let _ = self.is_live();
        let mut versions = Vec::new();
        for state in &self.states {
            let snapshot = timed(&mut self.longest.snapshot, || state.snapshot().unwrap());
            versions.push(version_of(&snapshot));
            let file = self.daemon.file(state.name().as_str());
            let bytes = timed(&mut self.longest.file, || std::fs::read(file).unwrap());
            let read = number_of_bytes(&bytes).expect("a file shows one version");
            assert_eq!(read, versions[versions.len() - 1].number, "in the file");
        }
        if let [x, y, z] = &self.states[..] {
            let (x, y, z) = timed(&mut self.longest.cut, || {
                kstate::cut((&**x, &**y, &**z)).unwrap()
            });
            let cut = [&x, &y, &z].map(version_of);
            assert_eq!(cut[0].number, cut[1].number, "all or nothing: {cut:?}");
            assert_eq!(cut, versions[..], "nothing changes meanwhile");
        }
        versions
    }

    /// Others read, commit and read while the process of the operation is stopped or dead. What they
    /// found before and after.
    #[track_caller]
    pub(crate) fn disturb(&mut self, way: u32) -> (Vec<Version>, Vec<Version>) {
        let before = self.look();
        self.others_commit(way);
        let after = self.look();
        assert_ne!(before, after);
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(after.number, before.number_after(after.generation));
        }
        (before, after)
    }

    /// Others commit, in one of several ways.
    #[track_caller]
    fn others_commit(&mut self, way: u32) {
        let rounds = match self.operation.effect {
            Effect::Reads => ROUNDS_BESIDE_READERS,
            Effect::Adds | Effect::Replaces => 1,
        };
        let (one, several) = (
            &mut self.longest.commit,
            &mut self.longest.commit_of_several,
        );
        for round in 0..rounds {
            let way = way + round;
            match &self.states[..] {
                [x, y, z] => match way % WAYS {
                    0 => timed(several, || add_to_both(x, y)),
                    1 => drop([x, y].map(|state| timed(one, || add(state)))),
                    2 => drop([x, y].map(|state| timed(one, || replace(state)))),
                    // Reads what the operation writes, and writes what it reads.
                    3 => timed(several, || add_beside(z, x)),
                    _ => timed(one, || replace(z)),
                },
                states => {
                    let change = if way.is_multiple_of(2) { add } else { replace };
                    states.iter().for_each(|state| timed(one, || change(state)));
                }
            }
        }
    }

    /// Waits until what a commit owes is paid: who waits knows of it, and the live page shows it.
    #[track_caller]
    pub(crate) fn await_what_is_owed(&self) {
        if let Some(waiter) = &self.waiter {
            let newest = self.awaited().generation().0;
            soon("the waiter is woken", || waiter.seen() == newest);
        }
        soon("the live page shows the newest version", || self.is_live());
    }

    /// Whether the live page, if it is armed, shows the newest version.
    pub(crate) fn is_live(&self) -> bool {
        let Some(live) = &self.live else { return true };
        let mut bytes = vec![0; self.operation.length];
        let shown = live.load_into(&mut bytes).map(|generation| Version {
            generation: generation.0,
            number: number_of_bytes(&bytes).expect("one version in the live page"),
        });
        shown == Some(version_of(&self.states[0].snapshot().unwrap()))
    }

    /// Ends it: nobody else holds anything of the states, so that they can be deleted.
    #[track_caller]
    pub(crate) fn end(mut self) {
        if let Some(waiter) = self.waiter.take() {
            let newest = bytes_of(0, self.operation.length);
            waiter.end(|| _ = self.awaited().publish(&newest).unwrap());
        }
        let names: Vec<_> = self
            .states
            .iter()
            .map(|state| state.name().clone())
            .collect();
        (self.live, self.states) = (None, Vec::new());
        for name in names {
            eventually("it can be deleted", || {
                self.mount.remove(name.as_str()).ok()
            });
        }
    }
}

impl fmt::Display for Longest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            snapshot,
            cut,
            file,
            commit,
            commit_of_several,
        } = self;
        write!(
            f,
            "snapshot {snapshot:.1?}, cut {cut:.1?}, file {file:.1?}, commit {commit:.1?}, \
             commit of several {commit_of_several:.1?}"
        )
    }
}

fn add(state: &State<Bytes>) {
    state.transact(add_to).unwrap();
}

fn replace(state: &State<Bytes>) {
    let mut value = state.snapshot().unwrap().value;
    add_to(&mut value);
    state.publish(&value).unwrap();
}

fn add_to_both(x: &State<Bytes>, y: &State<Bytes>) {
    kstate::transact_many(|tx| {
        tx.add(x)?;
        tx.add(y)?;
        add_to(tx.get_mut(x)?);
        add_to(tx.get_mut(y)?);
        Ok::<_, TransactManyError>(())
    })
    .unwrap();
}

/// Adds to `state` if `read` stands meanwhile.
fn add_beside(state: &State<Bytes>, read: &State<Bytes>) {
    kstate::transact_many(|tx| {
        tx.add_reading(read)?;
        tx.add(state)?;
        number_of_bytes(tx.get(read)?).expect("whole");
        add_to(tx.get_mut(state)?);
        Ok::<_, TransactManyError>(())
    })
    .unwrap();
}

fn add_to(value: &mut Vec<u8>) {
    let number = number_of_bytes(value).expect("whole");
    *value = bytes_of(number + OTHERS_ADD, value.len());
}

#[track_caller]
fn version_of(snapshot: &Snapshot<Vec<u8>>) -> Version {
    Version {
        generation: snapshot.generation().0,
        number: number_of_bytes(&snapshot.value).expect("a value is whole"),
    }
}

/// Notes how long `work` takes, if nothing took longer, and that it is not too long.
#[track_caller]
fn timed<R>(longest: &mut Duration, work: impl FnOnce() -> R) -> R {
    let start = Instant::now();
    let done = work();
    let took = start.elapsed();
    assert!(took < BOUND, "held up for {took:?}");
    *longest = took.max(*longest);
    done
}

/// Waits until something holds that takes no longer than others may be held up.
#[track_caller]
fn soon(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    eventually(what, || holds().then_some(()));
    let took = start.elapsed();
    assert!(took < BOUND, "{what}: after {took:?}");
}
