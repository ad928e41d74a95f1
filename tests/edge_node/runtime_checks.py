"""What holds for each runtime; run in a child process by test_runtime.py, since two runtimes share no process.

`python -m tests.edge_node.runtime_checks <runtime> <folder with models>` prints a JSON object: check -> error.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from edge_node.runtime import (
    RUNTIMES,
    Interpreter,
    TensorInfo,
    available_runtimes,
    load_runtime,
    open_interpreter,
)
from edge_node.stage import Stage
from slicemq import codecs
from slicemq.errors import InputError, ModelError, RuntimeUnavailableError, UnsupportedOperatorError
from slicemq.frames import Frame, FrameHeader, decode_frame, encode_frame
from slicemq.messages import Bundle, ResultPart, SliceAssignment, TensorSpec
from slicemq.topics import Topics
from tests.edge_node.cluster import REVISION
from tests.edge_node.test_stage import X, add_assignment
from tests.waiting import eventually

ROW = np.array([[10, 20, 30, 40]], np.float32)
ONES = np.ones((1, 4), np.float32)


def _open(folder: Path, runtime: str, name: str) -> Interpreter:
    return open_interpreter(folder / f"{name}.tflite", runtime=runtime)


def check_available(folder: Path, runtime: str) -> None:
    found = {info.name: info.version for info in available_runtimes()}
    assert found[runtime][0].isdigit()
    assert not any(f"{name}.interpreter" in sys.modules for name in RUNTIMES), "found by importing"


def check_runs_from_file_and_bytes(folder: Path, runtime: str) -> None:
    for source in (folder / "add.tflite", (folder / "add.tflite").read_bytes(), str(folder / "add.tflite")):
        interpreter = open_interpreter(source, runtime=runtime, threads=2)
        assert interpreter.runtime.name == runtime
        assert interpreter.inputs == (TensorInfo("input", "float32", (1, 4)),)
        assert [info.shape for info in interpreter.outputs] == [(1, 4)]
        interpreter.set_input(0, ROW)
        interpreter.invoke()
        assert interpreter.output(0).tolist() == [[11, 22, 33, 44]]


def check_output_is_a_copy(folder: Path, runtime: str) -> None:
    interpreter = _open(folder, runtime, "add")
    interpreter.warm_up()
    first = interpreter.output(0)
    view = interpreter.output(0, copy=False)
    assert first.tolist() == view.tolist() == [[1, 2, 3, 4]]
    interpreter.set_input(0, ROW)
    with pytest.raises(ModelError):
        interpreter.invoke()
    del view
    interpreter.invoke()
    assert first.tolist() == [[1, 2, 3, 4]]
    assert interpreter.output(0, copy=False).tolist() == [[11, 22, 33, 44]]


def check_inputs_are_made_in_place(folder: Path, runtime: str) -> None:
    interpreter = _open(folder, runtime, "open_add")
    for shapes in ([(1, 1)], [(1, 7)], [(1, 100_000)], [(1, 3)]):
        interpreter.resize(shapes)
        view = interpreter.input_view(0)
        assert view is not None
        assert view.shape == shapes[0]
        assert view.dtype == np.dtype(np.float32)
        assert view.flags.c_contiguous
        assert view.flags.writeable
        view[:] = 3
        with pytest.raises(ModelError):
            interpreter.invoke()
        del view
        interpreter.invoke()
        assert interpreter.output(0).tolist() == [[6] * shapes[0][1]]
    interpreter.reset()
    view = interpreter.input_view(0)
    assert view is not None
    assert view.shape == (1, 3)
    del view
    interpreter.resize([(1, 0)])
    assert interpreter.input_view(0) is None


def check_an_input_without_dimensions(folder: Path, runtime: str) -> None:
    interpreter = _open(folder, runtime, "scalar_add")
    assert interpreter.inputs[0].shape == ()
    assert interpreter.input_view(0) is None
    interpreter.set_input(0, np.array(3, np.float32))
    interpreter.invoke()
    assert interpreter.output(0) == 6
    with pytest.raises(InputError, match="expected float32"):
        interpreter.set_input(0, np.array([3], np.float32))


def check_quantised_inputs_are_made_in_place(folder: Path, runtime: str) -> None:
    interpreter, other = (_open(folder, runtime, "int8") for _ in range(2))
    info = interpreter.inputs[0]
    assert info.dtype == "int8"
    array = np.random.default_rng(1).integers(-128, 128, info.shape, np.int8)
    view = interpreter.input_view(0)
    assert view is not None
    codecs.decode_into("raw", codecs.encode("raw", array)[1], view)
    del view
    other.set_input(0, array)
    for one in (interpreter, other):
        one.invoke()
    assert interpreter.output(0).tolist() == other.output(0).tolist()


def check_sizes_that_no_runtime_has(folder: Path, runtime: str) -> None:
    interpreter = _open(folder, runtime, "open_add")
    for shape in ((0, 1 << 31), (1, -1)):
        with pytest.raises(ModelError, match="expected sizes from 0 to 2147483647"):
            interpreter.resize([shape])
    interpreter.resize([(1, 2)])
    interpreter.warm_up()


def check_resize(folder: Path, runtime: str) -> None:
    interpreter = _open(folder, runtime, "add")
    interpreter.resize([(3, 4)])
    assert interpreter.inputs[0].shape == (3, 4)
    interpreter.set_input(0, np.zeros((3, 4), np.float32))
    interpreter.invoke()
    assert interpreter.output(0).tolist() == [[1, 2, 3, 4]] * 3
    with pytest.raises(InputError, match="2 shapes for 1 inputs"):
        interpreter.resize([(1, 4), (1, 4)])


def check_reset_is_the_initial_state(folder: Path, runtime: str) -> None:
    for name, expected in (("accumulator", [101, 102, 103]), ("svdf", [600, 660, 666])):
        other, interpreter = _open(folder, runtime, name), _open(folder, runtime, name)
        for _ in range(3):
            assert _values(interpreter, 3) == expected, name
            interpreter.reset()
        assert _values(interpreter, 1) == expected[:1]
        assert _values(other, 3) == expected, "two interpreters share their state"


def check_reset_keeps_the_shapes(folder: Path, runtime: str) -> None:
    interpreter = _open(folder, runtime, "open_add")
    interpreter.resize([(1, 7)])
    interpreter.reset()
    assert interpreter.inputs[0].shape == (1, 7)
    interpreter.set_input(0, np.ones((1, 7), np.float32))
    interpreter.invoke()
    assert interpreter.output(0).tolist() == [[2] * 7]


def check_frames_of_other_shapes_go_through(folder: Path, runtime: str) -> None:
    lengths = [3, 5, 1, 1, 300, 3]
    x, y = (TensorSpec(n, "t", "float32", (1, -1)) for n in (5, 6))
    assignment = add_assignment(inputs=(Bundle("b0", (x,)),), result=ResultPart(0, 1, (y,)))
    sent = _through_stage(
        _open(folder, runtime, "open_add"),
        assignment,
        [encode_frame(FrameHeader("c", 1, n, 0.0, REVISION), [(x, _row(n, i))]) for i, n in enumerate(lengths)],
    )
    assert [one.header.sequence for one in sent] == lengths
    assert [one.arrays()[6].tolist() for one in sent] == [(2 * _row(n, i)).tolist() for i, n in enumerate(lengths)]


def check_a_stateful_slice_keeps_its_streams_apart(folder: Path, runtime: str) -> None:
    frames = [  # stream, sequence, first, probe
        (1, 0, 0, True),
        (1, 0, 0, False),
        (1, 1, 0, False),
        (1, 1, 0, False),
        (1, 2, 0, False),
        (1, 4, 0, False),
        (1, 3, 3, False),
        (2, 0, 0, False),
        (2, 1, 0, False),
    ]
    sent = _through_stage(
        _open(folder, runtime, "accumulator"),
        add_assignment(stateful=True, leases=True),
        [
            encode_frame(FrameHeader("c", stream, n, 0.0, REVISION, first=first, probe=probe), [(X, ONES)])
            for stream, n, first, probe in frames
        ],
    )
    values = [one.header.error or float(one.arrays()[6][0, 0]) for one in sent]
    assert values == [101, 101, 102, 102, 103, "stream-reset", 101, 101, 102]


def _values(interpreter: Interpreter, count: int) -> list[float]:
    values = []
    for _ in range(count):
        interpreter.set_input(0, ONES)
        interpreter.invoke()
        values.append(float(interpreter.output(0)[0, 0]))
    return values


def _row(length: int, value: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.full((1, length), value, np.float32)


def _through_stage(
    interpreter: Interpreter, assignment: SliceAssignment, frames: list[list[bytes | memoryview]]
) -> list[Frame]:
    """What a stage sends for frames that come all at once."""
    sent: list[Frame] = []

    def send(_: str, parts: Sequence[bytes | memoryview]) -> bool:
        sent.append(decode_frame(b"".join(parts)))
        return True

    # What it refuses it says in the log too; the parent looks at what the runtimes write there.
    logging.getLogger("slicemq.node.slice").setLevel(logging.ERROR)
    topics = Topics("t")
    stage = Stage(assignment, topics, interpreter, send)
    stage.start()
    try:
        for one in frames:
            stage.on_frame(topics.data(assignment.pipeline, REVISION, "b0"), b"".join(one))
        eventually(lambda: len(sent) == len(frames))
    finally:
        stage.stop()
    return sent


def check_wrong_input(folder: Path, runtime: str) -> None:
    interpreter = _open(folder, runtime, "add")
    for wrong in (np.zeros((1, 5), np.float32), np.zeros((1, 4), np.int32), np.zeros(4, np.float32)):
        with pytest.raises(InputError, match=r"input 0 \(input\): expected float32 \[1, 4\], got"):
            interpreter.set_input(0, wrong)


def check_lacking_operator_is_named(folder: Path, runtime: str) -> None:
    with pytest.raises(UnsupportedOperatorError, match=f"{runtime} .* lacks operator ADD in version 99"):
        _open(folder, runtime, "version99")
    with pytest.raises(UnsupportedOperatorError, match="lacks operator Foo"):
        _open(folder, runtime, "custom")


def check_damaged_bytes(folder: Path, runtime: str) -> None:
    whole = (folder / "conv.tflite").read_bytes()
    for size in (0, 3, 8, 100, len(whole) // 2, len(whole) - 40):
        for source in (whole[:size], folder / "cut.tflite"):
            (folder / "cut.tflite").write_bytes(whole[:size])
            with pytest.raises(ModelError):
                open_interpreter(source, runtime=runtime)
    with pytest.raises(ModelError, match="not a TFLite model"):
        open_interpreter(b"GIF89a" * 100, runtime=runtime)
    with pytest.raises(ModelError, match=r"nowhere\.tflite: cannot be read: No such file"):
        _open(folder, runtime, "nowhere")


def check_model_that_cannot_run(folder: Path, runtime: str) -> None:
    with pytest.raises(ModelError, match="cannot load it"):
        _open(folder, runtime, "reshape")


def check_invoke_error(folder: Path, runtime: str) -> None:
    interpreter = _open(folder, runtime, "gather")
    interpreter.set_input(0, np.array([9], np.int32))
    with pytest.raises(ModelError, match="gather"):
        interpreter.invoke()
    interpreter.set_input(0, np.array([2], np.int32))
    interpreter.invoke()
    assert interpreter.output(0).tolist() == [3]


def check_never_both(folder: Path, runtime: str) -> None:
    other = RUNTIMES[1 - RUNTIMES.index(runtime)]
    assert load_runtime().name == runtime
    if importlib.util.find_spec(other) is not None:
        with pytest.raises(RuntimeUnavailableError, match="cannot both"):
            load_runtime(other)
    with pytest.raises(RuntimeUnavailableError, match="expected auto"):
        load_runtime("onnx")


CHECKS = {name.removeprefix("check_"): check for name, check in globals().items() if name.startswith("check_")}


def main(runtime: str, folder: Path) -> None:
    failed = {}
    for name, check in CHECKS.items():
        try:
            check(folder, runtime)
            failed[name] = ""
        except BaseException:  # noqa: BLE001 - reported by the parent
            failed[name] = traceback.format_exc()
    sys.stdout.write(json.dumps(failed))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
