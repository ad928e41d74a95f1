"""How a tensor is packed on the wire: `raw`, `f16` and `lz4`.

`raw` is little-endian, row-major bytes. `f16` sends float32 as float16 (lossy: about 3 decimal digits,
magnitudes over 65504 become infinite) and leaves other dtypes raw. `lz4` is one LZ4 block (lossless); it is
used only where the lz4 package is installed.
"""

from __future__ import annotations

import importlib.util
import math
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
_LOSSY = frozenset({"f16"})
# Encoding takes much longer than copying: worth doing beside other work.
_SLOW = frozenset({"lz4"})
# No LZ4 block expands further; so a small frame cannot ask for much memory.
_LZ4_MOST = 255


def available() -> tuple[str, ...]:
    """The codecs that this installation can both encode and decode."""
    return ("raw", "f16", "lz4") if importlib.util.find_spec("lz4") else ("raw", "f16")


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
