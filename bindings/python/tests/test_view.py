"""States at a limited rate, and live pages."""

from __future__ import annotations

import gc
import threading
import time

import pytest

import kstate


def test_a_view_changes_no_more_often_than_its_period(name: str) -> None:
    with kstate.subscribe(name, write=True, format="<i") as state:
        calm = state.view(every=0.3)
        assert calm.get() is None and calm.period == 0.3 and calm.name == name
        state.set(1)
        assert (calm.get(), calm.read(), calm.snapshot().value) == (1, b"\x01\0\0\0", 1)
        start = time.monotonic()
        state.set(2)
        state.set(3)
        if calm.generation == 1:
            assert calm.get() == 1
        assert calm.wait(since=1, timeout=20) == 3 and calm.get() == 3
        assert time.monotonic() - start > 0.2
        assert [now.value for now in calm.watch(timeout=0.01)] == [3]
        assert calm.wait_for(lambda now: now.value == 3, timeout=1) is not None
        assert repr(calm) == f"<kstate.View of {name} every 0.3 s>"
        assert state.view(hz=4).period == 0.25 and state.view().period == 0


def test_a_view_keeps_the_state_and_works_without_its_handle(name: str) -> None:
    state = kstate.subscribe(name, write=True)
    state.write(b"x")
    view = state.view(every=0.01)
    state.close()
    assert view.read() == b"x"
    with pytest.raises(kstate.Closed):
        view.wait()


def test_the_live_page_follows_the_state(state: kstate.State) -> None:
    live = state.live()
    page = memoryview(live)
    assert page.readonly and page.nbytes >= 4096 and live.length == 0 and live.name == state.name
    for value in (b"one", b"another", b""):
        state.write(value)
        assert bytes(page[: len(value)]) == value and live.length == len(value)
        assert live.generation == state.generation and live.read() == (state.generation, value)
    with pytest.raises(TypeError):
        page[0] = 1
    state.write(b"kept")
    state.close()
    del live
    gc.collect()
    assert bytes(page[:4]) == b"kept"


def test_what_the_live_page_checks_is_one_version(state: kstate.State) -> None:
    live = state.live()
    stop = threading.Event()

    def write() -> None:
        with kstate.subscribe(state.name, write=True) as writer:
            number = 0
            while not stop.is_set():
                number = (number + 1) % 251
                writer.write(bytes([number]) * (number + 1))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        found = 0
        while found < 300:
            if (seen := live.read()) is not None and seen[0] > 0:
                assert seen[1] == bytes([seen[1][0]]) * (seen[1][0] + 1)
                found += 1
    finally:
        stop.set()
        thread.join()


def test_a_view_has_a_live_page_at_its_rate(state: kstate.State) -> None:
    state.write(b"x")
    live = state.view(every=0.05).live()
    deadline = time.monotonic() + 20
    while live.generation != 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert bytes(memoryview(live)[:1]) == b"x" and "version 1" in repr(live)


def test_a_live_page_is_written_as_a_value(state: kstate.State, name: str) -> None:
    state.write(b"abc")
    live = state.live()
    with kstate.subscribe(name + ".copy", write=True) as copy:
        copy.write(memoryview(live)[:3])
        assert copy.read() == b"abc"
