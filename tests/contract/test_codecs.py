"""Codecs: what each keeps, what each refuses."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import numpy as np
import pytest

from slicemq import codecs
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
    assert used == name
    assert found.tobytes() == array.tobytes()
    assert (found.dtype, found.shape) == (array.dtype, array.shape)


def test_sizes_are_numpys() -> None:
    assert {name: np.dtype(name).itemsize for name in codecs.DTYPES} == codecs.DTYPES


def test_nan_infinity_and_minus_zero_keep_their_bits() -> None:
    array = np.array([np.nan, np.inf, -np.inf, -0.0, np.finfo(np.float32).tiny], np.float32)
    for name in ("raw", "lz4"):
        assert through(name, array)[1].tobytes() == array.tobytes()


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


def test_lz4_shrinks_what_repeats() -> None:
    _, data = codecs.encode("lz4", np.zeros(100_000, np.float32))
    assert len(data) < 5000


@pytest.mark.parametrize("name", ["", "RAW", "zip", "x" * 1000])
def test_unknown_codecs_are_refused(name: str) -> None:
    with pytest.raises(FrameError, match="is not one of raw, f16"):
        codecs.encode(name, np.zeros(1))
    with pytest.raises(FrameError, match="is not one of raw, f16"):
        codecs.decode(name, memoryview(b""), np.dtype("int8"), (0,))


def test_without_the_lz4_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lz4", None)
    monkeypatch.setitem(sys.modules, "lz4.block", None)
    with pytest.raises(FrameError, match="not installed"):
        codecs.encode("lz4", np.zeros(1))
    with pytest.raises(FrameError, match="not installed"):
        codecs.decode("lz4", memoryview(b"\0"), np.dtype("int8"), (1,))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert codecs.available() == ("raw", "f16")
