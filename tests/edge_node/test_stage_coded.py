"""Packed tensors: unpacked to the interpreter's own memory, packed from it to buffers that are used again."""

from __future__ import annotations

import logging
import re
import struct
import threading
import weakref
from dataclasses import replace
from functools import partial
from typing import Any

import msgpack
import numpy as np
import pytest

from edge_node.filling import Filler
from edge_node.intake import Intake, Work
from edge_node.runtime import open_interpreter
from edge_node.stage import Stage
from edge_node.tally import Tally
from slicemq import codecs
from slicemq.errors import InputError
from slicemq.frames import FrameHeader, WireTensor, encode_frame
from slicemq.messages import Bundle, ResultPart, SliceAssignment, TensorSpec
from tests.edge_node import models
from tests.edge_node.cluster import REVISION
from tests.edge_node.test_stage import ROW, TOPICS, Outside, Run, X, Y, add_assignment, topic
from tests.edge_node.test_stage import run as run
from tests.edge_node.test_stage_sending import Start, Wire
from tests.edge_node.test_stage_sending import start as start
from tests.waiting import eventually

QUICK = ("f16", "int16", "int8c", "int8")
SLOW = tuple(name for name in codecs.available() if codecs.is_slow(name))
# Elements: large enough for lent buffers with each codec.
WIDE = 100_000
ADDED = np.array([1, 2, 3, 4], np.float32)


def coded(number: int, codec: str, array: Any = ROW, spec: TensorSpec = X, **header: Any) -> bytes:
    head = FrameHeader("tester", 7, number, 1.5, REVISION, **header)
    return b"".join(encode_frame(head, [(spec, array)], codec))


def takes(codec: str, **changes: Any) -> SliceAssignment:
    return add_assignment(**({"inputs": (Bundle("b0", (X,), codec),)} | changes))


def hostile(number: int, **header: Any) -> bytes:
    """An int8 tensor of the right length whose scale is no number."""
    payload = coded(number, "int8", **header)
    return payload[: -ROW.size - codecs.AFFINE_BYTES] + struct.pack("<f", np.nan) + payload[-ROW.size - 4 :]


def wide_assignment(codec: str) -> SliceAssignment:
    x, y = (replace(spec, shape=(1, -1)) for spec in (X, Y))
    return add_assignment(inputs=(Bundle("b0", (x,), codec),), result=ResultPart(0, 1, (y,), codec))


def waiting(assignment: SliceAssignment, *payloads: bytes) -> tuple[list[Work], Tally]:
    """What a slice gets to compute of these frames."""
    found: list[Work] = []
    tally = Tally()
    intake = Intake(assignment, TOPICS, tally, run_here=found.append, is_quick=lambda: True)
    for payload in payloads:
        intake.on_frame(topic(), payload)
        if intake._working:
            intake.done()
    return found, tally


def test_quick_codecs_wait_packed_and_slow_ones_unpacked() -> None:
    array = np.zeros((1, 4096), np.float32)
    spec = replace(X, shape=array.shape)
    for codec in ("raw", *QUICK, *SLOW):
        payload = coded(1, codec, array, spec)
        for stateful in (False, True):
            assignment = takes(codec, inputs=(Bundle("b0", (spec,), codec),), stateful=stateful)
            (work,), _ = waiting(assignment, payload)
            assert work.tensors is not None
            is_packed = isinstance(work.tensors[X.index], WireTensor)
            assert is_packed == (codec in QUICK and not stateful), (codec, stateful)


@pytest.mark.parametrize("codec", QUICK)
def test_a_length_that_is_wrong_is_seen_before_a_frame_waits(codec: str) -> None:
    """As are a codec that does not carry the dtype, and a shape that is another one."""
    ints = replace(X, dtype="int32")
    lies = [_with_row(codec, nbytes=7), _with_row(codec, dtype="int32"), _with_row(codec, shape=(1, 5))]
    found, tally = waiting(takes(codec), *lies)
    assert (found, tally.refused) == ([], 3)
    found, tally = waiting(takes(codec, inputs=(Bundle("b0", (ints,)),)), lies[1])
    assert (found, tally.refused) == ([], 1)


