//! What cases may take beside their limits: a file, in which each bound has its reason.

use serde::Deserialize;

use crate::case::Case;
use crate::setup::Result;

const FILE: &str = include_str!("../bounds.toml");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    bound: Vec<Bound>,
}

/// What a case may take.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bound {
    question: String,
    case: String,
    times: Option<f64>,
    plus_ns: Option<f64>,
    guard_times: Option<f64>,
    guard_plus_ns: Option<f64>,
    reason: String,
}

/// The bounds of a question.
#[derive(Debug)]
pub(crate) struct Bounds(Vec<Bound>);

impl Bounds {
    /// Those of `question`.
    ///
    /// # Errors
    ///
    /// The file is wrong.
    pub(crate) fn of(question: &str) -> Result<Self> {
        let file: File = toml::from_str(FILE)?;
        for bound in &file.bound {
            let is_whole = bound.times.is_some() != bound.plus_ns.is_some();
            if !is_whole || bound.reason.is_empty() {
                return Err(format!("the bound of `{}` lacks something", bound.case).into());
            }
        }
        let of_question = |bound: &Bound| bound.question == question;
        Ok(Self(file.bound.into_iter().filter(of_question).collect()))
    }

    /// Tells each case its bound.
    ///
    /// # Errors
    ///
    /// A bound is of no case.
    pub(crate) fn apply(&self, cases: &mut [Case]) -> Result<()> {
        for bound in &self.0 {
            let case = cases.iter_mut().find(|case| case.case == bound.case);
            let case = case.ok_or_else(|| format!("no case is called `{}`", bound.case))?;
            let limit_ns = case.limit_ns;
            let plus = |ns: f64| (limit_ns + ns) / limit_ns;
            case.bound = bound.times.or(bound.plus_ns.map(plus));
            let guard = bound.guard_times.or(bound.guard_plus_ns.map(plus));
            case.guard = guard.or(case.bound);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alternate::Percentiles;

    #[test]
    fn each_bound_has_what_it_takes_and_there_is_one_a_case() {
        let file: File = toml::from_str(FILE).unwrap_or_else(|error| panic!("{error}"));
        for bound in &file.bound {
            assert!(Bounds::of(&bound.question).is_ok());
            let same =
                |other: &&Bound| other.question == bound.question && other.case == bound.case;
            assert_eq!(file.bound.iter().filter(same).count(), 1, "{}", bound.case);
        }
    }

    #[test]
    fn a_bound_of_no_case_is_an_error() {
        let bounds = Bounds::of("c").unwrap_or_else(|error| panic!("{error}"));
        assert!(bounds.apply(&mut []).is_err());
        let mut cases: Vec<_> = bounds
            .0
            .iter()
            .map(|bound| {
                Case::new(
                    &*bound.case,
                    Percentiles::flat(14.0),
                    Percentiles::flat(10.0),
                )
            })
            .collect();
        assert!(bounds.apply(&mut cases).is_ok() && cases[0].is_over());
    }
}
