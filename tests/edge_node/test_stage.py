"""A loaded slice at work, without a broker: frames in, frames out (protocol rules 2, 3, 9, 19)."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edge_node import intake
from edge_node.runtime import Interpreter, open_interpreter
from edge_node.stage import Stage
from slicemq.errors import ModelError
from slicemq.frames import Frame, FrameHeader, decode_frame, encode_frame
from slicemq.messages import Bundle, ResultPart, SliceAssignment, TensorSpec
from slicemq.topics import Topics
from tests.edge_node import models
from tests.edge_node.cluster import MODEL, REVISION, SPEC_IN, SPEC_OUT, slice_assignment
from tests.waiting import eventually

TOPICS = Topics("t")
X = TensorSpec(5, "x", "float32", (1, 4))
Y = TensorSpec(6, "y", "float32", (1, 4))
ROW = np.array([[10, 20, 30, 40]], np.float32)


class Outside:
    """What the stage sends."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Frame]] = []
        self.up = True
        self.gate = threading.Event()
        self.gate.set()

    def send(self, topic: str, parts: Sequence[bytes | memoryview]) -> bool:
        self.gate.wait(10)
        if self.up:
            self.sent.append((topic, decode_frame(b"".join(parts))))
        return self.up


def add_assignment(**changes: Any) -> SliceAssignment:
    values: dict[str, Any] = {
        "takes": (5,),
        "gives": (6,),
        "inputs": (Bundle("b0", (X,)),),
        "result": ResultPart(0, 1, (Y,)),
    }
    return slice_assignment(**(values | changes))


def frame(sequence: int, array: npt.NDArray[Any] = ROW, spec: TensorSpec = X, **header: Any) -> bytes:
    head = FrameHeader("tester", 7, sequence, 1.5, header.pop("revision", REVISION), **header)
    return b"".join(encode_frame(head, [(spec, array)]))


Run = Callable[..., tuple[Stage, Outside]]


@pytest.fixture
def run() -> Iterator[Run]:
    stages: list[Stage] = []

    def start(assignment: SliceAssignment | None = None, model: bytes | None = None) -> tuple[Stage, Outside]:
        outside = Outside()
        interpreter = open_interpreter(model or models.add_model())
        stage = Stage(assignment or add_assignment(), TOPICS, interpreter, outside.send)
        stage.start()
        stages.append(stage)
        return stage, outside

    yield start
    for stage in stages:
        stage.stop()


def topic(bundle: str = "b0", turn: int | None = None) -> str:
    return TOPICS.data("faces", REVISION, bundle, turn)


def test_a_frame_goes_through_and_its_result_names_it(run: Run) -> None:
    stage, outside = run()
    assert stage.topics == (topic(),)
    stage.on_frame(topic(), frame(3))
    eventually(lambda: outside.sent)
    where, result = outside.sent[0]
    assert where == TOPICS.results("faces", "tester")
    assert result.header == FrameHeader("tester", 7, 3, 1.5, REVISION, 0, 1)
    assert result.arrays()[6].tolist() == [[11, 22, 33, 44]]
    eventually(lambda: stage.beat(True, 77).frames == 1)
    beat = stage.beat(True, 77)
    assert (beat.link, beat.memory, beat.waiting, beat.queued, beat.dropped) == ("up", 77, 0.0, 0, 0)
    assert beat.invoke_ms > 0
    assert beat.decode_ms > 0
    assert stage.beat(False, 0).link == "down"


def test_outputs_and_result_part_of_one_frame(run: Run) -> None:
    assignment = add_assignment(
        outputs=(Bundle("b1", (Y,)), Bundle("b2", (Y,), "f16")), result=ResultPart(1, 3, (Y,))
    )
    stage, outside = run(assignment)
    stage.on_frame(topic(), frame(1))
    eventually(lambda: len(outside.sent) == 3)
    assert [where for where, _ in outside.sent] == [topic("b1"), topic("b2"), TOPICS.results("faces", "tester")]
    assert [sent.tensors[0].codec for _, sent in outside.sent] == ["raw", "f16", "raw"]
    assert [(sent.header.part, sent.header.parts) for _, sent in outside.sent] == [(0, 1), (0, 1), (1, 3)]


def test_a_slice_hears_its_turns_and_sends_on_in_the_frames_turn(run: Run) -> None:
    stage, outside = run(add_assignment(outputs=(Bundle("b1", (Y,)),), turns=(0, 2), of=3))
    assert stage.topics == (topic("b0", 0), topic("b0", 2))
    for number in (3, 5, 6):
        stage.on_frame(topic("b0", number % 3), frame(number))
    eventually(lambda: len(outside.sent) == 6)
    between = [(where, sent.header.sequence) for where, sent in outside.sent[::2]]
    assert between == [(topic("b1", 0), 3), (topic("b1", 2), 5), (topic("b1", 0), 6)]


