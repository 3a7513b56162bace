//! Writes states to their files behind the writers' backs.
//!
//! A state is looked at so often that each version, or a newer one, is in the file in the time it was
//! given; nothing is asked of those who commit. Only of a state whose every commit is wanted, and that has been
//! quiet, is the next commit waited for: then that one wakes. Each file system has threads of its own, so that
//! one that hangs holds up no other.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kstate_sys::region::Generation;

use super::store::{Done, Store};
use crate::errno::{Errno, Seldom};
use crate::poll::{Hub, Poller};
use crate::state::{Interest, Purpose, State};

/// Threads of one file system. Flushes of several files at once share what the device does.
const WORKERS: usize = 4;
/// Between two flushes of a state whose every commit is wanted: what they do to flash has a bound.
const GAP: Duration = Duration::from_millis(5);
/// So long a state is looked at again and again after its last commit, before it is waited for.
const QUIET_AFTER: Duration = Duration::from_millis(100);
/// The longest time between two looks.
const SELDOM: Duration = Duration::from_secs(60);
/// A flush that failed is tried again after so long; sooner where somebody waits for one.
const RETRY: Duration = Duration::from_secs(1);
/// How long the end waits for one of the last flushes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Threads that write states to their files.
#[derive(Debug)]
pub(crate) struct Flusher {
    hub: Arc<Hub>,
    devices: Mutex<HashMap<u64, Arc<Device>>>,
}

/// A file system, and the states that have files there.
#[derive(Debug, Default)]
struct Device {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// States whose last version was written.
    finished: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    due: BTreeSet<(Instant, u64)>,
    jobs: HashMap<u64, Job>,
    workers: Vec<JoinHandle<()>>,
    idle: usize,
    stopped: bool,
}

#[derive(Debug)]
struct Job {
    state: Weak<State>,
    store: Arc<Store>,
    at: Option<Instant>,
    busy: bool,
    /// Wanted while it was busy.
    again: bool,
    changed_at: Option<Instant>,
}

impl Queue {
    fn schedule(&mut self, ino: u64, at: Instant) {
        let Some(job) = self.jobs.get_mut(&ino) else {
            return;
        };
        if let Some(before) = job.at.replace(at) {
            self.due.remove(&(before, ino));
        }
        self.due.insert((at, ino));
    }
}

impl Flusher {
    pub(crate) fn new(hub: Arc<Hub>) -> Self {
        Self {
            hub,
            devices: Mutex::default(),
        }
    }

    /// Looks after a state's file from now on.
    pub(crate) fn begin(self: &Arc<Self>, state: &Arc<State>, store: Arc<Store>) {
        let device = self.device(&store);
        let mut queue = device.lock();
        let job = Job {
            state: Arc::downgrade(state),
            store,
            at: None,
            busy: false,
            again: false,
            changed_at: None,
        };
        queue.jobs.insert(state.ino(), job);
        drop(queue);
        self.look(&device, state.ino());
    }

    /// Has the state flushed at once, and `done` called when its version `generation` is on the medium.
    pub(crate) fn sync(
        self: &Arc<Self>,
        state: &State,
        store: &Arc<Store>,
        generation: Generation,
        done: Done,
    ) {
        store.await_durable(generation, done);
        if generation <= store.durable() {
            return store.tell();
        }
        let device = self.device(store);
        if !self.look(&device, state.ino()) {
            // It has gone meanwhile.
            store.refuse(Errno::ESTALE);
        }
    }

    /// Looks at a state at once; whether it is one of those here.
    pub(crate) fn stir(self: &Arc<Self>, state: &State, store: &Store) -> bool {
        let device = self.device(store);
        self.look(&device, state.ino())
    }

    /// Forgets a state that has been deleted, when its last version is written.
    pub(crate) fn end(&self, state: &State, store: &Arc<Store>) {
        let device = self.device(store);
        let mut queue = device.lock();
        if let Some(job) = queue.jobs.remove(&state.ino())
            && let Some(at) = job.at
        {
            queue.due.remove(&(at, state.ino()));
        }
    }

