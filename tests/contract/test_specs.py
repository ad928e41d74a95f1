"""Specifications: the digest, and which arrays pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemq.errors import InputError
from slicemq.messages import TensorSpec
from slicemq.specs import check_inputs, matches, spec_digest, tensor_keys

IMAGE = TensorSpec(3, "image", "float32", (1, -1, 2))
SIZE = TensorSpec(5, "size", "int32", ())
TWICE = (TensorSpec(1, "x", "int8", (2,)), TensorSpec(2, "x", "int8", (2,)))


def test_the_digest_is_the_documented_one() -> None:
    # sha256 of [[["image","float32",[1,-1,2]]],[["size","int32",[]]]]
    assert spec_digest([IMAGE], [SIZE]) == "91079cd5d043009b303d1f4f852497db8787b3a079737958c83a356d72f26b4b"


def test_where_a_tensor_stands_in_its_model_does_not_count() -> None:
    assert spec_digest([replace(IMAGE, index=4)], [SIZE]) == spec_digest([IMAGE], [replace(SIZE, index=9)])
    assert spec_digest(TWICE, []) != spec_digest([TWICE[0], replace(TWICE[1], index=3)], [])


@pytest.mark.parametrize(
    "other",
    [
        replace(IMAGE, name="Image"),
        replace(IMAGE, dtype="float16"),
        replace(IMAGE, shape=(1, 2, 2)),
    ],
)
def test_any_change_gives_another_digest(other: TensorSpec) -> None:
    digests = {
        spec_digest([IMAGE], [SIZE]),
        spec_digest([other], [SIZE]),
        spec_digest([SIZE], [IMAGE]),
        spec_digest([IMAGE, SIZE], []),
    }
    assert len(digests) == 4


def test_keys_are_names_where_they_are_unique() -> None:
    assert tensor_keys((*TWICE, SIZE)) == {1: "x@1", 2: "x@2", 5: "size"}


def test_an_array_alone_a_sequence_and_a_mapping_mean_the_same() -> None:
    image, size = np.zeros((1, 7, 2), np.float32), np.array(4, np.int32)
    assert list(check_inputs([IMAGE], image)) == [3]
    for inputs in ([image, size], (image, size), {"image": image, "size": size}, {3: image, 5: size}):
        got = check_inputs([IMAGE, SIZE], inputs)
        assert np.shares_memory(got[3], image)
        assert np.shares_memory(got[5], size)


def test_tensors_of_one_name_are_given_by_index_or_by_key() -> None:
    one, two = np.zeros(2, np.int8), np.ones(2, np.int8)
    assert np.shares_memory(check_inputs(TWICE, {1: one, 2: two})[2], two)
    assert np.shares_memory(check_inputs(TWICE, {"x@2": two, "x@1": one})[2], two)
    with pytest.raises(InputError, match=r"'x' stands for several tensors, expected one of 'x@1' int8 \[2\]"):
        check_inputs(TWICE, {"x": one})


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        (
            np.zeros((1, 7, 3), np.float32),
            r"'image' \(tensor 3\): expected float32 \[1, \?, 2\], got float32 \[1, 7, 3\]",
        ),
        (np.zeros((1, 7, 2)), r"expected float32 \[1, \?, 2\], got float64 \[1, 7, 2\]"),
        (np.zeros((1, 7), np.float32), r"got float32 \[1, 7\]"),
        ({"picture": np.zeros(1)}, r"no input 'picture', expected one of 'image' float32"),
        ({9: np.zeros(1)}, r"no input 9"),
        ({}, r"missing input 'image' \(tensor 3\): expected float32"),
        ([], r"0 arrays given, the model has 1 inputs"),
        ([[1.0, 2.0]], r"expected a numpy array, float32 \[1, \?, 2\], got list"),
        ("image.npy", r"expected a numpy array, a list, tuple or mapping of them, got str"),
        (None, r"got NoneType"),
    ],
)
def test_wrong_inputs_are_named_with_what_was_expected_and_given(inputs: Any, text: str) -> None:
    with pytest.raises(InputError, match=text):
        check_inputs([IMAGE], inputs)


def test_one_array_for_a_model_of_several_inputs_is_refused() -> None:
    with pytest.raises(InputError, match=r"one array given, the model has 2 inputs: 'image' .*; 'size' int32 \[\]"):
        check_inputs([IMAGE, SIZE], np.zeros(1))


def test_strided_and_foreign_byte_order_arrays_become_plain_without_a_change_of_value() -> None:
    image = np.arange(28, dtype=">f4").reshape(1, 2, 14).transpose(0, 2, 1)
    got = check_inputs([IMAGE], image)[3]
    assert got.flags.c_contiguous
    assert got.dtype == np.dtype(np.float32)
    assert got.dtype.isnative
    np.testing.assert_array_equal(got, image)


@given(
    st.lists(st.integers(1, 4), max_size=4).flatmap(
        lambda shape: st.tuples(st.just(shape), st.tuples(*(st.sampled_from([-1, size]) for size in shape)))
    )
)
def test_unknown_sizes_fit_every_size(shapes: tuple[list[int], tuple[int, ...]]) -> None:
    got, want = shapes
    array = np.zeros(got, np.uint8)
    assert matches(TensorSpec(0, "t", "uint8", want), array)
    assert not matches(TensorSpec(0, "t", "int8", want), array)
    assert not matches(TensorSpec(0, "t", "uint8", (*want, 1)), array)
