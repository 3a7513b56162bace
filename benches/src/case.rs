//! One measured case and how it is shown.

use std::fmt;

use serde::Serialize;

use crate::alternate::Percentiles;

/// A case: ours beside the limit.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Case {
    /// What was measured.
    pub(crate) case: String,
    /// Median of ours, nanoseconds an operation.
    pub(crate) ours_ns: f64,
    /// Median of the limit, nanoseconds an operation.
    pub(crate) limit_ns: f64,
    /// The one by the other.
    pub(crate) ratio: f64,
    /// What the ratio may be at most; none where there is no bound.
    pub(crate) bound: Option<f64>,
    /// What it must not be worse than, where the bound is not met or swings; else the bound.
    pub(crate) guard: Option<f64>,
    /// Ours, percentiles over blocks of operations.
    pub(crate) ours: Percentiles,
    /// The limit, likewise.
    pub(crate) limit: Percentiles,
}

impl Case {
    pub(crate) fn new(case: impl Into<String>, ours: Percentiles, limit: Percentiles) -> Self {
        Self::with_costs(case, (ours.p50, ours), (limit.p50, limit))
    }

    /// With costs that are not the medians themselves, such as differences of medians.
    pub(crate) fn with_costs(
        case: impl Into<String>,
        (ours_ns, ours): (f64, Percentiles),
        (limit_ns, limit): (f64, Percentiles),
    ) -> Self {
        let ratio = ours_ns / limit_ns;
        Self {
            case: case.into(),
            ours_ns,
            limit_ns,
            ratio,
            bound: None,
            guard: None,
            ours,
            limit,
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.bound.is_some_and(|bound| self.ratio > bound)
    }

    pub(crate) fn is_past_guard(&self) -> bool {
        self.guard.is_some_and(|guard| self.ratio > guard)
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {:.1} ns, {:.2} times the limit of {:.1} ns",
            self.case, self.ours_ns, self.ratio, self.limit_ns
        )?;
        if let Some(bound) = self.bound {
            write!(f, ", bound {bound:.2}")?;
        }
        match self.guard {
            Some(guard) if self.guard != self.bound => write!(f, ", guarded at {guard:.2}"),
            _ => Ok(()),
        }
    }
}

pub(crate) fn print_table(cases: &[Case]) {
    println!(
        "{:<52} {:>8} {:>8} {:>6} {:>6}   {:>24}   {:>24}",
        "", "ours ns", "limit ns", "ratio", "bound", "ours p90/p99/p99.9", "limit p90/p99/p99.9"
    );
    for case in cases {
        let bound = case
            .bound
            .map_or_else(String::new, |bound| format!("{bound:.2}"));
        println!(
            "{:<52} {:>8.1} {:>8.1} {:>6.2} {:>6}{} {:>25} {:>26}",
            case.case,
            case.ours_ns,
            case.limit_ns,
            case.ratio,
            bound,
            if case.is_over() { " !" } else { "  " },
            case.ours.tail(),
            case.limit.tail(),
        );
    }
}
