"""Typical inputs as a file: what goes in comes out, and bytes of strangers are checked before they are used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters import samples
from converters.graph import Graph, read_graph, with_shapes
from converters.samples import MOST_BYTES, MOST_FRAMES, frames_that_fit, pack, unpack
from slicemq.errors import InputError
from tests.converters.tiny import Tiny, chain


def two_inputs() -> Graph:
    """Inputs b (bool [1, 3], tensor 1) before a (float32 [1, 2], tensor 0) in the file's order."""
    tiny = Tiny()
    a, b = tiny.tensor((1, 2), name="a"), tiny.tensor((1, 3), "BOOL", name="b")
    tiny.inputs = [b, a]
    return read_graph(tiny.build([tiny.op("TANH", [a], (1, 2)), tiny.op("LOGICAL_NOT", [b], (1, 3), dtype="BOOL")]))


GRAPH = two_inputs()
FRAMES = [
    {1: np.array([[True, False, True]]), 0: np.array([[number, -1.5]], np.float32)} for number in range(MOST_FRAMES)
]


def test_what_goes_in_comes_out_and_the_same_frames_give_the_same_bytes() -> None:
    data = pack(FRAMES)
    found = unpack(data, GRAPH)
    assert [sorted(frame) for frame in found] == [[0, 1]] * MOST_FRAMES
    for frame, expected in zip(found, FRAMES, strict=True):
        for tensor, array in frame.items():
            assert array.dtype == expected[tensor].dtype
            np.testing.assert_array_equal(array, expected[tensor])
    swapped = [dict(sorted(frame.items())) for frame in FRAMES]
    big = [{t: a.astype(a.dtype.newbyteorder(">")) for t, a in frame.items()} for frame in FRAMES]
    assert pack(swapped) == data == pack(big)


def test_as_many_frames_are_taken_as_fit() -> None:
    graph = read_graph(chain(1))
    assert frames_that_fit(graph) == MOST_FRAMES
    third = with_shapes(graph, {graph.inputs[0]: (1, MOST_BYTES // 12 - 10_000)})
    assert frames_that_fit(third) == 3
    frame = {0: np.zeros(third.tensors[0].shape, np.float32)}
    assert len(unpack(pack([frame] * 3), third)) == 3
    with pytest.raises(InputError, match="at most"):
        pack([frame] * 4)
    large = with_shapes(graph, {graph.inputs[0]: (1, MOST_BYTES)})
    assert frames_that_fit(large) == 1
    for frames in ([], FRAMES * 2):
        with pytest.raises(InputError, match="expected 1 to 8"):
            pack(frames)


def test_a_size_that_differs_from_frame_to_frame_may_differ() -> None:
    graph = read_graph(chain(1))
    loose = replace(graph, tensors=(replace(graph.tensors[0], varying=(1,)), *graph.tensors[1:]))
    frames = [{0: np.zeros((1, size), np.float32)} for size in (4, 9)]
    assert [frame[0].shape for frame in unpack(pack(frames), loose)] == [(1, 4), (1, 9)]
    with pytest.raises(InputError, match=r"frame 1: input 0 \(x\): expected the sizes of float32 \[1, 4\]"):
        unpack(pack(frames), graph)


Damage = Callable[[Any], Any]


def rows(body: Any) -> Any:
    return body["frames"][0]


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda b: b.update(format=2), "format: expected 1, got 2"),
        (lambda b: b.update(format=True), "format: expected 1"),
        (lambda b: b.update(format=[]), "format: expected 1, got list"),
        (lambda b: b.update(more=1), "expected an object with format, frames"),
        (lambda b: b.update(frames=[]), "frames: expected a list of 1 to 8"),
        (lambda b: b.update(frames=b["frames"] * 9), "frames: expected a list of 1 to 8"),
        (lambda b: b["frames"].append(7), "frame 1: expected a list of 2 inputs"),
        (lambda b: rows(b).pop(), "frame 0: expected a list of 2 inputs"),
        (lambda b: rows(b).reverse(), "input 0 .a.: expected tensor 0, got 1"),
        (lambda b: rows(b).__setitem__(0, 1), "expected a list of tensor, dtype, sizes, elements"),
        (lambda b: rows(b)[0].__setitem__(0, False), "expected tensor 0, got False"),
        (lambda b: rows(b)[0].__setitem__(1, "float64"), "expected float32, got 'float64'"),
        (lambda b: rows(b)[0].__setitem__(1, {}), "expected float32, got dict"),
        (lambda b: rows(b)[0].__setitem__(2, [2, 1]), "expected the sizes of float32 .1, 2."),
        (lambda b: rows(b)[0].__setitem__(2, [2]), "expected the sizes"),
        (lambda b: rows(b)[0].__setitem__(2, [True, 2]), "expected the sizes"),
        (lambda b: rows(b)[0].__setitem__(3, bytes(7)), "expected 8 bytes of elements, got 7 bytes"),
        (lambda b: rows(b)[0].__setitem__(3, "elements"), "expected 8 bytes of elements, got str"),
        (lambda b: rows(b)[0].__setitem__(3, np.array([1, np.nan], "<f4").tobytes()), "not finite"),
        (lambda b: rows(b)[1].__setitem__(3, b"\0\1\2"), "bytes 0 and 1 only"),
    ],
)
def test_what_is_wrong_is_named(damage: Damage, text: str) -> None:
    body = msgpack.unpackb(pack(FRAMES[:1]))
    damage(body)
    with pytest.raises(InputError, match=text):
        unpack(msgpack.packb(body), GRAPH)


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x93", pack(FRAMES)[:-1], pack(FRAMES) + b"\0", b"\x91" * 5000])
def test_what_is_no_such_file_is_refused(data: bytes) -> None:
    with pytest.raises(InputError, match="samples: "):
        unpack(data, GRAPH)


def test_a_file_that_is_too_large_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pack(FRAMES)
    monkeypatch.setattr(samples, "MOST_BYTES", len(data) - 1)
    with pytest.raises(InputError, match="bytes, expected at most"):
        unpack(data, GRAPH)


@settings(max_examples=300)
@given(st.data())
def test_no_bytes_raise_anything_else(data: st.DataObject) -> None:
    good = bytearray(pack(FRAMES[:2]))
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, len(good) - 1))
        good[place : place + 1] = data.draw(st.binary(max_size=3))
    try:
        found = unpack(bytes(good), GRAPH)
    except InputError:
        return
    assert all(frame[0].shape == (1, 2) and frame[1].dtype == bool for frame in found)
