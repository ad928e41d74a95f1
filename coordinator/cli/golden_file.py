"""Golden frames from .npz files: inputs, what they must give, and how far off that may be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from slicemq.errors import InputError
from slicemq.messages import TensorSpec
from slicemq.specs import check_inputs, tensor_keys

if TYPE_CHECKING:
    from converters.golden import Golden
    from converters.graph import Graph

Arrays = Mapping[str, npt.NDArray[Any]]
EXPECT = "expect."
TOLERANCE = "tolerance"
DEFAULT_TOLERANCE = 1e-3
"""Far above what two runtimes or two kinds of processors differ by, far below what another model gives."""


def golden_bytes(graph: Graph, files: Sequence[Path]) -> bytes:
    """The golden file of some .npz files, one frame each. Raises InputError that names the file and the array."""
    from converters.golden import MOST_FRAMES, pack

    if len(files) > MOST_FRAMES:
        raise InputError(f"--golden: {len(files)} files, expected at most {MOST_FRAMES}")
    try:
        return pack([golden_frame(graph, file) for file in files])
    except InputError as error:
        text = str(error)
        raise InputError(text if text.startswith("--golden") else f"--golden: {text}") from error


def golden_frame(graph: Graph, file: Path) -> Golden:
    """One frame: an array for each input by name or tensor index, and perhaps `expect.<output>` for each output.

    `tolerance`, a single number, is the greatest max|a-b| / max|a| over an output. Raises InputError.
    """
    from converters.golden import Golden
    from coordinator.cli.arrays import read_npz
    from coordinator.revisions import specs

    inputs = specs(graph, tuple(dict.fromkeys(graph.inputs)))
    outputs = specs(graph, tuple(dict.fromkeys(graph.outputs)))
    try:
        arrays = read_npz(file)
        tolerance = _tolerance(arrays.pop(TOLERANCE, None))
        expected = {key[len(EXPECT) :]: array for key, array in arrays.items() if key.startswith(EXPECT)}
        given = {key: array for key, array in arrays.items() if not key.startswith(EXPECT)}
        frame = check_inputs(inputs, _by_index(inputs, given))
        answer = _outputs(outputs, expected) if expected else ()
    except InputError as error:
        text = str(error)
        raise InputError(f"--golden {text if text.startswith(str(file)) else f'{file}: {text}'}") from error
    return Golden(tuple(frame[spec.index] for spec in inputs), answer, tolerance)


def _outputs(specs: Sequence[TensorSpec], expected: Arrays) -> tuple[npt.NDArray[Any], ...]:
    keys = tensor_keys(specs)
    try:
        found = check_inputs(specs, _by_index(specs, expected))
    except InputError as error:
        names = ", ".join(f"{EXPECT}{key}" for key in keys.values())
        raise InputError(f"{EXPECT}*: {str(error).replace('input', 'output')} (expected all of {names})") from error
    return tuple(found[spec.index] for spec in specs)


def _by_index(specs: Sequence[TensorSpec], arrays: Arrays) -> dict[Any, npt.NDArray[Any]]:
    """The arrays with a tensor's index in place of its digits, where no tensor is called so."""
    names = set(tensor_keys(specs).values())
    indices = {str(spec.index): spec.index for spec in specs}
    return {key if key in names else indices.get(key, key): array for key, array in arrays.items()}


def _tolerance(given: npt.NDArray[Any] | None) -> float:
    if given is None:
        return DEFAULT_TOLERANCE
    if given.size != 1 or given.dtype.kind not in "fiu":
        raise InputError(f"{TOLERANCE}: expected a single number, got {given.dtype.name} {list(given.shape)}")
    value = float(np.asarray(given, np.float64).reshape(()))
    if not (math.isfinite(value) and value >= 0):
        raise InputError(f"{TOLERANCE}: expected a number from 0, got {value:g}")
    return value
