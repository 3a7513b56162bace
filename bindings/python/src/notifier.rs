//! One descriptor for many states.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, RawFd};

use kstate::{Change, Event, Generation, Key, Notifier, NotifyBy, NotifyError};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::error::{closed, raised};
use crate::input::timeout;
use crate::since;
use crate::state::PyState;
use crate::turn::{OneAtATime, Taken};
use crate::view::PyView;
use crate::wait::{Step, until};

/// Watches states and views, hundreds if need be, and has a descriptor that is readable when there is something to be had
/// from :meth:`changed`.
///
/// For ``select``, ``selectors`` and event loops of any kind; :meth:`State.changes` uses one for asyncio. After a fork the
/// child's first call makes a descriptor of its own: ask for it after that. One thread at a time may use it; another one is
/// told so by :class:`Busy`.
///
/// >>> import select
/// >>> state = kstate.subscribe("docs.notifier", write=True)
/// >>> notifier = kstate.Notifier()
/// >>> key = notifier.add(state)
/// >>> notifier.changed()
/// []
/// >>> state.write(b"one")
/// 1
/// >>> select.select([notifier], [], [], 5)[0] == [notifier]
/// True
/// >>> notifier.changed()
/// [Change(key=1, kind='changed', generation=1)]
#[pyclass(module = "kstate", name = "Notifier", frozen, weakref)]
#[derive(Debug)]
pub(crate) struct PyNotifier {
    /// None when closed.
    watching: OneAtATime<Option<Watching>>,
}

#[derive(Debug)]
struct Watching {
    notifier: Notifier,
    keys: HashMap<u64, Key>,
}

/// Something has happened to a state of a :class:`Notifier`.
///
/// ``kind`` is ``"changed"``, ``"overdue"``, ``"deleted"`` or ``"failed"``; behind the last two the state is not watched
/// any more. ``generation`` is the newest one, None where there is none. ``error`` says why it failed.
#[pyclass(module = "kstate", name = "Change", frozen, get_all)]
#[derive(Debug)]
pub(crate) struct PyChange {
    key: u64,
    kind: &'static str,
    generation: Option<u64>,
    error: Option<Py<PyAny>>,
}

#[pymethods]
impl PyChange {
    fn __repr__(&self) -> String {
        let Self { key, kind, .. } = self;
        let generation = self
            .generation
            .map_or_else(|| "None".to_owned(), |generation| generation.to_string());
        format!("Change(key={key}, kind='{kind}', generation={generation})")
    }
}

impl PyNotifier {
    fn take(&self) -> PyResult<Taken<'_, Option<Watching>>> {
        self.watching.take("the notifier")
    }

    fn with<R>(&self, what: impl FnOnce(&mut Watching) -> PyResult<R>) -> PyResult<R> {
        within(&self.take()?, what)
    }
}

/// # Errors
///
/// `Closed`, and what `what` says.
fn within<R>(
    taken: &Taken<'_, Option<Watching>>,
    what: impl FnOnce(&mut Watching) -> PyResult<R>,
) -> PyResult<R> {
    taken.with(|watching| match watching {
        Some(watching) => what(watching),
        None => Err(closed("the notifier")),
    })
}

impl Watching {
    fn told(&mut self, py: Python<'_>, events: Vec<Event>) -> Vec<PyChange> {
        let told = events.into_iter().map(|Event { key, change }| {
            let (kind, generation) = match change {
                Change::To(generation) => ("changed", Some(generation.0)),
                Change::Overdue(generation) => ("overdue", Some(generation.0)),
                Change::Deleted => ("deleted", None),
                _ => ("failed", None),
            };
            if generation.is_none() {
                self.keys.remove(&key.number());
            }
            let failure = self.notifier.failure(key);
            let error = failure.map(|error| raised(error).into_value(py).into_any());
            PyChange {
                key: key.number(),
                kind,
                generation,
                error,
            }
        });
        told.collect()
    }
}

