//! Reads that wait until there is something to give.
//!
//! They are answered later, so they hold up no thread of the daemon. What must not be held up either
//! is the program: of a read that is under way the kernel lets nobody go, not even by SIGKILL, before
//! it is answered. It would tell by a request of its own (FUSE_INTERRUPT) that a signal has come, but
//! fuser 0.18 answers that with ENOSYS, and then the kernel asks no more. So signals are looked for.

use std::fs;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::errno::Errno;

/// How soon a signal is found.
const SOON: Duration = Duration::from_millis(50);
/// With many who wait, how long there is for each of them: looking takes a fiftieth of it.
const EACH: Duration = Duration::from_millis(1);

/// What a read gives.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Given {
    /// These bytes; none at the end.
    Bytes(Vec<u8>),
    /// Nothing yet.
    NotYet,
}

/// A read that waits.
pub(crate) struct BlockedRead {
    tid: u32,
    size: usize,
    reply: Box<dyn FnOnce(Result<Vec<u8>, Errno>) + Send>,
}

impl BlockedRead {
    /// A read by thread `tid` of no more than `size` bytes.
    pub(crate) fn new(
        tid: u32,
        size: usize,
        reply: impl FnOnce(Result<Vec<u8>, Errno>) + Send + 'static,
    ) -> Self {
        let reply = Box::new(reply);
        Self { tid, size, reply }
    }

    pub(crate) fn answer(self, result: Result<Vec<u8>, Errno>) {
        (self.reply)(result);
    }
}

impl std::fmt::Debug for BlockedRead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlockedRead({})", self.tid)
    }
}

/// The reads that wait at one open file, first come, first served.
#[derive(Debug, Default)]
pub(crate) struct BlockedReads(Mutex<Vec<BlockedRead>>);

impl BlockedReads {
    /// Adds one.
    ///
    /// # Errors
    ///
    /// The read, when its thread is in a pid namespace that the daemon cannot see into: nobody could
    /// tell when it is to be let go.
    pub(crate) fn add(&self, read: BlockedRead) -> Result<(), BlockedRead> {
        if read.tid == 0 {
            return Err(read);
        }
        self.lock().push(read);
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Answers reads with what `next` gives for their sizes, until that is nothing yet. Returns
    /// whether some still wait.
    pub(crate) fn serve(&self, mut next: impl FnMut(usize) -> Result<Given, Errno>) -> bool {
        let mut reads = self.lock();
        let mut answers = Vec::new();
        while let Some(first) = reads.first() {
            let given = match next(first.size) {
                Ok(Given::NotYet) => break,
                Ok(Given::Bytes(bytes)) => Ok(bytes),
                Err(error) => Err(error),
            };
            answers.push((reads.remove(0), given));
        }
        let some = !reads.is_empty();
        drop(reads);
        for (read, given) in answers {
            read.answer(given);
        }
        some
    }

    /// Lets those go whose threads have been sent a signal. Returns how many wait still.
    pub(crate) fn let_go_signalled(&self) -> usize {
        // Looked at without the lock: it takes a while.
        let mut tids: Vec<u32> = self.lock().iter().map(|read| read.tid).collect();
        tids.retain(|tid| is_signalled(*tid));
        let mut reads = self.lock();
        let signalled: Vec<_> = reads
            .extract_if(.., |read| tids.contains(&read.tid))
            .collect();
        let left = reads.len();
        drop(reads);
        for read in signalled {
            read.answer(Err(Errno::EINTR));
        }
        left
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<BlockedRead>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When to look for signals again, with so many who wait.
pub(crate) fn until_next_look(blocked: usize) -> Duration {
    SOON.max(EACH * u32::try_from(blocked).unwrap_or(u32::MAX))
}

/// Whether a signal waits for the thread that it does not block, or the thread has gone.
fn is_signalled(tid: u32) -> bool {
    let Ok(status) = fs::read_to_string(format!("/proc/{tid}/status")) else {
        return true;
    };
    let mask = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .unwrap_or(0)
    };
    (mask("SigPnd:") | mask("ShdPnd:")) & !mask("SigBlk:") != 0
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn reads_are_served_in_order_until_there_is_nothing_more() {
        let reads = BlockedReads::default();
        let (told, answers) = mpsc::channel();
        for number in 0..3 {
            let told = told.clone();
            let read = BlockedRead::new(std::process::id(), number, move |answer| {
                told.send((number, answer)).unwrap();
            });
            reads.add(read).unwrap();
        }
        let mut left = 2;
        let some = reads.serve(|size| {
            left -= 1;
            match left {
                -1 => Ok(Given::NotYet),
                _ => Ok(Given::Bytes(vec![0; size])),
            }
        });
        assert!(some);
        let answers: Vec<_> = answers.try_iter().collect();
        assert_eq!(answers, [(0, Ok(vec![])), (1, Ok(vec![0]))]);
        assert_eq!(reads.let_go_signalled(), 1, "nobody was sent a signal");
    }

    #[test]
    fn a_thread_that_has_gone_is_let_go_and_one_unseen_not_kept() {
        let reads = BlockedReads::default();
        let (told, answers) = mpsc::channel();
        let read = |tid| {
            let told = told.clone();
            BlockedRead::new(tid, 1, move |answer| told.send(answer).unwrap())
        };
        assert!(reads.add(read(0)).is_err());
        // Above the highest that Linux can be set to give out.
        reads.add(read(1 << 30)).unwrap();
        assert_eq!(reads.let_go_signalled(), 0);
        assert_eq!(answers.recv().unwrap(), Err(Errno::EINTR));
    }
}
