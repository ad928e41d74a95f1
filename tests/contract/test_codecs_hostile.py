"""Codecs: bytes that nobody packed are refused with FrameError, or give a tensor; nothing else happens."""

from __future__ import annotations

import struct
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slicemq import codecs
from slicemq.errors import FrameError

FLOAT = np.dtype(np.float32)
Array = np.ndarray[Any, Any]


def smooth(*shape: int) -> Array:
    found: Array = np.cumsum(np.random.default_rng(1).standard_normal(shape), 0).astype(np.float32)
    return found


@given(
    st.sampled_from(codecs.CODECS),
    st.binary(max_size=80),
    st.lists(st.integers(0, 5), max_size=4),
    st.sampled_from(sorted(codecs.DTYPES)),
)
@settings(deadline=None)
def test_any_bytes_are_read_or_refused(name: str, data: bytes, shape: list[int], dtype: str) -> None:
    try:
        found = codecs.decode(name, memoryview(data), np.dtype(dtype), tuple(shape))
    except FrameError:
        return
    assert (found.dtype, found.shape) == (np.dtype(dtype), tuple(shape))


@given(
    st.sampled_from([name for name in codecs.CODECS if not name.startswith("zfp")]),
    st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(0, 255)), max_size=3),
    st.integers(-40, 40),
)
@settings(deadline=None)
def test_changed_bytes_are_read_or_refused(name: str, changes: list[tuple[int, int]], cut: int) -> None:
    array = np.maximum(smooth(40, 30), 0)
    used, packed = codecs.encode(name, array)
    data = bytearray(packed)
    for place, value in changes:
        data[place % len(data)] = value
    data = data[:cut] if cut < 0 else data + bytes(cut)
    try:
        found = codecs.decode(used, memoryview(data), FLOAT, array.shape)
    except FrameError:
        return
    assert (found.dtype, found.shape) == (FLOAT, array.shape)


@pytest.mark.parametrize("name", [name for name in codecs.CODECS if name != "raw"])
def test_another_shape_than_was_packed_is_refused(name: str) -> None:
    array = smooth(64, 12)
    used, data = codecs.encode(name, array)
    for shape in ((64, 13), (64, 11), (1 << 20, 1 << 8), (0,)):
        if name.startswith("zfp") and shape in ((64, 13), (64, 11)):
            continue  # ZFP's streams do not tell their shape; only their length bounds it
        with pytest.raises(FrameError):
            codecs.decode(used, memoryview(data), FLOAT, shape)


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("lz4s", b"\1", "1 bytes, expected 16 of lengths first"),
        ("zstd", struct.pack("<4I", 1, 1, 1, 1), "16 bytes, its lengths say 20"),
        ("zstd", struct.pack("<4I", 101, 0, 0, 0) + bytes(101), "a plane of 101 bytes, expected at most 100"),
        ("zstd", struct.pack("<4I", 4, 100, 100, 100) + bytes(304), "codec zstd"),
        ("lz4s", struct.pack("<4I", 0, 100, 100, 100) + bytes(300), "0 bytes cannot hold 100"),
        ("lz4s", struct.pack("<4I", 9, 100, 100, 100) + b"\xff" * 309, "codec lz4"),
        ("zfp3", struct.pack("<f", 1.0), "a stream of 0 bytes, shape .* has 2 to"),
        ("zfp3", struct.pack("<f", float("nan")) + bytes(50), "tolerance nan"),
        ("zfp3", struct.pack("<f", 0.0) + bytes(50), "tolerance 0.0"),
        ("zfp3", struct.pack("<f", -1.0) + bytes(50), "tolerance -1.0"),
        ("zfp3", struct.pack("<f", float("inf")) + bytes(50), "tolerance inf"),
        ("zfp3", struct.pack("<f", 1.0) + bytes(2000), "a stream of 2000 bytes, shape .* has 2 to"),
        ("int16", struct.pack("<fi", 1.0, 32768) + bytes(200), "zero 32768, expected -32768 to 32767"),
        ("int16", struct.pack("<fi", 1e37, 0) + bytes(200), "scale"),
        ("int8c", bytes(108), "is not sent by channel"),
        ("f16", bytes(199), "199 bytes for shape"),
    ],
)
def test_refused_with_what_was_expected(name: str, data: bytes, why: str) -> None:
    with pytest.raises(FrameError, match=why):
        codecs.decode(name, memoryview(data), FLOAT, (10, 10))


