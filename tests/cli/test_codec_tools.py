"""What verbs read of a calibration folder, and what they say of errors that were measured on noise."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.graph import read_graph
from converters.samples import MOST_BYTES, unpack
from converters.shapes import with_input_shapes
from coordinator.cli.codec_tools import frames_of, sample_file, unused, warn_of_noise
from coordinator.cli.plan_text import error_line
from slicemq.errors import InputError, ModelError, UsageError
from tests.converters.tiny import Tiny, chain


def test_the_coordinator_gets_the_frames_that_plan_make_takes(tmp_path: Path) -> None:
    graph = read_graph(chain(2))
    np.save(tmp_path / "many.npy", np.arange(80, dtype=np.float64).reshape(20, 4))
    mine = frames_of(graph, tmp_path)
    theirs = unpack(sample_file(graph, tmp_path), graph)
    assert len(mine) == len(theirs) == 8
    for one, other in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        assert other[0].dtype == np.float32


def test_frames_have_the_sizes_that_the_user_gave(tmp_path: Path) -> None:
    tiny = Tiny()
    x = tiny.tensor((1, 1), name="x", signature=(1, -1))
    tiny.inputs = [x]
    graph = read_graph(tiny.build([tiny.op("TANH", [x], (1, 1))]))
    np.save(tmp_path / "one.npy", np.zeros((1, 6), np.float32))
    with pytest.raises(InputError, match="expected float32"):
        sample_file(with_input_shapes(graph, {}), tmp_path)
    sized = with_input_shapes(graph, {x: (1, 6)})
    (frame,) = unpack(sample_file(sized, tmp_path), sized)
    assert frame[x].shape == (1, 6)
    with pytest.raises(ModelError, match="shape"):
        with_input_shapes(graph, {x: (2, 6)})


def test_a_folder_without_samples_or_with_too_large_ones_is_refused(tmp_path: Path) -> None:
    graph = read_graph(chain(1))
    with pytest.raises(UsageError, match="no such folder"):
        sample_file(graph, tmp_path / "none")
    np.save(tmp_path / "empty.npy", np.zeros((0, 1, 4), np.float32))
    with pytest.raises(InputError, match="holds no samples"):
        sample_file(graph, tmp_path)
    large = with_input_shapes(read_graph(chain(1, (1, MOST_BYTES // 4))), {})
    np.save(tmp_path / "empty.npy", np.zeros((1, MOST_BYTES // 4), np.float32))
    with pytest.raises(InputError, match=f"expected at most {MOST_BYTES}"):
        sample_file(large, tmp_path)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (None, ""),
        ({"budget": 0.1, "estimated": 0.03, "measured": 0.004, "samples": "noise"}, "err by 0.4 % on noise"),
        ({"budget": 0.1, "estimated": 0.03, "measured": None, "samples": "noise"}, "err by 3 % on noise"),
        ({"budget": 0.1, "estimated": 0.03, "measured": 0.004, "samples": "calibration"}, ""),
        ({"budget": 0.1, "estimated": 0.03, "measured": 0.004, "samples": None}, ""),
    ],
)
def test_an_error_that_was_measured_on_noise_is_said(
    caplog: pytest.LogCaptureFixture, error: dict[str, Any] | None, said: str
) -> None:
    warn_of_noise(error)
    assert said in caplog.text
    assert ("--calibration FOLDER" in caplog.text) == bool(said)
    if error is not None and error["measured"] is not None:
        where = {"noise": " on noise", "calibration": " on the calibration set", None: ""}[error["samples"]]
        assert error_line(error) == (
            f"results off by (share of an output's largest): estimated 3 %, measured 0.4 %{where}, budget 10 %"
        )


def test_a_folder_that_measures_nothing_is_said(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level(logging.WARNING)
    assert not unused(("raw", "int8"), tmp_path)
    assert not unused(("raw",), None)
    assert caplog.text == ""
    assert unused(("raw",), tmp_path)
    assert unused((), tmp_path)
    assert "is not used" in caplog.text