    /// Writes the last version of every state, marked as such if it is the `end` of it, lets go of the files
    /// and ends all threads. A file system that hangs is left to itself after half a minute.
    pub(crate) fn finish(&self, end: bool) {
        let devices: Vec<_> = self.devices().drain().map(|(_, device)| device).collect();
        let mut ending = Vec::new();
        for device in devices {
            let theirs = device.clone();
            let ended = std::thread::Builder::new()
                .name("kstate-flush-end".into())
                .spawn(move || theirs.finish(end));
            match ended {
                Ok(thread) => ending.push((device, thread)),
                Err(error) => tracing::error!(%error, "states not flushed"),
            }
        }
        for (device, thread) in ending {
            let mut progress = (device.finished.load(Ordering::Relaxed), Instant::now());
            while !thread.is_finished() && progress.1.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(1));
                let finished = device.finished.load(Ordering::Relaxed);
                if finished != progress.0 {
                    progress = (finished, Instant::now());
                }
            }
            match thread.is_finished() {
                true => drop(thread.join()),
                false => tracing::error!(
                    "a file system does not answer: its states may not be in their files"
                ),
            }
        }
    }

    fn device(&self, store: &Store) -> Arc<Device> {
        let (device, _) = store.identity();
        self.devices().entry(device).or_default().clone()
    }

    /// Has a state looked at now. Starts a thread if all there are have something to do.
    fn look(self: &Arc<Self>, device: &Arc<Device>, ino: u64) -> bool {
        let mut queue = device.lock();
        let Some(job) = queue.jobs.get_mut(&ino) else {
            return false;
        };
        if job.busy {
            job.again = true;
            return true;
        }
        queue.schedule(ino, Instant::now());
        if queue.idle == 0 && queue.workers.len() < WORKERS && !queue.stopped {
            let (flusher, theirs) = (Arc::downgrade(self), device.clone());
            let started = std::thread::Builder::new()
                .name("kstate-flush".into())
                .spawn(move || theirs.work(&flusher));
            match started {
                Ok(worker) => queue.workers.push(worker),
                Err(error) => tracing::error!(%error, "no thread to flush states with"),
            }
        }
        drop(queue);
        device.changed.notify_one();
        true
    }

    /// Has the next commit of a state begin a look at it.
    fn await_commit(self: &Arc<Self>, device: &Arc<Device>, state: &Arc<State>, store: &Store) {
        let (flusher, device, ino) = (Arc::downgrade(self), Arc::downgrade(device), state.ino());
        let call = Poller::new(move || {
            if let (Some(flusher), Some(device)) = (flusher.upgrade(), device.upgrade()) {
                flusher.look(&device, ino);
            }
        });
        let registered = state.register(Interest {
            // Of no file.
            file: 0,
            purpose: Purpose::Flush,
            beyond: Some(store.durable()),
            not_before: None,
            handle: None,
            call,
        });
        if registered.is_ok_and(|found| found.look) {
            self.hub.watch(state);
        }
    }

    fn devices(&self) -> MutexGuard<'_, HashMap<u64, Arc<Device>>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What follows a look at a state.
enum Next {
    After(Duration),
    AtCommit,
}

impl Device {
    fn work(self: &Arc<Self>, flusher: &Weak<Flusher>) {
        let mut queue = self.lock();
        while !queue.stopped {
            let now = Instant::now();
            let first = queue.due.first().copied();
            let Some((_, ino)) = first.filter(|(at, _)| *at <= now) else {
                queue.idle += 1;
                queue = match first {
                    Some((at, _)) => {
                        let waited = self.changed.wait_timeout(queue, at - now);
                        waited.unwrap_or_else(PoisonError::into_inner).0
                    }
                    None => {
                        let waited = self.changed.wait(queue);
                        waited.unwrap_or_else(PoisonError::into_inner)
                    }
                };
                queue.idle -= 1;
                continue;
            };
            queue.due.pop_first();
            let Some(job) = queue.jobs.get_mut(&ino) else {
                continue;
            };
            job.at = None;
            job.busy = true;
            let (state, store) = (job.state.clone(), job.store.clone());
            let changed_at = job.changed_at;
            // Another one may be due, and nobody else idle to see to it.
            let is_more = queue.due.first().is_some_and(|(at, _)| *at <= now);
            drop(queue);
            if is_more {
                self.changed.notify_one();
            }
            let looked = state.upgrade().map(|state| {
                let (changed_at, next) = look(&state, &store, changed_at);
                if matches!(next, Next::AtCommit)
                    && let Some(flusher) = flusher.upgrade()
                {
                    flusher.await_commit(self, &state, &store);
                }
                (changed_at, next)
            });
            queue = self.lock();
            let Some(job) = queue.jobs.get_mut(&ino) else {
                continue;
            };
            job.busy = false;
            let again = std::mem::take(&mut job.again);
            match looked {
                None => drop(queue.jobs.remove(&ino)),
                Some((changed_at, next)) => {
                    job.changed_at = changed_at;
                    match next {
                        _ if again => queue.schedule(ino, Instant::now()),
                        Next::After(pause) => queue.schedule(ino, Instant::now() + pause),
                        Next::AtCommit => {}
                    }
                }
            }
        }
    }

