"""Conversions by TensorFlow itself: what comes out is the model that went in, and its slices equal it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from converters.graph import Graph
from converters.sources import Converted, convert
from edge_node.runtime import RUNTIMES
from slicemq.errors import ModelError, SliceMQError, UnsupportedOperatorError, UsageError
from tests.converters.chains import run_chains
from tests.converters.machine import load, run, run_whole

ROOT = Path(__file__).parents[2]
RUNNING = [name for name in RUNTIMES if importlib.util.find_spec(name) is not None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorflow") is None, reason="no TensorFlow here: `make test-slow` installs it"
    ),
]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    command = [sys.executable, "-m", "tests.converters.keras_zoo", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Calibration sets for pictures, as arrays and as pictures, and for a model with two inputs."""
    folder, rng = tmp_path_factory.mktemp("samples"), np.random.default_rng(3)
    for name in ("arrays", "pictures", "series", "two", "wrong"):
        (folder / name).mkdir()
    np.save(folder / "arrays" / "batch.npy", rng.uniform(-1, 1, (8, 16, 16, 3)).astype(np.float32))
    for number in range(6):
        pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{number}.png")
    np.save(folder / "series" / "batch.npy", rng.standard_normal((4, 6, 4)))
    left, right = rng.standard_normal((9, 4)), rng.standard_normal((9, 6))
    np.savez(folder / "two" / "batch.npz", b_left=left, a_right=right)
    np.save(folder / "wrong" / "small.npy", np.zeros((3, 8, 8, 3), np.float32))
    return folder


def _equal_when_cut(made: Converted) -> None:
    """Chains of two to four slices equal the whole, in each runtime that is installed."""
    for runtime in RUNNING:
        (outcome,) = run_chains(runtime, [made.path.read_bytes()], frames=2, most=6)
        assert outcome.error == "", runtime
        assert outcome.chains >= 3, runtime
        assert outcome.differences == (), runtime


def _graph(made: Converted) -> Graph:
    assert made.graph is not None, made.note
    assert made.note == ""
    return made.graph


def _as_keras_answers(made: Converted, answers: Path, tolerance: float = 1e-5) -> None:
    """One frame gives what Keras gave, within `tolerance` of the largest value."""
    graph = _graph(made)
    with np.load(answers) as values:
        frame = {t: values[graph.public_name(t)] for t in graph.inputs}
        outputs = run_whole(made.path.read_bytes(), graph, frame)
        for tensor, array in outputs.items():
            expected = values[graph.public_name(tensor)]
            assert array.shape == expected.shape
            assert np.abs(array - expected).max() <= tolerance * np.abs(expected).max()


def _dtypes(graph: Graph) -> list[str]:
    return [graph.tensors[t].dtype for t in (*graph.inputs, *graph.outputs)]


@pytest.mark.parametrize("source", ["pictures.keras", "pictures.h5", "pictures"])
def test_every_form_of_a_model(zoo: Path, tmp_path: Path, source: str) -> None:
    made = convert(zoo / source, tmp_path / "a.tflite")
    graph = _graph(made)
    assert made.converter.startswith("TensorFlow 2.")
    assert made.signature == ("serving_default" if source == "pictures" else "")
    assert [graph.public_name(t) for t in graph.inputs] == ["picture"]
    assert graph.tensors[graph.inputs[0]].signature == (1, 16, 16, 3)
    assert graph.tensors[graph.outputs[0]].signature == (1, 5)
    assert not graph.stateful
    if source != "pictures":
        assert [graph.public_name(t) for t in graph.outputs] == ["scores"]
        _as_keras_answers(made, zoo / "pictures.npz")
    _equal_when_cut(made)


