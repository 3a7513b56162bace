"""Following states in an asyncio event loop: one descriptor a loop, no thread."""

from __future__ import annotations

import asyncio
import collections
import errno
import weakref
from typing import NoReturn

from . import _kstate
from ._errors import Deleted


class _Hub:
    """The notifier of one event loop, which reads its descriptor while there is somebody to tell."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # Weak, or the loop would never go from the table of hubs.
        self._loop = weakref.ref(loop)
        self._notifier = _kstate.Notifier()
        self._descriptor = -1
        self._gone: collections.deque[int] = collections.deque()
        self._told: weakref.WeakValueDictionary[int, Changes] = weakref.WeakValueDictionary()

    def add(self, changes: Changes, view: _kstate.View) -> int:
        """Has ``changes`` told of each change of ``view``."""
        key = self._notifier.add(view)
        self._told[key] = changes
        if self._descriptor < 0 and (loop := self._loop()) is not None:
            self._descriptor = self._notifier.fileno()
            loop.add_reader(self._descriptor, self._read)
        return key

    def remove(self, key: int) -> None:
        """Tells of it no more. The last one to go takes the reader with it, so that the loop holds nothing."""
        self._told.pop(key, None)
        self._notifier.remove(key)
        loop = self._loop()
        if len(self._notifier) == 0 and self._descriptor >= 0:
            if loop is not None and not loop.is_closed():
                loop.remove_reader(self._descriptor)
            self._descriptor = -1

    def forget(self, key: int) -> None:
        """Tells of it no more, some time: from any thread and at any moment, as a destructor is called."""
        self._gone.append(key)
        loop = self._loop()
        if loop is not None and not loop.is_closed():
            try:
                loop.call_soon_threadsafe(self._sweep)
            except RuntimeError:
                # It was closed meanwhile.
                pass

    def _sweep(self) -> None:
        while self._gone:
            self.remove(self._gone.popleft())

    def _read(self) -> None:
        for change in self._notifier.changed():
            if (changes := self._told.get(change.key)) is not None:
                changes._tell(change)


_hubs: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Hub] = weakref.WeakKeyDictionary()


def _hub_of(loop: asyncio.AbstractEventLoop) -> _Hub:
    hub = _hubs.get(loop)
    if hub is None:
        hub = _hubs[loop] = _Hub(loop)
    return hub


class Changes:
    """An asynchronous iterator over the versions of a state as they come: made by ``State.changes``.

    Begins with the newest if somebody has written. Versions that others follow too soon are skipped, the newest is never
    missed. When the next one is overdue the last one comes once more, with that mark. When the state is deleted,
    :class:`Deleted` is raised. One task at a time may ask for the next.
    """

    _hub: _Hub | None = None

    def __init__(self, view: _kstate.View) -> None:
        self._view = view
        self._key = 0
        self._seen = 0
        # One is enough: whatever it tells of, the newest version is looked at.
        self._news: _kstate.Change | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False

    def __aiter__(self) -> Changes:
        return self

    async def __anext__(self) -> _kstate.Snapshot:
        if self._closed:
            raise StopAsyncIteration
        if self._waiter is not None:
            raise RuntimeError("another task is waiting for the next change; give each an iterator of its own")
        loop = asyncio.get_running_loop()
        hub = _hub_of(loop)
        if self._hub is not hub:
            self._leave()
            self._key = hub.add(self, self._view)
            self._hub = hub
        while True:
            while (change := self._news) is None:
                await self._more(loop)
            if _is_last(change):
                self._leave()
                self._news = None
                raise change.error or Deleted(*_deleted(self._view.name))
            # Still there if that fails: it is told of again.
            snapshot = self._view.snapshot()
            self._news = None
            # What has come since it was told of has been read with it.
            if snapshot.generation != self._seen or (change.kind == "overdue" and snapshot.overdue):
                self._seen = snapshot.generation
                return snapshot

    async def _more(self, loop: asyncio.AbstractEventLoop) -> None:
        self._waiter = loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        if self._closed:
            raise StopAsyncIteration

    async def aclose(self) -> None:
        """Ends the iteration, for who waits as well. Closing twice is no error."""
        self._closed = True
        self._leave()
        self._wake()

    def _tell(self, change: _kstate.Change) -> None:
        if self._news is None or not _is_last(self._news):
            self._news = change
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _leave(self) -> None:
        if self._hub is not None:
            self._hub.remove(self._key)
            self._hub = None

    def __del__(self) -> None:
        if self._hub is not None:
            self._hub.forget(self._key)

    def __reduce__(self) -> NoReturn:
        raise TypeError("an iterator over changes belongs to its event loop; make another with State.changes")

    def __repr__(self) -> str:
        return f"<kstate.Changes of {self._view.name}>"


def _is_last(change: _kstate.Change) -> bool:
    return change.error is not None or change.kind == "deleted"


def _deleted(name: str) -> tuple[int, str]:
    return errno.ESTALE, f"state `{name}` was deleted; subscribe again to what may have taken its place"


Changes.__module__ = "kstate"
