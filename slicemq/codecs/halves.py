"""`f16`: float32 sent as float16.

numpy converts one element at a time; here whole blocks are, in whole numbers of 32 bits. A float32 times 2^-112 has
the exponent of a float16, so that its bits, less 13 of the mantissa, are the float16's (F. Giesen, "Float->half
conversions", has variants of this). Blocks with what is no finite float16 are left to numpy.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from slicemq.codecs.wire import BLOCK, Array, blocks

_DOWN, _UP = np.float32(2.0**-112), np.float32(2.0**112)
_INFINITE = 0x7C00
_SIGN = 0x8000
# Half of the last bit that is kept.
_HALF = 0x1000
# What is below rounds to a finite float16.
_LIMIT = (_INFINITE << 13) - _HALF


def encode_into(values: Array, out: Array) -> None:
    """`values` (float32, one dimension) to the nearest float16 in `out` (float16, as many)."""
    packed: Array = out.view("<u2")
    scratch = np.empty(min(values.size, BLOCK), np.float32)
    other = np.empty(scratch.size, np.uint32)
    for part in blocks(values.size):
        count = part.stop - part.start
        bits = scratch[:count].view(np.uint32)
        np.multiply(values[part], _DOWN, out=scratch[:count])
        sign: Any = None
        if bits.max() >= _LIMIT:
            sign = np.right_shift(bits, 16, out=other[:count])
            sign &= _SIGN
            bits &= 0x7FFFFFFF
            if bits.max() >= _LIMIT:
                with np.errstate(over="ignore"):
                    np.copyto(out[part], values[part], casting="unsafe")
                continue
        bits += _HALF
        bits >>= 13
        if sign is not None:
            bits |= sign
        np.copyto(packed[part], bits, casting="unsafe")


def decode_into(packed: Array, out: Array) -> None:
    """`packed` (float16, one dimension) as float32 in `out` (as many), exactly."""
    halves: Array = packed.view("<u2")
    other = np.empty(min(out.size, BLOCK), np.uint32)
    for part in blocks(out.size):
        values = out[part]
        bits = values.view(np.uint32)
        sign: Any = None
        if halves[part].max() >= _INFINITE:
            np.copyto(bits, halves[part])
            sign = np.bitwise_and(bits, _SIGN, out=other[: bits.size])
            sign <<= 16
            bits &= 0x7FFF
            if bits.max() >= _INFINITE:
                np.copyto(values, packed[part])
                continue
        else:
            np.copyto(bits, halves[part])
        bits <<= 13
        values *= _UP
        if sign is not None:
            bits |= sign