@pytest.mark.parametrize("quantize", ["float16", "dynamic", "int8"])
def test_quantized_as_a_whole_and_then_cut(zoo: Path, samples: Path, tmp_path: Path, quantize: Any) -> None:
    calibration = samples / "arrays" if quantize == "int8" else None
    made = convert(zoo / "pictures.keras", tmp_path / "a.tflite", quantize=quantize, calibration=calibration)
    graph = _graph(made)
    weights = {t.dtype for t in graph.tensors if t.weight_bytes > 64}
    assert weights & {"float16", "int8"} == {"float16" if quantize == "float16" else "int8"}
    assert _dtypes(graph) == ["int8" if quantize == "int8" else "float32"] * 2
    assert made.samples == (8 if quantize == "int8" else 0)
    if quantize == "int8":
        assert not [t for t in graph.tensors if t.dtype == "float32"]
    else:
        _as_keras_answers(made, zoo / "pictures.npz", 0.05)
    _equal_when_cut(made)


@pytest.mark.parametrize("io", ["uint8", "float32"])
def test_int8_from_pictures_with_other_inputs_and_outputs(
    zoo: Path, samples: Path, tmp_path: Path, io: Any
) -> None:
    made = convert(
        zoo / "pictures.h5",
        tmp_path / "a.tflite",
        quantize="int8",
        calibration=samples / "pictures",
        samples=4,
        io=io,
        normalize="0..1",
    )
    assert _dtypes(_graph(made)) == [io, io]
    assert made.samples == 4


def test_the_same_calibration_gives_the_same_file(zoo: Path, samples: Path, tmp_path: Path) -> None:
    made = [
        convert(zoo / "pictures.keras", tmp_path / f"{n}.tflite", quantize="int8", calibration=samples / "pictures")
        for n in range(2)
    ]
    assert made[0].sha256 == made[1].sha256


def test_several_inputs_and_outputs_keep_their_names(zoo: Path, samples: Path, tmp_path: Path) -> None:
    made = convert(zoo / "two.keras", tmp_path / "a.tflite")
    graph = _graph(made)
    assert {graph.public_name(t): graph.tensors[t].shape for t in graph.inputs} == {
        "b_left": (1, 4),
        "a_right": (1, 6),
    }
    assert {graph.public_name(t) for t in graph.outputs} == {"up", "down"}
    _as_keras_answers(made, zoo / "two.npz")
    _equal_when_cut(made)
    made = convert(zoo / "two.keras", tmp_path / "b.tflite", quantize="int8", calibration=samples / "two")
    assert made.samples == 9
    graph = _graph(made)
    assert {graph.public_name(t) for t in graph.inputs} == {"b_left", "a_right"}


@pytest.mark.parametrize("source", ["recurrent.keras", "recurrent-one"])
def test_lstm_becomes_builtin_operators(zoo: Path, tmp_path: Path, source: str) -> None:
    made = convert(zoo / source, tmp_path / "a.tflite")
    graph = _graph(made)
    names = {op.name for op in graph.operators}
    assert not [name for name in names if name.startswith(("Flex", "Tensor"))]
    assert not graph.stateful
    if source == "recurrent.keras":
        _as_keras_answers(made, zoo / "recurrent.npz")
    _equal_when_cut(made)


@pytest.mark.parametrize("source", ["stateful.keras", "stateful"])
def test_a_stateful_model_keeps_its_state(zoo: Path, tmp_path: Path, source: str) -> None:
    made = convert(zoo / source, tmp_path / "a.tflite")
    assert _graph(made).stateful
    interpreter = load(made.path)
    with np.load(zoo / "stateful.npz") as values:
        for frame, expected in zip(values["frames"], values["answers"], strict=True):
            (answer,) = run(interpreter, [frame], 1)
            assert np.abs(answer - expected).max() <= 1e-5


@pytest.mark.parametrize(
    ("source", "expected"),
    [("names.keras", {"a_b": 2, "a_b_2": 3, "a_b_1": 4}), ("letters", {"t_": 4, "t__1": 4})],
)
def test_outputs_whose_names_become_the_same(
    zoo: Path, tmp_path: Path, source: str, expected: dict[str, int]
) -> None:
    graph = _graph(convert(zoo / source, tmp_path / "a.tflite"))
    assert {graph.public_name(t): graph.tensors[t].shape[1] for t in graph.outputs} == expected


