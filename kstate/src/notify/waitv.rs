//! Waits of a thread in `futex_waitv`, which makes an eventfd readable.
//!
//! One thread serves the notifiers of the process, another one each [`PER_THREAD`] states. It ends when
//! it has nothing to watch.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kstate_sys::fork::{Lock, Process};
use kstate_sys::futex::{self, Deadline, Woken, Word};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::NotifyError;
use super::entry::{Entry, Known, Look};
use crate::seat::{CROWD_SLEEP, Place};
use crate::sleep::LONGEST_SLEEP;

/// One is the thread's own word.
const PER_THREAD: usize = futex::MOST_WORDS - 1;

#[derive(Debug)]
pub(super) struct Waitv {
    bell: Arc<Bell>,
    /// Whose it is; none where that cannot be told.
    process: Option<Process>,
}

/// What a thread rings when there is something to see.
#[derive(Debug)]
struct Bell {
    event: EventFd,
    fired: Mutex<Vec<u64>>,
}

impl Bell {
    fn ring(&self, id: u64) {
        lock(&self.fired).push(id);
        // Fails only when it is full of rings.
        let _ = self.event.write(1);
    }
}

/// A state to be watched until there is something to see.
#[derive(Debug)]
struct Job {
    bell: Arc<Bell>,
    id: u64,
    known: Known,
}

/// A thread.
#[derive(Debug, Default)]
struct Shard {
    /// None when the thread has ended.
    jobs: Mutex<Option<Vec<Job>>>,
    call: AtomicU64,
}

/// The threads of this process.
#[derive(Debug, Default)]
struct Threads {
    process: Option<Process>,
    shards: Vec<Arc<Shard>>,
}

