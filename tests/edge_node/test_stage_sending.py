"""How messages leave: from the interpreter's own memory by the thread that computes, or compressed beside it."""

from __future__ import annotations

import platform
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edge_node.allocator import kept_bytes
from edge_node.runtime import open_interpreter
from edge_node.stage import Stage
from slicemq import codecs
from slicemq.errors import OversizeError
from slicemq.frames import Frame, decode_frame
from slicemq.messages import Bundle, SliceAssignment
from tests.edge_node import models
from tests.edge_node.test_stage import TOPICS, Y, add_assignment, frame, topic
from tests.waiting import eventually

needs_lz4 = pytest.mark.skipif("lz4" not in codecs.available(), reason="the lz4 package is not installed")


class Wire:
    """Takes messages, with the name of the thread and the topic of each; while not `open` it holds them up."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, Frame]] = []
        self.places: list[int] = []
        self.open = threading.Event()
        self.open.set()
        self.held = threading.Event()
        self.refuses: Callable[[str], bool] = lambda topic: False

    def send(self, topic: str, parts: Sequence[bytes | memoryview]) -> bool:
        self.held.set()
        assert self.open.wait(10)
        if self.refuses(topic):
            raise OversizeError(f"topic {topic}: too large")
        self.places += [np.frombuffer(part, np.uint8).ctypes.data for part in parts[1:]]
        self.sent.append((threading.current_thread().name, topic, decode_frame(b"".join(parts))))
        return True

    @property
    def threads(self) -> set[str]:
        return {name for name, _, _ in self.sent}

    def values(self) -> list[float]:
        return [float(sent.arrays()[6][0, 0]) for _, _, sent in self.sent]


Start = Callable[..., tuple[Stage, Wire]]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[tuple[Stage, Wire]] = []

    def begin(assignment: SliceAssignment | None = None, interpreter: Any = None) -> tuple[Stage, Wire]:
        wire = Wire()
        made = interpreter or open_interpreter(models.add_model())
        stage = Stage(assignment or add_assignment(), TOPICS, made, wire.send)
        stage.start()
        started.append((stage, wire))
        return stage, wire

    yield begin
    for stage, wire in started:
        wire.open.set()
        stage.stop()


def _send(stage: Stage, number: int) -> None:
    stage.on_frame(topic(), frame(number, np.full((1, 4), number, np.float32)))


def _compressed(**changes: Any) -> SliceAssignment:
    assignment = add_assignment(**changes)
    assert assignment.result is not None
    return replace(assignment, result=replace(assignment.result, codec="lz4"))


def test_outputs_leave_from_the_interpreters_own_memory_and_no_view_is_left(start: Start) -> None:
    """Two bundles of one tensor are two views of one place; a view that lived on would fail the next `invoke`."""
    interpreter = open_interpreter(models.add_model())
    own = interpreter.output(0, copy=False).ctypes.data
    stage, wire = start(add_assignment(outputs=(Bundle("b1", (Y,)), Bundle("b2", (Y,)))), interpreter)
    for number in range(20):
        _send(stage, number)
    eventually(lambda: len(wire.sent) == 60)
    assert set(wire.places) == {own}
    assert wire.threads == {"compute"}
    assert wire.values() == [number + 1 for number in range(20) for _ in range(3)]
    assert stage.beat(True, 0).errors == 0


def test_a_view_that_a_link_keeps_is_noticed(start: Start) -> None:
    """The contract of `send`: its parts are the sender's again when it returns."""
    stage, wire = start()
    kept: list[Sequence[bytes | memoryview]] = []
    plain = wire.send

    def keep(topic: str, parts: Sequence[bytes | memoryview]) -> bool:
        kept.append(parts)
        return plain(topic, parts)

    stage._send = keep
    _send(stage, 1)
    _send(stage, 2)
    eventually(lambda: len(wire.sent) == 2)
    assert [sent.header.error for _, _, sent in wire.sent] == ["", "slice-error"]
    kept.clear()
    _send(stage, 3)
    eventually(lambda: len(wire.sent) == 3)
    assert wire.sent[2][2].header.error == ""


def test_the_memory_of_a_message_is_free_before_its_frame_is_sent(start: Start) -> None:
    stage, wire = start()
    wire.open.clear()
    lease = np.frombuffer(bytearray(frame(1)), np.uint8)[:]
    gone = weakref.ref(lease)
    stage.on_frame(topic(), lease.data)
    del lease
    assert wire.held.wait(10)
    eventually(lambda: gone() is None)
    assert wire.sent == []


