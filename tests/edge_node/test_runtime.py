"""The seam over both runtimes: the checks of runtime_checks.py, one child process for each runtime."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_node.calibration.make import MODELS
from edge_node.capacity import CALIBRATION, CLASSES
from edge_node.modelcheck import check_model
from edge_node.runtime import RUNTIMES
from slicemq.errors import ModelError
from tests.edge_node import models
from tests.edge_node.runtime_checks import CHECKS
from tests.runtimes import EACH_RUNTIME

CONV = (CALIBRATION / "conv.tflite").read_bytes()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Runtime -> check -> error (empty: passed); `stderr` holds what the process wrote there."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "conv.tflite").write_bytes(CONV)
    (folder / "int8.tflite").write_bytes((CALIBRATION / "dense-int8.tflite").read_bytes())
    (folder / "add.tflite").write_bytes(models.add_model())
    (folder / "version99.tflite").write_bytes(models.add_model(version=99))
    (folder / "custom.tflite").write_bytes(models.custom_model("Foo"))
    (folder / "reshape.tflite").write_bytes(models.reshape_model())
    (folder / "gather.tflite").write_bytes(models.gather_model())
    (folder / "accumulator.tflite").write_bytes(models.accumulator_model())
    (folder / "svdf.tflite").write_bytes(models.svdf_model())
    (folder / "open_add.tflite").write_bytes(models.open_add_model())
    (folder / "scalar_add.tflite").write_bytes(models.scalar_add_model())
    found = {}
    for runtime in RUNTIMES:
        done = subprocess.run(
            [sys.executable, "-m", "tests.edge_node.runtime_checks", runtime, str(folder)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{runtime}: exit code {done.returncode}\n{done.stderr}"
        found[runtime] = {**json.loads(done.stdout), "stderr": done.stderr}
    return found


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("runtime", EACH_RUNTIME)
def test_runtime(outcomes: dict[str, dict[str, str]], runtime: str, check: str) -> None:
    assert not outcomes[runtime][check], outcomes[runtime][check]


@pytest.mark.parametrize("runtime", EACH_RUNTIME)
def test_the_runtimes_greeting_stays_off_the_log(outcomes: dict[str, dict[str, str]], runtime: str) -> None:
    assert outcomes[runtime]["stderr"] == ""


@pytest.mark.parametrize("name", CLASSES)
def test_calibration_models_are_what_the_script_makes(name: str) -> None:
    shipped = (CALIBRATION / f"{name}.tflite").read_bytes()
    assert shipped == MODELS[name]()
    assert len(shipped) < 50_000
    check_model(shipped)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(CONV) - 1), st.binary(min_size=1, max_size=8))
def test_modelcheck_survives_any_bytes(position: int, noise: bytes) -> None:
    damaged = CONV[:position] + noise + CONV[position + len(noise) :]
    # Anything but ModelError fails the test.
    with contextlib.suppress(ModelError):
        check_model(damaged)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(CONV) - 1))
def test_modelcheck_refuses_every_truncation_of_a_model(size: int) -> None:
    # The last bytes of a flatbuffer may be padding; everything shorter misses something.
    if size < len(CONV) - 16:
        with pytest.raises(ModelError):
            check_model(CONV[:size])
