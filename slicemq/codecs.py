"""How a tensor is packed on the wire: `raw`, `f16`, `int8` and `lz4`.

`raw` is little-endian, row-major bytes. `f16` sends float32 as float16 (lossy: about 3 decimal digits,
magnitudes over 65504 become infinite) and leaves other dtypes raw. `int8` sends float32 as whole numbers q from
-128 to 127 that stand for scale * (q - zero): the tensor's range and 0 in 255 equal steps (lossy: half a step).
What has no such range (NaN, infinity, a range below 1e-35 or above 1e38) and other dtypes go raw. `lz4` is one LZ4
block (lossless); it is used only where the lz4 package is installed.
"""

from __future__ import annotations

import importlib.util
import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from slicemq.errors import FrameError

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
_LOSSY = frozenset({"f16", "int8"})
# Encoding takes much longer than copying: worth doing beside other work.
_SLOW = frozenset({"lz4"})
# No LZ4 block expands further; so a small frame cannot ask for much memory.
_LZ4_MOST = 255
# Before the elements of `int8`: scale (float32) and zero (int32), little-endian.
_AFFINE = struct.Struct("<fi")
AFFINE_BYTES = _AFFINE.size
_AFFINE_STEPS = 255
# Outside of these a range has no scale with which float32 can be divided and multiplied.
_LEAST_RANGE, _MOST_RANGE = 1e-35, 1e38


def available() -> tuple[str, ...]:
    """The codecs that this installation can both encode and decode."""
    always = ("raw", "f16", "int8")
    return (*always, "lz4") if importlib.util.find_spec("lz4") else always


def is_lossless(name: str) -> bool:
    """Whether a tensor comes out of the codec as it went in."""
    return name not in _LOSSY


def is_slow(name: str) -> bool:
    """Whether the codec takes much longer to encode than a copy of the tensor does."""
    return name in _SLOW


def encode(name: str, array: npt.NDArray[Any]) -> tuple[str, bytes | memoryview]:
    """Pack `array`: the codec really used for this dtype, and the bytes (a view of the array with `raw`).

    Raises FrameError for a codec that is unknown or not installed.
    """
    if name == "raw":
        return "raw", _bytes_of(array)
    if name == "f16":
        if array.dtype != np.float32:
            return "raw", _bytes_of(array)
        with np.errstate(over="ignore"):
            return "f16", _bytes_of(array.astype(np.float16))
    if name == "int8":
        packed = _affine(array) if array.dtype == np.float32 else None
        return ("raw", _bytes_of(array)) if packed is None else ("int8", packed)
    if name == "lz4":
        return "lz4", _lz4("compress")(_bytes_of(array), store_size=False)
    raise FrameError(f"codec {name[:80]!r} is not one of {', '.join(available())}")


def decode(name: str, data: memoryview, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Unpack; raises FrameError when the bytes do not give exactly `shape` elements of `dtype`."""
    size = math.prod(shape) * dtype.itemsize
    if name == "raw":
        return _view(data, dtype, shape, size)
    if name == "f16":
        if dtype != np.float32:
            raise FrameError(f"codec f16 carries float32, not {dtype.name}")
        return _view(data, np.dtype(np.float16), shape, size // 2).astype(np.float32)
    if name == "int8":
        if dtype != np.float32:
            raise FrameError(f"codec int8 carries float32, not {dtype.name}")
        return _from_affine(data, shape)
    if name == "lz4":
        if size > _LZ4_MOST * len(data):
            raise FrameError(f"codec lz4: {len(data)} bytes cannot hold {size}")
        try:
            plain = _lz4("decompress")(data, uncompressed_size=size)
        except FrameError:
            raise
        except Exception as error:  # the package's own error is an Exception and nothing more
            raise FrameError(f"codec lz4: {error}") from error
        return _view(memoryview(plain), dtype, shape, size)
    raise FrameError(f"codec {name[:80]!r} is not one of {', '.join(available())}")


def _affine(array: npt.NDArray[Any]) -> bytes | None:
    """`array` (float32) as `int8` sends it; None when its values have no range that can be divided."""
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    # With 0 in the range, zeros, of which activations have many, stay zeros.
    low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        return _AFFINE.pack(0.0, 0) + bytes(array.size)
    # NaN is not within any range.
    if not _LEAST_RANGE <= high - low <= _MOST_RANGE:
        return None
    scale = np.float32((high - low) / _AFFINE_STEPS)
    zero = round(-128 - low / float(scale))
    steps = np.multiply(array.reshape(-1), np.float32(1.0) / scale)
    steps += np.float32(zero)
    np.rint(steps, out=steps)
    np.clip(steps, -128, 127, out=steps)
    return _AFFINE.pack(scale, zero) + steps.astype(np.int8).tobytes()


def _from_affine(data: memoryview, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    if len(data) < AFFINE_BYTES:
        raise FrameError(f"codec int8: {len(data)} bytes, expected {AFFINE_BYTES} of scale and zero first")
    scale, zero = _AFFINE.unpack_from(data)
    if not 0.0 <= scale <= _MOST_RANGE / _AFFINE_STEPS * 1.01:
        raise FrameError(
            f"codec int8: scale {scale}, expected a number from 0 to {_MOST_RANGE / _AFFINE_STEPS:.3g}"
        )
    if not -128 <= zero <= 127:
        raise FrameError(f"codec int8: zero {zero}, expected -128 to 127")
    steps = _view(data[AFFINE_BYTES:], np.dtype(np.int8), shape, math.prod(shape))
    values = steps.astype(np.float32)
    values -= np.float32(zero)
    values *= np.float32(scale)
    return values


def _bytes_of(array: npt.NDArray[Any]) -> memoryview:
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).reshape(-1).view(np.uint8).data


def _view(data: memoryview, dtype: np.dtype[Any], shape: tuple[int, ...], size: int) -> npt.NDArray[Any]:
    if len(data) != size:
        raise FrameError(f"{len(data)} bytes for shape {list(shape)} of {dtype.name}, expected {size}")
    if size == 0:
        return _empty(dtype, shape)
    return np.frombuffer(data, dtype=dtype.newbyteorder("<")).reshape(shape)


def _empty(dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    try:
        return np.empty(shape, dtype)
    except ValueError as error:
        raise FrameError(f"shape {list(shape)} of {dtype.name}: {error}") from error


def _lz4(function: str) -> Callable[..., bytes]:
    try:
        import lz4.block
    except ImportError as error:
        raise FrameError("codec lz4: the lz4 package is not installed") from error
    found: Callable[..., bytes] = getattr(lz4.block, function)
    return found
