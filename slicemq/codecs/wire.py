"""What the codecs share: dtypes that travel, views of bytes as tensors, and the checks of both."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from slicemq.errors import FrameError

Array = npt.NDArray[Any]

DTYPES = {
    "bool": 1,
    "int8": 1,
    "uint8": 1,
    "int16": 2,
    "uint16": 2,
    "float16": 2,
    "int32": 4,
    "uint32": 4,
    "float32": 4,
    "int64": 8,
    "uint64": 8,
    "float64": 8,
    "complex64": 8,
}
BLOCK = 65_536
"""Elements that are worked on at a time: with their scratch they stay in a small processor's cache, and calls of
numpy take little of the time.
"""


def flat(array: Array) -> Array:
    """The elements in row-major order, little-endian, of one dimension; a view where the array has them so."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).reshape(-1)


def bytes_of(array: Array) -> memoryview:
    """The bytes of the elements in row-major order, little-endian; a view where the array has them so."""
    return flat(array).view(np.uint8).data


def view(data: memoryview, dtype: np.dtype[Any], shape: tuple[int, ...], size: int) -> Array:
    """`data` as `shape` elements of `dtype`, which take `size` bytes; FrameError when it has not that length."""
    if len(data) != size:
        raise FrameError(f"{len(data)} bytes for shape {list(shape)} of {dtype.name}, expected {size}")
    if size == 0:
        return empty(dtype, shape)
    return np.frombuffer(data, dtype=dtype.newbyteorder("<")).reshape(shape)


def empty(dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """An array that nothing was written to; FrameError for a shape that numpy has no array of."""
    try:
        return np.empty(shape, dtype)
    except ValueError as error:
        raise FrameError(f"shape {list(shape)} of {dtype.name}: {error}") from error


def room(out: memoryview | None, size: int) -> Array:
    """`size` bytes to write to: the first of `out`, or new ones. ValueError when `out` has fewer."""
    if out is None:
        return np.empty(size, np.uint8)
    if out.readonly or len(out) < size:
        raise ValueError(f"out: {len(out)} bytes{' that are read-only' if out.readonly else ''}, expected {size}")
    return np.frombuffer(out, np.uint8, size)


def blocks(size: int, length: int = BLOCK) -> Iterator[slice]:
    """Slices of at most `length` elements that are `size` elements together."""
    for first in range(0, size, length):
        yield slice(first, min(first + length, size))


def only_float32(name: str, dtype: np.dtype[Any]) -> None:
    """FrameError when a codec of float32 is to give another dtype."""
    if dtype != np.float32:
        raise FrameError(f"codec {name} carries float32, not {dtype.name}")


def elements(shape: tuple[int, ...]) -> int:
    """The number of elements of a shape."""
    return math.prod(shape)
