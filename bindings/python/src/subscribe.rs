//! From a name to a handle.

use std::path::PathBuf;
use std::time::Duration;

use kstate::{Bytes, State, Subscribe, SubscribeError, Wait};
use pyo3::prelude::*;

use crate::codec::{Codec, Coded};
use crate::error::raised;
use crate::input::{duration, timeout};
use crate::mount::given;
use crate::state::PyState;
use crate::wait::{Step, until};

/// What is asked for, as often as it has to be asked.
struct Wanted<'a> {
    mount: kstate::Mount,
    name: &'a str,
    write: bool,
    existing: bool,
    capacity: u32,
    mode: u32,
    linger: Option<Duration>,
    deadline: Option<Duration>,
    keep: bool,
    persistent: Option<PathBuf>,
    durability: Option<kstate::Durability>,
    announce: Option<kstate::Sinks>,
}

/// What is waited for before there is a handle.
#[derive(Clone, Copy)]
enum Patience {
    None,
    /// That the state is there.
    There,
    /// That somebody has written to it.
    Written,
}

impl Wanted<'_> {
    fn subscribe(
        &self,
        patience: Patience,
        slice: Duration,
    ) -> Result<State<Bytes>, SubscribeError> {
        let mut wanted: Subscribe = self
            .mount
            .subscribe(self.name)
            .capacity(self.capacity)
            .mode(self.mode);
        if self.write {
            wanted = wanted.write();
        }
        if self.existing {
            wanted = wanted.existing();
        }
        wanted = match patience {
            Patience::None => wanted,
            Patience::There => wanted.when_there(Wait::new().timeout(slice)),
            Patience::Written => wanted.wait_for(slice),
        };
        if let Some(linger) = self.linger {
            wanted = wanted.linger(linger);
        }
        if let Some(deadline) = self.deadline {
            wanted = wanted.deadline(deadline);
        }
        if self.keep {
            wanted = wanted.keep();
        }
        if let Some(path) = &self.persistent {
            wanted = wanted.persistent(path);
        }
        if let Some(durability) = self.durability {
            wanted = wanted.durability(durability);
        }
        if let Some(sinks) = self.announce {
            wanted = wanted.announce(sinks);
        }
        wanted.bytes()
    }

    /// Waits as long as `patience` is, with an ear for signals.
    fn wait(
        &self,
        py: Python<'_>,
        patience: Patience,
        time: Option<Duration>,
    ) -> PyResult<State<Bytes>> {
        let found = until(py, time, |slice| match self.subscribe(patience, slice) {
            Ok(state) => Ok(Step::Done(state)),
            Err(SubscribeError::TimedOut { .. } | SubscribeError::Interrupted { .. }) => {
                Ok(Step::Again)
            }
            Err(error) => Err(raised(error)),
        })?;
        found.ok_or_else(|| match kstate::StateName::new(self.name) {
            Ok(name) => raised(SubscribeError::TimedOut {
                name,
                waited: time.unwrap_or(Duration::MAX),
            }),
            Err(error) => raised(SubscribeError::from(error)),
        })
    }
}

