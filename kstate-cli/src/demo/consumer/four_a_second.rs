//! The consumer that looks at most four times a second.

use std::time::{Duration, Instant};

use kstate::{Mount, State};

use super::super::latency::Latencies;
use super::super::part::{Outcome, Part};
use super::super::report::Report;
use super::super::sample::MemorySample;
use super::super::states::Shown;
use super::{Follower, Quiet, WAIT};
use crate::duration;

/// Four times a second.
const INTERVAL: Duration = Duration::from_millis(250);

/// Rounds without a change that make the end: more than the rate can hold back.
const ROUNDS: u32 = 15;
const _: () = assert!(ROUNDS as u128 * WAIT.as_millis() > 2 * INTERVAL.as_millis());

/// Watches through a view with a limited rate, and notes how old what it is given is.
pub(in super::super) fn run(part: &mut Part) -> Outcome {
    let mount = Mount::at(part.directory())?;
    let state: State<MemorySample> = mount.subscribe(MemorySample::STATE).existing().typed()?;
    let mut watch = state.watch().at_most_every(INTERVAL);
    let mut follower = Follower::new(MemorySample::STATE);
    let mut latencies = Latencies::new()?;
    let mut quiet = Quiet::after(ROUNDS);
    let mut last: Option<Instant> = None;
    let mut shortest_gap = Duration::MAX;
    part.ready("through a view")?;
    loop {
        let mut changed = false;
        if let Some(snapshot) = watch.next(Some(WAIT))? {
            let now = Instant::now();
            if let Some(last) = last.replace(now) {
                shortest_gap = shortest_gap.min(now - last);
            }
            if let Some(age) = snapshot.age() {
                latencies.record(age);
            }
            changed = follower.see(&snapshot.value);
        }
        let report = || Report {
            latency: latencies.per(1),
            shortest_gap_ns: duration::nanoseconds(shortest_gap),
            ..follower.report()
        };
        if quiet.has_come(part.is_stopping(), changed) {
            return Ok(report());
        }
        part.progress(report)?;
    }
}
