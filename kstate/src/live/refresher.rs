#![expect(
    unsafe_code,
    reason = "polls descriptors that are not borrowed meanwhile"
)]
//! The thread that refreshes the live pages of views.
//!
//! One for all of them in a process, there as long as there is one. It follows the views with a
//! [`Notifier`] and adds and removes what it is asked to.
//!
//! # Invariants
//!
//! 1. The [`Refresher`] in the lock, if it is this process's, stays there until its thread takes it
//!    away, which ends with that.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use kstate_sys::fork::{Held, Lock, Process};
use kstate_sys::futex::Deadline;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;

use super::paced::PacedPage;
use crate::notify::{Change, Key, Notifier, NotifyError};
use crate::sleep::LONGEST_SLEEP;

static REFRESHER: Lock<Option<Refresher>> = Lock::new(None);

/// What the thread works with.
struct Refresher {
    /// None where it cannot be told from its children.
    process: Option<Process>,
    notifier: Notifier,
    bell: EventFd,
    requests: Vec<Request>,
    pages: HashMap<Key, Served>,
}

/// What the thread is asked for, and where the answer goes.
enum Request {
    Add(Arc<PacedPage>, SyncSender<Result<Key, NotifyError>>),
    Remove(Key, SyncSender<()>),
}

/// A page, and what is due of it.
struct Served {
    page: Arc<PacedPage>,
    /// There may be something newer to show.
    is_stale: bool,
    /// It is not changed before.
    due: Deadline,
}

impl Served {
    fn new(page: Arc<PacedPage>) -> Self {
        let mut served = Self {
            page,
            is_stale: true,
            due: Deadline::default(),
        };
        served.refresh();
        served
    }

    /// Brings the page up to date if that is due; when else it will be.
    fn refresh(&mut self) -> Option<Deadline> {
        if !self.is_stale {
            return None;
        }
        if !self.due.has_passed() {
            return Some(self.due);
        }
        self.is_stale = false;
        let period = self.page.view().period();
        if self.page.refresh() && !period.is_zero() {
            // Counted from the last byte written.
            self.due = Deadline::after(period);
        }
        None
    }
}

/// Has a page refreshed, now and from now on.
///
/// # Errors
///
/// What a [`Notifier`] fails for; no thread.
///
/// # Cost
///
/// A round trip to the thread, and what it does there: a FUSE request the first time.
pub(super) fn add(page: Arc<PacedPage>) -> Result<Key, NotifyError> {
    let (reply, answer) = sync_channel(1);
    let mut held = REFRESHER.lock();
    let_go_of_parents(&mut held);
    if held.is_none() {
        *held = Some(Refresher::new()?);
        let builder = std::thread::Builder::new().name("kstate-live".into());
        if let Err(error) = builder.spawn(run) {
            *held = None;
            return Err(error.into());
        }
    }
    if let Some(refresher) = &mut *held {
        refresher.ask(Request::Add(page, reply));
    }
    drop(held);
    answer.recv().unwrap_or_else(|_| Err(gone().into()))
}

/// Has a page refreshed no more, and let go of.
pub(super) fn remove(key: Key) {
    let (reply, answer) = sync_channel(1);
    let mut held = REFRESHER.lock();
    let_go_of_parents(&mut held);
    if let Some(refresher) = &mut *held {
        refresher.ask(Request::Remove(key, reply));
        drop(held);
        // It fails if the thread has gone, and the page with it.
        let _ = answer.recv();
    }
}

/// In a forked child: closes what is its parent's.
fn let_go_of_parents(held: &mut Held<'_, Option<Refresher>>) {
    let is_ours =
        |refresher: &Refresher| refresher.process.is_none_or(|process| process.is_current());
    if let Some(theirs) = held.take_if(|refresher| !is_ours(refresher)) {
        // Who asked may have been copied while it held a lock of the channel.
        std::mem::forget(theirs.requests);
    }
}

fn gone() -> io::Error {
    io::Error::other("the thread that refreshes live pages has ended")
}

