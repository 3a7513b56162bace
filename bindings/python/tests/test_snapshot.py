"""Snapshots, as objects with a buffer."""

from __future__ import annotations

import ctypes
import gc
import weakref

import pytest

import kstate


def test_a_snapshot_is_one_version_for_ever(state: kstate.State) -> None:
    state.write(b"one")
    first = state.snapshot()
    state.write(b"another")
    assert bytes(first) == b"one" and (first.generation, first.length) == (1, 3)
    assert bytes(state.snapshot()) == b"another"
    assert first.name == state.name and first.value == b"one"


def test_its_buffer_is_no_copy_and_cannot_be_written_to(state: kstate.State) -> None:
    state.write(b"hello")
    snapshot = state.snapshot()
    view = memoryview(snapshot)
    assert view.readonly and view.nbytes == 5 and view.format == "B" and view.obj is snapshot
    with pytest.raises(TypeError):
        view[0] = 1
    with pytest.raises(TypeError, match="not writable"):
        (ctypes.c_uint8 * 5).from_buffer(snapshot)


def test_a_view_outlives_what_it_came_from(state: kstate.State) -> None:
    state.write(b"x" * 4096)
    view = memoryview(state.snapshot())
    gone = weakref.ref(view.obj)
    state.close()
    gc.collect()
    assert bytes(view) == b"x" * 4096 and gone() is not None
    view.release()
    assert gone() is None


def test_one_of_a_state_nobody_wrote_is_empty(state: kstate.State) -> None:
    snapshot = state.snapshot()
    assert bytes(snapshot) == b"" and snapshot.generation == 0 and snapshot.age is None
    assert memoryview(snapshot).nbytes == 0 and snapshot.value == b""


def test_it_says_what_it_is(state: kstate.State) -> None:
    state.write(b"abc")
    assert repr(state.snapshot()).startswith(f"<kstate.Snapshot of {state.name} version 1, 3 bytes, 0.")


def test_an_overdue_state_is_said_to_be(name: str) -> None:
    with kstate.subscribe(name, write=True, deadline=0.05) as state:
        state.write(b"in time")
        assert not state.snapshot().overdue
        assert state.wait(1, timeout=10, or_overdue=True) == 1
        now = state.snapshot()
        assert now.overdue and bytes(now) == b"in time" and "overdue" in repr(now)


def test_a_cut_is_of_one_moment(state: kstate.State, name: str) -> None:
    with kstate.subscribe(name + ".b", write=True, format="<i") as other:
        state.write(b"a")
        other.set(7)
        one, two = kstate.cut(state, other)
        assert (bytes(one), two.value) == (b"a", 7)
        assert kstate.cut() == ()
        with pytest.raises(TypeError):
            kstate.cut(state, "b")  # type: ignore[arg-type]
        other.delete()
        with pytest.raises(kstate.Deleted):
            kstate.cut(state, other)