@pytest.mark.parametrize(("number", "turn"), [(4, 1), (3, None), (4, 0), (3, 2), (2, 0)])
def test_a_frame_of_another_turn_is_not_computed(run: Run, number: int, turn: int | None) -> None:
    """Turn 1 is another node's; a frame on the topic of a turn that is not its own is counted as bad."""
    stage, outside = run(add_assignment(turns=(0, 2), of=3))
    stage.on_frame(topic("b0", turn), frame(number))
    stage.on_frame(topic("b0", 0), frame(9))
    eventually(lambda: outside.sent)
    assert [sent.header.sequence for _, sent in outside.sent] == [9]
    assert stage.beat(True, 0).dropped == (1 if turn in (0, 2) else 0)


def test_the_bundles_of_a_frame_are_joined_in_its_turn(run: Run) -> None:
    inputs = (Bundle("b0", (X,)), Bundle("b1", (replace(X, index=8),)))
    stage, outside = run(add_assignment(takes=(5, 8), inputs=inputs, turns=(0, 1), of=2), models.add_two_model())
    assert stage.topics == tuple(topic(bundle, turn) for bundle in ("b0", "b1") for turn in (0, 1))
    for number in (0, 1):
        stage.on_frame(topic("b0", number), frame(number))
    for number in (1, 0):
        stage.on_frame(topic("b1", number), frame(number, ROW, replace(X, index=8)))
    eventually(lambda: len(outside.sent) == 2)
    assert [sent.header.sequence for _, sent in outside.sent] == [1, 0]


def test_results_come_in_the_order_of_the_frames_and_are_those_of_each_frame(run: Run) -> None:
    stage, outside = run()
    for number in range(200):
        stage.on_frame(topic(), frame(number, np.full((1, 4), number, np.float32)))
    eventually(lambda: len(outside.sent) == 200)
    for number, (_, sent) in enumerate(outside.sent):
        assert sent.header.sequence == number
        assert sent.arrays()[6][0, 0] == number + 1


