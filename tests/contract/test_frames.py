"""Frames: round trips, and bytes that lie about themselves."""

from __future__ import annotations

import struct
import time
import tracemalloc
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slicemq import codecs, frames
from slicemq.errors import FrameError
from slicemq.frames import FrameHeader, decode_frame, encode_frame
from slicemq.messages import TensorSpec

HEADER = FrameHeader("cam-1", 2**64 - 1, 2**63, 1700000000.25, "12-0123abcd")
BODY: dict[str, Any] = {
    "client": "cam-1",
    "stream": 1,
    "seq": 2,
    "sent": 3.0,
    "rev": "12-0123abcd",
    "part": 0,
    "parts": 1,
    "tensors": [[5, "x", "float32", [2], "raw", 8]],
}


def packed(
    body: Any, data: bytes = b"\0" * 8, *, length: int | None = None, head: bytes = b"SMQF\1\0\0\0"
) -> bytes:
    """A frame around any header, sound or not."""
    text = body if isinstance(body, bytes) else msgpack.packb(body)
    start = head + struct.pack(">I", len(text) if length is None else length) + text
    return start + b"\0" * (-len(start) % 16) + data


def spec(index: int, array: np.ndarray[Any, Any]) -> TensorSpec:
    return TensorSpec(index, f"t/{index}", array.dtype.name, array.shape)


@settings(max_examples=150, deadline=None)
@given(
    tensors=st.lists(
        st.tuples(
            st.sampled_from(sorted(codecs.DTYPES)), st.lists(st.integers(0, 4), max_size=4), st.integers(0, 2**31)
        ),
        max_size=4,
        unique_by=lambda item: item[2],
    ),
    codec=st.sampled_from(["raw", "lz4"]),
    part=st.integers(0, 3),
)
def test_round_trip(tensors: list[tuple[str, list[int], int]], codec: str, part: int) -> None:
    rng = np.random.default_rng(1)
    arrays = {
        index: np.frombuffer(rng.bytes(int(np.prod(shape)) * codecs.DTYPES[dtype]), dtype).reshape(shape)
        if np.prod(shape)
        else np.zeros(shape, dtype)
        for dtype, shape, index in tensors
    }
    header = FrameHeader("cam-1", 7, 8, 9.5, "12-0123abcd", part, 4)
    parts = encode_frame(header, [(spec(index, array), array) for index, array in arrays.items()], codec)
    frame = decode_frame(b"".join(parts))
    assert frame.header == header
    found = frame.arrays()
    assert list(found) == list(arrays)
    for index, array in arrays.items():
        assert found[index].dtype == array.dtype
        assert found[index].shape == array.shape
        assert found[index].tobytes() == array.tobytes()
    assert [(t.index, t.name) for t in frame.tensors] == [(i, f"t/{i}") for i in arrays]


def test_numbers_of_64_bits_and_a_view_travel() -> None:
    array = np.arange(12, dtype=np.int16).reshape(3, 4)
    parts = encode_frame(HEADER, [(spec(3, array), array.T[::2])])
    frame = decode_frame(memoryview(bytearray(b"".join(parts))))
    assert frame.header == HEADER
    assert frame.header.key == ("cam-1", 2**64 - 1, 2**63)
    np.testing.assert_array_equal(frame.arrays()[3], array.T[::2])


def test_tensor_bytes_start_at_a_multiple_of_16_and_are_not_copied() -> None:
    array = np.zeros(1000, np.float32)
    prefix, data = encode_frame(HEADER, [(spec(0, array), array)])
    assert len(prefix) % 16 == 0
    assert np.shares_memory(np.frombuffer(data, np.float32), array)
    payload = b"".join([prefix, data])
    decoded = decode_frame(payload).arrays()[0]
    assert np.shares_memory(decoded, np.frombuffer(payload, np.uint8))
    assert not decoded.flags.writeable


def test_error_frames() -> None:
    header = FrameHeader("cam-1", 1, 2, 3.0, "12-0123abcd", error="poisoned", message="x" * 5000)
    frame = decode_frame(b"".join(encode_frame(header, [])))
    assert (frame.header.error, frame.header.message, frame.tensors) == ("poisoned", "x" * 4096, ())


def test_the_name_of_a_run_and_the_mark_of_a_probe_travel_and_cost_others_nothing() -> None:
    plain = FrameHeader("cam-1", 1, 2**64 - 1, 3.0, "12-0123abcd")
    size = len(b"".join(encode_frame(plain, [])))
    for header in (replace(plain, first=2**64 - 1), replace(plain, first=1, probe=True)):
        payload = b"".join(encode_frame(header, []))
        assert decode_frame(payload).header == header
        assert len(payload) > size
    assert b"first" not in b"".join(encode_frame(plain, []))