def test_the_memory_of_a_message_is_free_after_a_frame_that_fails_or_is_refused(start: Start) -> None:
    stage, wire = start()
    leases = []
    for payload in (frame(1, np.zeros((1, 3), np.float32)), frame(2)[:-1], frame(3)):
        lease = np.frombuffer(bytearray(payload), np.uint8)[:]
        leases.append(weakref.ref(lease))
        stage.on_frame(topic(), lease.data)
        del lease
    eventually(lambda: len(wire.sent) == 1)
    eventually(lambda: all(lease() is None for lease in leases))


def test_while_the_link_takes_nothing_computing_waits_and_heartbeats_say_so_rule_19(start: Start) -> None:
    stage, wire = start()
    wire.open.clear()
    _send(stage, 1)
    assert wire.held.wait(10)
    for number in (2, 3, 4):
        _send(stage, number)
    beat = stage.beat(True, 0)
    assert (beat.queued, beat.frames) == (3, 0)
    assert eventually(lambda: stage.beat(True, 0).waiting > beat.waiting)
    assert stage._tally.runs == 0, "the next frame waits for the first one's place in the interpreter"
    wire.open.set()
    eventually(lambda: stage.beat(True, 0).frames == 4)
    assert wire.values() == [2, 3, 4, 5]
    beat = stage.beat(True, 0)
    assert (beat.queued, beat.waiting, beat.dropped) == (0, 0.0, 0)


def test_a_bundle_that_cannot_leave_does_not_keep_the_others(start: Start) -> None:
    stage, wire = start(add_assignment(outputs=(Bundle("b1", (Y,)), Bundle("b2", (Y,)))))
    wire.refuses = lambda where: where == topic("b1")
    _send(stage, 1)
    eventually(lambda: stage.beat(True, 0).frames == 1)
    assert [where for _, where, _ in wire.sent] == [topic("b2"), TOPICS.results("faces", "tester")]
    assert stage.beat(True, 0).dropped == 1


def test_without_a_slow_codec_there_is_no_thread_that_sends(start: Start) -> None:
    stage, _ = start()
    assert [thread.name for thread in stage._threads] == ["compute"]


@needs_lz4
def test_compression_is_done_beside_computing(start: Start) -> None:
    stage, wire = start(_compressed())
    wire.open.clear()
    _send(stage, 0)
    assert wire.held.wait(10)
    _send(stage, 1)
    # The second frame has been computed although the first still stands at the wire.
    eventually(lambda: stage._tally.runs == 2)
    assert wire.sent == []
    assert stage.beat(True, 0).waiting > 0
    wire.open.set()
    for number in range(2, 20):
        _send(stage, number)
    eventually(lambda: len(wire.sent) == 20)
    assert wire.threads == {"send"}
    # Each is a copy of its own frame's output, not of the memory that the next frame computes in.
    assert wire.values() == [number + 1 for number in range(20)]


@needs_lz4
def test_a_bundle_of_a_fast_codec_does_not_wait_for_a_slow_one(start: Start) -> None:
    stage, wire = start(_compressed(outputs=(Bundle("b1", (Y,)),)))
    for number in range(5):
        _send(stage, number)
    eventually(lambda: len(wire.sent) == 10)
    ways = {where: name for name, where, _ in wire.sent}
    assert ways == {topic("b1"): "compute", TOPICS.results("faces", "tester"): "send"}
    for way in ways:
        assert [sent.header.sequence for _, where, sent in wire.sent if where == way] == list(range(5))


@needs_lz4
def test_an_error_frame_does_not_overtake_results(start: Start) -> None:
    shape = (-1, -1)
    stage, wire = start(_compressed(inputs=(Bundle("b0", (replace(Y, index=5, name="x", shape=shape),)),)))
    wire.open.clear()
    for number, width in enumerate((4, 5, 4)):
        stage.on_frame(topic(), frame(number, np.zeros((2, width), np.float32)))
    assert wire.held.wait(10)
    wire.open.set()
    eventually(lambda: len(wire.sent) == 3)
    assert [(sent.header.sequence, sent.header.error) for _, _, sent in wire.sent] == [
        (0, ""),
        (1, "slice-error"),
        (2, ""),
    ]


def test_memory_kept_for_frames_is_bounded() -> None:
    assert kept_bytes(0) == 1 << 20
    assert kept_bytes(6_400_000) == 51_200_000
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
