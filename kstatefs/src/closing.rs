//! Closing what clients have sent, where nobody waits for it.
//!
//! The last close of a descriptor can take as long as whoever made it likes: of a socket that lingers, of a file
//! on a file system that does not answer. So it is done in a thread of its own for each user, who thereby holds
//! up nobody else.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is to be closed, by users. One that is listed has a thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct Closers(Arc<Mutex<HashMap<u32, VecDeque<OwnedFd>>>>);

impl Closers {
    /// Closes a descriptor that user `uid` has sent, some time.
    pub(crate) fn close(&self, uid: u32, descriptor: OwnedFd) {
        let mut users = self.lock();
        if let Some(queue) = users.get_mut(&uid) {
            queue.push_back(descriptor);
            return;
        }
        users.insert(uid, VecDeque::from([descriptor]));
        drop(users);
        let theirs = self.clone();
        let started = std::thread::Builder::new()
            .name("kstate-close".into())
            .spawn(move || theirs.work(uid));
        if let Err(error) = started {
            tracing::warn!(%error, "closed in the thread of the socket");
            self.work(uid);
        }
    }

    fn work(&self, uid: u32) {
        loop {
            let mut users = self.lock();
            let Some(descriptor) = users.get_mut(&uid).and_then(VecDeque::pop_front) else {
                users.remove(&uid);
                return;
            };
            drop(users);
            drop(descriptor);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, VecDeque<OwnedFd>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A descriptor of a user's, closed by [`Closers`] when it is dropped.
#[derive(Debug)]
pub(crate) struct Foreign {
    descriptor: Option<OwnedFd>,
    uid: u32,
    closers: Closers,
}

impl Foreign {
    pub(crate) fn new(descriptor: OwnedFd, uid: u32, closers: &Closers) -> Self {
        Self {
            descriptor: Some(descriptor),
            uid,
            closers: closers.clone(),
        }
    }

    /// For who closes it where nobody waits.
    pub(crate) fn into_inner(mut self) -> Option<OwnedFd> {
        self.descriptor.take()
    }
}

impl AsFd for Foreign {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.descriptor {
            Some(descriptor) => descriptor.as_fd(),
            None => unreachable!("it is taken by who takes all of it"),
        }
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        if let Some(descriptor) = self.descriptor.take() {
            self.closers.close(self.uid, descriptor);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn all_are_closed_and_no_thread_stays() {
        let closers = Closers::default();
        let (mut reader, writer) = std::io::pipe().unwrap();
        for uid in [1, 2, 1] {
            let writer = writer.try_clone().unwrap();
            drop(Foreign::new(writer.into(), uid, &closers));
        }
        drop(writer);
        // The end of the pipe comes when nobody has it open for writing.
        assert_eq!(std::io::Read::read(&mut reader, &mut [0]).unwrap(), 0);
        let start = Instant::now();
        while !closers.lock().is_empty() {
            assert!(start.elapsed() < Duration::from_secs(10));
            std::thread::yield_now();
        }
    }
}
