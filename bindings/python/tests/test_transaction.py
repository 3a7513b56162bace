"""Transactions on one state and on several."""

from __future__ import annotations

import ctypes

import numpy
from collections.abc import Callable

import pytest

import kstate


@pytest.fixture
def number(name: str) -> kstate.State:
    state = kstate.subscribe(name, write=True, format="<q", capacity=64)
    state.set(10)
    return state


def test_it_commits_at_the_end_of_its_block(number: kstate.State) -> None:
    with number.transaction() as tx:
        assert (tx.value, tx.base, tx.valid, tx.dirty) == (10, 1, True, False)
        tx.value += 1
        assert tx.dirty and tx.value == 11 and number.get() == 10
    assert number.get() == 11 and tx.generation == 2


def test_one_that_wrote_nothing_commits_nothing(number: kstate.State) -> None:
    with number.transaction() as tx:
        assert tx.value == 10
        number.set(20)
    assert number.generation == 2 and tx.generation is None


def test_an_exception_aborts_and_goes_on(number: kstate.State) -> None:
    with pytest.raises(ZeroDivisionError):
        with number.transaction() as tx:
            tx.value = 1 / 0
    assert number.get() == 10 and "aborted" in repr(tx)
    with number.transaction() as tx:
        tx.value = 5
        tx.abort()
        tx.abort()
    assert number.get() == 10


def test_who_comes_second_gets_a_conflict_and_changes_nothing(number: kstate.State) -> None:
    with pytest.raises(kstate.Conflict, match="changed by others first") as raised:
        with number.transaction() as tx:
            tx.value += 1
            number.set(100)
            assert not tx.valid
    assert (raised.value.base, raised.value.found) == (1, 2)
    assert number.get() == 100 and "in conflict" in repr(tx)


def test_it_shows_what_was_at_its_beginning(number: kstate.State) -> None:
    tx = number.transaction()
    for value in range(20):
        number.set(value)
    assert tx.value == 10 and tx.read() == (10).to_bytes(8, "little")
    tx.abort()


def test_it_is_ended_once(number: kstate.State) -> None:
    tx = number.transaction()
    tx.set(3)
    assert tx.commit() == 2
    calls: list[Callable[[], object]] = [
        tx.commit,
        tx.read,
        lambda: tx.value,
        lambda: setattr(tx, "value", 1),
        lambda: tx.set(1),
        lambda: tx.write(b""),
        lambda: tx.resize(1),
        tx.edit,
        lambda: tx.buffer,
        lambda: tx.array("u1"),
        lambda: tx.length,
        tx.__enter__,
    ]
    for call in calls:
        with pytest.raises(kstate.Closed, match="has ended: it was committed"):
            call()
    tx.abort()
    assert tx.generation == 2 and not tx.valid and number.get() == 3


def test_nested_ones_are_independent(number: kstate.State) -> None:
    with pytest.raises(kstate.Conflict):
        with number.transaction() as outer:
            outer.value = 1
            with number.transaction() as inner:
                assert inner.value == 10
                inner.value = 2
    assert number.get() == 2


def test_one_that_is_forgotten_is_aborted(number: kstate.State) -> None:
    for _ in range(600):
        number.transaction().set(99)
    assert number.get() == 10


def test_many_are_open_at_a_time(number: kstate.State) -> None:
    open_ones = [number.transaction() for _ in range(20)]
    for tx in open_ones:
        tx.value += 1
    assert open_ones[7].commit() == 2
    for tx in open_ones[:7]:
        with pytest.raises(kstate.Conflict):
            tx.commit()
    assert number.get() == 11


def test_bytes_are_changed_in_place_and_views_end_with_it(state: kstate.State) -> None:
    state.write(b"abcdef")
    with state.transaction() as tx:
        view = tx.buffer
        assert not view.readonly and tx.length == 6
        view[1:3] = b"XY"
        assert tx.read() == b"aXYdef" and tx.buffer[1] == ord("X")
    assert state.read() == b"aXYdef"
    with pytest.raises(ValueError, match="released"):
        view[0] = 1


def test_what_was_made_of_a_view_stays_harmless(state: kstate.State) -> None:
    state.write(b"abcd")
    with state.transaction() as tx:
        part = tx.buffer[1:3]
        array = tx.array("u1")
        array[0] = ord("Z")
        part[0] = ord("Y")
    assert state.read() == b"ZYcd"
    array[:] = 0
    assert array.tolist() == [0, 0, 0, 0] and state.read() == b"ZYcd"
    with state.transaction() as tx:
        late = tx.buffer
        tx.write(b"new")
        with pytest.raises(ValueError, match="released"):
            late[0] = 1
    assert state.read() == b"new"


