"""Handles in forked children and in processes that they are sent to."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy
import pytest

import kstate


def in_child(work: Callable[[], None]) -> None:
    """Runs ``work`` in a forked child, which must end well in time."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(30)
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_child_reads_and_writes_through_its_parents_handle(state: kstate.State) -> None:
    state.write(b"parent")

    def work() -> None:
        assert state.read() == b"parent"
        assert state.write(b"child") == 2
        with state.transaction() as tx:
            tx.write(tx.read() + b"!")
        assert state.snapshot().generation == 3

    in_child(work)
    assert state.read() == b"child!"
    assert state.write(b"parent again") == 4


def test_a_child_cannot_commit_what_its_parent_began(state: kstate.State, name: str) -> None:
    with kstate.subscribe(name + ".b", write=True) as other:
        tx = state.transaction()
        tx.write(b"parent's")
        many = kstate.transaction(other)
        many[other].write(b"parent's")

        def work() -> None:
            with pytest.raises(kstate.Forked, match="belongs to the process that began it"):
                tx.commit()
            with pytest.raises(kstate.Forked):
                many.commit()
            with state.transaction() as own:
                own.write(b"child's")

        in_child(work)
        assert state.read() == b"child's" and other.read() == b""
        with pytest.raises(kstate.Conflict):
            tx.commit()
        many.commit()
        assert other.read() == b"parent's"


def test_a_child_that_forgets_its_parents_transactions_harms_nobody(state: kstate.State) -> None:
    open_ones = [state.transaction() for _ in range(3)]
    for tx in open_ones:
        tx.write(b"parent's")

    def work() -> None:
        open_ones.clear()
        state.close()

    in_child(work)
    assert open_ones[0].commit() == 1 and state.read() == b"parent's"


def test_a_function_of_a_transaction_that_forks_commits_once(state: kstate.State) -> None:
    state.write(b"0")
    parent = os.getpid()

    def work(tx: kstate.Transaction) -> bool:
        child = os.fork()
        tx.write(b"child" if child == 0 else b"parent")
        if child:
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 0
        return child == 0

    status = 1
    try:
        state.transact(work)()
    except kstate.Forked:
        status = 0
    finally:
        if os.getpid() != parent:
            os._exit(status)
    assert state.read() == b"parent"


def test_a_child_waits_and_watches(state: kstate.State) -> None:
    state.write(b"one")
    watch = state.watch(timeout=20)
    view = state.view(every=0.01)
    notifier = kstate.Notifier()
    notifier.add(state)
    next(watch)
    assert len(notifier.wait(20)) == 1

    def work() -> None:
        writer = threading.Timer(0.05, lambda: state.write(b"two"))
        writer.start()
        assert state.wait(since=1, timeout=20) == 2
        writer.join()
        assert bytes(next(watch)) == b"two"
        assert view.wait_for(lambda now: bytes(now) == b"two", timeout=20) is not None
        assert [change.generation for change in notifier.wait(20)] == [2]

    in_child(work)
    assert [change.generation for change in notifier.wait(20)] == [2]


def test_a_child_forked_while_another_thread_waits_goes_on(state: kstate.State) -> None:
    quiet = kstate.subscribe(state.name + ".quiet")
    watch = quiet.watch()
    waiting = [
        threading.Thread(target=state.wait, kwargs={"timeout": 1}),
        threading.Thread(target=lambda: pytest.raises(kstate.Closed, next, watch)),
    ]
    for thread in waiting:
        thread.start()
    time.sleep(0.05)

    def work() -> None:
        state.write(b"child")
        assert state.wait(since=0, timeout=20) == 1
        with pytest.raises(kstate.Busy):
            next(watch)
        assert bytes(next(state.watch(timeout=20))) == b"child"

    # One that writes all the time may be in the middle of it.
    stop = threading.Event()

    def write() -> None:
        with kstate.subscribe(state.name + ".busy", write=True) as busy:
            while not stop.is_set():
                busy.write(b"x")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        in_child(work)
    finally:
        stop.set()
        quiet.close()
        for thread in (*waiting, writer):
            thread.join()


class Pair(ctypes.Structure):
    _fields_ = [("a", ctypes.c_int32), ("b", ctypes.c_int32)]


def _child(state: kstate.State, view: kstate.View, mount: kstate.Mount) -> None:
    assert state.read() == b"\x01\0\0\0\x02\0\0\0" == view.read()
    pair = state.get()
    pair.a += 10
    state.set(pair)
    assert view.period == 0.25 and state.name in mount.names()


@pytest.mark.parametrize("how", ["fork", "spawn", "forkserver"])
def test_multiprocessing_takes_handles_along(name: str, how: str) -> None:
    with kstate.subscribe(name, write=True, type=Pair) as state:
        state.set(Pair(1, 2))
        view, mount = state.view(hz=4), kstate.Mount()
        assert view.get().b == 2
        context: Any = multiprocessing.get_context(how)
        child = context.Process(target=_child, args=(state, view, mount))
        child.start()
        child.join(40)
        assert child.exitcode == 0 and state.get().a == 11


def _add(state: kstate.State, times: int) -> int:
    @state.transact
    def add(tx: kstate.Transaction) -> None:
        tx.value += 1

    for _ in range(times):
        add()
    return times


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_a_pool_loses_no_update(name: str, how: str) -> None:
    with kstate.subscribe(name, write=True, format="<q") as state:
        state.set(0)
        with multiprocessing.get_context(how).Pool(3) as pool:
            assert sum(pool.starmap(_add, [(state, 100)] * 6)) == 600
        assert state.get() == 600


@pytest.mark.parametrize(
    "options", [{}, {"format": "<d"}, {"type": Pair}, {"dtype": numpy.dtype([("x", "<f4")])}], ids=str
)
@pytest.mark.parametrize("write", [True, False])
def test_handles_are_pickled(name: str, options: dict[str, object], write: bool) -> None:
    with kstate.subscribe(name, write=write, **options) as state:  # type: ignore[arg-type]
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            with pickle.loads(pickle.dumps(state, protocol)) as again:
                assert again.state_id == state.state_id and again is not state
                assert again.access == state.access and repr(again) == repr(state)


def test_a_handle_of_a_state_that_has_gone_is_not_unpickled(name: str) -> None:
    with kstate.subscribe(name) as state:
        data = pickle.dumps(state)
    with pytest.raises(kstate.NotFound):
        pickle.loads(data)


def test_what_belongs_to_a_process_is_not_pickled(state: kstate.State) -> None:
    things = [state.snapshot(), state.transaction(), state.watch(), state.live(), kstate.Notifier()]
    for thing in things:
        with pytest.raises(TypeError, match="pickle"):
            pickle.dumps(thing)


def test_exceptions_are_pickled(state: kstate.State) -> None:
    with pytest.raises(kstate.NotFound) as raised:
        kstate.subscribe("nowhere.at.all", existing=True)
    again = pickle.loads(pickle.dumps(raised.value))
    assert type(again) is kstate.NotFound and str(again) == str(raised.value) and again.errno == raised.value.errno
