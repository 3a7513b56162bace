//! What the demo itself sees of its states: what is shown, and which values were the last.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use kstate::{Mount, State};

use super::sample::{CpuSample, LoadSample, MemorySample, NetworkSample};
use super::states::{Count, Shown};

/// A state, as it is shown.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StateRow {
    pub(super) name: &'static str,
    pub(super) generation: u64,
    /// Commits a second.
    pub(super) rate: f64,
    pub(super) age: Option<Duration>,
    pub(super) length: u32,
    /// What the value says.
    pub(super) words: String,
}

/// All states, open for reading.
#[derive(Debug)]
pub(super) struct Observer {
    cpu: Observed<CpuSample>,
    memory: Observed<MemorySample>,
    network: Observed<NetworkSample>,
    load: Observed<LoadSample>,
    count: Observed<Count>,
}

impl Observer {
    /// Subscribes to all of them.
    ///
    /// # Errors
    ///
    /// One is not there.
    pub(super) fn at(directory: &Path) -> Result<Self, kstate::Error> {
        let mount = Mount::at(directory)?;
        Ok(Self {
            cpu: Observed::begin(&mount)?,
            memory: Observed::begin(&mount)?,
            network: Observed::begin(&mount)?,
            load: Observed::begin(&mount)?,
            count: Observed::begin(&mount)?,
        })
    }

    /// Looks at all of them.
    ///
    /// # Errors
    ///
    /// One cannot be read.
    pub(super) fn look(&mut self) -> Result<Vec<StateRow>, kstate::Error> {
        Ok(vec![
            self.cpu.look()?,
            self.memory.look()?,
            self.network.look()?,
            self.load.look()?,
            self.count.look()?,
        ])
    }

    /// The number of the newest value of each state.
    ///
    /// # Errors
    ///
    /// One cannot be read.
    pub(super) fn newest(&self) -> Result<BTreeMap<String, u64>, kstate::Error> {
        Ok([
            self.cpu.newest()?,
            self.memory.newest()?,
            self.network.newest()?,
            self.load.newest()?,
            self.count.newest()?,
        ]
        .into())
    }
}

/// How far back rates are taken from.
const RATE_WINDOW: Duration = Duration::from_secs(1);

/// One state, and an earlier look at it.
#[derive(Debug)]
struct Observed<T: Shown> {
    state: State<T>,
    earlier: Option<Look<T>>,
    recent: Option<Look<T>>,
}

#[derive(Debug, Clone, Copy)]
struct Look<T> {
    at: Instant,
    generation: u64,
    value: T,
}

impl<T: Shown> Observed<T> {
    fn begin(mount: &Mount) -> Result<Self, kstate::Error> {
        let state = mount.subscribe(T::STATE).existing().typed()?;
        Ok(Self {
            state,
            earlier: None,
            recent: None,
        })
    }

    fn look(&mut self) -> Result<StateRow, kstate::Error> {
        let snapshot = self.state.snapshot()?;
        let (age, length) = (snapshot.age(), snapshot.length());
        let look = Look {
            at: Instant::now(),
            generation: snapshot.generation().0,
            value: snapshot.value,
        };
        let earlier = *self.earlier.get_or_insert(look);
        let recent = *self.recent.get_or_insert(look);
        // Every second the more recent of two looks becomes the earlier.
        if look.at - recent.at >= RATE_WINDOW {
            self.earlier = Some(recent);
            self.recent = Some(look);
        }
        let seconds = (look.at - earlier.at).as_secs_f64();
        #[expect(
            clippy::cast_precision_loss,
            reason = "a rate is shown in a few digits"
        )]
        let commits = (look.generation - earlier.generation) as f64;
        Ok(StateRow {
            name: T::STATE,
            generation: look.generation,
            rate: if seconds > 0.0 {
                commits / seconds
            } else {
                0.0
            },
            age,
            length,
            words: look.value.words((seconds > 0.0).then_some(&earlier.value)),
        })
    }

    fn newest(&self) -> Result<(String, u64), kstate::Error> {
        let snapshot = self.state.snapshot()?;
        Ok((T::STATE.to_owned(), snapshot.value.sequence()))
    }
}
