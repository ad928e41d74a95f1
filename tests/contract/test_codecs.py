"""Codecs: what each keeps, what each refuses."""

from __future__ import annotations

import importlib.util
import math
import struct
import sys
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from slicemq import codecs
from slicemq.codecs import planes
from slicemq.errors import FrameError


def through(name: str, array: np.ndarray[Any, Any]) -> tuple[str, np.ndarray[Any, Any]]:
    used, data = codecs.encode(name, array)
    return used, codecs.decode(used, memoryview(data).toreadonly(), array.dtype, array.shape)


@pytest.mark.parametrize("name", [name for name in codecs.available() if codecs.is_lossless(name)])
@pytest.mark.parametrize("dtype", sorted(codecs.DTYPES))
@pytest.mark.parametrize("shape", [(), (1,), (3, 0), (2, 3, 4)])
def test_lossless_codecs_keep_every_bit(name: str, dtype: str, shape: tuple[int, ...]) -> None:
    array = np.arange(int(np.prod(shape)), dtype=np.int64).astype(dtype).reshape(shape)
    used, found = through(name, array)
    assert used in (name, "raw"), "raw where the bytes would not be fewer"
    assert found.tobytes() == array.tobytes()
    assert (found.dtype, found.shape) == (array.dtype, array.shape)


@pytest.mark.parametrize("name", ["lz4", "lz4s", "zstd"])
@pytest.mark.parametrize("dtype", sorted(codecs.DTYPES))
def test_lossless_codecs_shrink_what_repeats(name: str, dtype: str) -> None:
    array = (np.arange(60_000) // 999 % 2).astype(dtype).reshape(3, 20, 1000)
    used, found = through(name, array)
    assert used == name
    assert len(codecs.encode(name, array)[1]) < array.nbytes / 10
    assert found.tobytes() == array.tobytes()
    assert (found.dtype, found.shape) == (array.dtype, array.shape)


def test_sizes_are_numpys() -> None:
    assert {name: np.dtype(name).itemsize for name in codecs.DTYPES} == codecs.DTYPES


def test_nan_infinity_and_minus_zero_keep_their_bits() -> None:
    array = np.array([np.nan, np.inf, -np.inf, -0.0, np.finfo(np.float32).tiny], np.float32)
    array = np.tile(array, 500)
    for name in ("raw", "lz4", "lz4s", "zstd"):
        used, found = through(name, array)
        assert used == name
        assert found.tobytes() == array.tobytes()


def test_f16_is_within_half_a_unit_and_overflows_to_infinity() -> None:
    array = np.random.default_rng(1).uniform(-1000, 1000, 5000).astype(np.float32)
    used, found = through("f16", array)
    assert used == "f16"
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, array, rtol=2**-11)
    assert not codecs.is_lossless("f16")
    assert through("f16", np.array([1e6, -1e6], np.float32))[1].tolist() == [np.inf, -np.inf]


def test_f16_leaves_other_dtypes_as_they_are() -> None:
    array = np.array([1, 2, 70000], np.int32)
    used, found = through("f16", array)
    assert used == "raw"
    np.testing.assert_array_equal(found, array)


def test_wire_bytes_are_little_endian() -> None:
    _, data = codecs.encode("raw", np.array([1], np.uint32))
    assert bytes(data) == b"\x01\0\0\0"
    _, data = codecs.encode("raw", np.array([1], ">u4").astype("<u4"))
    assert bytes(data) == b"\x01\0\0\0"


def test_a_big_endian_array_is_sent_little_endian() -> None:
    _, data = codecs.encode("raw", np.array([1, 2], ">u2"))
    assert bytes(data) == b"\x01\0\x02\0"


@pytest.mark.parametrize("name", ["", "RAW", "zip", "x" * 1000])
def test_unknown_codecs_are_refused(name: str) -> None:
    with pytest.raises(FrameError, match="is not one of raw, lz4"):
        codecs.encode(name, np.zeros(1))
    with pytest.raises(FrameError, match="is not one of raw, lz4"):
        codecs.decode(name, memoryview(b""), np.dtype("int8"), (0,))


@pytest.mark.parametrize(
    ("package", "modules", "names"),
    [
        ("lz4", ("lz4", "lz4.block"), ("lz4", "lz4s")),
        ("zstandard", ("zstandard",), ("zstd",)),
        ("zfpy", ("zfpy",), ("zfp2", "zfp3", "zfp4")),
    ],
)
def test_without_a_package(
    monkeypatch: pytest.MonkeyPatch, package: str, modules: tuple[str, ...], names: tuple[str, ...]
) -> None:
    assert set(names) <= set(codecs.available())
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(planes, "_mine", threading.local())
    for name in names:
        with pytest.raises(FrameError, match=f"{package} package is not installed"):
            codecs.encode(name, np.ones(100, np.float32))
        with pytest.raises(FrameError, match=f"{package} package is not installed"):
            codecs.decode(name, memoryview(bytes(40)), np.dtype("float32"), (1, 10))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else object())
    assert set(codecs.CODECS) - set(codecs.available()) == set(names)


