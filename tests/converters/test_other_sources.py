"""ONNX and PyTorch, where an interpreter that has their converters is named (they do not fit into our lock).

python3.11 -m venv onnx && onnx/bin/pip install 'slicemq[onnx]'
SLICEMQ_TEST_ONNX=onnx/bin/python SLICEMQ_TEST_TORCH=torch/bin/python pytest -m slow ...
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.sources import convert
from slicemq.errors import ModelError
from tests.converters.chains import run_chains
from tests.converters.machine import run_whole

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def _made(kind: str, folder: Path) -> str:
    """The interpreter, after it has written its model; skips where none is named."""
    variable = f"SLICEMQ_TEST_{kind.upper()}"
    python = os.environ.get(variable)
    if not python:
        pytest.skip(f"{variable} names no interpreter that has slicemq[{kind}]")
    script = ROOT / "tests" / "converters" / "other_zoo.py"
    subprocess.run([python, str(script), kind, str(folder)], check=True, capture_output=True)
    return python


@pytest.mark.parametrize(("kind", "name"), [("onnx", "model.onnx"), ("torch", "model.pt2")])
def test_the_same_answers_and_equal_slices(kind: str, name: str, tmp_path: Path) -> None:
    python = _made(kind, tmp_path)
    made = convert(tmp_path / name, tmp_path / "a.tflite", python=python)
    assert made.graph is not None
    data = made.path.read_bytes()
    with np.load(tmp_path / "frame.npz") as values:
        outputs = run_whole(data, made.graph, {made.graph.inputs[0]: values["x"]})
        assert np.allclose(outputs[made.graph.outputs[0]], values["y"], atol=1e-5)
    (outcome,) = run_chains("ai_edge_litert", [data], frames=2, most=6)
    assert (outcome.error, outcome.differences) == ("", ())
    assert outcome.chains >= 3


@pytest.mark.parametrize("quantize", ["dynamic", "int8"])
def test_onnx_quantized(quantize: Any, tmp_path: Path) -> None:
    python = _made("onnx", tmp_path)
    calibration = None
    if quantize == "int8":
        calibration = tmp_path / "samples"
        calibration.mkdir()
        np.save(calibration / "a.npy", np.random.default_rng(1).standard_normal((4, 16, 16, 3)))
    made = convert(
        tmp_path / "model.onnx", tmp_path / "a.tflite", quantize=quantize, calibration=calibration, python=python
    )
    assert made.graph is not None
    assert made.graph.tensors[made.graph.inputs[0]].dtype == ("int8" if quantize == "int8" else "float32")
    assert [made.graph.public_name(t) for t in made.graph.inputs] == ["x"]


@pytest.mark.parametrize(("kind", "name"), [("onnx", "model.onnx"), ("torch", "model.pt2")])
def test_damaged_models(kind: str, name: str, tmp_path: Path) -> None:
    python = _made(kind, tmp_path)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError) as caught:
        convert(tmp_path / name, tmp_path / "a.tflite", python=python)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert not (tmp_path / "a.tflite").exists()
