"""Quick slices run on the thread that brings their frames, and only there where nothing can be lost by it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from edge_node import intake as intake_module
from edge_node import stage as stage_module
from edge_node.intake import Intake, Work
from edge_node.runtime import open_interpreter
from edge_node.stage import Stage
from edge_node.tally import Tally
from slicemq import codecs
from slicemq.messages import SliceAssignment
from tests.edge_node import models
from tests.edge_node.test_stage import TOPICS, add_assignment, frame, topic
from tests.edge_node.test_stage_sending import Wire
from tests.waiting import eventually

Start = Callable[..., tuple[Stage, Wire]]
HERE = threading.current_thread().name


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    # However slow the machine: what is tested is who runs a frame, not how long that takes.
    monkeypatch.setattr(stage_module, "_QUICK", 60.0)
    started: list[tuple[Stage, Wire]] = []

    def begin(
        assignment: SliceAssignment | None = None, pending: Callable[[], int] = lambda: 0
    ) -> tuple[Stage, Wire]:
        wire = Wire()
        interpreter = open_interpreter(models.add_model())
        stage = Stage(assignment or add_assignment(), TOPICS, interpreter, wire.send, pending=pending)
        stage.start()
        started.append((stage, wire))
        return stage, wire

    yield begin
    for stage, wire in started:
        wire.open.set()
        stage.stop()


def _send(stage: Stage, wire: Wire, number: int) -> str:
    """The name of the thread that sent the frame's result."""
    stage.on_frame(topic(), frame(number, np.full((1, 4), number, np.float32)))
    eventually(lambda: stage.beat(True, 0).frames == len(wire.sent) == number + 1)
    assert wire.values()[number] == number + 1
    return wire.sent[number][0]


def test_a_quick_slice_runs_where_its_frames_come_in(start: Start) -> None:
    stage, wire = start()
    # Of the first frame nobody knows yet how long it takes.
    assert [_send(stage, wire, number) for number in range(4)] == ["compute", HERE, HERE, HERE]
    assert stage.beat(True, 0).waiting == 0.0


def test_a_slice_that_is_not_quick_does_not(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_module, "_QUICK", 0.0)
    stage, wire = start()
    assert [_send(stage, wire, number) for number in range(3)] == ["compute"] * 3


def test_while_the_link_is_not_free_the_other_thread_runs_frames(start: Start) -> None:
    """On the link's own thread a send cannot wait: what the link has no room for would be lost."""
    waiting = [0]
    stage, wire = start(pending=lambda: waiting[0])
    names = []
    for number, pending in enumerate((0, 0, 7, 7, 0)):
        waiting[0] = pending
        names.append(_send(stage, wire, number))
    assert names == ["compute", HERE, "compute", "compute", HERE]


def test_large_frames_are_read_beside_computing(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "_SMALL_BYTES", 0)
    stage, wire = start()
    assert [_send(stage, wire, number) for number in range(3)] == ["compute"] * 3


@pytest.mark.skipif("lz4" not in codecs.available(), reason="the lz4 package is not installed")
def test_a_slow_codec_never_holds_the_link_up(start: Start) -> None:
    assignment = add_assignment()
    assert assignment.result is not None
    stage, wire = start(replace(assignment, result=replace(assignment.result, codec="lz4")))
    assert [_send(stage, wire, number) for number in range(3)] == ["send"] * 3
    assert stage._intake._is_quick() is False


def test_a_frame_that_runs_here_is_told_in_heartbeats_and_the_next_one_waits_for_it(start: Start) -> None:
    stage, wire = start()
    _send(stage, wire, 0)
    wire.held.clear()
    wire.open.clear()
    bringer = threading.Thread(target=lambda: stage.on_frame(topic(), frame(1)), name="link")
    bringer.start()
    assert wire.held.wait(10)
    # From another link of the same slice: it must not meet the interpreter now.
    stage.on_frame(topic(), frame(2))
    beat = stage.beat(True, 0)
    assert (beat.frames, beat.queued) == (1, 1)
    assert eventually(lambda: stage.beat(True, 0).waiting > 0)
    wire.open.set()
    bringer.join(10)
    eventually(lambda: len(wire.sent) == 3)
    assert [(name, sent.header.sequence) for name, _, sent in wire.sent[1:]] == [("link", 1), ("compute", 2)]
    assert stage.beat(True, 0).errors == 0


def test_what_nobody_foresaw_ends_the_thread_that_computes(start: Start) -> None:
    """A link would log the error and go on; the end of that thread ends the process (worker.py)."""

    def fail(work: Work) -> None:
        raise RuntimeError("unforeseen")

    intake = Intake(add_assignment(), TOPICS, Tally(), run_here=fail, is_quick=lambda: True)
    intake.on_frame(topic(), frame(1))
    with pytest.raises(RuntimeError, match="unforeseen"):
        intake.next()


def test_a_frame_behind_one_that_waits_waits_too(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Work] = []
    intake = Intake(add_assignment(), TOPICS, Tally(), run_here=ran.append, is_quick=lambda: True)
    size = len(frame(1))
    for number, most in enumerate((size - 1, size)):
        monkeypatch.setattr(intake_module, "_SMALL_BYTES", most)
        intake.on_frame(topic(), frame(number))
    assert (ran, intake.waiting(0.0)[0]) == ([], 2)
