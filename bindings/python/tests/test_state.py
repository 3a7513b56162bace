"""Reading and writing bytes."""

from __future__ import annotations

import array
import ctypes
import errno
import pathlib
import time

from collections.abc import Callable

import pytest

import kstate


def test_what_is_written_is_read(state: kstate.State) -> None:
    assert state.read() == b"" and state.generation == 0
    assert state.write(b"driving") == 1
    assert state.read() == b"driving" and state.generation == 1


def test_versions_of_any_length_are_read_after_any_other(state: kstate.State) -> None:
    page = state.capacity
    for length in [0, 1, 64, 63, 65, 1, 0, 1024, page, page - 1, 2, page]:
        value = bytes(i % 251 for i in range(length))
        state.write(value)
        assert state.read() == value
        assert state.read() == value


def test_every_byte_length_to_a_page_comes_through(state: kstate.State) -> None:
    for length in range(0, state.capacity + 1, 37):
        state.write(b"\xa5" * length)
        assert state.read() == b"\xa5" * length


@pytest.mark.parametrize(
    "data",
    [
        b"\x01\x02\x03\x04",
        bytearray(b"\x01\x02\x03\x04"),
        memoryview(b"\x00\x01\x02\x03\x04")[1:],
        array.array("B", [1, 2, 3, 4]),
        (ctypes.c_uint8 * 4)(1, 2, 3, 4),
    ],
    ids=lambda data: type(data).__name__,
)
def test_anything_with_a_contiguous_buffer_is_a_value(state: kstate.State, data: object) -> None:
    state.write(data)  # type: ignore[arg-type]
    assert state.read() == b"\x01\x02\x03\x04"


def test_a_snapshot_is_written_to_another_state(state: kstate.State, name: str) -> None:
    state.write(b"one")
    with kstate.subscribe(name + ".copy", write=True) as copy:
        copy.write(state.snapshot())
        assert copy.read() == b"one"


def test_values_are_seen_as_files(state: kstate.State, mount: pathlib.Path, name: str) -> None:
    state.write(b"from python")
    assert (mount / name).read_bytes() == b"from python"
    (mount / name).write_bytes(b"from a file")
    assert state.read() == b"from a file"


def test_a_value_longer_than_the_room_is_refused_and_changes_nothing(name: str) -> None:
    with kstate.subscribe(name, write=True, capacity=16) as state:
        state.write(b"x" * 16)
        for length in (17, 4097, 100_000, 1 << 24):
            with pytest.raises(kstate.TooLong, match=f"{length} bytes") as raised:
                state.write(bytes(length))
            assert raised.value.errno == errno.EFBIG
            with pytest.raises(kstate.TooLong):
                state.write(bytearray(length))
        assert state.read() == b"x" * 16 and state.generation == 1


def test_a_handle_for_reading_does_not_write(state: kstate.State, name: str) -> None:
    with kstate.subscribe(name) as reader:
        assert reader.access == "read" and state.access == "write"
        with pytest.raises(kstate.ReadOnly, match="for reading"):
            reader.write(b"no")
        with pytest.raises(kstate.ReadOnly):
            reader.transaction()
        state.write(b"yes")
        assert reader.read() == b"yes"


def test_a_version_says_when_it_was_written(state: kstate.State) -> None:
    before = time.time()
    state.write(b"now")
    now = state.snapshot()
    assert now.age is not None and now.time is not None
    assert 0 <= now.age < 30 and before - 1 < now.time < time.time() + 1
    state.write(b"then", time=time.time() - 60)
    age = state.snapshot().age
    assert age is not None and 59 < age < 90
    state.stamping = False
    state.write(b"some time")
    assert state.snapshot().age is None and state.snapshot().time is None and not state.stamping


@pytest.mark.parametrize("moment", [float("nan"), float("inf"), -1.0, 1e300])
def test_a_time_that_is_none_is_refused(state: kstate.State, moment: float) -> None:
    with pytest.raises(ValueError, match="time is in seconds"):
        state.write(b"x", time=moment)
    assert state.generation == 0


def test_room_is_made(name: str) -> None:
    with kstate.subscribe(name, write=True, capacity=8) as state, kstate.subscribe(name) as reader:
        assert state.capacity == 8
        state.write(b"12345678")
        assert reader.read() == b"12345678"
        assert state.set_capacity(1000) == 1000 == reader.capacity
        state.write(b"x" * 1000)
        assert reader.read() == b"x" * 1000
        with pytest.raises(kstate.Error, match="only grows") as raised:
            state.set_capacity(8)
        assert raised.value.errno == errno.EINVAL
        with pytest.raises(kstate.TooLong):
            state.set_capacity(1 << 20)
        with pytest.raises(OverflowError):
            state.set_capacity(-1)


def test_a_closed_handle_says_so(name: str) -> None:
    state = kstate.subscribe(name, write=True, format="<i")
    with state as entered:
        assert entered is state
        state.set(1)
    assert state.closed and "closed" in repr(state) and state.name == name
    state.close()
    calls: list[Callable[[], object]] = [
        state.read,
        state.snapshot,
        state.get,
        lambda: state.write(b""),
        lambda: state.set(1),
        lambda: state.generation,
        lambda: state.capacity,
        lambda: state.access,
        lambda: state.state_id,
        state.transaction,
        state.transact(lambda tx: None),
        state.wait,
        lambda: state.wait_for(lambda now: True),
        state.watch,
        state.changes,
        state.view,
        state.live,
        state.fileno,
        state.acknowledge,
        state.reconnect,
        state.info,
        state.delete,
        lambda: state.set_capacity(1),
        lambda: state.set_persistent("/nowhere"),
        lambda: state.set_durability("each"),
        lambda: state.write_durable(b""),
        lambda: state.set_durable(1),
        state.sync,
        state.announce,
        lambda: state.stamping,
        lambda: setattr(state, "stamping", True),
        lambda: state.polite,
        lambda: setattr(state, "polite", True),
        lambda: kstate.cut(state),
        lambda: kstate.transaction(state),
        lambda: kstate.Notifier().add(state),
        state.__enter__,
        state.__reduce__,
    ]
    for call in calls:
        with pytest.raises(kstate.Closed, match="was closed"):
            call()


def test_closing_unsubscribes(name: str, mount: pathlib.Path) -> None:
    state = kstate.subscribe(name, write=True)
    state.write(b"here")
    assert (mount / name).exists()
    state.close()
    assert not (mount / name).exists()


def test_a_handle_that_is_forgotten_unsubscribes(name: str, mount: pathlib.Path) -> None:
    state = kstate.subscribe(name, write=True)
    assert (mount / name).exists()
    del state
    assert not (mount / name).exists()


def test_handles_say_what_they_are(state: kstate.State, name: str, mount: pathlib.Path) -> None:
    assert state.name == name and state.mount == mount and not state.closed
    assert repr(state) == f"<kstate.State {name} to write, version 0>"
    with kstate.subscribe(name, format="<d") as reader:
        assert repr(reader) == f"<kstate.State {name} to read by the struct format '<d', version 0>"
        assert reader.state_id == state.state_id
