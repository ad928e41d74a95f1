"""The measure of mixed chains, and a runtime in a process of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.far import FarRuntime
from benchmarks.mixed import NEW, Apart, Row, apart, table
from slicemq.errors import ModelError, SliceMQError, UnsupportedOperatorError
from tests.converters.test_lowering import two_layers
from tests.runtimes import EACH_RUNTIME


def floats(*values: float) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    return [np.array(values, np.float32)]


def test_how_far_two_runs_are_apart() -> None:
    assert apart(floats(1, -4), floats(1, -4)) == Apart()
    assert apart(floats(1, -4), floats(1.5, -4)) == Apart(0.5, 0.125)
    assert apart(floats(np.nan, np.inf), floats(np.nan, np.inf)) == Apart()
    assert apart(floats(np.nan, 2), floats(1, 2)) == Apart(np.inf, np.inf)
    assert apart(floats(np.inf, 2), floats(-np.inf, 2)) == Apart(np.inf, np.inf)
    assert apart(floats(0), floats(0.25)) == Apart(0.25, 1.0)
    assert apart([np.array([-128, 3], np.int8)], [np.array([127, 3], np.int8)]) == Apart(steps=255)
    with pytest.raises(SliceMQError, match="outputs of float32"):
        apart(floats(1), floats(1, 2))


def test_the_tolerance_is_twice_what_the_wholes_are_apart() -> None:
    row = Row("m", 9, 2, 1, "NO", Apart(1.0, 0.1, 3), Apart(2.0, 0.2, 6), Apart(2.0, 0.2, 6))
    assert row.within()
    assert not replace(row, from_old=Apart(2.1, 0.21)).within()
    assert not replace(row, from_new=Apart(steps=7)).within()
    close = replace(row, wholes=Apart(), from_new=Apart(1.0, 1e-5, 2), from_old=Apart())
    assert close.within()
    assert not replace(close, from_new=Apart(1.0, 1.1e-5)).within()
    assert not replace(close, from_new=Apart(steps=3)).within()
    text = table([row, replace(close, chain="ON", from_old=Apart(1.0, 0.5))], "v")
    assert "| m | 2, 1 of 9 | NO ON | 3 steps, 1.0e-01 | 6 steps, 2.0e-01 | 6 steps, 5.0e-01 |" in text
    assert "Outside of the tolerance: m ON." in text


@pytest.mark.parametrize("runtime", EACH_RUNTIME)
def test_a_runtime_in_a_process_of_its_own(runtime: str, tmp_path: Path) -> None:
    file = tmp_path / "layers.tflite"
    file.write_bytes(two_layers())
    with FarRuntime(runtime) as far:
        assert far.version().startswith(runtime)
        if runtime == NEW:
            assert len(far.graph(file).steps) == 3
            far.open("it", file)
            (made,) = far.run("it", [floats(1, 2, 3, 4)[0].reshape(1, 4)], 1)
            assert made.shape == (1, 4)
        else:
            assert far.operators()["FULLY_CONNECTED"] == 10
            with pytest.raises(UnsupportedOperatorError, match="FULLY_CONNECTED in version 12"):
                far.open("it", file)
        with pytest.raises(ModelError, match="cannot be read"):
            far.open("other", tmp_path / "missing")
