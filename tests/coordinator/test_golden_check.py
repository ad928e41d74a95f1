"""What probe frames (rule 11) are compared with: an answer of the whole model, or an operator's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from converters.golden import Golden, pack
from converters.graph import Graph, read_graph
from converters.runtime import Array, Interpreter
from coordinator.artifacts import ArtifactStore
from coordinator.golden_check import (
    OTHER_ROUNDED,
    OTHER_RUNTIME,
    ROUNDED,
    SAME_RUNTIME,
    given_golden,
    own_golden,
    read_golden,
    tolerance_of,
)
from edge_node.runtime import open_interpreter
from slicemq.errors import InputError, StoreError
from slicemq.messages import Artifact, RuntimeInfo
from tests.converters import flows
from tests.converters.tiny import Tiny, chain, diamond
from tests.coordinator.site import capacity

RUNTIME = "ai_edge_litert 2"
FRAME = np.array([[1.0, -2.0, 3.0, -4.0]], np.float32)


@dataclass
class Desk:
    """A model in a store."""

    folder: Path
    data: bytes
    loads: int = 0

    def __post_init__(self) -> None:
        self.store = ArtifactStore(self.folder / "artifacts")
        self.path = self.store.path(self.store.put(self.data).sha256)
        self.graph: Graph = read_graph(self.data)

    def load(self, model: bytes | Path) -> Interpreter:
        self.loads += 1
        return open_interpreter(model)

    def own(self, *calibration: dict[int, Array], runtime: str = RUNTIME) -> Golden | None:
        made = own_golden(
            self.store,
            self.folder / "profiles",
            self.path,
            self.graph,
            self.load,
            runtime,
            calibration,
        )
        if made is None:
            return None
        (frame,) = read_golden(self.store.path(made.sha256))
        return frame

    def given(self, *frames: Golden, tolerance: float = 1e-4) -> tuple[Golden, ...]:
        file = self.store.put(pack(frames))
        made, count = given_golden(self.store, file, self.path, self.graph, open_interpreter, tolerance)
        found = read_golden(self.store.path(made.sha256))
        assert len(found) == count
        return found

    def whole(self, *inputs: Array) -> list[Array]:
        interpreter = open_interpreter(self.path)
        for position, array in enumerate(inputs):
            interpreter.set_input(position, array)
        interpreter.invoke()
        return [interpreter.output(position) for position in range(len(interpreter.outputs))]


def same(one: Sequence[Array], other: Sequence[Array]) -> bool:
    return [array.tobytes() for array in one] == [array.tobytes() for array in other]


def two_inputs() -> bytes:
    """(x, y) -> (x + y, tanh x)."""
    tiny = Tiny()
    x, y = tiny.input((1, 4), name="x"), tiny.input((1, 4), name="y")
    total = tiny.op("ADD", [x, y], options=schema.AddOptionsT())
    return tiny.build([total, tiny.op("TANH", [x])])


def test_without_calibration_it_is_the_same_noise_each_time(tmp_path: Path) -> None:
    desk = Desk(tmp_path, diamond())
    frame = desk.own()
    assert frame is not None
    assert frame.inputs[0].shape == (1, 4)
    assert np.ptp(frame.inputs[0]) > 0
    assert same(frame.outputs, desk.whole(*frame.inputs))
    other = Desk(tmp_path / "other", diamond()).own()
    assert other is not None
    assert same(other.inputs, frame.inputs)


def test_of_a_calibration_set_the_first_frame_is_taken(tmp_path: Path) -> None:
    desk = Desk(tmp_path, two_inputs())
    x, y = desk.graph.inputs
    frame = desk.own({x: FRAME, y: 2 * FRAME}, {x: 5 * FRAME, y: FRAME})
    assert frame is not None
    assert same(frame.inputs, [FRAME, 2 * FRAME])
    assert np.allclose(frame.outputs[0], 3 * FRAME)
    assert np.allclose(frame.outputs[1], np.tanh(FRAME))


def test_it_is_made_once_for_a_model_a_runtime_and_a_calibration_frame(tmp_path: Path) -> None:
    desk = Desk(tmp_path, chain(2))
    (x,) = desk.graph.inputs
    for calibration, runtime, more in (
        ([], RUNTIME, True),
        ([], RUNTIME, False),
        ([{x: FRAME}], RUNTIME, True),
        ([{x: FRAME}, {x: 2 * FRAME}], RUNTIME, False),
        ([{x: 2 * FRAME}], RUNTIME, True),
        ([], "ai_edge_litert 3", True),
    ):
        before = desk.loads
        assert desk.own(*calibration, runtime=runtime) is not None
        assert (desk.loads > before) == more, (calibration, runtime)
    for file in (tmp_path / "artifacts").iterdir():
        if file != desk.path:
            file.unlink()
    before = desk.loads
    assert desk.own() is not None
    assert desk.loads > before, "a file that is gone is made again"


def test_a_model_that_keeps_state_begins_with_its_initial_one_for_each_frame(tmp_path: Path) -> None:
    """Rule 6: a slice that keeps state forgets probes."""
    desk = Desk(tmp_path, flows.lstm())
    assert desk.graph.stateful
    own = desk.own()
    assert own is not None
    assert same(own.outputs, desk.whole(*own.inputs))
    blank = Golden(own.inputs, (), 0.0)
    first, second = desk.given(blank, blank)
    assert same(first.outputs, second.outputs)
    assert same(first.outputs, own.outputs)


def test_an_input_that_is_listed_twice_is_one_tensor(tmp_path: Path) -> None:
    tiny = Tiny()
    x = tiny.input((1, 4), name="x")
    tiny.inputs.append(x)
    desk = Desk(tmp_path, tiny.build([tiny.op("TANH", [x])]))
    frame = desk.own()
    assert frame is not None
    assert len(frame.inputs) == 2
    assert same(frame.inputs[:1], frame.inputs[1:])
    assert np.allclose(frame.outputs[0], np.tanh(frame.inputs[0]), atol=1e-6)
    (given,) = desk.given(Golden((FRAME, FRAME), (), 0.0))
    assert np.allclose(given.outputs[0], np.tanh(FRAME), atol=1e-6)
    with pytest.raises(InputError, match=r"golden: frame 0: input 1 \(x\): is input 0, and has other values"):
        desk.given(Golden((FRAME, 2 * FRAME), (), 0.0))


def test_a_model_that_makes_no_numbers_has_no_golden_frame(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny = Tiny()
    x = tiny.input((1, 4), name="x")
    made = tiny.op("LOG", [tiny.op("NEG", [tiny.op("ABS", [x], options=schema.AbsOptionsT())])])
    desk = Desk(tmp_path, tiny.build([made]))
    assert desk.own() is None
    assert "no golden frame for the model" in caplog.text
    assert "not finite" in caplog.text


def test_given_outputs_stay_with_their_tolerance_and_missing_ones_are_filled_in(tmp_path: Path) -> None:
    desk = Desk(tmp_path, two_inputs())
    right = tuple(desk.whole(FRAME, FRAME))
    full = Golden((FRAME, FRAME), right, 0.0)
    file = desk.store.put(pack([full]))
    assert given_golden(desk.store, file, desk.path, desk.graph, open_interpreter, 0.3) == (file, 1)
    first, second, third = desk.given(
        full, Golden((2 * FRAME, FRAME), (), 0.001), Golden((FRAME, FRAME), (), 0.5), tolerance=0.2
    )
    assert same(first.outputs, right)
    assert same(second.outputs, desk.whole(2 * FRAME, FRAME))
    assert [frame.tolerance for frame in (first, second, third)] == [0.0, 0.2, 0.5]


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (Golden((FRAME,), (), 0.0), "golden: frame 1: inputs: expected 2, got 1"),
        (
            Golden((FRAME, FRAME[:, :3]), (), 0.0),
            r"frame 1: input 1 \(y\): expected float32 \[1, 4\], got float32 \[1, 3\]",
        ),
        (
            Golden((FRAME, FRAME[0]), (), 0.0),
            r"frame 1: input 1 \(y\): expected float32 \[1, 4\], got float32 \[4\]",
        ),
        (
            Golden((FRAME, FRAME.astype(np.int8)), (), 0.0),
            r"input 1 \(y\): expected float32 \[1, 4\], got int8 \[1, 4\]",
        ),
        (Golden((FRAME, FRAME), (FRAME,), 0.0), "golden: frame 1: outputs: expected 2, got 1"),
        (
            Golden((FRAME, FRAME), (FRAME, FRAME.T), 0.0),
            r"frame 1: output 1 \(t3\): expected float32 \[1, 4\], got float32 \[4, 1\]",
        ),
        (
            Golden((FRAME, FRAME), (FRAME, FRAME.astype(np.float64)), 0.0),
            r"output 1 .*: expected float32 \[1, 4\], got float64",
        ),
    ],
)
def test_frames_that_do_not_fit_the_model_are_named(tmp_path: Path, frame: Golden, text: str) -> None:
    desk = Desk(tmp_path, two_inputs())
    with pytest.raises(InputError, match=text):
        desk.given(Golden((FRAME, FRAME), (), 0.0), frame)


def test_a_golden_file_that_is_gone_is_a_store_error(tmp_path: Path) -> None:
    desk = Desk(tmp_path, chain(2))
    gone = Artifact("a" * 64, 9)
    with pytest.raises(StoreError, match="No such file"):
        given_golden(desk.store, gone, desk.path, desk.graph, open_interpreter, 1e-4)


def dense(weights: str) -> bytes:
    """A layer: float, hybrid (int8 weights under float32 activations) or wholly int8."""
    tiny = Tiny()
    kind = "INT8" if weights == "integer" else "FLOAT32"
    x = tiny.tensor((1, 4), kind, name="x", scale=(0.1,) if kind == "INT8" else ())
    tiny.inputs.append(x)
    if weights == "float":
        w = tiny.constant(np.ones((4, 4), np.float32))
    else:
        w = tiny.tensor((4, 4), "INT8", buffer=tiny.buffer(np.ones(16, np.int8).tobytes()), scale=(0.1,))
    made = tiny.tensor((1, 4), kind, scale=(0.1,) if kind == "INT8" else ())
    options = schema.FullyConnectedOptionsT()
    return tiny.build([tiny.op("FULLY_CONNECTED", [x, w, -1], outputs=[made], options=options, version=4)])


@pytest.mark.parametrize(
    ("arithmetic", "same_runtime", "other"),
    [
        ("float", SAME_RUNTIME, OTHER_RUNTIME),
        ("integer", SAME_RUNTIME, OTHER_ROUNDED),
        ("hybrid", ROUNDED, OTHER_ROUNDED),
    ],
)
def test_the_tolerance_follows_from_arithmetic_runtime_and_architecture(
    arithmetic: str, same_runtime: float, other: float
) -> None:
    graph = read_graph(dense(arithmetic))
    alike = [capacity("n1", "1"), capacity("n2", "1")]
    assert tolerance_of(alike, RUNTIME, "x86_64", graph) == same_runtime
    older = replace(alike[1], runtime=RuntimeInfo("tflite_runtime", "2"))
    assert tolerance_of([alike[0], older], RUNTIME, "x86_64", graph) == other
    assert tolerance_of([alike[0], replace(alike[1], arch="aarch64")], RUNTIME, "x86_64", graph) == other
    assert tolerance_of(alike, "ai_edge_litert 3", "x86_64", graph) == other
