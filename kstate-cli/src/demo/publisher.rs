//! The demo's publisher: this machine, a thousand times a second.

use std::thread;
use std::time::{Duration, Instant};

use kstate::{Mount, State};
use kstate_sys::clock::monotonic_ns;
use nix::sys::prctl;

use super::part::{Outcome, Part};
use super::report::Report;
use super::sample::Sampler;
use super::states::Shown;

/// So far behind, the publisher gives up catching up.
const HOPELESS: Duration = Duration::from_millis(50);

/// Samples and publishes `rate` times a second, and once more at the end.
pub(super) fn run(part: &mut Part, rate: u32) -> Outcome {
    // A sleep is otherwise up to 50 µs longer than asked for.
    prctl::set_timerslack(1)?;
    let mount = Mount::at(part.directory())?;
    let mut sampler = Sampler::open()?;
    let mut cpu = Publishing::begin(&mount)?;
    let mut memory = Publishing::begin(&mount)?;
    let mut network = Publishing::begin(&mount)?;
    let mut load = Publishing::begin(&mount)?;
    let interval = Duration::from_secs(1) / rate.max(1);
    let mut next = Instant::now();
    part.ready("publishes through the map")?;
    loop {
        // Looked at before sampling: what is published after the end was told is the last.
        let is_last = part.is_stopping();
        cpu.publish(sampler.cpu()?)?;
        memory.publish(sampler.memory()?)?;
        network.publish(sampler.network()?)?;
        load.publish(sampler.load()?)?;
        let report = || {
            let mut report = Report::default();
            for (state, published) in [
                cpu.published(),
                memory.published(),
                network.published(),
                load.published(),
            ] {
                report.commits += published;
                report.last.insert(state.to_owned(), published);
            }
            report
        };
        if is_last {
            return Ok(report());
        }
        part.progress(report)?;
        next += interval;
        let now = Instant::now();
        match next.checked_duration_since(now) {
            Some(left) => thread::sleep(left),
            None if now - next > HOPELESS => next = now,
            None => {}
        }
    }
}

/// One state being published.
#[derive(Debug)]
struct Publishing<T: Shown> {
    state: State<T>,
    published: u64,
}

impl<T: Shown> Publishing<T> {
    fn begin(mount: &Mount) -> Result<Self, kstate::SubscribeError> {
        Ok(Self {
            state: mount.subscribe(T::STATE).write().typed()?,
            published: 0,
        })
    }

    fn publish(&mut self, mut value: T) -> Result<(), kstate::PublishError> {
        value.seal(monotonic_ns(), self.published + 1);
        self.state.publish(&value)?;
        self.published += 1;
        Ok(())
    }

    fn published(&self) -> (&'static str, u64) {
        (T::STATE, self.published)
    }
}
