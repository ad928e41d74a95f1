"""`lz4s` and `zstd` (lossless): bytes sorted by their place in the element (byte shuffle), then packed.

Sign and exponent of floats differ little within a tensor and pack well once they stand together; the low bytes of
the mantissa mostly not at all. So each plane is packed on its own, or sent as it is where packing does not pay,
which four samples of a plane tell beforehand.

On the wire: for each byte of an element, from the least significant, the length of its plane (32 bits,
little-endian); then the planes. A plane as long as the number of elements is not packed. Others are one LZ4 block,
or one Zstandard frame.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from slicemq.codecs.wire import Array, blocks, flat
from slicemq.errors import FrameError

LEVEL = 1
"""zstd's: higher ones take twice as long and more for about a hundredth of the bytes."""
LZ4_MOST = 255
"""No LZ4 block expands further; so a small frame cannot ask for much memory."""
# What packing a plane must save to be worth its time.
_WORTH = 0.97
_SAMPLE, _SAMPLES = 4096, 4
_INTEGERS = {1: "<u1", 2: "<u2", 4: "<u4", 8: "<u8"}
# zstd's contexts are large, take time to make, and are one thread's.
_mine = threading.local()


def encode(name: str, array: Array) -> Array | None:
    """`array` as bytes with codec `name`; None when they would not be fewer. FrameError: not installed."""
    pack = _packer(name)
    values = flat(array)
    width, count = values.dtype.itemsize, values.size
    lengths = np.zeros(width, "<u4")
    parts: list[Any] = [lengths.view(np.uint8)]
    for place, plane in enumerate(_split(values, width)):
        packed = pack(plane.data) if _is_worth(plane, pack) else plane
        if len(packed) >= count:
            packed = plane
        lengths[place] = len(packed)
        parts.append(np.frombuffer(packed, np.uint8))
    if sum(len(part) for part in parts) >= values.nbytes:
        return None
    found: Array = np.concatenate(parts)
    return found


def decode_into(name: str, data: memoryview, out: Array) -> None:
    """The tensor in `out` (contiguous). Raises FrameError for bytes that are not of the format."""
    unpack = _unpacker(name)
    width, count = out.dtype.itemsize, out.size
    head = 4 * width
    if len(data) < head:
        raise FrameError(f"codec {name}: {len(data)} bytes, expected {head} of lengths first")
    lengths = [int(length) for length in np.frombuffer(data, "<u4", width)]
    if head + sum(lengths) != len(data):
        raise FrameError(f"codec {name}: {len(data)} bytes, its lengths say {head + sum(lengths)}")
    if any(length > count for length in lengths):
        raise FrameError(f"codec {name}: a plane of {max(lengths)} bytes, expected at most {count}")
    planes = []
    for length in lengths:
        part = data[head : head + length]
        head += length
        planes.append(np.frombuffer(part if length == count else unpack(part, count), np.uint8))
    _join(planes, out.reshape(-1).view(_INTEGERS[width]))


def _is_worth(plane: Array, pack: Callable[[Any], bytes]) -> bool:
    if plane.size <= 2 * _SAMPLE * _SAMPLES:
        return True
    every = (plane.size - _SAMPLE) // (_SAMPLES - 1)
    sample = np.concatenate([plane[every * k : every * k + _SAMPLE] for k in range(_SAMPLES)])
    return len(pack(sample.data)) < _WORTH * int(sample.size)


def _split(values: Array, width: int) -> Array:
    whole = values.view(_INTEGERS[width])
    planes = np.empty((width, values.size), np.uint8)
    length = _length(width)
    scratch = np.empty(min(length, values.size), whole.dtype)
    for part in blocks(values.size, length):
        np.copyto(planes[0, part], whole[part], casting="unsafe")
        shifted = scratch[: part.stop - part.start]
        for place in range(1, width):
            np.right_shift(whole[part], 8 * place, out=shifted)
            np.copyto(planes[place, part], shifted, casting="unsafe")
    return planes


def _join(planes: list[Array], whole: Array) -> None:
    width = len(planes)
    length = _length(width)
    scratch = np.empty(min(length, whole.size), whole.dtype)
    for part in blocks(whole.size, length):
        made, wide = whole[part], scratch[: part.stop - part.start]
        np.copyto(made, planes[-1][part])
        for place in range(width - 2, -1, -1):
            np.left_shift(made, 8, out=made)
            np.copyto(wide, planes[place][part])
            np.bitwise_or(made, wide, out=made)


def _length(width: int) -> int:
    return 131_072 // width


def _packer(name: str) -> Callable[[Any], bytes]:
    if name == "lz4s":
        compress = lz4("compress")
        return lambda plain: compress(plain, store_size=False)
    packed: Callable[[Any], bytes] = _zstd().compress
    return packed


def _unpacker(name: str) -> Callable[[memoryview, int], bytes]:
    if name == "lz4s":
        lz4("decompress")
        return unpack_lz4
    _zstd()
    return _unpack_zstd


def lz4(function: str) -> Callable[..., bytes]:
    """A function of the lz4 package; FrameError where it is not installed."""
    try:
        import lz4.block
    except ImportError as error:
        raise FrameError("codec lz4: the lz4 package is not installed") from error
    found: Callable[..., bytes] = getattr(lz4.block, function)
    return found


def unpack_lz4(data: memoryview, size: int) -> bytes:
    """The `size` bytes that an LZ4 block holds; FrameError when it does not."""
    if size > LZ4_MOST * len(data):
        raise FrameError(f"codec lz4: {len(data)} bytes cannot hold {size}")
    decompress = lz4("decompress")
    try:
        plain = decompress(data, uncompressed_size=size)
    except Exception as error:  # the package's own error is an Exception and nothing more
        raise FrameError(f"codec lz4: {error}") from error
    if len(plain) != size:
        raise FrameError(f"codec lz4: a block of {len(plain)} bytes, expected {size}")
    return plain


def _zstd() -> Any:
    if not hasattr(_mine, "packer"):
        try:
            import zstandard
        except ImportError as error:
            raise FrameError("codec zstd: the zstandard package is not installed") from error
        _mine.packer = zstandard.ZstdCompressor(level=LEVEL)
        _mine.unpacker = zstandard.ZstdDecompressor()
    return _mine.packer


def _unpack_zstd(data: memoryview, size: int) -> bytes:
    import zstandard

    try:
        # What the frame says of its size is what gets allocated.
        said = zstandard.frame_content_size(data)
        if said != size:
            raise FrameError(f"codec zstd: a frame of {said} bytes, expected {size}")
        plain: bytes = _mine.unpacker.decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise FrameError(f"codec zstd: {error}") from error
    if len(plain) != size:
        raise FrameError(f"codec zstd: a frame of {len(plain)} bytes, expected {size}")
    return plain
