"""`zfp2`, `zfp3`, `zfp4`: float32 by ZFP, each element within 10^-2, 10^-3 or 10^-4 of the tensor's range.

ZFP (P. Lindstrom, "Fixed-rate compressed floating-point arrays") packs blocks of 4 elements along each axis and
fills up what is no multiple of 4: an axis of length 1, such as the batch's, takes four times the room. So axes of
length 1 are left out; of more than three the first are joined.

On the wire: the absolute tolerance (float32, little-endian), then ZFP's stream without its header: shape and dtype
are those of the frame's header, which are checked. ZFP does not check where its input ends. It is given as many
bytes as a stream of that shape can have at all, zeros after those that came, so that it stays within them.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np

from slicemq.codecs.affine import MOST_RANGE, span_of
from slicemq.codecs.wire import Array, flat
from slicemq.errors import FrameError

TOLERANCES = {"zfp2": 1e-2, "zfp3": 1e-3, "zfp4": 1e-4}
"""Codec -> the largest error, as a share of the tensor's range (0 included)."""
LEAST_RANGE = 1e-20
"""Of smaller tensors ZFP makes nonsense: it scales float32 by up to 2^(30 - exponent), which has to be one too."""
_HEADER = struct.Struct("<f")
# Bits of a block of n elements: at most 1 + 8 for its exponent, n and 1 for each of 32 bit planes, and 2 n in all
# for the elements found to matter; the decoder reads in words of 64.
_PLANES, _MORE, _WORD = 32, 64, 8


def encode(name: str, array: Array) -> Array | None:
    """`array` (float32) as bytes; None when it has no range or they would not be fewer."""
    zfpy = _zfpy()
    values = flat(array)
    span = span_of(values)
    if span is None or span[1] - span[0] < LEAST_RANGE:
        return None
    tolerance = float(np.float32((span[1] - span[0]) * TOLERANCES[name]))
    stream = zfpy.compress_numpy(values.reshape(_sides(array.shape)), tolerance=tolerance, write_header=False)
    if _HEADER.size + len(stream) >= array.nbytes:
        return None
    return np.frombuffer(_HEADER.pack(tolerance) + stream, np.uint8)


def decode_into(name: str, data: memoryview, out: Array) -> None:
    """The tensor in `out` (float32, contiguous). Raises FrameError for bytes that are not of the format."""
    zfpy = _zfpy()
    check_size(name, len(data), out.shape)
    (tolerance,) = _HEADER.unpack_from(data)
    least, most = LEAST_RANGE * min(TOLERANCES.values()) / 2, MOST_RANGE
    if not least <= tolerance <= most:
        raise FrameError(f"codec {name}: tolerance {tolerance}, expected a number from {least:.3g} to {most:.3g}")
    sides = _sides(out.shape)
    size, came = stream_most(sides), len(data) - _HEADER.size
    stream = np.zeros(size, np.uint8)
    stream[:came] = np.frombuffer(data, np.uint8, came, _HEADER.size)
    try:
        zfpy._decompress(stream, zfpy.type_float, sides, out=out.reshape(sides), tolerance=tolerance)
    except (ValueError, TypeError, RuntimeError) as error:
        raise FrameError(f"codec {name}: {error}") from error


def check_size(name: str, length: int, shape: tuple[int, ...]) -> None:
    """FrameError when `length` bytes cannot be tolerance and stream of `shape` elements."""
    sides = _sides(shape)
    came = length - _HEADER.size
    # A block has at least a bit.
    least, most = max(1, -(-_blocks(sides) // 8)), stream_most(sides)
    if not least <= came <= most or not math.prod(sides):
        raise FrameError(f"codec {name}: a stream of {came} bytes, shape {list(shape)} has {least} to {most}")


def stream_most(sides: tuple[int, ...]) -> int:
    """Bytes that ZFP reads at most of a stream of this shape (float32)."""
    block = 4 ** len(sides)
    bits: int = _blocks(sides) * ((_PLANES + 2) * block + _MORE)
    return (-(-bits // 64) + 2) * _WORD


def _blocks(sides: tuple[int, ...]) -> int:
    return math.prod(-(-side // 4) for side in sides)


def _sides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape as ZFP gets it: one to three axes."""
    long = [side for side in shape if side != 1] or [1]
    return (math.prod(long[:-2]), *long[-2:]) if len(long) > 3 else tuple(long)


def _zfpy() -> Any:
    try:
        import zfpy
    except ImportError as error:
        raise FrameError("codec zfp: the zfpy package is not installed") from error
    return zfpy
