//! Two processes that count in one state: conflicts that are real, and no update lost.

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kstate::{Mount, State, TransactError};
use kstate_sys::clock::monotonic_ns;
use nix::sys::prctl;

use super::latency::Latencies;
use super::part::{Outcome, Part};
use super::report::Report;
use super::sample::Checked;
use super::states::{Count, Shown};

/// Transactions in a row, before others are let run.
const BURST: u32 = 20;

/// How long one transaction behind each burst takes, as one that computes something does. It finds
/// the other process's burst in its way now and then, and is tried again.
const THOUGHT: Duration = Duration::from_micros(50);

/// Both processes begin their bursts at multiples of this, and so together.
const PACE: Duration = Duration::from_millis(2);

/// Adds 1 again and again, until told to stop.
pub(super) fn run(part: &mut Part) -> Outcome {
    prctl::set_timerslack(1)?;
    let mount = Mount::at(part.directory())?;
    let state: State<Count> = mount.subscribe(Count::STATE).write().typed()?;
    let mut report = Report::default();
    let mut latencies = Latencies::new()?;
    let by = u64::from(std::process::id());
    part.ready("commits through the map")?;
    while !part.is_stopping() {
        let begin = Instant::now();
        for _ in 0..BURST {
            add_one(&state, by, Duration::ZERO, &mut report)?;
        }
        latencies.record(begin.elapsed());
        add_one(&state, by, THOUGHT, &mut report)?;
        report.latency = latencies.per(BURST);
        part.progress(|| report.clone())?;
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let pace = PACE.as_nanos();
        let left = pace - since_epoch.as_nanos() % pace;
        thread::sleep(Duration::from_nanos(u64::try_from(left)?));
    }
    Ok(report)
}

/// Adds 1; in `thought` between reading and committing.
fn add_one(
    state: &State<Count>,
    by: u64,
    thought: Duration,
    report: &mut Report,
) -> Result<(), TransactError> {
    let done = state.transact(|count| {
        if !thought.is_zero() {
            thread::sleep(thought);
        }
        count.value += 1;
        count.by = by;
        count.seal(monotonic_ns(), count.value);
    })?;
    report.commits += 1;
    report.conflicts += u64::from(done.attempts - 1);
    Ok(())
}
