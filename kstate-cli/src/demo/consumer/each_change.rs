//! The consumer that waits for each change.

use kstate::{Generation, Mount, State, Waited};

use super::super::latency::Latencies;
use super::super::part::{Outcome, Part};
use super::super::report::Report;
use super::super::sample::CpuSample;
use super::super::states::Shown;
use super::{Follower, Quiet, WAIT};

/// Waits for a version newer than the last, and notes how old it is by then.
pub(in super::super) fn run(part: &mut Part) -> Outcome {
    let mount = Mount::at(part.directory())?;
    let state: State<CpuSample> = mount.subscribe(CpuSample::STATE).existing().typed()?;
    let mut follower = Follower::new(CpuSample::STATE);
    let mut latencies = Latencies::new()?;
    let mut quiet = Quiet::after(5);
    let mut seen = Generation::NEVER;
    part.ready("waits on the map")?;
    loop {
        let mut changed = false;
        if let Waited::Changed(_) = state.wait(seen, Some(WAIT))? {
            let snapshot = state.snapshot()?;
            // What was there before the first wait did not wake anybody.
            if let Some(age) = snapshot.age().filter(|_| !seen.is_never()) {
                latencies.record(age);
            }
            seen = snapshot.generation();
            changed = follower.see(&snapshot.value);
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
