//! Waiting for a state and following it.

use std::os::fd::{AsFd, AsRawFd, RawFd};

use kstate::Generation;
use pyo3::prelude::*;

use super::PyState;
use crate::error::{raised, raised_io};
use crate::input;
use crate::live::PyLive;
use crate::since;
use crate::snapshot::PySnapshot;
use crate::view::PyView;
use crate::wait;
use crate::watch::PyWatch;

#[pymethods]
impl PyState {
    /// Sleeps until another version than ``since`` is the newest, and returns its generation; None after ``timeout``
    /// seconds.
    ///
    /// ``since`` is a generation or a :class:`Snapshot`; without it the newest as of this call, so pass what you have seen
    /// to miss nothing. With ``or_overdue`` it ends as well when the next version is overdue. Other threads run meanwhile,
    /// signal handlers too: Ctrl-C ends it. Closing the handle ends it with :class:`Closed`.
    ///
    /// >>> state = kstate.subscribe("docs.wait", write=True)
    /// >>> state.write(b"one")
    /// 1
    /// >>> state.wait(since=0), state.wait(timeout=0.01)
    /// (1, None)
    #[pyo3(name = "wait", signature = (since=None, timeout=None, *, or_overdue=false))]
    fn py_wait(
        slf: &Bound<'_, Self>,
        since: Option<Bound<'_, PyAny>>,
        timeout: Option<f64>,
        or_overdue: bool,
    ) -> PyResult<Option<u64>> {
        let open = slf.borrow().open()?.clone();
        let since = match &since {
            Some(known) => since::since(known)?,
            None => open.reader.generation(),
        };
        let timeout = input::timeout(timeout)?;
        let (reader, interrupt) = (&open.reader, &open.interrupt);
        let found = wait::for_change(slf.py(), reader, since, timeout, or_overdue, interrupt)?;
        Ok(found.map(|generation| generation.0))
    }

    /// Sleeps until ``predicate(snapshot)`` is true of the newest version or one that comes, and returns that
    /// :class:`Snapshot`; None after ``timeout`` seconds. Versions that others follow too soon are not seen.
    ///
    /// >>> state = kstate.subscribe("docs.wait_for", write=True, format="<i")
    /// >>> state.set(7)
    /// 1
    /// >>> state.wait_for(lambda now: now.value > 5, timeout=5).value
    /// 7
    /// >>> state.wait_for(lambda now: now.value > 7, timeout=0.01) is None
    /// True
    #[pyo3(name = "wait_for", signature = (predicate, timeout=None))]
    fn py_wait_for<'py>(
        slf: &Bound<'py, Self>,
        predicate: &Bound<'py, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<Option<Bound<'py, PySnapshot>>> {
        let open = slf.borrow().open()?.clone();
        let timeout = input::timeout(timeout)?;
        wait::for_value(
            slf.py(),
            &open.reader,
            timeout,
            &open.interrupt,
            || Bound::new(slf.py(), slf.borrow().snapshot()?),
            predicate,
        )
    }

    /// An iterator over the versions as they come, beginning with the newest if somebody has written: each a
    /// :class:`Snapshot`.
    ///
    /// ``every`` seconds, or ``hz`` times a second, is how often at most; as often as they come unless said. It ends when
    /// nothing has come for ``timeout`` seconds, and when the state is deleted with :class:`Deleted`. Versions behind
    /// ``since`` alone, if that is given.
    ///
    /// >>> state = kstate.subscribe("docs.watch", write=True)
    /// >>> state.write(b"one")
    /// 1
    /// >>> for now in state.watch(timeout=0.1):
    /// ...     print(bytes(now))
    /// ...     if now.generation < 3:
    /// ...         _ = state.write(b"another")
    /// b'one'
    /// b'another'
    /// b'another'
    #[pyo3(signature = (*, every=None, hz=None, timeout=None, since=None))]
    fn watch(
        &self,
        every: Option<f64>,
        hz: Option<f64>,
        timeout: Option<f64>,
        since: Option<Bound<'_, PyAny>>,
    ) -> PyResult<PyWatch> {
        let open = self.open()?;
        let known = since.as_ref().map(since::since).transpose()?;
        Ok(PyWatch::new(
            &open.reader,
            self.codec(),
            known.unwrap_or(Generation::NEVER),
            input::period(every, hz)?,
            input::timeout(timeout)?,
            &open.interrupt,
        ))
    }

