//! All calls that wait.

use std::error::Error;
use std::time::Duration;

use kstate::{Generation, Interrupt, Mount, SubscribeError, Wait, Waited, WatchError};

/// A way to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// [`Wait::for_change`].
    Change,
    /// [`Wait::for_generation`].
    Generation,
    /// [`Wait::for_value`].
    Value,
    /// [`Wait::for_any`].
    Any,
    /// [`Subscribe::when_there`](kstate::Subscribe::when_there).
    There,
    /// [`Watch::next`](kstate::Watch::next).
    Watch,
    /// The same in the time in which its rate lets nothing come.
    Paced,
}

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// What was waited for.
    Come,
    /// The time was over.
    TimedOut,
    /// A signal or an [`Interrupt`].
    Interrupted,
}

const LONG: Duration = Duration::from_secs(3600);

impl Kind {
    /// All there are.
    pub const ALL: [Self; 7] = [
        Self::Change,
        Self::Generation,
        Self::Value,
        Self::Any,
        Self::There,
        Self::Watch,
        Self::Paced,
    ];

    /// Waits for another version than the newest of the state `name`, which somebody has written, or
    /// for the state `name.absent`; no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// Whatever the library says but these outcomes.
    pub fn wait(
        self,
        mount: &Mount,
        name: &str,
        interrupt: &Interrupt,
        timeout: Duration,
    ) -> Result<Ended, Box<dyn Error>> {
        let state = mount.subscribe(name).typed::<u64>()?;
        let other = mount.subscribe(format!("{name}.other")).typed::<u64>()?;
        let newest = state.snapshot()?;
        let seen = newest.generation();
        let wait = Wait::new().timeout(timeout).interrupted_by(interrupt);
        Ok(match self {
            Self::Change => ended(wait.for_change(&state, seen)?),
            Self::Generation => ended(wait.for_generation(&state, Generation(seen.0 + 1))?),
            Self::Value => match wait.for_value(&state, |value| *value != newest.value) {
                Err(WatchError::Interrupted) => Ended::Interrupted,
                waited => waited?.map_or(Ended::TimedOut, |_| Ended::Come),
            },
            Self::Any => {
                let (_, waited) = wait.for_any(&[(&other, other.generation()), (&state, seen)])?;
                ended(waited)
            }
            Self::There => {
                let subscribe = mount.subscribe(format!("{name}.absent"));
                match subscribe.when_there(wait).typed::<u64>() {
                    Err(SubscribeError::Interrupted { .. }) => Ended::Interrupted,
                    Err(SubscribeError::TimedOut { .. }) => Ended::TimedOut,
                    there => {
                        there?;
                        Ended::Come
                    }
                }
            }
            Self::Watch | Self::Paced => {
                let mut watch = state.watch().interrupted_by(interrupt);
                if self == Self::Paced {
                    watch = watch.at_most_every(LONG);
                    watch.next(Some(Duration::ZERO))?;
                } else {
                    watch = watch.since(seen);
                }
                match watch.next(Some(timeout)) {
                    Err(WatchError::Interrupted) => Ended::Interrupted,
                    waited => waited?.map_or(Ended::TimedOut, |_| Ended::Come),
                }
            }
        })
    }
}

fn ended(waited: Waited) -> Ended {
    match waited {
        Waited::Changed(_) | Waited::Overdue(_) => Ended::Come,
        Waited::TimedOut => Ended::TimedOut,
        Waited::Interrupted => Ended::Interrupted,
    }
}
