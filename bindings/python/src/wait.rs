#![expect(unsafe_code, reason = "asks which thread this is")]
//! Waiting without the interpreter's lock, and with an ear for signals.

use std::time::{Duration, Instant};

use kstate::{Generation, Interrupt, Wait, Waitable, Waited, WatchError};
use pyo3::prelude::*;

use crate::error::{closed, raised};
use crate::snapshot::PySnapshot;

/// How long a wait sleeps at most before it looks for signals. One that comes while it sleeps ends the sleep; one that
/// comes just before does not, and neither does one that another thread got.
const SLICE: Duration = Duration::from_millis(100);

/// The same in threads in which no signal handler of Python ever runs.
const LONG_SLICE: Duration = Duration::from_secs(5);

/// Whether this is the thread that the process began with, or that has forked it: Python's main thread.
fn is_main_thread() -> bool {
    // SAFETY: it takes nothing and does not fail.
    let thread = unsafe { libc::gettid() };
    u32::try_from(thread) == Ok(std::process::id())
}

/// What a step of a wait came to.
pub(crate) enum Step<T> {
    /// What was waited for.
    Done(T),
    /// Nothing yet: a signal, or the time given to the step is over.
    Again,
}

/// Takes steps without the interpreter's lock until one is done, no longer than `timeout`; `None` after it. Each gets how
/// long it may take. Between them signal handlers run.
///
/// # Errors
///
/// What a step, or a signal handler, raises.
pub(crate) fn until<T: Send>(
    py: Python<'_>,
    timeout: Option<Duration>,
    mut step: impl FnMut(Duration) -> PyResult<Step<T>> + Send,
) -> PyResult<Option<T>> {
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let longest = if is_main_thread() { SLICE } else { LONG_SLICE };
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let slice = left.map_or(longest, |left| left.min(longest));
        let is_last = left == Some(slice);
        let began = Instant::now();
        if let Step::Done(done) = py.detach(|| step(slice))? {
            return Ok(Some(done));
        }
        py.check_signals()?;
        if is_last && began.elapsed() >= slice {
            return Ok(None);
        }
    }
}

/// Waits until `of` has or shows another version than `since`, and says which.
///
/// # Errors
///
/// Those of the library; `Closed` when `interrupt` is raised.
pub(crate) fn for_change<W: Waitable + Sync>(
    py: Python<'_>,
    of: &W,
    since: Generation,
    timeout: Option<Duration>,
    or_overdue: bool,
    interrupt: &Interrupt,
) -> PyResult<Option<Generation>> {
    until(py, timeout, |slice| {
        let mut wait = Wait::new().timeout(slice).interrupted_by(interrupt);
        if or_overdue {
            wait = wait.or_overdue();
        }
        match wait.for_change(of, since).map_err(raised)? {
            Waited::Changed(now) | Waited::Overdue(now) => Ok(Step::Done(now)),
            Waited::TimedOut => Ok(Step::Again),
            Waited::Interrupted => interrupted(interrupt),
        }
    })
}

/// A wait was interrupted: by `interrupt`, or by a signal.
///
/// # Errors
///
/// `Closed`.
pub(crate) fn interrupted<T>(interrupt: &Interrupt) -> PyResult<Step<T>> {
    match interrupt.is_raised() {
        true => Err(closed("the handle that was waited through")),
        false => Ok(Step::Again),
    }
}

/// One step of a watch.
///
/// # Errors
///
/// Those of the library; `Closed` when `interrupt` is raised.
pub(crate) fn next<T: kstate::Content>(
    watch: &mut kstate::Watch<T>,
    slice: Duration,
    interrupt: &Interrupt,
) -> PyResult<Step<kstate::Snapshot<T::Owned>>> {
    match watch.next(Some(slice)) {
        Ok(Some(snapshot)) => Ok(Step::Done(snapshot)),
        Ok(None) => Ok(Step::Again),
        Err(WatchError::Interrupted) => interrupted(interrupt),
        Err(error) => Err(raised(error)),
    }
}

/// Waits until `holds` says so of a snapshot that `now` gives of `of`, beginning with the newest if somebody has written.
///
/// # Errors
///
/// As [`for_change`], and what `holds` raises.
pub(crate) fn for_value<'py, W: Waitable + Sync>(
    py: Python<'py>,
    of: &W,
    timeout: Option<Duration>,
    interrupt: &Interrupt,
    now: impl Fn() -> PyResult<Bound<'py, PySnapshot>>,
    holds: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PySnapshot>>> {
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let mut seen = Generation::NEVER;
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if for_change(py, of, seen, left, false, interrupt)?.is_none() {
            return Ok(None);
        }
        let snapshot = now()?;
        seen = snapshot.get().version();
        if holds.call1((&snapshot,))?.is_truthy()? {
            return Ok(Some(snapshot));
        }
        // Where versions come faster than it looks at them, no wait is there to end.
        py.check_signals()?;
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Ok(None);
        }
    }
}