static THREADS: Lock<Threads> = Lock::new(Threads {
    process: None,
    shards: Vec::new(),
});

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Waitv {
    /// If the kernel can sleep on several words, and lets us.
    pub(super) fn new() -> io::Result<Self> {
        let word = AtomicU64::new(0);
        let at_once = Deadline::default();
        match futex::wait_any(&[Word::new(&word, 0)], Some(at_once))? {
            Woken::TimedOut | Woken::LookAgain | Woken::Interrupted => {}
        }
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let bell = Bell {
            event: EventFd::from_flags(flags)?,
            fired: Mutex::default(),
        };
        Ok(Self {
            bell: Arc::new(bell),
            process: Process::current().ok(),
        })
    }

    pub(super) fn arm(&mut self, id: u64, entry: &Entry, look: Look) -> Result<(), NotifyError> {
        if look.is_news() {
            self.bell.ring(id);
            return Ok(());
        }
        Ok(watch(Job {
            bell: self.bell.clone(),
            id,
            known: entry.known().clone(),
        })?)
    }

    /// Makes it readable.
    pub(super) fn again(&mut self) {
        // Fails only when it is.
        let _ = self.bell.event.write(1);
    }

    pub(super) fn disarm(&mut self, id: u64) {
        forget(|job| job.id == id && Arc::ptr_eq(&job.bell, &self.bell));
    }

    pub(super) fn fired(&mut self, into: &mut Vec<u64>) -> io::Result<()> {
        match self.bell.event.read() {
            Ok(_) => into.append(&mut lock(&self.bell.fired)),
            Err(nix::errno::Errno::EAGAIN) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

impl Drop for Waitv {
    fn drop(&mut self) {
        if self.process.is_none_or(|process| process.is_current()) {
            forget(|job| Arc::ptr_eq(&job.bell, &self.bell));
            return;
        }
        // In a forked child others of a parent's threads may seem to have it still: it is closed, and
        // dropped by nobody.
        let event = self.bell.event.as_fd().as_raw_fd();
        std::mem::forget(self.bell.clone());
        let _ = nix::unistd::close(event);
    }
}

impl AsFd for Waitv {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.event.as_fd()
    }
}

/// Takes jobs back.
fn forget(which: impl Fn(&Job) -> bool) {
    let threads = THREADS.lock();
    if !threads.process.is_some_and(|process| process.is_current()) {
        return;
    }
    for shard in &threads.shards {
        let mut jobs = lock(&shard.jobs);
        let Some(jobs) = &mut *jobs else { continue };
        let before = jobs.len();
        jobs.retain(|job| !which(job));
        if jobs.len() < before {
            shard.call();
        }
    }
}

/// Gives a job to a thread that has room, or to a new one.
fn watch(job: Job) -> io::Result<()> {
    let mut threads = THREADS.lock();
    if !threads.process.is_some_and(|process| process.is_current()) {
        // The threads of a parent, whose locks may be held for ever here.
        std::mem::forget(std::mem::take(&mut threads.shards));
        threads.process = Process::current().ok();
    }
    let mut job = Some(job);
    threads.shards.retain(|shard| {
        let mut jobs = lock(&shard.jobs);
        let Some(jobs) = &mut *jobs else { return false };
        if jobs.len() < PER_THREAD
            && let Some(job) = job.take()
        {
            jobs.push(job);
            shard.call();
        }
        true
    });
    let Some(job) = job else { return Ok(()) };
    let shard = Arc::new(Shard {
        jobs: Mutex::new(Some(vec![job])),
        call: AtomicU64::new(0),
    });
    let theirs = shard.clone();
    let builder = std::thread::Builder::new().name("kstate-notify".into());
    builder.spawn(move || theirs.run())?;
    threads.shards.push(shard);
    Ok(())
}

impl Shard {
    fn call(&self) {
        self.call.fetch_add(1, Ordering::SeqCst);
        futex::wake_all(&self.call);
    }

    fn run(&self) {
        loop {
            // Read before the jobs are looked at: a call after this ends the sleep at once.
            let call = self.call.load(Ordering::SeqCst);
            let Some(looks) = self.tell() else { return };
            let late = Deadline::after(CROWD_SLEEP);
            let slice = looks.iter().map(|(_, look)| sleep(look)).min();
            #[expect(clippy::cast_possible_truncation, reason = "the low half is compared")]
            let mine = Word::new(&self.call, call as u32);
            let theirs = looks
                .iter()
                .filter(|(_, look)| !look.has_news())
                .map(|(known, look)| Word::new(known.word(look), look.expected));
            let words: Vec<_> = std::iter::once(mine).chain(theirs).collect();
            match futex::wait_any(&words, slice) {
                Ok(Woken::TimedOut) if late.has_passed() => {
                    looks.iter().for_each(distrust_if_late);
                }
                Ok(_) => {}
                // It could a moment ago. Without memory for it, a short sleep is as good.
                Err(error) => {
                    debug_assert!(error.raw_os_error() == Some(libc::ENOMEM), "{error}");
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
            }
        }
    }

    /// Rings for what has news, and keeps the others; none if there are none, and then the thread
    /// ends.
    fn tell(&self) -> Option<Vec<(Known, Look)>> {
        let mut guard = lock(&self.jobs);
        let jobs = guard.as_mut()?;
        let mut looks = Vec::with_capacity(jobs.len());
        jobs.retain(|job| {
            let look = job.known.look();
            // Another daemon is to be asked for where it sleeps, by the notifier.
            if look.is_news() || job.known.is_outdated() {
                job.bell.ring(job.id);
                return false;
            }
            looks.push((job.known.clone(), look));
            true
        });
        if jobs.is_empty() {
            *guard = None;
            return None;
        }
        Some(looks)
    }
}

/// Of a state that has changed while nobody woke who sleeps in its crowd, the entry looks for itself from
/// now on.
fn distrust_if_late((known, look): &(Known, Look)) {
    if look.place == Place::Crowd && !look.has_news() && known.look().has_news() {
        known.reader.subscription().distrust_daemon();
    }
}

/// Until when to sleep for a state at most.
fn sleep(look: &Look) -> Deadline {
    let longest = match look.place {
        // There it may be that nobody wakes.
        Place::Crowd => CROWD_SLEEP,
        Place::Head => LONGEST_SLEEP,
    };
    let longest = Deadline::after(longest);
    let longest = look.alone_until.map_or(longest, |until| until.min(longest));
    match look.has_news() {
        true => look.due.min(longest),
        false => longest,
    }
}
