"""Frames: bytes <-> header and tensors, every length checked (docs/reference/protocol.md, "The frame").

offset  size  what
0       4     magic `SMQF`
4       1     version, 1
5       3     zero
8       4     header length n, unsigned, big-endian
12      n     header: a MessagePack map
12+n    0-15  zeros up to a multiple of 16
...           tensor bytes, back to back, in the order of the header's `tensors`
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt

from slicemq import codecs
from slicemq.buffers import BufferPool
from slicemq.errors import FrameError
from slicemq.messages import TensorSpec
from slicemq.topics import is_id, is_revision

MAGIC = b"SMQF"
VERSION = 1
# Bounds against hostile frames: generous for real models (Basic Pitch has 17 tensors in a cut, names of 200
# characters), small enough that a header can neither fill memory nor hold the interpreter for long.
MAX_HEADER_BYTES = 1 << 17
MAX_TENSORS = 1024
MAX_DIMENSIONS = 8
MAX_TENSOR_BYTES = 1 << 30
_MAX_FIELDS = 64
_PREFIX = struct.Struct(">4sB3sI")
_ALIGN = 16
_I31 = 1 << 31
_U64 = 1 << 64
# `dtype.name` takes longer than all else that is done for a small tensor.
_NAMES = {np.dtype(name): name for name in codecs.DTYPES}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
# For less, to take a lent buffer costs more than to ask the C library for memory, which it has.
_LEAST_LENT = 1 << 16
_ROWS = [f"tensors[{number}]" for number in range(MAX_TENSORS)]


# Not frozen: such a constructor takes four times as long, and each frame needs two at each node.
@dataclass(slots=True)
class FrameHeader:
    """What names a frame. `sent` is the client's Unix time in seconds; `stream` and `sequence` are 64-bit.

    `error` is empty, or the reason word with which a slice ended the frame (`message` explains it).
    `first` is the number of the frame with which the stream's state began (rule 6; at most `sequence`); `probe`
    marks a frame that must leave no trace in any state.
    """

    client: str
    stream: int
    sequence: int
    sent: float
    revision: str
    part: int = 0
    parts: int = 1
    error: str = ""
    message: str = ""
    first: int = 0
    probe: bool = False

    @property
    def key(self) -> tuple[str, int, int]:
        """(client, stream, sequence): what names the frame within a revision (protocol rule 2)."""
        return (self.client, self.stream, self.sequence)


@dataclass(slots=True)
class WireTensor:
    """A tensor as it travels: `data` is `codec`'s encoding of `shape` elements of `dtype` (numpy's name)."""

    index: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    codec: str
    data: memoryview

    def array(self) -> npt.NDArray[Any]:
        """The decoded tensor; with `raw` it shares the frame's memory and is read-only. Raises FrameError."""
        return codecs.decode(self.codec, self.data, _DTYPES[self.dtype], self.shape)

    def check(self) -> None:
        """Raise FrameError where `array` must, as far as header and length tell: nothing is decoded."""
        codecs.check(self.codec, self.data, _DTYPES[self.dtype], self.shape)

    def fits(self, array: npt.NDArray[Any]) -> bool:
        """Whether an array has this dtype and shape."""
        return array.dtype == _DTYPES[self.dtype] and array.shape == self.shape

    def decode_into(self, out: npt.NDArray[Any]) -> None:
        """Decode to `out`, contiguous and writable. Raises FrameError, ValueError where `out` does not fit."""
        if not self.fits(out):
            raise ValueError(
                f"out: expected {self.dtype} {list(self.shape)}, got {out.dtype.name} {list(out.shape)}"
            )
        codecs.decode_into(self.codec, self.data, out)

    @property
    def nbytes(self) -> int:
        """The bytes that it takes as it travels."""
        return len(self.data)


@dataclass(slots=True)
class Frame:
    """A decoded frame; its tensors still share the payload's memory."""

    header: FrameHeader
    tensors: tuple[WireTensor, ...]

    def arrays(self) -> dict[int, npt.NDArray[Any]]:
        """The tensors by whole-model index; raises FrameError."""
        return {tensor.index: tensor.array() for tensor in self.tensors}


