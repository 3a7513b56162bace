//! The programs that poll.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kstate_sys::region::{Generation, Head, Memory, Notice};

use super::{Inner, State};
use crate::errno::Errno;
use crate::handle::Handle;
use crate::poll::Poller;
use crate::region::RegionMapping;

/// A file that is polled.
#[derive(Debug)]
pub(super) struct Polled {
    handle: Arc<Handle>,
    poller: Poller,
    /// The newest generation when poll was answered: a newer one is news, even if that one has
    /// not been read yet. Who watches for edges hears of each.
    told: Generation,
}

impl Polled {
    fn has_news(&self, newest: Generation) -> bool {
        newest > self.told && newest > self.handle.seen()
    }
}

/// What `poll` found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PollState {
    /// There is a version that was not seen yet.
    Readable,
    /// The state was deleted: nothing new will come.
    Gone,
    /// Not yet.
    Idle,
}

impl State {
    /// Whether a version newer than the last one seen through `handle` exists. `poller` is kept,
    /// unless the state has gone, and called when there is a newer one than now.
    pub(crate) fn poll(
        &self,
        handle: &Arc<Handle>,
        poller: Option<Poller>,
    ) -> Result<PollState, Errno> {
        let mut inner = self.lock();
        if inner.gone {
            return Ok(PollState::Gone);
        }
        let told = self.describe_locked()?;
        if let Some(poller) = poller {
            let handle = handle.clone();
            let polled = Polled {
                handle,
                poller,
                told,
            };
            inner.pollers.insert(polled.handle.id, polled);
        }
        Ok(match told > handle.seen() {
            true => PollState::Readable,
            false => PollState::Idle,
        })
    }

    /// Calls the pollers that have something to see. Returns the head to wait beyond, `None` when
    /// nobody polls any more.
    pub(crate) fn notify_pollers(&self) -> Option<(Head, Arc<RegionMapping>)> {
        let mut inner = self.lock();
        if inner.pollers.is_empty() {
            self.lower_mark_if_unused(&inner);
            return None;
        }
        let mapping = self.mapping();
        let header = mapping.mapped();
        let header = header.header();
        header.raise(Notice::WAITERS);
        // ORDERING: SeqCst after `raise`: see `Header::notice`.
        let head = Head::from_raw(header.head.load(Ordering::SeqCst));
        let ready: Vec<u64> = inner
            .pollers
            .iter()
            .filter(|(_, polled)| polled.has_news(head.generation()) || inner.gone)
            .map(|(id, _)| *id)
            .collect();
        let ready: Vec<Poller> = ready
            .iter()
            .filter_map(|id| inner.pollers.remove(id))
            .map(|polled| polled.poller)
            .collect();
        let watch = !inner.pollers.is_empty();
        self.lower_mark_if_unused(&inner);
        drop(inner);
        for poller in ready {
            poller.call();
        }
        watch.then_some((head, mapping))
    }

    /// Whether anybody polls.
    pub(crate) fn has_pollers(&self) -> bool {
        !self.lock().pollers.is_empty()
    }

    pub(super) fn lower_mark_if_unused(&self, inner: &Inner) {
        if inner.waits.is_empty() && inner.pollers.is_empty() {
            self.mapping().mapped().header().lower(Notice::WAITERS);
        }
    }
}