/// Subscribes to the state ``name``, which is created if it is absent.
///
/// Args:
///     name: Words of ``[A-Za-z0-9_-]`` joined by single dots, at most 247 bytes.
///     write: For reading and writing.
///     existing: Only if the state exists: else :class:`NotFound`.
///     wait_for: Only when the state exists and somebody has written to it, which is waited for no longer than so many
///         seconds: then :class:`Timeout`. Never creates the state.
///     when_there: The same, written or not.
///     capacity: Bytes to have room for, at most a page. Those of ``format`` and so on at least; a page unless said.
///     mode: Mode bits, less the umask, if the state is created.
///     linger: Seconds that the state outlives its last subscriber.
///     deadline: Seconds in which the next version is expected; without it the state is overdue. 0 for no deadline.
///     keep: The state stays until it is deleted or the file system unmounted.
///     persistent: File to keep the state in: its value outlives the daemon and the machine's power.
///     durability: How soon behind a commit its version is in that file: within so many seconds, one unless said, or
///         ``"each"``, as soon as can be.
///     announce: Where commits are announced: ``"kbus"``, ``"dbus"``, ``"kbus,dbus"`` or ``"off"``.
///     mount: A :class:`Mount` or where it is; the one that is found unless said.
///     format: What a value is, by :mod:`struct`.
///     type: What a value is: a ``ctypes.Structure`` or other ctypes type.
///     dtype: What a value is: a numpy dtype. Of a record, or an array of fixed shape, a value is one; of others an array
///         of as many as there are.
///
/// Returns:
///     A :class:`State`. What is asked for that a state has already stays as it is, but for ``linger`` to ``announce``,
///     which its owner may change.
///
/// >>> state = kstate.subscribe("docs.subscribe", write=True)
/// >>> kstate.subscribe("docs.subscribe", existing=True).state_id == state.state_id
/// True
/// >>> kstate.subscribe("docs.nowhere", existing=True)  # doctest: +ELLIPSIS
/// Traceback (most recent call last):
///   ...
/// kstate.NotFound: there is no state `docs.nowhere`; ...
#[pyfunction]
#[pyo3(signature = (
    name, *, write=false, existing=false, wait_for=None, when_there=None, capacity=None, mode=0o644, linger=None,
    deadline=None, keep=false, persistent=None, durability=None, announce=None, mount=None, format=None, r#type=None,
    dtype=None
))]
#[expect(clippy::too_many_arguments, reason = "keywords of a Python function")]
pub(crate) fn subscribe(
    py: Python<'_>,
    name: &str,
    write: bool,
    existing: bool,
    wait_for: Option<f64>,
    when_there: Option<f64>,
    capacity: Option<u32>,
    mode: u32,
    linger: Option<f64>,
    deadline: Option<f64>,
    keep: bool,
    persistent: Option<PathBuf>,
    durability: Option<Bound<'_, PyAny>>,
    announce: Option<&str>,
    mount: Option<Bound<'_, PyAny>>,
    format: Option<Bound<'_, PyAny>>,
    r#type: Option<Bound<'_, PyAny>>,
    dtype: Option<Bound<'_, PyAny>>,
) -> PyResult<PyState> {
    // The name first: a bad one is said to be so whether or not there is a mount.
    kstate::StateName::new(name).map_err(|error| raised(SubscribeError::from(error)))?;
    let codec: Coded = Codec::of(py, format, r#type, dtype)?;
    let size = codec.as_ref().and_then(|codec| codec.size()).unwrap_or(0);
    let size = u32::try_from(size).unwrap_or(u32::MAX);
    let seconds = |time: Option<f64>, what| time.map(|time| duration(time, what)).transpose();
    let sinks = |text: &str| {
        text.parse::<kstate::Sinks>()
            .map_err(|error| pyo3::exceptions::PyValueError::new_err(error.to_string()))
    };
    let wanted = Wanted {
        name,
        write,
        existing,
        capacity: capacity.unwrap_or(0).max(size),
        mode,
        linger: seconds(linger, "linger")?,
        deadline: seconds(deadline, "deadline")?,
        keep,
        persistent,
        durability: durability
            .as_ref()
            .map(crate::state::durability)
            .transpose()?,
        announce: announce.map(sinks).transpose()?,
        mount: given(py, mount.as_ref())?,
    };
    let root = std::path::absolute(wanted.mount.path())?;
    let state = match (wait_for, when_there) {
        (None, None) => py
            .detach(|| wanted.subscribe(Patience::None, Duration::ZERO))
            .map_err(raised)?,
        (Some(time), _) => wanted.wait(py, Patience::Written, timeout(Some(time))?)?,
        (None, Some(time)) => wanted.wait(py, Patience::There, timeout(Some(time))?)?,
    };
    Ok(PyState::new(state, root, codec))
}
