//! Reads that wait until there is something to give.
//!
//! They are answered later, so they hold up no thread of the daemon. What must not be held up either
//! is the program: of a read that is under way the kernel lets nobody go, not even by SIGKILL, before
//! it is answered. It would tell by a request of its own (FUSE_INTERRUPT) that a signal has come, but
//! fuser 0.18 answers that with ENOSYS, and then the kernel asks no more. So signals are looked for.

use std::collections::HashSet;
use std::fs;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::errno::Errno;

/// How soon a signal is found.
pub(crate) const SOON: Duration = Duration::from_millis(50);
/// How many threads of one user are looked at each time, those first that have waited for it longest. Of
/// more each waits longer, but nobody else does.
const AT_A_TIME: usize = 200;

/// What a read gives.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Given {
    /// These bytes; none at the end.
    Bytes(Vec<u8>),
    /// Nothing yet.
    NotYet,
}

impl Given {
    /// What a read of `size` bytes at `offset` gives of all there is.
    pub(crate) fn part_of(bytes: &[u8], offset: u64, size: usize) -> Self {
        let start = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        let end = start.saturating_add(size).min(bytes.len());
        Self::Bytes(bytes[start..end].to_vec())
    }
}

/// A read that waits.
pub(crate) struct BlockedRead {
    uid: u32,
    tid: u32,
    /// When it was looked for a signal last.
    looked: Instant,
    size: usize,
    reply: Box<dyn FnOnce(Result<Vec<u8>, Errno>) + Send>,
}

impl BlockedRead {
    /// A read by thread `tid` of user `uid` of no more than `size` bytes.
    pub(crate) fn new(
        (uid, tid): (u32, u32),
        size: usize,
        reply: impl FnOnce(Result<Vec<u8>, Errno>) + Send + 'static,
    ) -> Self {
        Self {
            uid,
            tid,
            looked: Instant::now(),
            size,
            reply: Box::new(reply),
        }
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

    /// Who waits, as user and thread, and when each was looked at last.
    fn waiting(&self) -> Vec<(u32, Instant, u32)> {
        let reads = self.lock();
        let waiting = |read: &BlockedRead| (read.uid, read.looked, read.tid);
        reads.iter().map(waiting).collect()
    }

    /// Lets those go of `looked` who are `signalled`.
    fn let_go(&self, looked: &HashSet<u32>, signalled: &HashSet<u32>) {
        let mut reads = self.lock();
        let gone: Vec<_> = reads
            .extract_if(.., |read| signalled.contains(&read.tid))
            .collect();
        let now = Instant::now();
        for read in reads.iter_mut().filter(|read| looked.contains(&read.tid)) {
            read.looked = now;
        }
        drop(reads);
        for read in gone {
            read.answer(Err(Errno::EINTR));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<BlockedRead>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets reads go whose threads have been sent a signal.
pub(crate) fn let_go_signalled(files: &[&BlockedReads]) {
    let mut waiting: Vec<_> = files.iter().flat_map(|file| file.waiting()).collect();
    // By user, and those first that have waited longest.
    waiting.sort_unstable();
    let users = waiting.chunk_by(|a, b| a.0 == b.0);
    let looked = users.flat_map(|user| user.iter().take(AT_A_TIME));
    let looked: HashSet<u32> = looked.map(|(_, _, tid)| *tid).collect();
    // No lock is held: it takes a while.
    let signalled: HashSet<u32> = looked
        .iter()
        .copied()
        .filter(|t| is_signalled(*t))
        .collect();
    for file in files {
        file.let_go(&looked, &signalled);
    }
}

/// Whether a signal waits for the thread that it does not block, or the thread has gone.
fn is_signalled(tid: u32) -> bool {
    let status = match fs::read_to_string(format!("/proc/{tid}/status")) {
        Ok(status) => status,
        // What else is in the way, such as a lack of descriptors, says nothing of the thread.
        Err(error) => {
            let gone = [Some(libc::ENOENT), Some(libc::ESRCH)];
            return gone.contains(&error.raw_os_error());
        }
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
            let read = BlockedRead::new((0, std::process::id()), number, move |answer| {
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
        let_go_signalled(&[&reads]);
        assert_eq!(reads.len(), 1, "nobody was sent a signal");
    }

    #[test]
    fn a_thread_that_has_gone_is_let_go_and_one_unseen_not_kept() {
        let reads = BlockedReads::default();
        let (told, answers) = mpsc::channel();
        let read = |tid| {
            let told = told.clone();
            BlockedRead::new((0, tid), 1, move |answer| told.send(answer).unwrap())
        };
        assert!(reads.add(read(0)).is_err());
        // Above the highest that Linux can be set to give out.
        reads.add(read(1 << 30)).unwrap();
        let_go_signalled(&[&reads]);
        assert_eq!(reads.len(), 0);
        assert_eq!(answers.recv().unwrap(), Err(Errno::EINTR));
    }
}