def test_what_cannot_travel_is_refused_by_name() -> None:
    array = np.zeros(2, np.dtype("U3"))
    with pytest.raises(FrameError, match=r"tensor 4 \(label\).*str"):
        encode_frame(HEADER, [(TensorSpec(4, "label", "string", (2,)), array)])
    floats = np.zeros(2, np.float32)
    with pytest.raises(FrameError, match="codec 'zip'"):
        encode_frame(HEADER, [(spec(4, floats), floats)], "zip")
    with pytest.raises(FrameError, match="header of"):
        encode_frame(HEADER, [(TensorSpec(4, "n" * 200_000, "float32", (2,)), floats)])


def test_unknown_header_fields_are_ignored() -> None:
    assert decode_frame(packed({**BODY, "hops": [1, 2]})).header.sequence == 2


ROW = BODY["tensors"][0]


def row(place: int, value: Any) -> dict[str, Any]:
    """BODY with one entry of its tensor's row changed."""
    return {**BODY, "tensors": [[*ROW[:place], value, *ROW[place + 1 :]]]}


LIES: list[tuple[str, bytes]] = [
    ("at least", b""),
    ("at least", b"SMQF\1\0\0\0\0\0\0"),
    ("magic", packed(BODY, head=b"SMQG\1\0\0\0")),
    ("version 2", packed(BODY, head=b"SMQF\2\0\0\0")),
    ("version", packed(BODY, head=b"SMQF\1\0\1\0")),
    ("header length", packed(BODY, length=2**32 - 1)),
    ("header length", packed(BODY, length=frames.MAX_HEADER_BYTES + 1)),
    ("header length", b"SMQF\1\0\0\0\0\0\0\1"),
    ("MessagePack", packed(BODY, length=len(msgpack.packb(BODY)) - 1)),
    ("MessagePack", packed(b"\xc1")),
    ("MessagePack", packed(b"\x81\x01\x02")),
    ("MessagePack", packed(b"\x91" * 5000)),
    ("MessagePack", packed(b"\xdd\xff\xff\xff\xff")),
    ("MessagePack", packed(b"\xdf\xff\xff\xff\xff")),
    ("MessagePack", packed(b"\x81\xa1\xff\x01")),
    ("MessagePack", packed({**BODY, "more": {str(n): n for n in range(1000)}})),
    ("expected a map", packed([1])),
    ("expected a map", packed(b"\xc0")),
    ("field client", packed({**BODY, "client": "Cam"})),
    ("field client", packed({**BODY, "client": "a/b"})),
    ("field client", packed({**BODY, "client": 1})),
    ("field client", packed({k: v for k, v in BODY.items() if k != "client"})),
    ("field rev", packed({**BODY, "rev": "12"})),
    ("field rev", packed({**BODY, "rev": b"12-0123abcd"})),
    ("field sent", packed({**BODY, "sent": 1})),
    ("field sent", packed({**BODY, "sent": float("nan")})),
    ("field sent", packed({**BODY, "sent": float("inf")})),
    ("field stream", packed({**BODY, "stream": -1})),
    ("field stream", packed({**BODY, "stream": True})),
    ("field stream", packed({**BODY, "stream": "1"})),
    ("field seq", packed({**BODY, "seq": 1.0})),
    ("field seq", packed({**BODY, "seq": None})),
    ("field part", packed({**BODY, "part": 1})),
    ("field part", packed({**BODY, "parts": 0})),
    ("field parts", packed({**BODY, "parts": 1025})),
    ("field error", packed({**BODY, "error": 1})),
    ("field error", packed({**BODY, "error": "x" * 65})),
    ("field message", packed({**BODY, "error": "x", "message": "m" * 4097})),
    ("field first: 3, expected at most", packed({**BODY, "first": BODY["seq"] + 1})),
    ("field first", packed({**BODY, "first": -1})),
    ("field first", packed({**BODY, "first": True})),
    ("field first", packed({**BODY, "first": None})),
    ("field probe", packed({**BODY, "probe": 1})),
    ("field probe", packed({**BODY, "probe": "x" * 9999})),
    ("field tensors", packed({**BODY, "tensors": None})),
    ("field tensors", packed({**BODY, "tensors": {}})),
    ("one index stands twice", packed({**BODY, "tensors": [ROW, ROW]}, b"\0" * 16)),
    (r"tensors\[0\]", packed({**BODY, "tensors": [[1]]})),
    (r"tensors\[0\]", packed({**BODY, "tensors": ["float"]})),
    ("index", packed(row(0, -1))),
    ("index", packed(row(0, True))),
    ("index", packed(row(0, 2**31 + 1))),
    ("name", packed(row(1, 5))),
    ("name", packed(row(1, "n" * 4097))),
    ("dtype", packed(row(2, "object"))),
    ("dtype", packed(row(2, ">f4"))),
    ("dtype", packed(row(2, ["float32"]))),
    ("shape", packed(row(3, 2))),
    ("shape", packed(row(3, [-2]))),
    ("shape", packed(row(3, [True]))),
    ("shape", packed(row(3, [1] * 9))),
    ("over", packed(row(3, [2**31] * 8))),
    ("codec", packed(row(4, 1))),
    ("byte length", packed(row(5, -8))),
    ("byte length", packed(row(5, 2**60))),
    ("9 bytes announced, 8 left", packed(row(5, 9))),
    ("header and tensors take", packed(row(5, 7))),
    ("header and tensors take", packed(BODY, b"\0" * 9)),
    ("announced", packed(BODY, b"")),
]


