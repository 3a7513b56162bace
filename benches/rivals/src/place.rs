//! Which processor runs what, and what time it is there.

use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// Where writers are.
pub(crate) const WRITER: usize = 0;

/// Keeps the calling thread on one processor; on a machine with fewer, on the last.
pub(crate) fn pin(processor: usize) {
    let mut set = CpuSet::new();
    let processor = processor.min(processors() - 1);
    if set.set(processor).is_ok()
        && let Err(error) = sched_setaffinity(Pid::from_raw(0), &set)
    {
        eprintln!("not pinned to processor {processor}: {error}");
    }
}

/// The processors of this machine.
pub(crate) fn processors() -> usize {
    nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN)
        .ok()
        .flatten()
        .and_then(|count| usize::try_from(count).ok())
        .unwrap_or(1)
        .max(1)
}

/// Where the n-th reader is: beside the writer last.
pub(crate) fn reader(n: usize) -> usize {
    (1 + n) % processors()
}

/// Nanoseconds of the clock that all processes share.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}
