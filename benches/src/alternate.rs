//! Measuring two things in turn.

use std::time::Instant;

use serde::Serialize;

/// Percentiles over blocks, nanoseconds an operation.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
}

impl Percentiles {
    fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let at = |per_mille: usize| {
            let index = (samples.len() * per_mille / 1000).min(samples.len().saturating_sub(1));
            samples.get(index).copied().unwrap_or(f64::NAN)
        };
        Self {
            p50: at(500),
            p90: at(900),
            p99: at(990),
            p999: at(999),
        }
    }

    /// Of a figure that has no spread.
    pub(crate) const fn flat(ns: f64) -> Self {
        Self {
            p50: ns,
            p90: ns,
            p99: ns,
            p999: ns,
        }
    }

    pub(crate) fn tail(&self) -> String {
        format!("{:.1}/{:.1}/{:.1}", self.p90, self.p99, self.p999)
    }
}

/// How long a block is to last: long beside the clock's 25 ns, short beside a time slice.
const BLOCK_NS: f64 = 20_000.0;

/// Operations timed one by one that do not count.
const WARM_UP: usize = 100;

/// Runs `ours` and `limit` in turn, `blocks` blocks each, the order swapped every time. Each is
/// called with the number of operations to do.
pub(crate) fn alternate(
    blocks: usize,
    mut ours: impl FnMut(u32),
    mut limit: impl FnMut(u32),
) -> (Percentiles, Percentiles) {
    let our_count = calibrate(&mut ours);
    let limit_count = calibrate(&mut limit);
    let mut our_samples = Vec::with_capacity(blocks);
    let mut limit_samples = Vec::with_capacity(blocks);
    for block in 0..blocks {
        if block % 2 == 0 {
            our_samples.push(time(our_count, &mut ours));
            limit_samples.push(time(limit_count, &mut limit));
        } else {
            limit_samples.push(time(limit_count, &mut limit));
            our_samples.push(time(our_count, &mut ours));
        }
    }
    (Percentiles::of(our_samples), Percentiles::of(limit_samples))
}

/// Runs `ours` and `limit` in turn, `times` times each, the order swapped every time. Each times
/// one operation by itself, in nanoseconds, because it takes preparing.
pub(crate) fn alternate_single<E>(
    times: usize,
    mut ours: impl FnMut() -> Result<f64, E>,
    mut limit: impl FnMut() -> Result<f64, E>,
) -> Result<(Percentiles, Percentiles), E> {
    for _ in 0..times.min(WARM_UP) {
        ours()?;
        limit()?;
    }
    let mut our_samples = Vec::with_capacity(times);
    let mut limit_samples = Vec::with_capacity(times);
    for time in 0..times {
        if time % 2 == 0 {
            our_samples.push(ours()?);
            limit_samples.push(limit()?);
        } else {
            limit_samples.push(limit()?);
            our_samples.push(ours()?);
        }
    }
    Ok((Percentiles::of(our_samples), Percentiles::of(limit_samples)))
}

/// Warms up and finds how many operations make a block.
fn calibrate(work: &mut impl FnMut(u32)) -> u32 {
    // Operations that are requests to another process take long enough to need fewer.
    let first = time(100, work);
    time(operations(20e6, first).clamp(100, 20_000), work);
    let ns = time(operations(5e6, first).clamp(100, 5_000), work);
    operations(BLOCK_NS, ns).clamp(10, 200_000)
}

/// How many operations of `ns` nanoseconds take that long.
fn operations(duration_ns: f64, ns: f64) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "of positive numbers; a float beyond the integers becomes the greatest"
    )]
    let count = (duration_ns / ns.max(0.1)) as u32;
    count
}

fn time(count: u32, work: &mut impl FnMut(u32)) -> f64 {
    let start = Instant::now();
    work(count);
    start.elapsed().as_secs_f64() * 1e9 / f64::from(count)
}