impl Refresher {
    fn new() -> Result<Self, NotifyError> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self {
            process: Process::current().ok(),
            notifier: Notifier::new()?,
            bell: EventFd::from_flags(flags).map_err(io::Error::from)?,
            requests: Vec::new(),
            pages: HashMap::new(),
        })
    }

    fn ask(&mut self, request: Request) {
        self.requests.push(request);
        // Fails only when it is full of rings.
        let _ = self.bell.write(1);
    }

    /// Does what there is to do, and says when there is more.
    fn serve(&mut self) -> Option<Deadline> {
        // Nothing to read is no ring.
        let _ = self.bell.read();
        for request in std::mem::take(&mut self.requests) {
            self.answer(request);
        }
        // What could not be told is looked at in the next round of all.
        for event in self.notifier.changed().into_iter().flatten() {
            if let (Change::To(_), Some(served)) = (event.change, self.pages.get_mut(&event.key)) {
                served.is_stale = true;
            }
        }
        self.pages.values_mut().filter_map(Served::refresh).min()
    }

    fn answer(&mut self, request: Request) {
        // Who asked waits for it.
        match request {
            Request::Add(page, reply) => {
                let served = Served::new(page);
                let since = served.page.generation().unwrap_or_default();
                let added = self.notifier.add_since(served.page.view(), since);
                if let Ok(key) = &added {
                    self.pages.insert(*key, served);
                }
                let _ = reply.send(added);
            }
            Request::Remove(key, reply) => {
                self.notifier.remove(key);
                self.pages.remove(&key);
                let _ = reply.send(());
            }
        }
    }

    fn descriptors(&self) -> [RawFd; 2] {
        [self.notifier.as_raw_fd(), self.bell.as_raw_fd()]
    }
}

/// Ends what waits for an answer, should the thread panic.
struct End;

impl Drop for End {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let refresher = REFRESHER.lock().take();
            drop(refresher);
        }
    }
}

fn run() {
    // A program's handlers shall not run in a thread it knows nothing of. Fails for no set.
    let _ = nix::sys::signal::SigSet::all().thread_block();
    let _end = End;
    let mut all = Deadline::after(LONGEST_SLEEP);
    loop {
        let mut held = REFRESHER.lock();
        let Some(refresher) = &mut *held else { return };
        if all.has_passed() {
            // In case that nobody woke us, as in `sleep`.
            refresher
                .pages
                .values_mut()
                .for_each(|served| served.is_stale = true);
            all = Deadline::after(LONGEST_SLEEP);
        }
        let next = refresher.serve();
        if refresher.pages.is_empty() && refresher.requests.is_empty() {
            // INVARIANT: 1.
            let ended = held.take();
            drop(held);
            drop(ended);
            return;
        }
        let descriptors = refresher.descriptors();
        drop(held);
        sleep(descriptors, next.map_or(all, |next| next.min(all)).left());
    }
}

/// Until one of the descriptors is readable, at most for so long; or a signal, which is looked at as news.
fn sleep(descriptors: [RawFd; 2], timeout: Duration) {
    let mut fds = descriptors.map(|descriptor| {
        // SAFETY: open until this thread closes it (invariant 1).
        let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
        PollFd::new(descriptor, PollFlags::POLLIN)
    });
    let timeout = TimeSpec::from_duration(timeout);
    if ppoll(&mut fds, Some(timeout), None).is_err_and(|error| error != nix::errno::Errno::EINTR) {
        // Without memory for it, a short sleep is as good.
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use kstate_sys::region::Generation;
    use std::time::Instant;

    use super::*;
    use crate::testing::Region;

    #[test]
    fn a_page_that_was_written_late_is_left_alone_for_a_period_from_then() {
        let period = Duration::from_millis(200);
        let region = Region::new(8);
        let state = region.state::<u64>(1);
        let view = state.view(period);
        state.publish(&1).unwrap();
        assert_eq!(view.generation(), Generation(1));
        state.publish(&2).unwrap();
        let late = view.wait(Generation(1), Some(period / 2)).unwrap();
        assert_eq!(late, crate::Waited::TimedOut);
        let page = PacedPage::new(view.shown().clone(), 4096).unwrap();
        let before = Instant::now();
        let mut served = Served::new(Arc::new(page));
        let first = served.page.generation();
        while served.page.generation() == first {
            assert!(
                before.elapsed() < Duration::from_secs(20),
                "it stays as it is"
            );
            served.is_stale = true;
            served.refresh();
        }
        assert_eq!(served.page.generation(), Some(Generation(2)));
        assert!(before.elapsed() >= period);
    }
}
