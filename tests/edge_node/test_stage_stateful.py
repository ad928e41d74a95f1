"""A slice that keeps state, at work without a broker (protocol rules 6 and 11)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edge_node.runtime import Interpreter, open_interpreter
from edge_node.stage import Stage
from slicemq import codecs
from slicemq.errors import ModelError
from slicemq.frames import Frame, FrameHeader, encode_frame
from slicemq.messages import Bundle, ResultPart
from tests.edge_node import models
from tests.edge_node.cluster import REVISION
from tests.edge_node.test_stage import TOPICS, Outside, X, Y, add_assignment, frame, topic
from tests.waiting import eventually

ONE = np.ones((1, 4), np.float32)
ASSIGNMENT = add_assignment(stateful=True, leases=True)


class Slice:
    """A stage that adds up what it gets, beginning at 100; `say` gives what it answers."""

    def __init__(
        self, assignment: Any = ASSIGNMENT, model: bytes | None = None, lease_seconds: float = 1000.0
    ) -> None:
        self.outside = Outside()
        self.interpreter = open_interpreter(model or models.accumulator_model())
        self.stage = Stage(assignment, TOPICS, self.interpreter, self.outside.send, lease_seconds)
        self.interpreter.warm_up()
        self.stage.start()

    def say(self, sequence: int, *, array: Any = ONE, spec: Any = X, answered: bool = True, **head: Any) -> Any:
        """The value of the answer, or its error; None when there shall be no answer."""
        before = len(self.outside.sent)
        ended = self.ended()
        header = FrameHeader(head.pop("client", "tester"), head.pop("stream", 7), sequence, 1.5, REVISION, **head)
        self.stage.on_frame(topic(), b"".join(encode_frame(header, [(spec, array)])))
        eventually(lambda: self.ended() > ended)
        assert len(self.outside.sent) == before + answered
        return self.value(self.outside.sent[-1][1]) if answered else None

    def release(self, sequence: int = 99, client: str = "tester") -> None:
        ended = self.ended()
        header = FrameHeader(client, 7, sequence, 1.5, REVISION)
        self.stage.on_frame(TOPICS.release("faces", REVISION), b"".join(encode_frame(header, [])))
        eventually(lambda: self.ended() > ended)

    def ended(self) -> int:
        beat = self.stage.beat(True, 0)
        return beat.frames + beat.errors

    def value(self, answer: Frame) -> Any:
        if answer.header.error:
            return answer.header.error
        return float(answer.arrays()[6].reshape(-1)[0])


@pytest.fixture
def opened() -> Iterator[list[Slice]]:
    slices: list[Slice] = []
    yield slices
    for one in slices:
        one.stage.stop()


@pytest.fixture
def held(opened: list[Slice]) -> Slice:
    opened.append(Slice())
    return opened[0]


def test_the_first_frame_meets_the_initial_state_whatever_ran_before(held: Slice) -> None:
    assert [held.say(n) for n in range(3)] == [101, 102, 103]
    assert held.say(3, first=3) == 101
    assert [held.say(n, stream=8) for n in range(2)] == [101, 102]


def test_a_repeat_is_answered_without_running_again(held: Slice) -> None:
    assert [held.say(n) for n in (0, 1, 1, 1, 2)] == [101, 102, 102, 102, 103]
    assert held.say(1, answered=False) is None
    assert held.say(2) == 103
    assert held.stage._tally.runs == 3


def test_what_cannot_be_right_is_refused_by_name(held: Slice) -> None:
    assert held.say(4) == "stream-reset"
    assert held.say(0) == 101
    assert held.say(2) == "stream-reset"
    assert held.say(0, client="other") == "stream-busy"
    message = held.outside.sent[-1][1].header.message
    assert "slice s0: client tester has the stream" in message
    assert held.outside.sent[-1][0] == TOPICS.results("faces", "other")
    assert held.say(1) == 102
    assert held.stage.beat(True, 0).errors == 3


def test_the_stream_is_free_when_it_is_given_back(held: Slice) -> None:
    assert held.stage.topics == (topic(), TOPICS.release("faces", REVISION))
    assert held.say(0) == 101
    held.release(client="other")
    assert held.say(0, client="other") == "stream-busy"
    held.release()
    assert held.say(0, client="other") == 101
    assert held.say(1) == "stream-busy"


def test_the_stream_is_free_when_its_client_is_silent(opened: list[Slice]) -> None:
    opened.append(Slice(lease_seconds=0.0))
    assert opened[0].say(0) == 101
    assert opened[0].say(0, client="other") == 101


def test_rule_11_probes_do_not_disturb_the_state(held: Slice) -> None:
    assert held.say(5, client="coordinator", probe=True) == 101
    assert held.say(6, client="coordinator", probe=True) == 101
    assert held.say(0) == 101
    assert held.say(7, client="coordinator", probe=True, answered=False) is None
    assert held.say(1) == 102
    held.release()
    assert held.say(8, client="coordinator", probe=True) == 101


def test_after_a_probe_the_model_is_ready_before_the_first_frame_comes(
    held: Slice, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[float] = []
    reset = Interpreter.reset

    def counted(interpreter: Interpreter) -> None:
        loaded.append(time.monotonic())
        reset(interpreter)

    monkeypatch.setattr(Interpreter, "reset", counted)
    held.say(5, client="coordinator", probe=True)
    eventually(lambda: len(loaded) == 2)
    assert held.say(0) == 101
    assert len(loaded) == 2


def test_a_slice_that_follows_subscribes_to_no_release(opened: list[Slice]) -> None:
    opened.append(Slice(replace(ASSIGNMENT, leases=False)))
    held = opened[0]
    assert held.stage.topics == (topic(),)
    held.stage.on_frame(TOPICS.release("faces", REVISION), frame(0))
    assert held.say(0) == 101
    assert held.say(0, client="other") == 101
    assert held.say(1) == "stream-reset"


def test_variable_tensors_are_reset_too(opened: list[Slice]) -> None:
    result = ResultPart(0, 1, (replace(Y, shape=(1, 2)),))
    opened.append(Slice(replace(ASSIGNMENT, result=result), models.svdf_model()))
    held = opened[0]
    assert [held.say(n) for n in range(3)] == [600, 660, 666]
    assert held.say(3, first=3) == 600


def test_after_a_frame_that_failed_the_state_is_not_used_again(opened: list[Slice]) -> None:
    open_x, open_y = replace(X, shape=(-1, 4)), replace(Y, shape=(-1, 4))
    inputs, result = (Bundle("b0", (open_x,)),), ResultPart(0, 1, (open_y,))
    opened.append(Slice(replace(ASSIGNMENT, inputs=inputs, result=result)))
    held = opened[0]
    assert [held.say(n) for n in range(2)] == [101, 102]
    # To allocate for another shape would set variables to zero within a stream.
    assert held.say(2, array=np.ones((2, 4), np.float32)) == "slice-error"
    assert held.say(2) == "stream-reset"
    assert held.say(3, first=3) == 101
    assert held.say(4, first=3) == 102
    assert held.say(0, stream=8, array=np.ones((2, 4), np.float32)) == 101
    assert held.say(0, stream=9) == 101


def test_a_model_that_cannot_be_loaded_again_ends_the_frame_and_no_more(
    held: Slice, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert held.say(0) == 101
    with monkeypatch.context() as broken:

        def start() -> Any:
            raise ModelError("out of memory")

        broken.setattr(held.interpreter, "_start", start)
        assert held.say(1, first=1) == "slice-error"
        assert held.say(2, first=1) == "stream-reset"
    assert held.say(1, first=1) == 101


@pytest.mark.skipif("lz4" not in codecs.available(), reason="the lz4 package is not installed")
def test_a_repeat_is_compressed_again(opened: list[Slice]) -> None:
    assert ASSIGNMENT.result is not None
    opened.append(Slice(replace(ASSIGNMENT, result=replace(ASSIGNMENT.result, codec="lz4"))))
    assert [opened[0].say(n) for n in (0, 1, 1, 2)] == [101, 102, 102, 103]


def test_a_frame_that_was_not_sent_is_sent_when_it_comes_again(held: Slice) -> None:
    held.outside.up = False
    held.stage.on_frame(topic(), frame(0, ONE))
    eventually(lambda: held.ended() == 1)
    held.outside.up = True
    assert [held.say(n) for n in (0, 1)] == [101, 102]
    assert held.stage.beat(True, 0).dropped == 1
