"""`int8`, `int16` and `int8c`: float32 sent as whole numbers q that stand for scale * (q - zero).

The range from least to largest, 0 included, is cut in equal steps: of the tensor, or, `int8c`, of each channel (the
last axis). Zeros, of which activations have many, stay zeros. Elements are rounded by adding 1.5 * 2^23, beyond
which float32 has no fractions: the whole number is then in the low bits.

On the wire: scale (float32) and zero (int32), little-endian, then the elements; of `int8c` all scales, all zeros.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from slicemq.codecs.wire import BLOCK, Array, blocks, elements, flat, room
from slicemq.errors import FrameError

_HEADER = struct.Struct("<fi")
AFFINE_BYTES = _HEADER.size
"""Scale and zero."""
LEAST_RANGE, MOST_RANGE = 1e-32, 1e38
"""Outside of these a range has no scale with which float32 can be divided and multiplied."""
# A channel's scale and zero take as much as that many of its elements.
_LEAST_ROWS = 32
_ROUNDER = 1.5 * 2**23
# With 0 inside a range its steps are a tenth fewer: neither end is then rounded out of the whole numbers.
_SLACK = 0.1
_LEAST_SCALE = 1e-37


@dataclass(frozen=True)
class Affine:
    """One of the three codecs."""

    name: str
    dtype: np.dtype[Any]
    channels: bool = False

    @property
    def steps(self) -> float:
        """Steps in a range of one sign."""
        return float(256**self.dtype.itemsize) - 1.0

    @property
    def low(self) -> int:
        """The least of the whole numbers."""
        return int(-(256**self.dtype.itemsize) // 2)


INT8 = Affine("int8", np.dtype("<i1"))
INT16 = Affine("int16", np.dtype("<i2"))
INT8C = Affine("int8c", np.dtype("<i1"), channels=True)


def by_channel(shape: tuple[int, ...]) -> bool:
    """Whether `int8c` sends this shape by channel; else the tensor goes as `int8`."""
    return len(shape) > 1 and shape[-1] > 1 and elements(shape[:-1]) >= _LEAST_ROWS


def packed_size(codec: Affine, shape: tuple[int, ...]) -> int:
    """Bytes of `shape` elements on the wire, where they have a range."""
    count = shape[-1] if codec.channels else 1
    return count * AFFINE_BYTES + elements(shape) * codec.dtype.itemsize


def span_of(values: Array) -> tuple[float, float] | None:
    """(least, largest) of `values` and 0; None when they have no range that can be divided."""
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    low, high = min(low, 0.0), max(high, 0.0)
    # NaN is not within any range.
    return (low, high) if low == high or LEAST_RANGE <= high - low <= MOST_RANGE else None


def encode(codec: Affine, array: Array, out: memoryview | None) -> Array | None:
    """`array` (float32) as bytes, in `out` where it is given; None when it has no range."""
    values = flat(array)
    if codec.channels:
        return _encode_channels(codec, values, array.shape, out)
    span = span_of(values)
    if span is None:
        return None
    packed = room(out, packed_size(codec, array.shape))
    steps_of = codec.steps - _SLACK * (span[0] < 0.0 < span[1])
    scale = np.float32((span[1] - span[0]) / steps_of)
    zero = codec.low
    if scale > 0:
        zero += int(-span[0] / float(scale) + 0.5 + _SLACK / 2)
    packed[:AFFINE_BYTES] = np.frombuffer(_HEADER.pack(scale, zero), np.uint8)
    steps = packed[AFFINE_BYTES:].view(codec.dtype)
    if scale == 0:
        steps[:] = zero
        return packed
    times, plus = np.float32(1.0) / scale, np.float32(_ROUNDER + zero)
    scratch = np.empty(min(values.size, BLOCK), np.float32)
    for part in blocks(values.size):
        rounded = scratch[: part.stop - part.start]
        np.multiply(values[part], times, out=rounded)
        rounded += plus
        np.copyto(steps[part], rounded.view(np.uint32), casting="unsafe")
    return packed


def check_size(codec: Affine, length: int, shape: tuple[int, ...]) -> None:
    """FrameError when `length` bytes cannot be `shape` elements."""
    if codec.channels and not by_channel(shape):
        raise FrameError(f"codec {codec.name}: shape {list(shape)} is not sent by channel")
    size = elements(shape) * codec.dtype.itemsize
    head = packed_size(codec, shape) - size
    if length < head:
        raise FrameError(f"codec {codec.name}: {length} bytes, expected {head} of scale and zero first")
    if length - head != size:
        raise FrameError(f"{length - head} bytes for shape {list(shape)} of {codec.dtype.name}, expected {size}")


def decode_into(codec: Affine, data: memoryview, out: Array) -> None:
    """The tensor in `out` (float32, contiguous). Raises FrameError for bytes that are not of the format."""
    shape = out.shape
    check_size(codec, len(data), shape)
    count = shape[-1] if codec.channels else 1
    head = count * AFFINE_BYTES
    scales = np.frombuffer(data, "<f4", count)
    zeros = np.frombuffer(data, "<i4", count, 4 * count)
    most = MOST_RANGE / codec.steps * 1.01
    bad = ~((scales >= 0.0) & (scales <= most))
    if bad.any():
        raise FrameError(f"codec {codec.name}: scale {scales[bad][0]}, expected a number from 0 to {most:.3g}")
    bad = (zeros < codec.low) | (zeros >= -codec.low)
    if bad.any():
        last = -codec.low - 1
        raise FrameError(f"codec {codec.name}: zero {zeros[bad][0]}, expected {codec.low} to {last}")
    if out.size == 0:
        return
    steps = np.frombuffer(data, codec.dtype, out.size, head)
    values = out.reshape(-1)
    # The product of zero is subtracted as it is made of an element: so zeros come out as 0 exactly.
    offsets = zeros.astype(np.float32) * scales
    if codec.channels:
        length = _length(count, out.size)
        _from_steps(steps, values, np.tile(scales, length // count), np.tile(offsets, length // count), length)
    else:
        _from_steps(steps, values, scales[0], offsets[0], BLOCK)


def _from_steps(steps: Array, values: Array, scales: Any, offsets: Any, length: int) -> None:
    for part in blocks(values.size, length):
        count = part.stop - part.start
        scale, offset = (scales, offsets) if np.ndim(scales) == 0 else (scales[:count], offsets[:count])
        made = values[part]
        np.multiply(steps[part], scale, out=made, dtype=np.float32)
        made -= offset


def _length(channels: int, size: int) -> int:
    """Elements of a block of whole rows."""
    return max(1, min(BLOCK // 4, size) // channels) * channels


def _encode_channels(codec: Affine, values: Array, shape: tuple[int, ...], out: memoryview | None) -> Array | None:
    count = shape[-1]
    low, high = _extremes(values, count)
    with np.errstate(over="ignore", invalid="ignore"):
        spans = high - low
    # NaN is not at most anything.
    if not (spans <= MOST_RANGE).all():
        return None
    packed = room(out, packed_size(codec, shape))
    steps_of = np.where((low < 0) & (high > 0), codec.steps - _SLACK, codec.steps)
    scales = np.where(spans > 0, np.maximum(spans / steps_of, _LEAST_SCALE), 0.0).astype(np.float32)
    times = np.divide(np.float32(1.0), scales, out=np.zeros_like(scales), where=scales > 0)
    zeros = np.floor(-low * times + (0.5 + _SLACK / 2)) + codec.low
    packed[: 4 * count].view("<f4")[:] = scales
    packed[4 * count : count * AFFINE_BYTES].view("<i4")[:] = zeros
    steps = packed[count * AFFINE_BYTES :].view(codec.dtype)
    length = _length(count, values.size)
    times = np.tile(times, length // count)
    plus = np.tile((_ROUNDER + zeros).astype(np.float32), length // count)
    scratch = np.empty(length, np.float32)
    for part in blocks(values.size, length):
        size = part.stop - part.start
        rounded = scratch[:size]
        np.multiply(values[part], times[:size], out=rounded)
        rounded += plus[:size]
        np.copyto(steps[part], rounded.view(np.uint32), casting="unsafe")
    return packed


def _extremes(values: Array, count: int) -> tuple[Array, Array]:
    """(least, largest) of each of `count` channels and 0."""
    # A few long rows: numpy goes through a table of many short ones slowly.
    wide = max(1, min(4096, values.size // 8) // count) * count
    whole = values.size // wide * wide
    low, high = np.zeros(count, np.float32), np.zeros(count, np.float32)
    if whole:
        table = values[:whole].reshape(-1, wide)
        np.minimum(low, table.min(axis=0).reshape(-1, count).min(axis=0), out=low)
        np.maximum(high, table.max(axis=0).reshape(-1, count).max(axis=0), out=high)
    if whole < values.size:
        rest = values[whole:].reshape(-1, count)
        np.minimum(low, rest.min(axis=0), out=low)
        np.maximum(high, rest.max(axis=0), out=high)
    return low, high