def test_open_sizes_stay_open_or_are_given(zoo: Path, tmp_path: Path) -> None:
    graph = _graph(convert(zoo / "open.keras", tmp_path / "a.tflite"))
    assert graph.tensors[graph.inputs[0]].signature == (1, -1, -1, 3)
    graph = _graph(convert(zoo / "open.keras", tmp_path / "b.tflite", shapes={"free": (1, 9, 7, 3)}))
    assert graph.tensors[graph.inputs[0]].signature == (1, 9, 7, 3)
    assert graph.tensors[graph.outputs[0]].shape == (1, 7, 5, 2)


def test_a_signature_is_chosen(zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has the signatures beta, double: choose one with --signature"):
        convert(zoo / "signatures", tmp_path / "a.tflite")
    made = convert(zoo / "signatures", tmp_path / "a.tflite", signature="double")
    assert [op.name for op in _graph(made).operators] == ["MUL"]


@pytest.mark.parametrize(
    ("source", "options", "error", "expected"),
    [
        ("signatures", {"signature": "beta"}, UnsupportedOperatorError, "needs Betainc, which TFLite has no"),
        ("signatures", {"signature": "serve"}, UsageError, "--signature serve: the SavedModel has beta, double"),
        ("open.keras", {"shapes": {"free": (1, 9, 7, 4)}}, UsageError, r"=1x9x7x4: the input is \?x\?x\?x3"),
        ("open.keras", {"shapes": {"x": (1, 2)}}, UsageError, "--shape x: the model's inputs are free"),
        ("no-signature", {}, ModelError, "has no signature"),
        ("recurrent-open", {}, ModelError, "traced with an open batch"),
        ("recurrent.keras", {"quantize": "int8", "calibration": "series"}, ModelError, "loops .* unroll=True"),
        ("custom.keras", {}, ModelError, "holds Twice, which Keras does not know"),
        ("custom.h5", {}, ModelError, "holds Twice, which Keras does not know"),
        ("lambda.keras", {}, ModelError, "holds a Lambda layer"),
        ("only.weights.h5", {}, ModelError, "holds weights only"),
        ("unbuilt.keras", {}, ModelError, "no inputs of known shape"),
        (
            "pictures.keras",
            {"quantize": "int8", "calibration": "wrong"},
            SliceMQError,
            r"small\.npy: input 'picture': expected float32 \[1, 16, 16, 3\] or a batch of it, got",
        ),
    ],
)
def test_what_cannot_be_converted_says_why(
    zoo: Path,
    samples: Path,
    tmp_path: Path,
    source: str,
    options: dict[str, Any],
    error: type[SliceMQError],
    expected: str,
) -> None:
    if "calibration" in options:
        options = {**options, "calibration": samples / options["calibration"]}
    with pytest.raises(error, match=expected):
        convert(zoo / source, tmp_path / "a.tflite", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_custom_layer_goes_by_savedmodel(zoo: Path, tmp_path: Path) -> None:
    assert [op.name for op in _graph(convert(zoo / "custom", tmp_path / "a.tflite")).operators] == ["MUL"]


def test_damaged_files(zoo: Path, tmp_path: Path) -> None:
    for source in ("pictures.keras", "pictures.h5"):
        data = (zoo / source).read_bytes()
        broken = tmp_path / source
        broken.write_bytes(data[: len(data) // 2])
        with pytest.raises(ModelError) as caught:
            convert(broken, tmp_path / "a.tflite")
        assert str(caught.value).startswith(str(broken))
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes((zoo / "pictures" / "saved_model.pb").read_bytes()[:500])
    with pytest.raises(ModelError, match="cannot load the SavedModel"):
        convert(folder, tmp_path / "a.tflite")