def _with_row(codec: str, dtype: str = "float32", shape: tuple[int, ...] = (1, 4), nbytes: int = 0) -> bytes:
    """A frame with one float32 tensor [1, 4] whose row in the header says something else."""
    name, data = codecs.encode(codec, ROW)
    size = nbytes or len(data)
    header = {"client": "tester", "stream": 7, "seq": 1, "sent": 1.5, "rev": REVISION, "part": 0, "parts": 1}
    packed = msgpack.packb(header | {"tensors": [[5, "x", dtype, shape, name, size]]})
    prefix = struct.pack(">4sB3sI", b"SMQF", 1, b"\0\0\0", len(packed)) + packed
    return bytes(prefix + b"\0" * (-len(prefix) % 16) + bytes(data)[:size].ljust(size, b"\0"))


@pytest.mark.parametrize("codec", QUICK)
def test_quick_codecs_are_unpacked_to_the_interpreters_own_memory(
    start: Start, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    interpreter = open_interpreter(models.add_model())
    view = interpreter.input_view(0)
    assert view is not None
    own = view.ctypes.data
    del view
    places: list[tuple[int, str]] = []
    plain = codecs.decode_into

    def watched(name: str, data: memoryview, out: np.ndarray[Any, Any]) -> None:
        places.append((out.ctypes.data, threading.current_thread().name))
        plain(name, data, out)

    monkeypatch.setattr(codecs, "decode_into", watched)
    stage, wire = start(takes(codec), interpreter)
    for number in range(10):
        stage.on_frame(topic(), coded(number, codec, number * ROW))
    eventually(lambda: len(wire.sent) == 10)
    assert places == [(own, "compute")] * 10
    for number, (_, _, sent) in enumerate(wire.sent):
        used, data = codecs.encode(codec, number * ROW)
        came = codecs.decode(used, data, np.dtype(np.float32), ROW.shape)
        np.testing.assert_array_equal(sent.arrays()[6], came + ADDED)
    assert stage.beat(True, 0).errors == 0


def test_wrong_values_are_found_while_unpacking_and_the_frame_is_dropped(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "slicemq.node.slice")
    stage, wire = start(takes("int8"))
    leases = []
    for number in range(20):
        lease = np.frombuffer(bytearray(hostile(number)), np.uint8)[:]
        leases.append(weakref.ref(lease))
        stage.on_frame(topic(), lease.data)
        del lease
        stage.on_frame(topic(), coded(100 + number, "int8"))
    eventually(lambda: len(wire.sent) == 20)
    eventually(lambda: stage.beat(True, 0).frames == 20)
    # No view of the interpreter's memory was left behind, which would have failed the frames after.
    assert [(sent.header.sequence, sent.header.error) for _, _, sent in wire.sent] == [
        (100 + number, "") for number in range(20)
    ]
    beat = stage.beat(True, 0)
    assert (beat.dropped, beat.errors, beat.queued, beat.waiting) == (20, 0, 0, 0.0)
    assert all(lease() is None for lease in leases)
    assert len(caplog.records) == 1, "the log is limited"
    said = caplog.records[0].getMessage()
    assert re.search(r"frame 0 dropped: from client tester: tensor 5 \(x\): codec int8: scale nan, expected", said)


def test_wrong_values_do_not_meet_a_state(start: Start) -> None:
    stage, wire = start(takes("int8", stateful=True, leases=True), open_interpreter(models.accumulator_model()))
    for payload in (coded(0, "int8"), hostile(1), coded(1, "int8"), coded(2, "int8")):
        stage.on_frame(topic(), payload)
    eventually(lambda: len(wire.sent) == 3)
    assert [sent.header.error for _, _, sent in wire.sent] == [""] * 3
    assert stage.beat(True, 0).dropped == 1
    # Each adds the same to what was there.
    steps = np.diff(wire.values())
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)