def encode_frame(
    header: FrameHeader,
    tensors: Sequence[tuple[TensorSpec, npt.NDArray[Any]]],
    codec: str = "raw",
    pool: BufferPool | None = None,
) -> list[bytes | memoryview]:
    """The frame as buffers to be sent back to back; with `raw` the tensors are not copied.

    Quick codecs write to buffers that `pool` lends, where it is given: they are its own again when the frame's
    buffers are dropped. Raises FrameError when an array's dtype cannot travel or the codec is not known here.
    """
    rows: list[list[Any]] = []
    buffers: list[bytes | memoryview] = []
    for spec, array in tensors:
        dtype = _NAMES.get(array.dtype) or array.dtype.name
        if dtype not in codecs.DTYPES:
            raise FrameError(f"tensor {spec.index} ({spec.name}): dtype {dtype} cannot travel in a frame")
        most = codecs.most_bytes(codec, dtype, array.shape) if pool is not None else 0
        room = pool.take(most) if pool is not None and most >= _LEAST_LENT else None
        used, data = codecs.encode(codec, array, room)
        rows.append([spec.index, spec.name, dtype, list(array.shape), used, len(data)])
        buffers.append(data)
    body: dict[str, Any] = {
        "client": header.client,
        "stream": header.stream,
        "seq": header.sequence,
        "sent": header.sent,
        "rev": header.revision,
        "part": header.part,
        "parts": header.parts,
        "tensors": rows,
    }
    if header.error:
        body["error"] = header.error
        body["message"] = header.message[:4096]
    if header.first:
        body["first"] = header.first
    if header.probe:
        body["probe"] = True
    packed = msgpack.packb(body)
    if len(packed) > MAX_HEADER_BYTES:
        raise FrameError(f"header of {len(packed)} bytes, at most {MAX_HEADER_BYTES} may travel")
    padding = -(_PREFIX.size + len(packed)) % _ALIGN
    prefix = _PREFIX.pack(MAGIC, VERSION, b"\0\0\0", len(packed)) + packed + b"\0" * padding
    return [prefix, *buffers]


