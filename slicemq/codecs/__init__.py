"""How a tensor is packed on the wire (docs/reference/codecs.md has what each does to real tensors).

| codec | what is sent |
| --- | --- |
| `raw` | little-endian, row-major bytes |
| `lz4` | those as one LZ4 block |
| `lz4s`, `zstd` | their planes of bytes, packed (`planes`); `zstd` at level 1 |
| `f16` | float32 as float16: off by at most 2^-11 of an element; over 65504 becomes infinite |
| `int16`, `int8` | float32 in 65,535 or 255 steps of the range, 0 included: off by half a step (`affine`) |
| `int8c` | the same by channel (last axis) |
| `zfp2` `zfp3` `zfp4` | float32 within 10^-2, 10^-3, 10^-4 of the tensor's range (`zfp`) |

Where a codec has nothing to offer the tensor goes raw, and its row in the frame's header says so: other dtypes than
float32 with one that loses; a range that cannot be divided (NaN, infinity, below 1e-32 or, with ZFP, 1e-20, above
1e38); lossless ones and ZFP where the bytes would not be fewer.
"""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from slicemq.codecs import affine, halves, planes, zfp
from slicemq.codecs.affine import AFFINE_BYTES
from slicemq.codecs.wire import DTYPES, bytes_of, empty, flat, only_float32, room, view
from slicemq.errors import FrameError

__all__ = [
    "AFFINE_BYTES",
    "CODECS",
    "DTYPES",
    "available",
    "check",
    "decode",
    "decode_into",
    "encode",
    "is_lossless",
    "is_slow",
    "most_bytes",
    "packed_size",
    "worst_error",
]

CODECS = ("raw", "lz4", "lz4s", "zstd", "f16", "int16", "int8c", "int8", "zfp4", "zfp3", "zfp2")
"""All codecs that there are, those that lose nothing first."""
_PACKAGES = {"lz4": "lz4", "lz4s": "lz4", "zstd": "zstandard", **dict.fromkeys(zfp.TOLERANCES, "zfpy")}
_LOSSLESS = frozenset({"raw", "lz4", "lz4s", "zstd"})
_AFFINE = {one.name: one for one in (affine.INT8, affine.INT16, affine.INT8C)}
# Encoding takes much longer than copying: worth doing beside other work.
_SLOW = frozenset({"lz4", "lz4s", "zstd", *zfp.TOLERANCES})


def available() -> tuple[str, ...]:
    """The codecs that this installation can both encode and decode."""
    here = {package: importlib.util.find_spec(package) is not None for package in set(_PACKAGES.values())}
    return tuple(name for name in CODECS if here.get(_PACKAGES.get(name, ""), True))


def is_lossless(name: str) -> bool:
    """Whether a tensor comes out of the codec as it went in."""
    return name in _LOSSLESS


def is_slow(name: str) -> bool:
    """Whether the codec takes much longer to encode than a copy of the tensor does."""
    return name in _SLOW


def worst_error(name: str) -> float:
    """How far an element may be off, as a share of the range of its tensor, 0 included (`f16`: within 65504)."""
    if name in zfp.TOLERANCES:
        return zfp.TOLERANCES[name]
    if name == "f16":
        return 2.0**-11
    if name not in _AFFINE:
        return 0.0
    # Half a step, and float32's own rounding: four times on the way, each by 2^-24 of at most all steps.
    steps = _AFFINE[name].steps
    return (0.5 + steps * 2.0**-22) / (steps - 0.1)


def packed_size(name: str, dtype: str, shape: tuple[int, ...]) -> int | None:
    """Bytes of a tensor of finite values with codec `name`; None where they depend on the values."""
    plain = math.prod(shape) * DTYPES[dtype]
    if name == "raw" or (dtype != "float32" and not is_lossless(name)):
        return plain
    if name == "f16":
        return plain // 2
    if name in _AFFINE:
        return affine.packed_size(_affine_of(name, shape), shape)
    return None


def most_bytes(name: str, dtype: str, shape: tuple[int, ...]) -> int:
    """What `encode` writes to `out` at most: 0 for codecs that make their bytes elsewhere (raw, and slow ones)."""
    if name == "raw" or is_slow(name):
        return 0
    found = packed_size(name, dtype, shape)
    return 0 if dtype != "float32" or found is None else found


