//! The run's file: every figure of the report comes from here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) machine: BTreeMap<String, String>,
    pub(crate) versions: BTreeMap<String, String>,
    pub(crate) date: String,
    pub(crate) command: String,
    pub(crate) seconds: f64,
    pub(crate) short: bool,
    pub(crate) cells: Vec<Cell>,
}

/// One peer's answer to one case of a question.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cell {
    pub(crate) question: String,
    pub(crate) case: String,
    pub(crate) peer: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) figures: Option<Figures>,
    /// Why there are no figures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cannot: Option<String>,
    /// What was seen, where that is no number of nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seen: Option<String>,
}

/// Nanoseconds an operation, over all blocks of all rounds, and what was counted.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    /// Medians of the rounds: how far they lie apart is the noise.
    pub(crate) rounds: Vec<f64>,
    pub(crate) samples: usize,
    /// What else was counted: `torn`, `operations_a_second`, `lost`, `attempts_an_update`, …
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) counts: BTreeMap<String, f64>,
    /// Samples that are at most so many nanoseconds and more than the one before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) histogram: Vec<(f64, u64)>,
}

impl Figures {
    /// Of the samples of each round.
    pub(crate) fn of(rounds: &[Vec<f32>]) -> Self {
        let mut all: Vec<f32> = rounds.iter().flatten().copied().collect();
        all.sort_by(f32::total_cmp);
        let medians = rounds
            .iter()
            .filter(|round| !round.is_empty())
            .map(|round| {
                let mut round = round.clone();
                round.sort_by(f32::total_cmp);
                at(&round, 500)
            });
        Self {
            p50: at(&all, 500),
            p90: at(&all, 900),
            p99: at(&all, 990),
            p999: at(&all, 999),
            rounds: medians.collect(),
            samples: all.len(),
            ..Self::default()
        }
    }

    /// Of one number that has no spread.
    pub(crate) fn flat(ns: f64) -> Self {
        Self {
            p50: ns,
            p90: ns,
            p99: ns,
            p999: ns,
            rounds: vec![ns],
            samples: 1,
            ..Self::default()
        }
    }

    /// With the samples in buckets, twelve an octave.
    pub(crate) fn with_histogram(mut self, rounds: &[Vec<f32>]) -> Self {
        let mut buckets: BTreeMap<i32, u64> = BTreeMap::new();
        for sample in rounds.iter().flatten() {
            #[expect(clippy::cast_possible_truncation, reason = "a logarithm is small")]
            let bucket = (f64::from(*sample).max(1.0).log2() * 12.0).ceil() as i32;
            *buckets.entry(bucket).or_default() += 1;
        }
        let upper = |bucket: i32| round(2_f64.powf(f64::from(bucket) / 12.0));
        self.histogram = buckets
            .into_iter()
            .map(|(bucket, count)| (upper(bucket), count))
            .collect();
        self
    }

    pub(crate) fn count(&self, what: &str) -> Option<f64> {
        self.counts.get(what).copied()
    }

    pub(crate) fn with_count(mut self, what: &str, count: f64) -> Self {
        self.counts.insert(what.to_owned(), round(count));
        self
    }
}

/// The sample at so many thousandths; three digits after the point.
fn at(sorted: &[f32], per_mille: usize) -> f64 {
    let index = (sorted.len() * per_mille / 1000).min(sorted.len().saturating_sub(1));
    round(sorted.get(index).copied().map_or(f64::NAN, f64::from))
}

fn round(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}