def test_two_bundles_are_joined_by_client_stream_and_sequence_rule_2(run: Run) -> None:
    stage, outside = run(
        add_assignment(takes=(5, 8), inputs=(Bundle("b0", (X,)), Bundle("b1", (replace(X, index=8),)))),
        models.add_two_model(),
    )
    other = replace(X, index=8)
    stage.on_frame(topic("b1"), frame(2, ROW * 2, other))
    stage.on_frame(topic("b0"), frame(1, ROW))
    stage.on_frame(topic("b0"), frame(2, ROW))
    eventually(lambda: outside.sent)
    assert outside.sent[0][1].header.sequence == 2
    assert outside.sent[0][1].arrays()[6].tolist() == [[30, 60, 90, 120]]
    stage.on_frame(topic("b1"), frame(1, ROW * 3, other))
    eventually(lambda: len(outside.sent) == 2)
    assert outside.sent[1][1].arrays()[6].tolist() == [[40, 80, 120, 160]]


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"no frame at all", "a frame has at least|magic"),
        (frame(1)[:-1], "announced|bytes"),
        (frame(1, revision="2-0123abcd"), "from client tester: field rev: 2-0123abcd, expected 1-0123abcd"),
        (frame(1, error="slice-error"), "from client tester: field error: 'slice-error' on a data topic"),
        (frame(1, spec=Y), r"from client tester: bundle b0: tensors \[6\], expected \[5\]"),
        (frame(1, ROW.astype(np.float64)), r"tensor 5 \(x\): float64 \[1, 4\], expected float32 \[1, 4\]"),
        (frame(1, ROW[:, :3]), r"tensor 5 \(x\): float32 \[1, 3\], expected float32 \[1, 4\]"),
    ],
)
def test_bad_frames_are_counted_dropped_and_their_sender_named(
    run: Run, payload: bytes, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    stage, outside = run()
    with caplog.at_level(logging.WARNING):
        for _ in range(50):
            stage.on_frame(topic(), payload)
        stage.on_frame(topic(), frame(9))
    eventually(lambda: outside.sent)
    assert [sent.header.sequence for _, sent in outside.sent] == [9]
    assert stage.beat(True, 0).dropped == 50
    assert len(caplog.records) == 1, "the log is limited"
    assert re.search(message, caplog.records[0].getMessage())


def test_frames_on_topics_of_others_are_ignored(run: Run) -> None:
    stage, _ = run()
    stage.on_frame(topic("b7"), frame(1))
    assert stage.beat(True, 0).dropped == 0


def test_a_frame_on_which_the_slice_fails_ends_with_an_error_for_its_client(run: Run) -> None:
    index = TensorSpec(5, "i", "int32", (1,))
    value = TensorSpec(6, "v", "float32", (1,))
    stage, outside = run(
        add_assignment(inputs=(Bundle("b0", (index,)),), result=ResultPart(1, 2, (value,))), models.gather_model()
    )
    stage.on_frame(topic(), frame(1, np.array([9], np.int32), index))
    stage.on_frame(topic(), frame(2, np.array([2], np.int32), index))
    eventually(lambda: len(outside.sent) == 2)
    failed, good = (sent for _, sent in outside.sent)
    assert (failed.header.error, failed.header.sequence, failed.header.part) == ("slice-error", 1, 1)
    assert "slice s0:" in failed.header.message
    assert failed.tensors == ()
    assert good.arrays()[6].tolist() == [3]
    eventually(lambda: stage.beat(True, 0).frames == 1)
    assert stage.beat(True, 0).errors == 1


def test_overload_drops_the_oldest_and_counts_it_rule_9(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "_COUNT", 5)
    stage, outside = run()
    outside.gate.clear()
    for number in range(30):
        stage.on_frame(topic(), frame(number))
    beat = stage.beat(True, 0)
    assert beat.queued == 5
    assert eventually(lambda: stage.beat(True, 0).waiting > 0)
    outside.gate.set()
    eventually(lambda: stage.beat(True, 0).frames + stage.beat(True, 0).dropped == 30)
    sequences = [sent.header.sequence for _, sent in outside.sent]
    assert sequences == sorted(sequences)
    assert sequences[-5:] == [25, 26, 27, 28, 29]
    assert stage.beat(True, 0).dropped == 30 - len(sequences) >= 20


def test_frames_that_the_link_does_not_take_are_counted(run: Run) -> None:
    stage, outside = run()
    outside.up = False
    stage.on_frame(topic(), frame(1))
    eventually(lambda: stage.beat(True, 0).dropped == 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"takes": (5, 8)}, "inputs: 2 tensors, the slice has 1"),
        ({"takes": (8,)}, "inputs: tensor 8 comes in no bundle"),
        ({"gives": (6, 7)}, "outputs: 2 tensors, the slice has 1"),
        (
            {"inputs": (Bundle("b0", (replace(X, dtype="int8"),)),)},
            r"tensor 5 \(x\) is int8 \[1, 4\], the slice has",
        ),
        (
            {"inputs": (Bundle("b0", (replace(X, shape=(1, 5)),)),)},
            r"shapes \[\(1, 5\)\]",
        ),
        ({"inputs": (Bundle("b0", (X,)), Bundle("b1", (X,)))}, "comes in two input bundles"),
        ({"outputs": (Bundle("b1", (X,)),)}, r"does not make tensors \[5\]"),
        ({"inputs": (Bundle("b0", (X,), "zip9"),)}, "codec 'zip9': this node has raw"),
    ],
)
def test_an_assignment_that_does_not_fit_the_slice_is_refused(changes: dict[str, Any], message: str) -> None:
    interpreter: Interpreter = open_interpreter(models.add_model())
    with pytest.raises(ModelError, match=message):
        Stage(add_assignment(**changes), TOPICS, interpreter, lambda *_: True)


def test_where_the_specification_leaves_a_size_open_each_frame_may_have_its_own(run: Run) -> None:
    stage, outside = run(add_assignment(inputs=(Bundle("b0", (replace(X, shape=(-1, -1)),)),)))
    shapes = [(1, 4), (3, 4), (2, 5), (2, 4), (1, 4)]
    for number, shape in enumerate(shapes):
        stage.on_frame(topic(), frame(number, np.zeros(shape, np.float32)))
    eventually(lambda: len(outside.sent) == len(shapes))
    made = [sent.arrays().get(6) for _, sent in outside.sent]
    assert [array.tolist() if array is not None else None for array in made] == [
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4]] * 3,
        None,
        [[1, 2, 3, 4]] * 2,
        [[1, 2, 3, 4]],
    ]
    assert outside.sent[2][1].header.error == "slice-error"


def test_a_shape_that_only_the_assignment_knows_is_set_at_load(run: Run) -> None:
    stage, outside = run(add_assignment(inputs=(Bundle("b0", (replace(X, shape=(5, 1, 4)),)),)))
    stage.on_frame(topic(), frame(1, np.zeros((5, 1, 4), np.float32)))
    eventually(lambda: outside.sent)
    assert outside.sent[0][1].arrays()[6].shape == (5, 1, 4)


def test_the_shipped_conv_model_runs_as_a_slice(run: Run) -> None:
    stage, outside = run(slice_assignment(), MODEL)
    stage.on_frame(topic(), frame(1, np.zeros(SPEC_IN.shape, np.float32), SPEC_IN))
    eventually(lambda: outside.sent)
    assert outside.sent[0][1].arrays()[SPEC_OUT.index].shape == SPEC_OUT.shape