    fn finish(&self, end: bool) {
        let mut queue = self.lock();
        queue.stopped = true;
        let workers = std::mem::take(&mut queue.workers);
        drop(queue);
        self.changed.notify_all();
        for worker in workers {
            if worker.join().is_err() {
                tracing::error!("a thread that flushes states panicked");
            }
        }
        let jobs = std::mem::take(&mut self.lock().jobs);
        let mut jobs: Vec<_> = jobs
            .into_values()
            .filter_map(|job| Some((job.state.upgrade()?, job.store)))
            .collect();
        // Taken from the end: those first that have a version to lose.
        jobs.sort_by_cached_key(|(state, store)| {
            state
                .newest()
                .is_ok_and(|newest| store.is_behind(newest, false))
        });
        let jobs = Mutex::new(jobs);
        let next = || jobs.lock().unwrap_or_else(PoisonError::into_inner).pop();
        std::thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(|| {
                    while let Some((state, store)) = next() {
                        flush_last(&state, &store, end);
                        self.finished.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes what there is new of a state, if its time has come. `changed_at` is when there was something new last.
fn look(state: &State, store: &Store, changed_at: Option<Instant>) -> (Option<Instant>, Next) {
    let began = Instant::now();
    let within = store.within();
    // Of one that is written more seldom it is looked at meanwhile whether its generations run out.
    let left = changed_at.map_or(Duration::ZERO, |at| within.saturating_sub(at.elapsed()));
    let is_early = left > SELDOM
        && !store.is_urgent()
        && !state.newest().is_ok_and(|newest| store.needs_room(newest));
    if is_early {
        return (changed_at, Next::After(SELDOM));
    }
    let flushed = flush(state, store, false);
    let changed_at = match flushed {
        Ok(true) => Some(began),
        _ => changed_at,
    };
    let next = match flushed {
        Err(_) => Next::After(RETRY),
        Ok(_) if within.is_zero() => {
            match changed_at.is_some_and(|at| at.elapsed() < QUIET_AFTER) {
                true => Next::After(GAP),
                false => Next::AtCommit,
            }
        }
        // What is committed now has to be there by then, and writing takes its time.
        Ok(_) => {
            let within = within - (2 * began.elapsed()).min(within / 2);
            Next::After(within.clamp(GAP, SELDOM))
        }
    };
    (changed_at, next)
}

/// The last flush of a state through `store`: it goes, or its daemon ends; it is the `end` of its versions
/// unless another daemon goes on.
pub(crate) fn flush_last(state: &State, store: &Store, end: bool) {
    // What it failed by has been said.
    let _ = flush(state, store, end);
    store.close();
    store.refuse(Errno::ESTALE);
}

/// Whether there was something to write.
fn flush(state: &State, store: &Store, end: bool) -> Result<bool, Errno> {
    let image = match state.newest() {
        Ok(newest) if !store.is_behind(newest, end) => Ok(None),
        Ok(_) => state.image(store).map(Some),
        Err(error) => Err(error),
    };
    match image {
        Ok(Some(image)) => match store.save(image, end) {
            Ok(()) => Ok(true),
            Err(errno) => {
                static TOLD: Seldom = Seldom::new();
                if TOLD.is_due(Instant::now()) {
                    let error = std::io::Error::from_raw_os_error(errno.code());
                    let file = store.path().display();
                    tracing::error!(state = %state.name(), %file, %error, "a state was not written to its file");
                }
                Err(errno)
            }
        },
        Ok(None) => {
            store.tell();
            Ok(false)
        }
        Err(errno) => {
            store.fail(errno);
            Err(errno)
        }
    }
}