@pytest.mark.parametrize(("what", "payload"), LIES, ids=[f"{n}-{what}" for n, (what, _) in enumerate(LIES)])
def test_a_frame_that_lies_is_refused_by_name(what: str, payload: bytes) -> None:
    with pytest.raises(FrameError, match=what) as caught:
        decode_frame(payload)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("what", "body", "data"),
    [
        ("8 bytes for shape", row(3, [3]), b"\0" * 8),
        ("f16 carries float32", {**BODY, "tensors": [[5, "x", "int32", [2], "f16", 8]]}, b"\0" * 8),
        ("8 bytes for shape", row(4, "f16"), b"\0" * 8),
        ("codec 'zip'", row(4, "zip"), b"\0" * 8),
        ("lz4", row(4, "lz4"), b"\xff" * 8),
        ("cannot hold", {**BODY, "tensors": [[5, "x", "float32", [2**28], "lz4", 8]]}, b"\0" * 8),
        ("shape", {**BODY, "tensors": [[5, "x", "float32", [0, 2**31, 2**31, 2**31], "raw", 0]]}, b""),
    ],
)
def test_a_tensor_that_lies_is_refused(what: str, body: dict[str, Any], data: bytes) -> None:
    frame = decode_frame(packed(body, data))
    tracemalloc.start()
    with pytest.raises(FrameError, match=what):
        frame.arrays()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 10_000_000


def decodes_or_refuses(payload: bytes) -> None:
    try:
        decode_frame(payload).arrays()
    except FrameError:
        return


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_mutated_frame_is_read_or_refused(data: st.DataObject) -> None:
    array = np.arange(8, dtype=np.float32).reshape(2, 4)
    codec = data.draw(st.sampled_from(["raw", "f16", "lz4"]))
    payload = bytearray(b"".join(encode_frame(HEADER, [(spec(5, array), array)], codec)))
    for _ in range(data.draw(st.integers(1, 4))):
        match data.draw(st.sampled_from(["flip", "cut", "insert"])):
            case "flip" if payload:
                payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
            case "cut":
                del payload[data.draw(st.integers(0, len(payload))) :]
            case _:
                place = data.draw(st.integers(0, len(payload)))
                payload[place:place] = data.draw(st.binary(max_size=20))
    decodes_or_refuses(bytes(payload))


@settings(max_examples=300, deadline=None)
@given(text=st.binary(max_size=300), data=st.binary(max_size=40))
def test_a_random_header_is_refused(text: bytes, data: bytes) -> None:
    decodes_or_refuses(packed(text, data))


@settings(max_examples=200, deadline=None)
@given(
    field=st.sampled_from([*sorted(BODY), "first", "probe"]),
    value=st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats()
        | st.text(max_size=9)
        | st.binary(),
        lambda inner: st.lists(inner, max_size=7),
        max_leaves=9,
    ),
)
def test_any_value_in_any_field_is_read_or_refused(field: str, value: Any) -> None:
    decodes_or_refuses(packed({**BODY, field: value}))


def test_hostile_headers_cost_little() -> None:
    """Lists that announce far more than they hold, nested as deep as the reader goes."""
    bombs = [b"\xdd\x00\x01\xff\xff" * 500, b"\xdc\x04\x00" * 40_000, b"\xdc\x03\xff" + b"\xdc\x03\xff" * 1000]
    tracemalloc.start()
    begun = time.perf_counter()
    for bomb in bombs:
        with pytest.raises(FrameError):
            decode_frame(packed(bomb + b"\xc0" * (100_000 - min(len(bomb), 100_000))))
    seconds = time.perf_counter() - begun
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 30_000_000
    assert seconds < 2.0
