"""Answers: the same bits again, nothing that JSON has no word for, bounds."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ingress.answers import TooMuch, error_answer, json_answer, npy_answer


@given(
    array=st.sampled_from(["float16", "float32", "float64", "int8", "uint64", "int64", "bool"]).flatmap(
        lambda dtype: arrays.arrays(dtype, arrays.array_shapes(max_dims=3, max_side=3))
    )
)
def test_json_gives_the_same_bits(array: np.ndarray) -> None:  # type: ignore[type-arg]
    found = json.loads(json_answer({"id": "x"}, {'a "name"': array}, 1000))
    row = found["outputs"]['a "name"']
    assert (found["id"], row["dtype"], row["shape"]) == ("x", array.dtype.name, list(array.shape))
    values = array.reshape(-1)
    for given_value, read in zip(values, row["data"], strict=True):
        if array.dtype.kind == "f" and not np.isfinite(given_value):
            assert read is None
        else:
            assert np.array(read, array.dtype).tobytes() == given_value.tobytes()


def test_complex_numbers_are_pairs() -> None:
    found = json.loads(json_answer({}, {"x": np.array([1 + 2j], np.complex64)}, 10))
    assert found == {"outputs": {"x": {"dtype": "complex64", "shape": [1], "data": [1.0, 2.0]}}}


def test_too_many_values_are_not_written() -> None:
    with pytest.raises(TooMuch, match="11 values, JSON answers have at most 10"):
        json_answer({}, {"x": np.zeros(11)}, 10)


def test_one_output_is_npy_and_several_are_npz() -> None:
    one = np.load(io.BytesIO(npy_answer({"x": np.arange(3)})))
    assert one.tolist() == [0, 1, 2]
    two = np.load(io.BytesIO(npy_answer({"x": np.arange(3), "file": np.zeros(1)})))
    assert sorted(two.files) == ["file", "x"]


def test_errors_are_short_json() -> None:
    found = json.loads(error_answer({"id": "x"}, "bad-message", "y" * 10_000))
    assert (found["error"], len(found["reason"])) == ("bad-message", 500)
