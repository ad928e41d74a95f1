"""Golden frames as one file: inputs with what a model must give for them (docs/reference/protocol.md).

MessagePack: `{"format": 1, "frames": [...]}`. A frame is a list of inputs, outputs and tolerance; an array in it
a list of dtype (numpy's name), sizes, and the elements in C order, little-endian.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np

from converters.runtime import Array
from slicemq.codecs import DTYPES
from slicemq.errors import InputError

FORMAT = 1
MOST_FRAMES = 8
MOST_BYTES = 32_000_000
"""Of a file: the coordinator reads it whole."""
_MOST_TENSORS = 1024
_MOST_AXES = 8


@dataclass(frozen=True)
class Golden:
    """One frame: the inputs in the model's order, and the outputs that they must give (empty: none is expected).

    `tolerance` is the greatest max|a-b| / max|a| over the outputs, a of the expected ones; 0: bit for bit.
    """

    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]
    tolerance: float


def pack(frames: Sequence[Golden]) -> bytes:
    """The file of some frames. Raises InputError for more than fits, and for what a reader would refuse."""
    body = [[_rows(frame.inputs), _rows(frame.outputs), float(frame.tolerance)] for frame in frames]
    nbytes = sum(array.nbytes for frame in frames for array in (*frame.inputs, *frame.outputs))
    data: bytes = msgpack.packb({"format": FORMAT, "frames": body}) if nbytes <= MOST_BYTES else b""
    if not 0 < len(data) <= MOST_BYTES:
        raise InputError(f"golden: {len(frames)} frames take {nbytes} bytes, expected at most {MOST_BYTES}")
    unpack(data)
    return data


def unpack(data: bytes) -> tuple[Golden, ...]:
    """The frames of a file; whether they fit a model is not looked at. The arrays cannot be written to.

    Whoever sends it is not trusted. Raises InputError that names the frame and the array.
    """
    if len(data) > MOST_BYTES:
        raise InputError(f"golden: {len(data)} bytes, expected at most {MOST_BYTES}")
    try:
        body = msgpack.unpackb(data, strict_map_key=True, max_bin_len=len(data), max_ext_len=0)
    except (ValueError, RecursionError, MemoryError, msgpack.UnpackException) as error:
        raise InputError(f"golden: not MessagePack: {str(error)[:200] or type(error).__name__}") from error
    if not isinstance(body, dict) or set(body) != {"format", "frames"}:
        raise InputError("golden: expected an object with format, frames")
    if type(body["format"]) is not int or body["format"] != FORMAT:
        raise InputError(f"golden: format: expected {FORMAT}, got {_shown(body['format'])}")
    frames = body["frames"]
    if not isinstance(frames, list) or not 1 <= len(frames) <= MOST_FRAMES:
        raise InputError(f"golden: frames: expected a list of 1 to {MOST_FRAMES}")
    return tuple(_frame(rows, f"golden: frame {number}") for number, rows in enumerate(frames))


def _frame(rows: Any, where: str) -> Golden:
    if not isinstance(rows, list) or len(rows) != 3:
        raise InputError(f"{where}: expected a list of inputs, outputs, tolerance")
    inputs, outputs, tolerance = rows
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)):
        raise InputError(f"{where}: tolerance: expected a number, got {_shown(tolerance)}")
    if not 0 <= tolerance < math.inf:
        raise InputError(f"{where}: tolerance: expected a number from 0, got {_shown(tolerance)}")
    taken = _arrays(inputs, f"{where}: input")
    if not taken:
        raise InputError(f"{where}: expected at least one input")
    return Golden(taken, _arrays(outputs, f"{where}: output"), float(tolerance))


def _arrays(rows: Any, where: str) -> tuple[Array, ...]:
    if not isinstance(rows, list) or len(rows) > _MOST_TENSORS:
        raise InputError(f"{where}s: expected a list of at most {_MOST_TENSORS}")
    return tuple(_array(row, f"{where} {number}") for number, row in enumerate(rows))


def _array(row: Any, where: str) -> Array:
    if not isinstance(row, list) or len(row) != 3:
        raise InputError(f"{where}: expected a list of dtype, sizes, elements")
    dtype, sizes, data = row
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise InputError(f"{where}: dtype: expected one of {', '.join(DTYPES)}, got {_shown(dtype)}")
    whole = isinstance(sizes, list) and len(sizes) <= _MOST_AXES
    if not whole or not all(type(size) is int and 0 < size <= MOST_BYTES for size in sizes):
        raise InputError(f"{where}: sizes: expected at most {_MOST_AXES} whole numbers above 0")
    kind = np.dtype(dtype).newbyteorder("<")
    nbytes = math.prod(sizes) * kind.itemsize
    if not isinstance(data, bytes) or len(data) != nbytes:
        found = f"{len(data)} bytes" if isinstance(data, bytes) else type(data).__name__
        raise InputError(f"{where}: expected {nbytes} bytes of elements, got {found}")
    if kind.kind == "b" and data.strip(b"\0\1"):
        raise InputError(f"{where}: expected bytes 0 and 1 only")
    array = np.frombuffer(data, kind).astype(dtype, copy=False).reshape(sizes)
    if kind.kind in "fc" and not np.isfinite(array).all():
        raise InputError(f"{where}: holds values that are not finite")
    return array


def _rows(arrays: Sequence[Array]) -> list[list[Any]]:
    return [
        [a.dtype.name, list(a.shape), a.astype(a.dtype.newbyteorder("<"), copy=False).tobytes()] for a in arrays
    ]


def _shown(value: Any) -> str:
    """Of anything nested only its kind: it may be too deep to print."""
    return repr(value)[:80] if isinstance(value, (str, int, float)) else type(value).__name__