#[pymethods]
impl PyNotifier {
    /// One that watches nothing yet. ``way`` is ``"uring"``, ``"thread"`` or ``"files"``, the best there is unless said.
    #[new]
    #[pyo3(signature = (*, way=None))]
    fn new(way: Option<&str>) -> PyResult<Self> {
        let way = match way {
            None => None,
            Some("uring") => Some(NotifyBy::Uring),
            Some("thread") => Some(NotifyBy::Thread),
            Some("files") => Some(NotifyBy::Files),
            Some(other) => {
                return Err(pyo3::exceptions::PyValueError::new_err(format!(
                    "way is \"uring\", \"thread\" or \"files\", and not {other:?}"
                )));
            }
        };
        let notifier = way
            .map_or_else(Notifier::new, Notifier::by)
            .map_err(raised)?;
        Ok(Self {
            watching: OneAtATime::new(Some(Watching {
                notifier,
                keys: HashMap::new(),
            })),
        })
    }

    /// Watches a :class:`State` or :class:`View` from now on, and returns the key by which changes name it. Its newest
    /// version is told of first, if somebody has written one other than ``since``.
    #[pyo3(signature = (of, *, since=None))]
    fn add(&self, of: &Bound<'_, PyAny>, since: Option<Bound<'_, PyAny>>) -> PyResult<u64> {
        let known = since.as_ref().map(since::since).transpose()?;
        let known = known.unwrap_or(Generation::NEVER);
        self.with(|watching| {
            let added = if let Ok(state) = of.cast::<PyState>() {
                let reader = state.borrow().open()?.reader.clone();
                watching.notifier.add_since(&reader, known)
            } else if let Ok(view) = of.cast::<PyView>() {
                watching.notifier.add_since(view.get().view(), known)
            } else {
                let text = format!("a State or View is watched, and not {}", of.get_type());
                return Err(PyTypeError::new_err(text));
            };
            let key = added.map_err(raised)?;
            watching.keys.insert(key.number(), key);
            Ok(key.number())
        })
    }

    /// Watches it no more; False if that was not so.
    fn remove(&self, key: u64) -> PyResult<bool> {
        self.with(|watching| {
            let known = watching.keys.remove(&key);
            Ok(known.is_some_and(|key| watching.notifier.remove(key)))
        })
    }

    /// What has happened since the last call: a list of :class:`Change`, which may be empty. Does not wait.
    fn changed(&self, py: Python<'_>) -> PyResult<Vec<PyChange>> {
        self.with(|watching| {
            let events = watching.notifier.changed().map_err(raised)?.to_vec();
            Ok(watching.told(py, events))
        })
    }

    /// Sleeps until something happens, no longer than ``timeout`` seconds, and says what: a list of :class:`Change`, empty
    /// after the time.
    #[pyo3(name = "wait", signature = (timeout=None))]
    fn py_wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Vec<PyChange>> {
        let timeout = self::timeout(timeout)?;
        let taken = self.take()?;
        let events = until(py, timeout, |slice| {
            within(&taken, |watching| {
                match watching.notifier.wait(Some(slice)) {
                    Ok(events) if events.is_empty() => Ok(Step::Again),
                    Ok(events) => Ok(Step::Done(events.to_vec())),
                    Err(NotifyError::Interrupted) => Ok(Step::Again),
                    Err(error) => Err(raised(error)),
                }
            })
        })?;
        match events {
            None => Ok(Vec::new()),
            Some(events) => within(&taken, |watching| Ok(watching.told(py, events))),
        }
    }

    /// The descriptor: readable when there is something to be had.
    fn fileno(&self) -> PyResult<RawFd> {
        self.with(|watching| Ok(watching.notifier.as_raw_fd()))
    }

    /// How it is done: ``"uring"``, ``"thread"`` or ``"files"``.
    #[getter]
    fn way(&self) -> PyResult<&'static str> {
        self.with(|watching| {
            Ok(match watching.notifier.way() {
                NotifyBy::Uring => "uring",
                NotifyBy::Thread => "thread",
                _ => "files",
            })
        })
    }

    /// Gives the descriptor up. Closing twice is no error.
    fn close(&self) -> PyResult<()> {
        self.take()?.with(|watching| *watching = None);
        Ok(())
    }

    fn __len__(&self) -> PyResult<usize> {
        self.with(|watching| Ok(watching.notifier.len()))
    }

    /// Whether it watches something or not, it is one.
    fn __bool__(&self) -> bool {
        true
    }

    fn __repr__(&self) -> String {
        match self.__len__() {
            Ok(states) => format!("<kstate.Notifier of {states} states>"),
            Err(_) => "<kstate.Notifier, closed or in use>".to_owned(),
        }
    }
}
