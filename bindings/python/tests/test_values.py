"""Values by struct formats, ctypes types and numpy dtypes."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable

import numpy
import pytest

import kstate


class Gps(ctypes.Structure):
    _fields_ = [("lat", ctypes.c_double), ("lon", ctypes.c_double), ("fix", ctypes.c_uint32)]


class Pointing(ctypes.Structure):
    _fields_ = [("there", ctypes.c_char_p)]


class PointingMore(Pointing):
    _fields_ = [("here", ctypes.c_int)]


def test_a_format_of_one_field_is_that_and_of_several_a_tuple(name: str) -> None:
    with kstate.subscribe(name, write=True, format="<d") as speed:
        assert speed.get() is None and speed.capacity == 8
        speed.set(2.5)
        assert speed.get() == 2.5 == speed.snapshot().value
        assert speed.read() == struct.pack("<d", 2.5)
    with kstate.subscribe(name, write=True, format="<dI3x4s") as gps:
        gps.set((52.2, 7, b"abcd"))
        assert gps.get() == (52.2, 7, b"abcd")


@pytest.mark.parametrize("value", ["text", (1, 2), None, b"bytes", 1e400j])
def test_a_value_that_the_format_does_not_have_is_refused(name: str, value: object) -> None:
    with kstate.subscribe(name, write=True, format="<d") as state:
        with pytest.raises((struct.error, TypeError)):
            state.set(value)
        assert state.generation == 0


def test_a_ctypes_structure_comes_through(name: str) -> None:
    with kstate.subscribe(name, write=True, type=Gps) as gps:
        assert gps.get() is None and gps.capacity == ctypes.sizeof(Gps)
        gps.set(Gps(52.2, 0.12, 3))
        now = gps.get()
        assert isinstance(now, Gps) and (now.lat, now.lon, now.fix) == (52.2, 0.12, 3)
        now.fix = 4
        assert gps.get().fix == 3, "what is given is a copy"
        with pytest.raises(TypeError, match="ctypes type Gps"):
            gps.set((1.0, 2.0, 3))


def test_other_ctypes_types_come_through(name: str) -> None:
    with kstate.subscribe(name, write=True, type=ctypes.c_int32 * 3) as state:
        state.set((ctypes.c_int32 * 3)(1, 2, 3))
        assert list(state.get()) == [1, 2, 3]


def test_an_array_is_as_long_as_its_version(name: str) -> None:
    with kstate.subscribe(name, write=True, dtype="<f8") as state:
        assert state.get() is None
        for length in (3, 0, 100):
            state.set(numpy.arange(length))
            found = state.get()
            assert found.dtype == numpy.dtype("<f8") and found.tolist() == list(range(length))
        state.set([1, 2])
        assert state.get().tolist() == [1, 2]


def test_an_array_of_fixed_shape_and_a_record_are_whole_values(name: str) -> None:
    with kstate.subscribe(name, write=True, dtype=numpy.dtype(("<i4", (2, 3)))) as state:
        assert state.capacity == 24
        state.set([[1, 2, 3], [4, 5, 6]])
        assert state.get().tolist() == [[1, 2, 3], [4, 5, 6]]
        with pytest.raises(ValueError, match="shape"):
            state.set([1, 2])
    record = numpy.dtype([("lat", "<f8"), ("fix", "<u4")])
    with kstate.subscribe(name, write=True, dtype=record) as state:
        state.set(numpy.array((52.2, 3), dtype=record))
        found = state.get()
        assert found.shape == () and (found["lat"], found["fix"]) == (52.2, 3)


def test_strided_arrays_are_made_contiguous(name: str) -> None:
    with kstate.subscribe(name, write=True, dtype="<i2") as state:
        state.set(numpy.arange(10, dtype="<i2")[::2])
        assert state.get().tolist() == [0, 2, 4, 6, 8]
    with kstate.subscribe(name, write=True) as state:
        with pytest.raises(BufferError, match="contiguous"):
            state.write(numpy.arange(10)[::2])


def test_arrays_look_at_the_snapshot_and_cannot_be_written_to(name: str) -> None:
    with kstate.subscribe(name, write=True, dtype="<i4") as state:
        state.set([1, 2, 3])
        snapshot = state.snapshot()
        first, second = snapshot.value, snapshot.array("<u1")
        assert first.ctypes.data == second.ctypes.data == numpy.frombuffer(snapshot, "u1").ctypes.data
        with pytest.raises(ValueError, match="read-only"):
            first[0] = 9
        del snapshot
        state.set([7, 7, 7])
        assert first.tolist() == [1, 2, 3], "an array keeps its version"


def test_a_version_of_another_length_is_an_error_that_names_both(name: str) -> None:
    with kstate.subscribe(name, write=True, capacity=64) as state:
        state.write(b"123")
        for options in ({"format": "<d"}, {"type": Gps}, {"dtype": "<f8"}, {"dtype": [("a", "<f8")]}):
            with kstate.subscribe(name, **options) as reader:
                with pytest.raises(kstate.WrongLayout, match="has 3 bytes"):
                    reader.get()
                with pytest.raises(kstate.WrongLayout):
                    reader.snapshot().value
                assert reader.read() == b"123"
        state.write(b"")
        with kstate.subscribe(name, format="<d") as reader, pytest.raises(kstate.WrongLayout, match="has 0 bytes"):
            reader.get()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"format": "!?z"}, struct.error),
        ({"format": ""}, ValueError),
        ({"format": 7}, TypeError),
        ({"format": "\ud800"}, UnicodeError),
        ({"format": "<4097s"}, kstate.TooLong),
        ({"format": "2000000000B"}, ValueError),
        ({"format": "9999999999999999999s"}, (struct.error, OverflowError)),
        ({"type": int}, TypeError),
        ({"type": Gps(1, 2, 3)}, TypeError),
        ({"type": ctypes.c_void_p}, TypeError),
        ({"type": ctypes.POINTER(ctypes.c_int)}, TypeError),
        ({"type": ctypes.CFUNCTYPE(None)}, TypeError),
        ({"type": ctypes.py_object * 1}, TypeError),
        ({"type": Pointing}, TypeError),
        ({"type": PointingMore}, TypeError),
        ({"type": ctypes.c_uint8 * 0}, ValueError),
        ({"type": ctypes.c_uint8 * 5000}, kstate.TooLong),
        ({"dtype": "no such"}, TypeError),
        ({"dtype": "O"}, TypeError),
        ({"dtype": "V0"}, ValueError),
        ({"format": "<d", "type": Gps}, ValueError),
        ({"format": "<d", "dtype": "<f8"}, ValueError),
    ],
)
def test_what_describes_no_value_is_refused_and_leaves_no_state(
    name: str, options: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        kstate.subscribe(name, write=True, **options)  # type: ignore[arg-type]
    assert name not in kstate.Mount().names()


def test_without_numpy_all_else_works(name: str, run: Callable[..., str]) -> None:
    said = run(
        """
        import sys
        sys.modules["numpy"] = None
        import kstate
        state = kstate.subscribe(sys.argv[1], write=True, format="<d")
        state.set(2.5)
        assert state.get() == 2.5 and memoryview(state.snapshot()).nbytes == 8
        for call in (
            lambda: state.snapshot().array("f8"),
            lambda: kstate.subscribe("x", dtype="f8"),
            lambda: state.transaction().array("f8"),
        ):
            try:
                call()
            except ImportError as error:
                print(error)
        """,
        name,
    )
    assert said.count("numpy") == 3


def test_importing_kstate_does_not_import_numpy(run: Callable[..., str]) -> None:
    assert run("import sys, kstate; print('numpy' in sys.modules)") == "False\n"


def test_a_struct_is_edited_as_bytes(name: str) -> None:
    with kstate.subscribe(name, write=True, format="<ii") as state:
        state.set((1, 2))
        with state.transaction() as tx:
            view = tx.edit()
            view[4] = 7
        assert state.get() == (1, 7)
        with pytest.raises(ValueError):
            view[0] = 1


def test_an_edit_that_is_refused_writes_nothing(name: str) -> None:
    with kstate.subscribe(name, write=True) as state:
        state.write(b"abc")
        with state.transaction() as tx:
            with pytest.raises(ValueError):
                tx.array("<f8")
            assert not tx.dirty
        assert tx.generation is None and state.generation == 1


def test_what_is_far_too_long_is_not_copied(name: str) -> None:
    with kstate.subscribe(name, write=True) as state:
        tx = state.transaction()
        with pytest.raises(kstate.TooLong):
            tx.write(bytes(65537))
        tx.abort()
