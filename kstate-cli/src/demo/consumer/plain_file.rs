//! The consumer that uses nothing but plain file calls, as a program in any language can.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::time::{ClockId, clock_gettime};
use zerocopy::FromBytes;

use super::super::latency::Latencies;
use super::super::part::{Outcome, Part};
use super::super::report::Report;
use super::super::sample::{Checked, LoadSample};
use super::super::states::Shown;
use super::{Follower, Quiet};

/// As [`super::WAIT`].
const WAIT_MS: u8 = 50;

/// Polls an open file, and reads it from its beginning whenever `poll` says so.
pub(in super::super) fn run(part: &mut Part) -> Outcome {
    let file = File::open(part.directory().join(LoadSample::STATE))?;
    let mut follower = Follower::new(LoadSample::STATE);
    let mut latencies = Latencies::new()?;
    let mut quiet = Quiet::after(20);
    part.ready("open, poll, read")?;
    loop {
        let mut changed = false;
        if is_readable(&file)? {
            let woken_ns = monotonic_ns()?;
            let mut value = [0; size_of::<LoadSample>() + 1];
            let length = file.read_at(&mut value, 0)?;
            match LoadSample::read_from_bytes(&value[..length]) {
                Ok(value) => {
                    // The value is newer than the wake where another was published in between.
                    if let Some(took) = woken_ns.checked_sub(value.published_ns())
                        && follower.last > 0
                    {
                        latencies.record(Duration::from_nanos(took));
                    }
                    changed = follower.see(&value);
                }
                Err(_) => follower.see_torn(),
            }
        }
        let report = || Report {
            latency: latencies.per(1),
            ..follower.report()
        };
        if quiet.has_come(part.is_stopping(), changed) {
            return Ok(report());
        }
        part.progress(report)?;
    }
}

fn is_readable(file: &File) -> io::Result<bool> {
    let mut polled = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
    match poll(&mut polled, PollTimeout::from(WAIT_MS)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// The clock of the stamp in the value.
fn monotonic_ns() -> io::Result<u64> {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    u64::try_from(now.as_nanos()).map_err(io::Error::other)
}
