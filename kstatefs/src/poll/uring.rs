#![expect(
    unsafe_code,
    reason = "pushes entries whose addresses the kernel keeps"
)]
//! All waits in one io_uring.
//!
//! # Invariants
//!
//! 1. The address of a futex wait that is in flight belongs to a mapping that `Watched` keeps
//!    until the wait's completion has been taken.
//! 2. The bell's eight bytes live as long as the ring.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Weak};

use io_uring::{IoUring, opcode, types};
use kstate_sys::futex::FUTEX2_SIZE_U32;
use kstate_sys::region::{Head, Memory};

use super::Inbox;
use crate::region::RegionMapping;
use crate::state::State;

/// User data of the read of the bell; states have their inode number, which is never this.
const BELL: u64 = 0;
/// User data of cancellations, whose results say nothing.
const CANCEL: u64 = u64::MAX;
const FUTEX_BITSET_MATCH_ANY: u64 = u32::MAX as u64;

pub(super) struct Watcher {
    ring: IoUring,
    bell: Box<[u8; 8]>,
    watched: HashMap<u64, Watched>,
    /// Completions taken to make room and not looked at yet.
    backlog: Vec<u64>,
}

struct Watched {
    state: Weak<State>,
    /// The mapping that the wait in flight names; `None` when none is.
    mapping: Option<Arc<RegionMapping>>,
    cancelled: bool,
}

impl Watcher {
    /// A ring that can wait on futexes (Linux 6.7), or why there is none.
    pub(super) fn new() -> io::Result<Self> {
        // Used by one thread alone, which is woken no more often than it asks (Linux 6.1, which is
        // older than futex waits). It is another one than this: hence not enabled yet.
        let ring = IoUring::builder()
            .setup_cqsize(4096)
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_r_disabled()
            .build(256)?;
        let mut probe = io_uring::Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        if !probe.is_supported(opcode::FutexWait::CODE) {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        Ok(Self {
            ring,
            bell: Box::new([0; 8]),
            watched: HashMap::new(),
            backlog: Vec::new(),
        })
    }

    pub(super) fn run(mut self, inbox: &Inbox) {
        if let Err(error) = self.ring.submitter().register_enable_rings() {
            tracing::error!(%error, "programs that poll state files are not notified");
            return;
        }
        self.listen(inbox);
        while !inbox.is_stopped() {
            let wanted = usize::from(self.backlog.is_empty());
            match self.ring.submit_and_wait(wanted) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => continue,
                // The completion queue is full: take from it first.
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                Err(error) => {
                    tracing::error!(%error, "programs that poll state files are not notified");
                    return;
                }
            }
            self.take_completions();
            for id in std::mem::take(&mut self.backlog) {
                match id {
                    BELL => {
                        for state in inbox.take() {
                            if let Some(state) = state.upgrade() {
                                self.visit(inbox, &state);
                            }
                        }
                        self.listen(inbox);
                    }
                    CANCEL => {}
                    // Woken, or the word had changed already: one look is right for both.
                    ino => self.completed(inbox, ino),
                }
            }
        }
        // Dropping the ring cancels what is in flight; the mappings go after it.
        let Self { ring, watched, .. } = self;
        drop(ring);
        drop(watched);
    }

    fn take_completions(&mut self) {
        let taken = self.ring.completion().map(|entry| entry.user_data());
        self.backlog.extend(taken);
    }

    fn completed(&mut self, inbox: &Inbox, ino: u64) {
        let Some(watched) = self.watched.get_mut(&ino) else {
            return;
        };
        watched.mapping = None;
        match watched.state.upgrade() {
            Some(state) => self.visit(inbox, &state),
            None => {
                self.watched.remove(&ino);
            }
        }
    }

    /// Notifies who has something to see, and waits on behalf of the rest.
    fn visit(&mut self, inbox: &Inbox, state: &Arc<State>) {
        let ino = state.ino();
        let in_flight = self
            .watched
            .get(&ino)
            .is_some_and(|watched| watched.mapping.is_some());
        match inbox.tell(state).watch {
            // The wait in flight ends at the next commit, which is when there is news.
            Some(_) if in_flight => {}
            Some((head, mapping)) => {
                self.wait(ino, head, &mapping);
                let watched = self.watched.entry(ino).or_insert_with(|| Watched {
                    state: Arc::downgrade(state),
                    mapping: None,
                    cancelled: false,
                });
                watched.mapping = Some(mapping);
                watched.cancelled = false;
            }
            None if in_flight => {
                if let Some(watched) = self.watched.get_mut(&ino)
                    && !watched.cancelled
                {
                    watched.cancelled = true;
                    self.push(&opcode::AsyncCancel::new(ino).build().user_data(CANCEL));
                }
            }
            None => {
                self.watched.remove(&ino);
            }
        }
    }

    fn wait(&mut self, ino: u64, head: Head, mapping: &RegionMapping) {
        let mapped = mapping.mapped();
        let word = mapped.header().head.as_ptr().cast::<u32>().cast_const();
        let entry = opcode::FutexWait::new(
            word,
            u64::from(head.futex_word()),
            FUTEX_BITSET_MATCH_ANY,
            FUTEX2_SIZE_U32,
        );
        // INVARIANT: 1: the caller keeps the mapping in `watched`.
        self.push(&entry.build().user_data(ino));
    }

    fn listen(&mut self, inbox: &Inbox) {
        let fd = types::Fd(inbox.bell.as_fd().as_raw_fd());
        // INVARIANT: 2: the box lives in `self`, beside the ring.
        let entry = opcode::Read::new(fd, self.bell.as_mut_ptr(), 8);
        self.push(&entry.build().user_data(BELL));
    }

    fn push(&mut self, entry: &io_uring::squeue::Entry) {
        loop {
            // SAFETY: invariants 1 and 2: what the entry points at outlives its execution.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return;
            }
            // The queue is full: hand it to the kernel and go on.
            match self.ring.submit() {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                // So is that of completions, which are looked at later.
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => self.take_completions(),
                Err(error) => {
                    tracing::error!(%error, "a wait could not be queued");
                    return;
                }
            }
        }
    }
}