def encode(name: str, array: npt.NDArray[Any], out: memoryview | None = None) -> tuple[str, memoryview]:
    """Pack `array`: the codec really used, and the bytes.

    The bytes are a view of the array with `raw`. With a quick codec they are written to `out` where it is given
    (writable, at least `most_bytes`) and are a view of it. Raises FrameError for a codec that is unknown or not
    installed, ValueError for an `out` that is too small.
    """
    if name not in CODECS:
        raise _unknown(name)
    packed: npt.NDArray[Any] | None = None
    used = name
    if name == "lz4":
        block = planes.lz4("compress")(bytes_of(array), store_size=False)
        if len(block) < array.nbytes:
            return name, memoryview(block)
    elif name in ("lz4s", "zstd"):
        packed = planes.encode(name, array)
    elif array.dtype == np.float32 and name != "raw":
        if name == "f16":
            packed = room(out, 2 * array.size)
            halves.encode_into(flat(array), packed.view("<f2"))
        elif name in _AFFINE:
            kind = _affine_of(name, array.shape)
            used, packed = kind.name, affine.encode(kind, array, out)
        else:
            packed = zfp.encode(name, array)
    return ("raw", bytes_of(array)) if packed is None else (used, packed.data)


def decode(name: str, data: memoryview, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Unpack; with `raw` a view of `data`, else a new array.

    Raises FrameError when the bytes do not give exactly `shape` elements of `dtype`.
    """
    if name == "raw":
        return view(data, dtype, shape, math.prod(shape) * dtype.itemsize)
    check(name, data, dtype, shape)
    found = empty(dtype, shape)
    decode_into(name, data, found)
    return found


def decode_into(name: str, data: memoryview, out: npt.NDArray[Any]) -> None:
    """Unpack to `out`, whose dtype and shape are the tensor's; every element is written.

    `out` is contiguous in row-major order and writable (ValueError), such as an interpreter's input tensor. Raises
    FrameError when the bytes do not give exactly its elements; it may be written to in part then.
    """
    if not (out.flags.c_contiguous and out.flags.writeable):
        raise ValueError("out: expected a writable array, contiguous in row-major order")
    check(name, data, out.dtype, out.shape)
    if name == "raw":
        np.copyto(out, view(data, out.dtype, out.shape, out.nbytes))
    elif name == "lz4":
        plain = planes.unpack_lz4(data, out.nbytes)
        np.copyto(out, view(memoryview(plain), out.dtype, out.shape, out.nbytes))
    elif name in ("lz4s", "zstd"):
        planes.decode_into(name, data, out)
    elif name == "f16":
        packed = np.frombuffer(data, "<f2") if out.size else np.empty(0, np.float16)
        halves.decode_into(packed, out.reshape(-1))
    elif name in _AFFINE:
        affine.decode_into(_AFFINE[name], data, out)
    else:
        zfp.decode_into(name, data, out)


def check(name: str, data: memoryview, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Raise FrameError where `decode` must, as far as codec, dtype and the number of bytes tell.

    It takes microseconds whatever the size, and no memory.
    """
    if name not in CODECS:
        raise _unknown(name)
    if not is_lossless(name):
        only_float32(name, dtype)
    size = math.prod(shape) * dtype.itemsize
    if name == "f16" and len(data) != size // 2:
        raise FrameError(f"{len(data)} bytes for shape {list(shape)} of float16, expected {size // 2}")
    if name in _AFFINE:
        affine.check_size(_AFFINE[name], len(data), shape)
    if name in zfp.TOLERANCES:
        zfp.check_size(name, len(data), shape)
    if name == "lz4" and size > planes.LZ4_MOST * len(data):
        raise FrameError(f"codec lz4: {len(data)} bytes cannot hold {size}")


def _affine_of(name: str, shape: tuple[int, ...]) -> affine.Affine:
    """What `name` sends such a shape with."""
    return affine.INT8 if name == "int8c" and not affine.by_channel(shape) else _AFFINE[name]


def _unknown(name: str) -> FrameError:
    return FrameError(f"codec {name[:80]!r} is not one of {', '.join(available())}")