def test_numpy_alone_has_its_codecs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert codecs.available() == ("raw", "f16", "int16", "int8c", "int8")


_FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**125), max_value=2.0**125)


@given(arrays.arrays(np.float32, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0), elements=_FLOATS))
@settings(deadline=None)
def test_int8_is_within_half_a_step_of_the_range_and_keeps_zeros(array: np.ndarray[Any, Any]) -> None:
    used, found = through("int8", array)
    span = max(float(array.max(initial=0.0)), 0.0) - min(float(array.min(initial=0.0)), 0.0)
    assert (found.dtype, found.shape) == (np.float32, array.shape)
    assert used == ("raw" if 0.0 < span < 1e-32 or span > 1e38 else "int8")
    if used == "int8":
        assert len(codecs.encode("int8", array)[1]) == codecs.AFFINE_BYTES + array.size
    gap = np.abs(found.astype(np.float64) - array.astype(np.float64)).max(initial=0.0)
    assert gap <= span / 254.9 * 0.5001
    assert (found[array == 0] == 0).all()


@pytest.mark.parametrize("value", [3.7, -2e-5, 1e30, 0.0])
def test_int8_keeps_a_constant_tensor_nearly_exactly(value: float) -> None:
    used, found = through("int8", np.full((4, 5), value, np.float32))
    assert used == "int8"
    np.testing.assert_allclose(found, np.float32(value), rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_int8_sends_raw_what_has_no_range(bad: float) -> None:
    array = np.array([0.0, bad, 1.0], np.float32)
    used, found = through("int8", array)
    assert used == "raw"
    assert found.tobytes() == array.tobytes()


def test_int8_leaves_other_dtypes_as_they_are() -> None:
    assert through("int8", np.array([1, 2], np.int16))[0] == "raw"
    assert not codecs.is_lossless("int8")


def test_int8_on_the_wire() -> None:
    _, data = codecs.encode("int8", np.array([-1.0, 0.0, 1.55], np.float32))
    assert struct.unpack("<fi", data[:8]) == (pytest.approx(2.55 / 254.9), -28)
    assert list(np.frombuffer(data[8:], np.int8)) == [-128, -28, 127]


@pytest.mark.parametrize(
    ("header", "rest", "why"),
    [
        (b"", b"", "0 bytes, expected 8 of scale and zero first"),
        (b"\0" * 7, b"", "7 bytes, expected 8"),
        (struct.pack("<fi", math.nan, 0), b"\0\0", "scale nan"),
        (struct.pack("<fi", math.inf, 0), b"\0\0", "scale inf"),
        (struct.pack("<fi", -1.0, 0), b"\0\0", "scale -1.0"),
        (struct.pack("<fi", 1e37, 0), b"\0\0", "scale 1e\\+37|scale 9.99"),
        (struct.pack("<fi", 1.0, 128), b"\0\0", "zero 128, expected -128 to 127"),
        (struct.pack("<fi", 1.0, -129), b"\0\0", "zero -129"),
        (struct.pack("<fi", 1.0, 0), b"\0", "1 bytes for shape"),
        (struct.pack("<fi", 1.0, 0), b"\0\0\0", "3 bytes for shape"),
    ],
)
def test_int8_refuses_what_is_not_its_format(header: bytes, rest: bytes, why: str) -> None:
    with pytest.raises(FrameError, match=why):
        codecs.decode("int8", memoryview(header + rest), np.dtype(np.float32), (2,))


def test_int8_refuses_other_dtypes_and_sizes_that_are_not_there() -> None:
    data = memoryview(struct.pack("<fi", 1.0, 0))
    with pytest.raises(FrameError, match="carries float32, not int8"):
        codecs.decode("int8", data, np.dtype(np.int8), (0,))
    with pytest.raises(FrameError, match="0 bytes for shape"):
        codecs.decode("int8", data, np.dtype(np.float32), (1 << 20, 1 << 8))


@given(st.binary(max_size=40), st.integers(0, 40))
@settings(deadline=None)
def test_int8_reads_any_bytes_or_refuses_them(data: bytes, size: int) -> None:
    try:
        found = codecs.decode("int8", memoryview(data), np.dtype(np.float32), (size,))
    except FrameError:
        return
    assert len(data) == codecs.AFFINE_BYTES + size
    assert np.isfinite(found).all()