@pytest.mark.parametrize(
    ("scales", "zeros", "length", "why"),
    [
        ([1.0, np.nan], [0, 0], 80, "scale nan"),
        ([1.0, -1.0], [0, 0], 80, "scale -1.0"),
        ([1.0, 1.0], [0, 128], 80, "zero 128"),
        ([1.0, 1.0], [0, 0], 79, "79 bytes for shape"),
        ([1.0], [0], 0, "8 bytes, expected 16 of scale and zero first"),
    ],
)
def test_int8c_refuses_each_channels_nonsense(scales: list[float], zeros: list[int], length: int, why: str) -> None:
    data = np.array(scales, "<f4").tobytes() + np.array(zeros, "<i4").tobytes() + bytes(length)
    with pytest.raises(FrameError, match=why):
        codecs.decode("int8c", memoryview(data), FLOAT, (40, 2))


def test_a_zstd_frame_that_says_another_size_gets_no_memory() -> None:
    import zstandard

    bomb = zstandard.ZstdCompressor(level=1).compress(bytes(50_000_000))
    data = struct.pack("<I", len(bomb)) + bomb
    with pytest.raises(FrameError, match="a frame of 50000000 bytes, expected 9000"):
        codecs.decode("zstd", memoryview(data), np.dtype(np.uint8), (9000,))
    streamed = zstandard.ZstdCompressor(level=1, write_content_size=False).compress(bytes(9000))
    data = struct.pack("<I", len(streamed)) + streamed
    with pytest.raises(FrameError, match="a frame of -1 bytes"):
        codecs.decode("zstd", memoryview(data), np.dtype(np.uint8), (9000,))
    twice = zstandard.ZstdCompressor(level=1).compress(bytes(9000)) * 2
    with pytest.raises(FrameError, match="codec zstd"):
        codecs.decode("zstd", memoryview(struct.pack("<I", len(twice)) + twice), np.dtype(np.uint8), (9000,))


_FUZZ = """
import ctypes, mmap, random, struct, sys, types
import numpy as np
from slicemq import codecs
from slicemq.codecs import zfp
from slicemq.errors import FrameError

# What ZFP reads ends where a page begins that nobody may touch: reading on ends the process.
area = mmap.mmap(-1, 1 << 22)
begin = ctypes.addressof(ctypes.c_char.from_buffer(area))
room = np.frombuffer(area, np.uint8, len(area) - mmap.PAGESIZE)
assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(begin + room.size), mmap.PAGESIZE, 0) == 0

def guarded(size, dtype):
    found = room[room.size - size :]
    found[:] = 0
    return found

zfp.np = types.SimpleNamespace(zeros=guarded, **{n: getattr(np, n) for n in ("frombuffer", "uint8", "float32")})
rng, read, refused = random.Random(int(sys.argv[1])), 0, 0
for turn in range(int(sys.argv[2])):
    shape = tuple(rng.choice((1, 2, 3, 4, 5, 8, 17)) for _ in range(rng.randint(1, 4)))
    size = int(np.prod(shape))
    values = np.frombuffer(rng.randbytes(4 * size), np.float32) if rng.random() < 0.2 else np.cumsum(
        np.random.default_rng(turn).standard_normal(size)).astype(np.float32)
    name = rng.choice(("zfp2", "zfp3", "zfp4"))
    used, packed = codecs.encode(name, values.reshape(shape))
    kind = rng.randrange(4)
    data = bytearray(packed) if used == name else bytearray(struct.pack("<f", 1.0) + rng.randbytes(9))
    if kind == 0:
        most = zfp.stream_most(zfp._sides(shape))
        data = rng.randbytes(rng.choice((most, rng.randint(1, most))))
        data = bytearray(struct.pack("<f", 10.0 ** rng.uniform(-41, 38.5)) + data)
    elif kind == 1:
        data = data[: rng.randint(0, len(data))]
    elif kind == 2:
        for _ in range(rng.randint(1, 9)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    else:
        most = zfp.stream_most(zfp._sides(shape))
        data = data[:4] + bytes([rng.choice((0, 85, 170, 255))]) * rng.randint(1, most)
    if rng.random() < 0.3:
        shape = shape[::-1] + (rng.randint(1, 5),)
    out = np.full(int(np.prod(shape)) + 32, 7.5, np.float32)
    try:
        codecs.decode_into(name, memoryview(bytes(data)), out[16:-16].reshape(shape))
        read += 1
    except FrameError:
        refused += 1
    assert (out[:16] == 7.5).all() and (out[-16:] == 7.5).all(), "written beyond the tensor"
print(read, refused)
"""


@pytest.mark.parametrize("count", [3000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_zfp_survives_any_stream(count: int) -> None:
    # Its decoder is native code: what it did wrong would end the process.
    done = subprocess.run(
        [sys.executable, "-c", _FUZZ, "11", str(count)], capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    read, refused = (int(word) for word in done.stdout.split())
    assert read > count / 3
    assert refused > count / 100
