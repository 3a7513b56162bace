//! Reads that wait, and the threads that make them.

use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::JoinHandle;

use crate::blocked::BlockedRead;
use crate::errno::Errno;

/// A thread that does nothing but read. Its end is to the daemon what a signal is.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) tid: u32,
    end: Sender<()>,
    thread: JoinHandle<()>,
}

impl Reader {
    pub(super) fn start() -> Self {
        let (end, ended) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            tell.send(nix::unistd::gettid()).expect("somebody asks");
            // Nothing is ever sent.
            let _: Result<(), _> = ended.recv();
        });
        let tid = told.recv().expect("a thread").as_raw();
        Self {
            tid: u32::try_from(tid).expect("a number"),
            end,
            thread,
        }
    }

    pub(super) fn end(self) {
        drop(self.end);
        self.thread.join().expect("nothing to panic for");
    }
}

/// A read that waits, as whoever made it sees it.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) file: u64,
    pub(super) size: usize,
    /// Whether its thread is one that the daemon can see.
    pub(super) is_seen: bool,
    /// Whether its thread has ended.
    pub(super) is_over: bool,
    answer: Receiver<Result<Vec<u8>, Errno>>,
}

impl Waiting {
    /// With what the daemon gets of it.
    pub(super) fn new(file: u64, size: usize, tid: u32) -> (Self, BlockedRead) {
        let (tell, answer) = mpsc::channel();
        let read = BlockedRead::new((0, tid), size, move |result| {
            tell.send(result).expect("the kernel waits for it");
        });
        let waiting = Self {
            file,
            size,
            is_seen: tid != 0,
            is_over: false,
            answer,
        };
        (waiting, read)
    }

    /// The answer, if it has come.
    pub(super) fn answer(&self) -> Option<Result<Vec<u8>, Errno>> {
        match self.answer.try_recv() {
            Ok(answer) => Some(answer),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => panic!("{self:?} was dropped"),
        }
    }
}
