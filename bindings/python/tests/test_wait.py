"""Waiting for changes and following them."""

from __future__ import annotations

import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

import kstate
from daemon import Daemon


@contextmanager
def meanwhile(*steps: Callable[[], object], after: float = 0.05) -> Iterator[None]:
    """Does these in another thread, each after a while."""

    def run() -> None:
        for step in steps:
            time.sleep(after)
            step()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def test_a_wait_ends_with_a_change(state: kstate.State) -> None:
    with meanwhile(lambda: state.write(b"one")):
        assert state.wait(timeout=20) == 1
    assert state.wait(since=0, timeout=0) == 1 and state.wait(state.snapshot(), timeout=0.01) is None
    with meanwhile(lambda: state.write(b"two")):
        assert state.wait(since=state.snapshot()) == 2


def test_other_threads_run_during_a_wait(state: kstate.State) -> None:
    counted = 0
    ended = threading.Event()

    def count() -> None:
        nonlocal counted
        while not ended.is_set():
            counted += 1
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    state.wait(timeout=0.3)
    ended.set()
    thread.join()
    assert counted > 30


def test_a_wait_lasts_as_long_as_was_said(state: kstate.State) -> None:
    for timeout in (0, 0.01, 0.25):
        start = time.monotonic()
        assert state.wait(timeout=timeout) is None
        assert timeout <= time.monotonic() - start < timeout + 5


def test_a_value_is_waited_for(name: str) -> None:
    with kstate.subscribe(name, write=True, format="<i") as state:
        with meanwhile(lambda: state.set(1), lambda: state.set(5)):
            found = state.wait_for(lambda now: now.value > 3, timeout=20)
        assert found is not None and found.value == 5
        assert state.wait_for(lambda now: now.value > 5, timeout=0.05) is None
        with pytest.raises(ZeroDivisionError):
            state.wait_for(lambda now: 1 / 0)


def test_a_wait_for_a_value_ends_beside_a_writer_that_is_faster_than_the_function(name: str) -> None:
    with kstate.subscribe(name, write=True, format="<i") as state:
        state.set(0)

        def never(_: kstate.Snapshot) -> bool:
            # There is always another version already.
            state.set(0)
            return False

        start = time.monotonic()
        assert state.wait_for(never, timeout=0.1) is None
        assert time.monotonic() - start < 10


def test_a_watch_gives_the_newest_and_then_each_change(state: kstate.State) -> None:
    state.write(b"0")
    watch = state.watch(timeout=20)
    assert bytes(next(watch)) == b"0"
    with meanwhile(lambda: state.write(b"1"), lambda: state.write(b"2")):
        assert [bytes(next(watch)), bytes(next(watch))] == [b"1", b"2"]
    assert [bytes(now) for now in state.watch(timeout=0.01, since=2)] == [b"2"]
    assert list(state.watch(timeout=0.01, since=3)) == []


@pytest.mark.parametrize("pace", [{"every": 0.1}, {"hz": 10}])
def test_a_watch_keeps_its_rate_and_the_last_always_comes(state: kstate.State, pace: dict[str, float]) -> None:
    ended = threading.Event()

    def write() -> None:
        for number in range(300):
            state.write(str(number).encode())
            time.sleep(0.001)
        ended.set()

    thread = threading.Thread(target=write)
    thread.start()
    start = time.monotonic()
    seen = [bytes(now) for now in state.watch(timeout=1, **pace)]  # type: ignore[arg-type]
    thread.join()
    assert ended.is_set() and seen[-1] == b"299"
    assert len(seen) <= (time.monotonic() - start) / 0.1 + 2


def test_closing_ends_a_wait(state: kstate.State) -> None:
    waits: list[Callable[[kstate.State], object]] = [
        lambda state: state.wait(),
        lambda state: next(state.watch()),
        lambda state: state.wait_for(lambda now: False),
        lambda state: state.view(every=0.01).wait(),
    ]
    for wait in waits:
        handle = kstate.subscribe(state.name)
        with meanwhile(handle.close), pytest.raises(kstate.Closed):
            wait(handle)


def test_deleting_ends_a_wait(name: str) -> None:
    waits: list[Callable[[kstate.State], object]] = [lambda state: state.wait(), lambda state: next(state.watch())]
    for wait in waits:
        state = kstate.subscribe(name, write=True)
        with meanwhile(state.delete), pytest.raises(kstate.Deleted):
            wait(state)


