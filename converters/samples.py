"""Typical inputs as one file: what codecs are measured on travels as an artifact (docs/reference/protocol.md).

MessagePack: `{"format": 1, "frames": [...]}`. A frame is a list of inputs, sorted by tensor, each a list of tensor
index, dtype (numpy's name), sizes, and the elements in C order, little-endian. The same frames give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgpack
import numpy as np

from converters.graph import Graph, Tensor
from converters.runtime import Array
from slicemq.codecs import DTYPES
from slicemq.errors import InputError
from slicemq.specs import describe

FORMAT = 1
MOST_FRAMES = 8
"""Frames that codecs are measured on: each is run for every place and codec."""
MOST_BYTES = 32_000_000
"""Of a file: the coordinator reads it whole."""
_HEAD_BYTES = 4096

Frame = Mapping[int, Array]


def frames_that_fit(graph: Graph) -> int:
    """How many frames of the graph's inputs a file takes, at least 1 and at most MOST_FRAMES."""
    nbytes = sum(graph.tensors[t].nbytes for t in dict.fromkeys(graph.inputs))
    return min(MOST_FRAMES, max(1, (MOST_BYTES - _HEAD_BYTES) // max(1, nbytes)))


def pack(frames: Sequence[Frame]) -> bytes:
    """The file of some frames by input tensor. Raises InputError for more than fits."""
    body = [
        [
            [int(tensor), frame[tensor].dtype.name, list(frame[tensor].shape), _little(frame[tensor])]
            for tensor in sorted(frame)
        ]
        for frame in frames
    ]
    if not 1 <= len(body) <= MOST_FRAMES:
        raise InputError(f"samples: {len(body)} frames, expected 1 to {MOST_FRAMES}")
    nbytes = sum(array.nbytes for frame in frames for array in frame.values())
    data: bytes = msgpack.packb({"format": FORMAT, "frames": body}) if nbytes <= MOST_BYTES else b""
    if not 0 < len(data) <= MOST_BYTES:
        raise InputError(f"samples: {len(frames)} frames take {nbytes} bytes, expected at most {MOST_BYTES}")
    return data


def unpack(data: bytes, graph: Graph) -> list[Frame]:
    """The frames of a file, each of them what the graph's inputs take. The arrays cannot be written to.

    Whoever sends it is not trusted. Raises InputError that names the frame and the input.
    """
    if len(data) > MOST_BYTES:
        raise InputError(f"samples: {len(data)} bytes, expected at most {MOST_BYTES}")
    try:
        body = msgpack.unpackb(data, strict_map_key=True, max_bin_len=len(data), max_ext_len=0)
    except (ValueError, RecursionError, MemoryError, msgpack.UnpackException) as error:
        raise InputError(f"samples: not MessagePack: {str(error)[:200] or type(error).__name__}") from error
    if not isinstance(body, dict) or set(body) != {"format", "frames"}:
        raise InputError("samples: expected an object with format, frames")
    if type(body["format"]) is not int or body["format"] != FORMAT:
        raise InputError(f"samples: format: expected {FORMAT}, got {_shown(body['format'])}")
    frames = body["frames"]
    if not isinstance(frames, list) or not 1 <= len(frames) <= MOST_FRAMES:
        raise InputError(f"samples: frames: expected a list of 1 to {MOST_FRAMES}")
    return [_frame(rows, graph, f"samples: frame {number}") for number, rows in enumerate(frames)]


def _frame(rows: Any, graph: Graph, where: str) -> Frame:
    wanted = sorted(set(graph.inputs))
    if not isinstance(rows, list) or len(rows) != len(wanted):
        raise InputError(f"{where}: expected a list of {len(wanted)} inputs")
    return {tensor: _array(row, graph.tensors[tensor], where) for tensor, row in zip(wanted, rows, strict=True)}


def _array(row: Any, tensor: Tensor, where: str) -> Array:
    where = f"{where}: input {tensor.index} ({tensor.name})"
    if not isinstance(row, list) or len(row) != 4:
        raise InputError(f"{where}: expected a list of tensor, dtype, sizes, elements")
    index, dtype, sizes, data = row
    if type(index) is not int or index != tensor.index:
        raise InputError(f"{where}: expected tensor {tensor.index}, got {_shown(index)}")
    if dtype != tensor.dtype or dtype not in DTYPES:
        raise InputError(f"{where}: expected {tensor.dtype}, got {_shown(dtype)}")
    wanted = tensor.frame_shape
    if not _sizes_fit(sizes, wanted):
        raise InputError(f"{where}: expected the sizes of {describe(tensor.dtype, wanted)}")
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


def _sizes_fit(sizes: Any, wanted: Sequence[int]) -> bool:
    return (
        isinstance(sizes, list)
        and len(sizes) == len(wanted)
        and all(
            type(size) is int and (size == want or (want == -1 and size > 0))
            for size, want in zip(sizes, wanted, strict=True)
        )
    )


def _shown(value: Any) -> str:
    """Of anything nested only its kind: it may be too deep to print."""
    return (
        repr(value[:80] if isinstance(value, str) else value)
        if isinstance(value, (str, int))
        else type(value).__name__
    )


def _little(array: Array) -> bytes:
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
