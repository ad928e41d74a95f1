"""Who sends what: small messages go from the thread that computes, others beside it, and none overtakes another."""

from __future__ import annotations

import platform
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from edge_node import packing
from edge_node.allocator import kept_bytes
from edge_node.runtime import open_interpreter
from edge_node.stage import Stage
from slicemq import codecs
from slicemq.frames import Frame, decode_frame
from tests.edge_node import models
from tests.edge_node.test_stage import TOPICS, Y, add_assignment, frame, topic
from tests.waiting import eventually


class Wire:
    """Takes messages, with the name of the thread that brings each; `closed` holds them up."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Frame]] = []
        self.open = threading.Event()
        self.open.set()
        self.held = threading.Event()

    def send(self, topic: str, parts: Sequence[bytes | memoryview]) -> bool:
        self.held.set()
        assert self.open.wait(10)
        self.sent.append((threading.current_thread().name, decode_frame(b"".join(parts))))
        return True


@pytest.fixture
def wire() -> Iterator[tuple[Stage, Wire]]:
    wire = Wire()
    stage = Stage(add_assignment(), TOPICS, open_interpreter(models.add_model()), wire.send)
    stage.start()
    yield stage, wire
    wire.open.set()
    stage.stop()


def _values(wire: Wire) -> list[float]:
    return [float(sent.arrays()[6][0, 0]) for _, sent in wire.sent]


def _send(stage: Stage, number: int) -> None:
    stage.on_frame(topic(), frame(number, np.full((1, 4), number, np.float32)))


def test_a_small_message_goes_at_once(wire: tuple[Stage, Wire]) -> None:
    stage, out = wire
    _send(stage, 1)
    eventually(lambda: out.sent)
    assert [name for name, _ in out.sent] == ["compute"]


def test_while_a_large_message_is_sent_the_next_frame_is_computed(
    wire: tuple[Stage, Wire], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "_SMALL_BYTES", 0)
    stage, out = wire
    out.open.clear()
    _send(stage, 1)
    assert out.held.wait(10)
    _send(stage, 2)
    # The second frame has left the backlog and been computed although the first still stands at the wire.
    eventually(lambda: len(stage._times["invoke"]) == 2)
    assert out.sent == []
    out.open.set()
    eventually(lambda: len(out.sent) == 2)
    assert _values(out) == [2, 3]
    assert {name for name, _ in out.sent} == {"send"}


def test_a_small_message_does_not_overtake_a_large_one(
    wire: tuple[Stage, Wire], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, out = wire
    out.open.clear()
    monkeypatch.setattr(packing, "_SMALL_BYTES", 0)
    _send(stage, 1)
    assert out.held.wait(10)
    monkeypatch.setattr(packing, "_SMALL_BYTES", 1 << 20)
    for number in (2, 3):
        _send(stage, number)
    eventually(lambda: len(stage._times["invoke"]) == 3)
    out.open.set()
    eventually(lambda: len(out.sent) == 3)
    assert _values(out) == [2, 3, 4]


@pytest.mark.skipif("lz4" not in codecs.available(), reason="the lz4 package is not installed")
def test_compression_is_done_beside_computing() -> None:
    out = Wire()
    assignment = add_assignment()
    assert assignment.result is not None
    packed = replace(assignment, result=replace(assignment.result, tensors=(Y,), codec="lz4"))
    stage = Stage(packed, TOPICS, open_interpreter(models.add_model()), out.send)
    stage.start()
    try:
        for number in range(20):
            _send(stage, number)
        eventually(lambda: len(out.sent) == 20)
    finally:
        stage.stop()
    assert {name for name, _ in out.sent} == {"send"}
    assert {sent.tensors[0].codec for _, sent in out.sent} == {"lz4"}
    # Each is a copy of its own frame's output, not of the memory that the next frame computes in.
    assert _values(out) == [number + 1 for number in range(20)]


def test_memory_kept_for_frames_is_bounded() -> None:
    assert kept_bytes(0) == 1 << 20
    assert kept_bytes(6_400_000) == 25_600_000
    assert kept_bytes(1 << 30) == 64 << 20


_ALLOCATE = """
import resource, sys
from edge_node.allocator import keep_for_frames
if int(sys.argv[1]) and not keep_for_frames(9_600_000):
    sys.exit("refused")
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        frames = [bytes(3_200_000 + number) for number in range(3)]
        del frames
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_kept_memory_is_not_cleared_anew_for_each_frame() -> None:
    def faults(keep: int) -> int:
        command = [sys.executable, "-c", _ALLOCATE, str(keep)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert faults(1) * 10 < faults(0)
