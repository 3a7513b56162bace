//! Which processor runs what.

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Keeps the calling thread on one processor, if there are so many.
pub(crate) fn pin(processor: usize) {
    let mut set = CpuSet::new();
    if set.set(processor).is_ok()
        && let Err(error) = sched_setaffinity(Pid::from_raw(0), &set)
    {
        eprintln!("not pinned to processor {processor}: {error}");
    }
}

/// Lets the calling thread, and those it starts, run on all of them again.
pub(crate) fn unpin() {
    let mut set = CpuSet::new();
    for processor in 0..CpuSet::count() {
        // No more than there is room for.
        let _ = set.set(processor);
    }
    if let Err(error) = sched_setaffinity(Pid::from_raw(0), &set) {
        eprintln!("still pinned: {error}");
    }
}

/// The processors that can be used.
pub(crate) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