def test_two_threads_do_not_share_a_watch(state: kstate.State) -> None:
    watch = state.watch(timeout=20)
    told: list[kstate.Snapshot] = []
    thread = threading.Thread(target=lambda: told.append(next(watch)))
    thread.start()
    # Whoever is first stays, however often others come.
    while state.info().waiters == 0:
        time.sleep(0.001)
    for _ in range(300):
        with pytest.raises(kstate.Busy, match="another thread"):
            next(watch)
        time.sleep(0.001)
    state.write(b"x")
    thread.join()
    assert len(told) == 1


@pytest.mark.parametrize(
    "wait",
    [
        "state.wait()",
        "next(state.watch())",
        "state.wait_for(lambda now: False)",
        "state.view(every=0.1).wait()",
        "kstate.subscribe('nobody.writes.this', wait_for=1e9)",
        "kstate.subscribe('nobody.creates.this', when_there=1e9)",
        "notifier.wait()",
    ],
)
def test_ctrl_c_ends_a_wait_at_once(daemon: Daemon, name: str, wait: str) -> None:
    program = f"""
import sys, time, kstate
state = kstate.subscribe({name!r})
notifier = kstate.Notifier()
notifier.add(state)
print("ready", flush=True)
try:
    {wait}
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as waiter:
        assert waiter.stdout is not None and waiter.stdout.readline() == "ready\n"
        time.sleep(0.2)
        start = time.monotonic()
        waiter.send_signal(signal.SIGINT)
        assert waiter.stdout.readline() == "interrupted\n"
        assert time.monotonic() - start < 2
        assert waiter.wait(20) == 0


def test_signal_handlers_run_and_the_wait_goes_on(state: kstate.State) -> None:
    handled = 0

    def handle(*_: object) -> None:
        nonlocal handled
        handled += 1
        if handled == 3:
            state.write(b"by a handler")

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    try:
        assert state.wait(timeout=20) == 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert handled >= 3


def test_a_state_that_is_not_there_yet_is_waited_for(name: str) -> None:
    kept: list[kstate.State] = []

    def create() -> None:
        kept.append(kstate.subscribe(name, write=True))

    with meanwhile(create, lambda: kept[0].write(b"first")):
        with kstate.subscribe(name, when_there=20) as early:
            assert early.generation <= 1
        with kstate.subscribe(name, wait_for=20) as late:
            assert late.read() == b"first"
    with pytest.raises(kstate.Timeout, match="within 50ms"):
        kstate.subscribe(name + ".never", wait_for=0.05)
    with pytest.raises(TimeoutError):
        kstate.subscribe(name + ".never", when_there=0.05)


def test_the_file_can_be_polled(state: kstate.State) -> None:
    poll = select.poll()
    poll.register(state, select.POLLIN)
    assert poll.poll(0) == []
    state.write(b"x")
    assert [found for found, _ in poll.poll(20_000)] == [state.fileno()]
    state.acknowledge(state.snapshot())
    assert poll.poll(0) == [] and state.reconnect() is False


@pytest.mark.parametrize("timeout", [-1, float("nan"), -0.001])
def test_a_time_to_wait_that_is_none_is_refused(state: kstate.State, timeout: float) -> None:
    for call in (
        lambda: state.wait(timeout=timeout),
        lambda: state.wait_for(lambda now: True, timeout=timeout),
        lambda: state.watch(timeout=timeout),
        lambda: state.watch(every=timeout),
        lambda: state.watch(hz=timeout),
        lambda: state.view(timeout),
        lambda: kstate.subscribe("x", wait_for=timeout),
        lambda: kstate.subscribe("x", linger=timeout),
        lambda: kstate.subscribe("x", deadline=timeout),
        lambda: kstate.Notifier().wait(timeout),
    ):
        with pytest.raises(ValueError, match="number of"):
            call()


def test_what_is_known_already_is_a_generation(state: kstate.State) -> None:
    for wrong in ("1", 1.5, object(), b"1"):
        with pytest.raises(TypeError, match="since"):
            state.wait(since=wrong, timeout=0)  # type: ignore[arg-type]
    for wrong in (-1, 1 << 64):
        with pytest.raises(OverflowError):
            state.wait(since=wrong, timeout=0)
    with pytest.raises(ValueError, match="not both"):
        state.watch(every=1, hz=1)
    with pytest.raises(ValueError, match="hz"):
        state.view(hz=0)
