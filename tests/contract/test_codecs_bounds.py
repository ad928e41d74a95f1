"""Codecs: the error bounds that they state, their sizes, and packing into memory of the caller's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from slicemq import codecs
from slicemq.frames import FrameHeader, decode_frame, encode_frame
from slicemq.messages import TensorSpec

Array = np.ndarray[Any, Any]
SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9)
ORDINARY = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**60), max_value=2.0**60)
ANY = st.floats(width=32)
ZFP = {"zfp2": 1e-2, "zfp3": 1e-3, "zfp4": 1e-4}


def through(name: str, array: Array) -> tuple[str, Array]:
    used, data = codecs.encode(name, array)
    return used, codecs.decode(used, memoryview(data).toreadonly(), array.dtype, array.shape)


def span_of(array: Array) -> float:
    return max(float(array.max(initial=0.0)), 0.0) - min(float(array.min(initial=0.0)), 0.0)


@given(arrays.arrays(np.float32, SHAPES, elements=ANY), st.sampled_from(codecs.CODECS))
@settings(deadline=None)
def test_anything_comes_back_in_its_shape(array: Array, name: str) -> None:
    used, found = through(name, array)
    assert used in (name, "raw") or (name, used) == ("int8c", "int8")
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    if used == "raw" or codecs.is_lossless(name):
        assert found.tobytes() == array.tobytes()


@given(st.data(), st.sampled_from(sorted(codecs.DTYPES)), st.sampled_from(codecs.CODECS))
@settings(deadline=None)
def test_other_dtypes_lose_nothing(data: st.DataObject, dtype: str, name: str) -> None:
    if dtype == "float32":
        return
    array = data.draw(arrays.arrays(np.dtype(dtype), SHAPES))
    _, found = through(name, array)
    assert found.tobytes() == array.tobytes()
    assert (found.dtype, found.shape) == (array.dtype, array.shape)


@given(arrays.arrays(np.float32, arrays.array_shapes(max_dims=2, max_side=40), elements=ANY))
@settings(deadline=None)
def test_f16_is_as_near_as_float16_can_be(array: Array) -> None:
    used, found = through("f16", array)
    assert used == "f16"
    with np.errstate(over="ignore"):
        nearest = array.astype(np.float16).astype(np.float32)
    finite = np.isfinite(nearest)
    np.testing.assert_array_equal(found[~finite], nearest[~finite])
    np.testing.assert_array_equal(np.signbit(found[finite]), np.signbit(array[finite]))
    gap, best = (np.abs(one[finite].astype(np.float64) - array[finite]) for one in (found, nearest))
    # Of two that are equally near either will do; subnormals are rounded twice.
    assert (gap <= best * (1 + 2**-10)).all()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("size", [1, 65_536, 65_537, 200_000])
def test_f16_blocks_join(size: int, sign: int) -> None:
    array = (np.linspace(0, 70_000, size) * sign).astype(np.float32)
    with np.errstate(over="ignore"):
        nearest = array.astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(through("f16", array)[1], nearest, rtol=2**-10)


@given(arrays.arrays(np.float32, SHAPES, elements=ORDINARY), st.sampled_from(["int8", "int16"]))
@settings(deadline=None)
def test_affine_codecs_are_within_half_a_step(array: Array, name: str) -> None:
    used, found = through(name, array)
    span = span_of(array)
    assert used == ("raw" if 0.0 < span < 1e-32 or span > 1e38 else name)
    steps = {"int8": 254.9, "int16": 65534.9}[name]
    gap = np.abs(found.astype(np.float64) - array).max(initial=0.0)
    # A hundredth of a step for the rounding of float32 itself.
    assert gap <= span / steps * 0.51
    assert (found[array == 0] == 0).all()


@pytest.mark.parametrize("name", ["int8", "int16", "int8c", "zfp2", "zfp3", "zfp4"])
def test_no_error_is_worse_than_the_worst(name: str) -> None:
    made = np.random.default_rng(5)
    worst = 0.0
    for scale in (1e-15, 1.0, 1e30):
        array = (made.standard_normal((128, 1000)) * scale).astype(np.float32)
        used, found = through(name, array)
        assert used == name
        error = np.abs(found.astype(np.float64) - array).max()
        worst = max(worst, float(error) / span_of(array))
    assert 0 < worst <= codecs.worst_error(name)


@given(st.integers(32, 90), st.integers(2, 70), st.integers(0, 2**32), st.sampled_from([1e-30, 1e-3, 1.0, 1e30]))
@settings(max_examples=60, deadline=None)
def test_int8c_is_within_half_a_step_of_each_channel(rows: int, channels: int, seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    array = rng.standard_normal((1, rows, channels)) * scale * 10.0 ** rng.integers(-4, 4, channels)
    array[..., rng.integers(channels)] = 0.0
    array = np.where(rng.random(channels) < 0.5, np.maximum(array, 0), array).astype(np.float32)
    used, found = through("int8c", array)
    assert used == "int8c"
    spans = np.maximum(array.max((0, 1)), 0).astype(np.float64) - np.minimum(array.min((0, 1)), 0)
    assert (np.abs(found.astype(np.float64) - array).max((0, 1)) <= spans / 254.9 * 0.51 + 1e-37).all()
    assert (found[array == 0] == 0).all()


@pytest.mark.parametrize("shape", [(1, 300, 300, 3), (70_001, 2), (40, 5000), (33, 70_000)])
def test_int8c_blocks_join(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(3).uniform(-1, 2, shape).astype(np.float32) * np.arange(
        1, shape[-1] + 1, dtype="f4"
    )
    used, found = through("int8c", array)
    assert used == "int8c"
    assert (np.abs(found - array) <= np.arange(1, shape[-1] + 1) * 3 / 254.9 * 0.51).all()


def test_int8c_sends_few_rows_with_one_scale() -> None:
    array = np.random.default_rng(3).random((1, 5, 1000), np.float32)
    assert codecs.encode("int8c", array)[0] == "int8"
    assert codecs.encode("int8c", np.ones((4, 50), np.float32) * np.float32("nan"))[0] == "raw"
    assert codecs.encode("int8c", np.ones((40, 50), np.float32) * np.float32("nan"))[0] == "raw"


def _smooth(shape: tuple[int, ...], seed: int) -> Array:
    rng = np.random.default_rng(seed)
    array = rng.standard_normal(shape)
    for axis in range(array.ndim):
        array = np.cumsum(array, axis)
    return array.astype(np.float32)


@given(
    arrays.array_shapes(min_dims=1, max_dims=5, min_side=1, max_side=12),
    st.integers(0, 99),
    st.sampled_from(sorted(ZFP)),
)
@settings(deadline=None)
def test_zfp_is_within_its_tolerance(shape: tuple[int, ...], seed: int, name: str) -> None:
    array = _smooth(shape, seed)
    used, found = through(name, array)
    if used == name:
        assert np.abs(found.astype(np.float64) - array).max() <= span_of(array) * ZFP[name] * 1.000001
        assert len(codecs.encode(name, array)[1]) < array.nbytes


@given(arrays.arrays(np.float32, (7, 9, 6), elements=ORDINARY), st.sampled_from(sorted(ZFP)))
@settings(max_examples=60, deadline=None)
def test_zfp_is_within_its_tolerance_whatever_the_values(array: Array, name: str) -> None:
    _, found = through(name, array)
    assert np.abs(found.astype(np.float64) - array).max() <= span_of(array) * ZFP[name] * 1.000001


def test_zfp_leaves_out_the_axis_of_the_batch() -> None:
    array = _smooth((24, 24, 16), 1)
    plain = codecs.encode("zfp3", array)[1]
    assert len(plain) < array.nbytes / 2
    assert bytes(codecs.encode("zfp3", array[None])[1]) == bytes(plain)


def test_what_a_codec_cannot_shrink_goes_raw() -> None:
    noise = np.random.default_rng(0).integers(0, 2**32, 10_000, np.uint32)
    for name in ("lz4", "lz4s", "zstd"):
        assert codecs.encode(name, noise)[0] == "raw"
    assert codecs.encode("zfp4", np.zeros(1000, np.float32))[0] == "raw"


@pytest.mark.parametrize("name", codecs.CODECS)
@pytest.mark.parametrize("shape", [(), (0,), (5,), (1, 40, 40, 24), (3, 20)])
def test_sizes_are_known_beforehand(name: str, shape: tuple[int, ...]) -> None:
    array = _smooth(shape, 5)
    used, data = codecs.encode(name, array)
    size = codecs.packed_size(name, "float32", shape)
    if size is None:
        assert codecs.is_slow(name)
        assert len(data) <= array.nbytes
    else:
        assert len(data) == size
    assert codecs.most_bytes(name, "float32", shape) == (0 if name == "raw" or codecs.is_slow(name) else size)
    assert codecs.packed_size("f16", "int32", shape) == math.prod(shape) * 4
    assert used == name or codecs.is_slow(name) or name == "int8c"


@pytest.mark.parametrize("name", codecs.CODECS)
def test_packed_and_unpacked_in_memory_of_the_callers(name: str) -> None:
    array = _smooth((1, 30, 30, 8), 2)
    room = memoryview(bytearray(codecs.most_bytes(name, "float32", array.shape) + 100))
    used, data = codecs.encode(name, array, room)
    assert bytes(data) == bytes(codecs.encode(name, array)[1])
    if name != "raw" and not codecs.is_slow(name):
        assert np.shares_memory(np.frombuffer(data, np.uint8), np.frombuffer(room, np.uint8))
        with pytest.raises(ValueError, match=r"out: .* expected \d+"):
            codecs.encode(name, array, room[:100])
        with pytest.raises(ValueError, match=r"out: .* read-only, expected \d+"):
            codecs.encode(name, array, room.toreadonly())
    out = np.full(array.shape, np.nan, np.float32)
    codecs.decode_into(used, memoryview(data).toreadonly(), out)
    assert out.tobytes() == codecs.decode(used, data, array.dtype, array.shape).tobytes()
    for bad in (np.empty((30, 30, 8, 2), np.float32)[..., 0], np.frombuffer(bytes(array.nbytes), np.float32)):
        with pytest.raises(ValueError, match="out: expected a writable array, contiguous"):
            codecs.decode_into(used, data, bad)


@pytest.mark.parametrize("name", codecs.CODECS)
def test_strided_and_transposed_arrays_are_sent_in_row_major_order(name: str) -> None:
    array = _smooth((60, 50, 6), 4)
    for odd in (array[::2, ::-1], array.transpose(2, 0, 1)):
        straight = np.ascontiguousarray(odd)
        one, other = codecs.encode(name, odd), codecs.encode(name, straight)
        assert (one[0], bytes(one[1])) == (other[0], bytes(other[1]))


@pytest.mark.parametrize("name", ["int8", "int16", "int8c", "zfp2", "zfp3", "zfp4"])
@pytest.mark.parametrize("span", [1e-44, 1e-38, 3e-35, 0.99e-32, 1.01e-32, 1.01e-20, 1e20, 0.99e38, 3e38])
def test_ranges_at_the_edges_of_float32(name: str, span: float) -> None:
    array = (np.random.default_rng(0).random((40, 8)) * span).astype(np.float32)
    array[0], array[1] = 0.0, span
    used, found = through(name, array)
    assert (used == "raw") or 1e-32 <= span <= 1e38 or name == "int8c"
    step = {"int8": 1 / 254, "int16": 1 / 65534, "int8c": 1 / 254}.get(name)
    most = ZFP[name] if step is None else step * 0.51
    assert np.abs(found.astype(np.float64) - array).max() <= span * most + 1e-37


@pytest.mark.parametrize("name", codecs.CODECS)
def test_a_frame_of_each_codec(name: str) -> None:
    tensors = [_smooth((1, 12, 12, 8), 1), np.arange(50, dtype=np.int32), np.array(np.nan, np.float32)]
    specs = [TensorSpec(k, f"t{k}", array.dtype.name, array.shape) for k, array in enumerate(tensors)]
    header = FrameHeader("camera-1", 2**63, 7, 1.7e9, "12-0123abcd")
    parts = encode_frame(header, list(zip(specs, tensors, strict=True)), name)
    found = decode_frame(b"".join(parts)).arrays()
    assert [found[k].tobytes() for k in (1, 2)] == [array.tobytes() for array in tensors[1:]] or name == "f16"
    assert found[0].tobytes() == through(name, tensors[0])[1].tobytes()