def test_frames_of_other_shapes_are_unpacked_where_they_fit(run: Run) -> None:
    for codec in QUICK:
        stage, outside = run(wide_assignment(codec), models.open_add_model())
        lengths = [3, 300, 1, WIDE, 3]
        arrays = [np.linspace(-1, 1, length, dtype=np.float32).reshape(1, -1) for length in lengths]
        for number, array in enumerate(arrays):
            stage.on_frame(topic(), coded(number, codec, array, replace(X, shape=array.shape)))
        eventually(partial(_has_sent, outside, 5))
        for array, (_, sent) in zip(arrays, outside.sent, strict=True):
            assert sent.tensors[0].codec == ("int8" if codec == "int8c" else codec)
            np.testing.assert_allclose(sent.arrays()[6], 2 * array, atol=0.05)


def _has_sent(outside: Outside, count: int) -> bool:
    return len(outside.sent) == count


def test_a_frame_of_no_elements_goes_through_with_any_codec(run: Run) -> None:
    stage, outside = run(wide_assignment("f16"), models.open_add_model())
    empty = np.zeros((1, 0), np.float32)
    for number, codec in enumerate((*QUICK, "raw")):
        stage.on_frame(topic(), coded(number, codec, empty, replace(X, shape=(1, 0))))
    eventually(lambda: len(outside.sent) == 5)
    assert [sent.tensors[0].shape for _, sent in outside.sent] == [(1, 0)] * 5


def test_bundles_of_several_codecs_join(run: Run) -> None:
    other = TensorSpec(7, "z", "float32", (1, 4))
    stage, outside = run(
        add_assignment(takes=(5, 7), inputs=(Bundle("b0", (X,), "int8"), Bundle("b1", (other,), "f16"))),
        models.add_two_model(),
    )
    for number in range(5):
        for bundle, codec, spec in (("b1", "f16", other), ("b0", "int8", X)):
            stage.on_frame(topic(bundle), coded(number, codec, np.full((1, 4), number, np.float32), spec))
        stage.on_frame(topic(), coded(50 + number, "int8"))
    eventually(lambda: len(outside.sent) == 5)
    np.testing.assert_allclose([sent.arrays()[6][0, 0] for _, sent in outside.sent], np.arange(5) * 2, atol=0.05)


def test_a_tensor_that_does_not_fit_the_interpreter_is_refused_by_name() -> None:
    filler = Filler(add_assignment(), open_interpreter(models.add_model()))
    used, data = codecs.encode("f16", np.zeros((1, 5), np.float32))
    tensor = WireTensor(5, "x", "float32", (1, 5), used, data)
    with pytest.raises(InputError, match=r"expected float32 \[1, 4\], got float32 \[1, 5\]"):
        filler.fill(Work(FrameHeader("tester", 7, 1, 1.5, REVISION), {5: tensor}), renewed=False)
    with pytest.raises(ValueError, match=r"out: expected float32 \[1, 5\], got float32 \[1, 4\]"):
        tensor.decode_into(np.zeros((1, 4), np.float32))


@pytest.fixture(params=QUICK)
def wide(request: pytest.FixtureRequest, start: Start) -> tuple[Stage, Wire, str]:
    stage, wire = start(wide_assignment(request.param), open_interpreter(models.open_add_model()))
    return stage, wire, request.param


def test_outputs_are_packed_to_one_buffer_again_and_again(wide: tuple[Stage, Wire, str]) -> None:
    stage, wire, codec = wide
    array = np.random.default_rng(1).standard_normal((1, WIDE), np.float32)
    for number in range(10):
        stage.on_frame(topic(), coded(number, codec, array, replace(X, shape=array.shape)))
    eventually(lambda: stage.beat(True, 0).frames == 10)
    assert wire.threads == {"compute"}
    assert len(set(wire.places)) == 1
    assert stage._packer._pool.free[0] == 1
    came = codecs.decode(*codecs.encode(codec, array), np.dtype(np.float32), array.shape)
    used, data = codecs.encode(codec, came + came)
    assert [bytes(sent.tensors[0].data) for _, _, sent in wire.sent] == [bytes(data)] * 10
    assert {sent.tensors[0].codec for _, _, sent in wire.sent} == {used}