def test_a_length_is_set(state: kstate.State) -> None:
    state.write(b"abcd")
    with state.transaction() as tx:
        tx.resize(6)
        assert tx.read() == b"abcd\0\0"
        tx.resize(2)
    assert state.read() == b"ab"
    tx = state.transaction()
    with pytest.raises(kstate.TooLong):
        tx.resize(1 << 40)
    with pytest.raises(OverflowError):
        tx.resize(-1)
    tx.resize(60_000)
    with pytest.raises(kstate.TooLong):
        tx.commit()
    assert state.read() == b"ab" and "refused" in repr(tx)


class Pair(ctypes.Structure):
    _fields_ = [("a", ctypes.c_int32), ("b", ctypes.c_int32)]


def test_values_are_edited_in_place(name: str) -> None:
    with kstate.subscribe(name, write=True, type=Pair) as state:
        with state.transaction() as tx:
            pair = tx.edit()
            pair.a, pair.b = 1, 2
        assert (state.get().a, state.get().b) == (1, 2)
        pair.a = 9
        assert state.get().a == 1
        with state.transaction() as tx:
            tx.edit().b += 5
        assert (state.get().a, state.get().b) == (1, 7)
    with kstate.subscribe(name, write=True, dtype=numpy.dtype(("<i4", (2,)))) as state:
        with state.transaction() as tx:
            tx.edit()[:] = [3, 4]
        with state.transaction() as tx:
            tx.edit()[0] += 10
        assert state.get().tolist() == [13, 4]


def test_values_that_are_none_leave_it_going_on(number: kstate.State) -> None:
    with number.transaction() as tx:
        for wrong in ("text", None, 1 << 70, (1, 2)):
            with pytest.raises(Exception):
                tx.value = wrong
        tx.value = 11
    assert number.get() == 11


def test_a_state_that_was_deleted_is_said_to_be(number: kstate.State) -> None:
    tx = number.transaction()
    tx.value = 1
    number.delete()
    with pytest.raises(kstate.Deleted):
        tx.commit()
    with pytest.raises(kstate.Deleted):
        number.transaction()


def test_several_states_change_together(number: kstate.State, name: str) -> None:
    with kstate.subscribe(name + ".b", write=True, format="<q") as other:
        other.set(0)
        with kstate.transaction(number, other) as tx:
            assert len(tx) == 2 and tx.valid
            tx[number].value -= 4
            tx[other].value += 4
            assert (number.get(), other.get()) == (10, 0)
        assert (number.get(), other.get()) == (6, 4)
        assert tx[other].generation == 2 and not tx.valid
        with pytest.raises(kstate.Closed):
            tx.commit()
        with pytest.raises(kstate.Closed):
            tx[other].value = 1


def test_of_several_states_one_that_was_changed_is_a_conflict(number: kstate.State, name: str) -> None:
    with kstate.subscribe(name + ".b", write=True, format="<q") as other:
        other.set(0)
        with pytest.raises(kstate.Conflict, match=other.name) as raised:
            with kstate.transaction(number, other) as tx:
                tx[number].value = 1
                other.set(5)
        assert (raised.value.base, raised.value.found) == (1, 2) and number.get() == 10
        with pytest.raises(ZeroDivisionError), kstate.transaction(number, other) as tx:
            tx[other].value = 1 / 0
        assert other.get() == 5


def test_states_for_reading_are_compared_and_not_written(number: kstate.State, name: str) -> None:
    with kstate.subscribe(name, format="<q") as reader, kstate.subscribe(name + ".b", write=True) as other:
        with kstate.transaction(reader, other) as tx:
            tx[other].write(str(tx[reader].value).encode())
        assert other.read() == b"10"
        with pytest.raises(kstate.Conflict):
            with kstate.transaction(reader, other) as tx:
                tx[other].write(b"stale")
                number.set(11)
        with pytest.raises(kstate.ReadOnly):
            with kstate.transaction(reader, other) as tx:
                tx[reader].value = 1
        assert other.read() == b"10"


def test_what_is_no_member_is_refused(number: kstate.State, name: str) -> None:
    with kstate.subscribe(name + ".b", write=True) as other, kstate.subscribe(name, write=True) as again:
        with kstate.transaction(number) as tx:
            for wrong in (other, again, "x", None):
                with pytest.raises(KeyError):
                    tx[wrong]  # type: ignore[index]
            with pytest.raises(kstate.Error, match="committed by who runs"):
                tx[number].commit()
        with pytest.raises(kstate.Error, match="already"):
            kstate.transaction(number, again)
        with pytest.raises(TypeError):
            kstate.transaction()
        with pytest.raises(TypeError):
            kstate.transaction(number, 5)  # type: ignore[arg-type]
        # Handles that were lent for it are back.
        for _ in range(300):
            with pytest.raises(TypeError):
                kstate.transaction(number, 5)  # type: ignore[arg-type]
