//! The consumer that reads whenever it likes, through the map.

use std::array;
use std::thread;
use std::time::{Duration, Instant};

use kstate::{Mount, Snapshot, State};

use super::super::latency::Latencies;
use super::super::part::{Outcome, Part};
use super::super::report::Report;
use super::super::sample::{CpuSample, LoadSample, MemorySample, NetworkSample};
use super::super::states::{Count, Shown};
use super::{Follower, Quiet};

/// Reads between two looks at the clock, so that the reads are timed and not the clock.
const BATCH: usize = 16;
const BATCH_READS: u32 = 16;

/// Batches of one state in a row.
const BATCHES: usize = 8;

/// The longest pause between two bursts.
const PAUSE: Duration = Duration::from_millis(2);

/// Reads bursts from every state, with pauses of random length between them.
pub(in super::super) fn run(part: &mut Part) -> Outcome {
    let mount = Mount::at(part.directory())?;
    let mut cpu = Reading::<CpuSample>::begin(&mount)?;
    let mut memory = Reading::<MemorySample>::begin(&mount)?;
    let mut network = Reading::<NetworkSample>::begin(&mount)?;
    let mut load = Reading::<LoadSample>::begin(&mount)?;
    let mut count = Reading::<Count>::begin(&mount)?;
    let mut latencies = Latencies::new()?;
    let mut quiet = Quiet::after(50);
    part.ready("through the map")?;
    loop {
        let changed = [
            cpu.burst(&mut latencies)?,
            memory.burst(&mut latencies)?,
            network.burst(&mut latencies)?,
            load.burst(&mut latencies)?,
            count.burst(&mut latencies)?,
        ];
        let report = || {
            let all = [
                cpu.follower.report(),
                memory.follower.report(),
                network.follower.report(),
                load.follower.report(),
                count.follower.report(),
            ];
            let mut sum = Report {
                latency: latencies.per(BATCH_READS),
                ..Report::default()
            };
            for report in all {
                sum.reads += report.reads;
                sum.torn += report.torn;
                sum.went_back += report.went_back;
                sum.changes += report.changes;
                sum.passed_over += report.passed_over;
                sum.last.extend(report.last);
            }
            sum
        };
        if quiet.has_come(part.is_stopping(), changed.contains(&true)) {
            return Ok(report());
        }
        part.progress(report)?;
        thread::sleep(PAUSE.mul_f64(fastrand::f64()));
    }
}

/// One state being read.
#[derive(Debug)]
struct Reading<T: Shown> {
    state: State<T>,
    follower: Follower,
}

impl<T: Shown> Reading<T> {
    fn begin(mount: &Mount) -> Result<Self, kstate::SubscribeError> {
        let state = mount.subscribe(T::STATE).existing().typed()?;
        Ok(Self {
            state,
            follower: Follower::new(T::STATE),
        })
    }

    /// Reads in batches, each timed as a whole and checked afterwards. Returns whether there was
    /// anything new.
    fn burst(&mut self, latencies: &mut Latencies) -> Result<bool, kstate::ReadError> {
        let mut changed = false;
        for _ in 0..BATCHES {
            let begin = Instant::now();
            let batch: [Result<Snapshot<T>, _>; BATCH] = array::from_fn(|_| self.state.snapshot());
            latencies.record(begin.elapsed());
            for snapshot in batch {
                let snapshot = snapshot?;
                if !snapshot.generation().is_never() {
                    changed |= self.follower.see(&snapshot.value);
                }
            }
        }
        Ok(changed)
    }
}

const _: () = assert!(BATCH == BATCH_READS as usize);