def decode_frame(payload: bytes | memoryview) -> Frame:
    """Read a frame without copying its tensors; raises FrameError that names the field and what was expected."""
    view = memoryview(payload).toreadonly()
    if len(view) < _PREFIX.size:
        raise FrameError(f"{len(view)} bytes, a frame has at least {_PREFIX.size}")
    magic, version, zeros, length = _PREFIX.unpack_from(view)
    if magic != MAGIC:
        raise FrameError(f"magic {magic!r}, expected {MAGIC!r}")
    if version != VERSION or zeros != b"\0\0\0":
        raise FrameError(f"frame version {version}, this software speaks {VERSION}")
    if length > min(MAX_HEADER_BYTES, len(view) - _PREFIX.size):
        raise FrameError(f"header length {length}, the frame has {len(view)} bytes")
    try:
        body = msgpack.unpackb(
            view[_PREFIX.size : _PREFIX.size + length],
            strict_map_key=True,
            max_array_len=MAX_TENSORS,
            max_map_len=_MAX_FIELDS,
        )
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise FrameError(f"header is not MessagePack: {error}") from error
    if not isinstance(body, dict):
        raise FrameError(f"header: expected a map, got {type(body).__name__}")
    header = _header(body)
    start = -(-(_PREFIX.size + length) // _ALIGN) * _ALIGN
    return Frame(header, _tensors(body, view, start))


def _header(body: dict[str, Any]) -> FrameHeader:
    client, revision = _text(body, "client"), _text(body, "rev")
    if not is_id(client):
        raise FrameError(f"field client: {client[:80]!r} is not an id")
    if not is_revision(revision):
        raise FrameError(f"field rev: {revision[:80]!r} is not <n>-<8 hex>")
    sent = body.get("sent")
    if not isinstance(sent, float) or not math.isfinite(sent):
        raise FrameError(f"field sent: expected a float, got {str(sent)[:80]}")
    parts = _whole(body, "parts", 1024)
    part = _whole(body, "part", 1024)
    if not part < parts:
        raise FrameError(f"field part: {part} of {parts} parts")
    sequence = _whole(body, "seq", _U64 - 1)
    first = _whole(body, "first", _U64 - 1) if "first" in body else 0
    if first > sequence:
        raise FrameError(f"field first: {first}, expected at most the frame's own number {sequence}")
    probe = body.get("probe", False)
    if not isinstance(probe, bool):
        raise FrameError(f"field probe: expected true or false, got {str(probe)[:80]}")
    return FrameHeader(
        client,
        _whole(body, "stream", _U64 - 1),
        sequence,
        sent,
        revision,
        part,
        parts,
        _text(body, "error", 64) if "error" in body else "",
        _text(body, "message", 4096) if "message" in body else "",
        first,
        probe,
    )


def _tensors(body: dict[str, Any], view: memoryview, start: int) -> tuple[WireTensor, ...]:
    rows = body.get("tensors")
    if not isinstance(rows, list) or len(rows) > MAX_TENSORS:
        raise FrameError(f"field tensors: expected a list of at most {MAX_TENSORS}")
    tensors = []
    position = start
    for number, row in enumerate(rows):
        where = _ROWS[number]
        if not isinstance(row, list) or len(row) != 6:
            raise FrameError(f"{where}: expected [index, name, dtype, shape, codec, bytes]")
        index, name, dtype, shape, codec, nbytes = row
        if type(index) is not int or not 0 <= index <= _I31:
            raise FrameError(f"{where}: index {str(index)[:80]} is not a tensor index")
        if not isinstance(name, str) or len(name) > 4096:
            raise FrameError(f"{where}: name: expected at most 4096 characters")
        if not isinstance(dtype, str) or dtype not in codecs.DTYPES:
            raise FrameError(f"{where}: dtype {str(dtype)[:80]!r} is not one of {', '.join(sorted(codecs.DTYPES))}")
        if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
            raise FrameError(f"{where}: shape: expected at most {MAX_DIMENSIONS} whole numbers")
        for size in shape:
            if type(size) is not int or not 0 <= size <= _I31:
                raise FrameError(f"{where}: shape: expected at most {MAX_DIMENSIONS} whole numbers")
        if math.prod(shape) * codecs.DTYPES[dtype] > MAX_TENSOR_BYTES:
            raise FrameError(f"{where}: shape {shape} of {dtype} is over {MAX_TENSOR_BYTES} bytes")
        if not isinstance(codec, str) or type(nbytes) is not int or not 0 <= nbytes <= MAX_TENSOR_BYTES:
            raise FrameError(f"{where}: expected a codec's name and a byte length")
        if nbytes > len(view) - position:
            raise FrameError(f"{where}: {nbytes} bytes announced, {max(0, len(view) - position)} left")
        tensors.append(WireTensor(index, name, dtype, tuple(shape), codec, view[position : position + nbytes]))
        position += nbytes
    if position != len(view):
        raise FrameError(f"{len(view)} bytes, header and tensors take {position}")
    if len(tensors) > 1 and len({tensor.index for tensor in tensors}) != len(tensors):
        raise FrameError("field tensors: one index stands twice")
    return tuple(tensors)


def _whole(body: dict[str, Any], name: str, most: int) -> int:
    value = body.get(name)
    # Not a bool, which is an int as well.
    if type(value) is int and 0 <= value <= most:
        return value
    raise FrameError(f"field {name}: expected a whole number up to {most}, got {str(value)[:80]}")


def _text(body: dict[str, Any], name: str, most: int = 256) -> str:
    value = body.get(name)
    if not isinstance(value, str) or len(value) > most:
        raise FrameError(f"field {name}: expected at most {most} characters of text, got {str(value)[:80]}")
    return value