    /// An asynchronous iterator over the versions as they come, for asyncio; otherwise as :meth:`watch`.
    ///
    /// One descriptor serves all of an event loop, however many states are followed; there is no thread. It can be
    /// cancelled at any time, and nothing is lost: the next one that is asked for is the newest.
    ///
    /// >>> import asyncio
    /// >>> state = kstate.subscribe("docs.changes", write=True)
    /// >>> state.write(b"one")
    /// 1
    /// >>> async def first():
    /// ...     async for now in state.changes():
    /// ...         return bytes(now)
    /// >>> asyncio.run(first())
    /// b'one'
    #[pyo3(signature = (*, every=None, hz=None))]
    fn changes<'py>(
        slf: &Bound<'py, Self>,
        every: Option<f64>,
        hz: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let view = slf.borrow().view(every, hz)?;
        let module = PyModule::import(slf.py(), "kstate._aio")?;
        module.getattr("Changes")?.call1((view,))
    }

    /// A :class:`View`: the state as if it changed no more often than ``every`` seconds, or ``hz`` times a second.
    #[pyo3(signature = (every=None, *, hz=None))]
    fn view(&self, every: Option<f64>, hz: Option<f64>) -> PyResult<PyView> {
        let open = self.open()?;
        let view = open.reader.view(input::period(every, hz)?);
        let (codec, interrupt) = (self.codec().clone(), open.interrupt.clone());
        Ok(PyView::new(view, codec, self.mount.clone(), interrupt))
    }

    /// A :class:`Live`: memory in which the newest value is, at an address that stays.
    ///
    /// Each commit of the state costs its writer one more copy from then on.
    fn live(slf: &Bound<'_, Self>) -> PyResult<PyLive> {
        let reader = slf.borrow().open()?.reader.clone();
        let live = slf.py().detach(|| reader.live());
        live.map(PyLive::new).map_err(raised)
    }

    /// The descriptor of the state's file, for ``select`` and ``poll``: readable when there is a version newer than the
    /// last one that :meth:`acknowledge` was told of.
    ///
    /// For more than a few states there is :class:`Notifier`, which needs no request to the daemon. After a restart of the
    /// daemon call :meth:`reconnect`, and ask for the descriptor again.
    ///
    /// >>> import select
    /// >>> state = kstate.subscribe("docs.fileno", write=True)
    /// >>> select.select([state], [], [], 0)[0]
    /// []
    /// >>> state.write(b"one")
    /// 1
    /// >>> select.select([state], [], [], 5)[0] == [state]
    /// True
    /// >>> state.acknowledge()
    /// >>> select.select([state], [], [], 0)[0]
    /// []
    fn fileno(&self) -> PyResult<RawFd> {
        Ok(self.open()?.reader.as_fd().as_raw_fd())
    }

    /// Tells the daemon that a version was seen, the newest unless said: :meth:`fileno` is readable for a newer one. One
    /// request to the daemon.
    #[pyo3(signature = (generation=None))]
    fn acknowledge(slf: &Bound<'_, Self>, generation: Option<Bound<'_, PyAny>>) -> PyResult<()> {
        let reader = slf.borrow().open()?.reader.clone();
        let seen = match &generation {
            Some(known) => since::since(known)?,
            None => reader.generation(),
        };
        let told = slf.py().detach(|| reader.acknowledge(seen));
        told.map_err(|error| {
            let what = format!("cannot acknowledge a version of state `{}`", reader.name());
            raised_io(&what, &error)
        })
    }

    /// Goes on through the daemon that has followed the one of before; whether there is another. All but :meth:`fileno`
    /// does so by itself.
    fn reconnect(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let reader = slf.borrow().open()?.reader.clone();
        slf.py().detach(|| reader.reconnect()).map_err(raised)
    }
}
