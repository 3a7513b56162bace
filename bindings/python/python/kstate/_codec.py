"""How the bytes of a state are a Python value."""

from __future__ import annotations

import ctypes
import struct
import sys
from _ctypes import CFuncPtr
from collections.abc import Callable
from typing import Any


# No page of any machine is longer.
_MOST_BYTES = 65536


class Codec:
    """Both directions between bytes and values, as the extension module calls them.

    ``decode`` takes an object with the buffer of one version, ``encode`` gives one, ``edit`` takes one that can be
    written to and gives a value in place.
    """

    __slots__ = ("arguments", "decode", "edit", "encode", "size", "text", "unit")

    def __init__(
        self,
        arguments: dict[str, Any],
        text: str,
        *,
        size: int | None,
        unit: int,
        decode: Callable[[Any], Any],
        encode: Callable[[Any], Any],
        edit: Callable[[Any], Any],
    ) -> None:
        self.arguments = arguments
        self.text = text
        self.size = size
        self.unit = unit
        self.decode = decode
        self.encode = encode
        self.edit = edit


def of(*, format: Any = None, type: Any = None, dtype: Any = None) -> Codec:
    """The codec of one of the three."""
    given = {"format": format, "type": type, "dtype": dtype}
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        raise ValueError(f"a value is seen by one of format, type and dtype, not by {' and '.join(named)}")
    if format is not None:
        return _struct(format)
    return _ctype(type) if type is not None else _numpy(dtype)


def _struct(format: str | bytes) -> Codec:
    packing = struct.Struct(format)
    text = f"the struct format {packing.format!r}"
    if packing.size == 0:
        raise ValueError(f"{text} has no bytes; a value has at least one")
    if packing.size > _MOST_BYTES:
        raise ValueError(f"{text} has {packing.size} bytes; a state holds a page")
    fields = len(packing.unpack(bytes(packing.size)))
    if fields == 1:
        decode: Callable[[Any], Any] = lambda data: packing.unpack(data)[0]  # noqa: E731
        encode: Callable[[Any], Any] = packing.pack
    else:
        decode = packing.unpack
        encode = lambda value: packing.pack(*value)  # noqa: E731
    return Codec(
        {"format": packing.format},
        text,
        size=packing.size,
        unit=1,
        decode=decode,
        encode=encode,
        edit=memoryview,
    )


def _ctype(type_: Any) -> Codec:
    if not (isinstance(type_, type) and hasattr(type_, "from_buffer_copy")):
        raise TypeError(f"type is a ctypes type, such as a ctypes.Structure, and not {type_!r}")
    text = f"the ctypes type {type_.__name__}"
    size = ctypes.sizeof(type_)
    if size == 0:
        raise ValueError(f"{text} has no bytes; a value has at least one")
    if _holds_addresses(type_):
        raise TypeError(f"{text} holds addresses, which mean nothing to another process")

    def encode(value: Any) -> Any:
        if not isinstance(value, type_):
            raise TypeError(f"a value is of {text}, and not {value!r}")
        return value

    kind: Any = type_
    return Codec(
        {"type": kind},
        text,
        size=size,
        unit=1,
        decode=kind.from_buffer_copy,
        encode=encode,
        edit=kind.from_buffer,
    )


def _holds_addresses(type_: Any) -> bool:
    if issubclass(type_, (ctypes._Pointer, CFuncPtr)):
        return True
    if issubclass(type_, ctypes.Array):
        return _holds_addresses(type_._type_)
    if issubclass(type_, (ctypes.Structure, ctypes.Union)):
        bases = (base.__dict__.get("_fields_", ()) for base in type_.__mro__)
        return any(_holds_addresses(field[1]) for fields in bases for field in fields)
    return getattr(type_, "_type_", "") in ("P", "z", "Z", "O")


def _numpy(dtype: Any) -> Codec:
    import numpy

    dtype = numpy.dtype(dtype)
    text = f"the numpy dtype {dtype}"
    if dtype.itemsize == 0:
        raise ValueError(f"{text} has no bytes; a value has at least one")
    if dtype.hasobject:
        raise TypeError(f"{text} holds Python objects, which mean nothing to another process")
    element = dtype.base
    # A record or an array of fixed shape is the whole value; of anything else there are as many as there are.
    is_whole = dtype.fields is not None or dtype.subdtype is not None

    def array(data: Any) -> Any:
        elements = numpy.frombuffer(data, dtype=element)
        return elements.reshape(dtype.shape) if is_whole else elements

    def encode(value: Any) -> Any:
        elements = numpy.ascontiguousarray(value, dtype=element)
        if is_whole and elements.size * element.itemsize != dtype.itemsize:
            raise ValueError(f"a value is of {text}, and has not the shape {elements.shape}")
        # Of bytes, whatever the elements are: not all of them have a buffer of their own.
        return elements.reshape(-1).view(numpy.uint8)

    return Codec(
        {"dtype": dtype},
        text,
        size=dtype.itemsize if is_whole else None,
        unit=element.itemsize,
        decode=array,
        encode=encode,
        edit=array,
    )


def array(data: Any, dtype: Any) -> Any:
    """A numpy array over the buffer of ``data``, without a copy."""
    if "numpy" not in sys.modules:
        try:
            import numpy
        except ImportError as error:
            raise ImportError("an array takes numpy, which is not installed; use memoryview") from error
    return _numpy(dtype).decode(data)
