"""What a revision's probe frames are compared with: an operator's golden frames, or one that is made here.

Expected outputs that nobody gave are those of the whole model in this process's runtime. The kernels that a runtime
takes depend on the processor, so equal bits cannot be asked of another machine: results may differ by a tolerance.
Tolerances are max|a-b| / max|a| over a tensor, above what the models of docs/reference/models.md were measured to
differ by: between runtimes (`benchmarks.mixed`), and in one runtime when the input changes by one unit in the last
place, as the sums of another processor do.

| arithmetic | same runtime and architecture: measured, allowed | other ones: measured, allowed |
| --- | --- | --- |
| float      | 0.00005, SAME_RUNTIME                             | 0.00014, OTHER_RUNTIME        |
| integer    | 0, SAME_RUNTIME                                   | 0.54, OTHER_ROUNDED           |
| hybrid     | 0.11, ROUNDED                                     | 0.22, OTHER_ROUNDED           |
"""

from __future__ import annotations

import hashlib
import logging
import mmap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from converters.classes import class_of
from converters.golden import MOST_BYTES, Golden, pack, unpack
from converters.graph import Graph, Tensor
from converters.runtime import Array, Load, feed, random_inputs
from converters.verify import bounded, load_whole
from coordinator.artifacts import ArtifactStore
from coordinator.kept import file_of, keep, read
from slicemq.errors import InputError, SliceMQError, StoreError
from slicemq.messages import Artifact, Capacity, from_plain, to_plain
from slicemq.specs import describe

logger = logging.getLogger("slicemq.coordinator.golden")

SAME_RUNTIME = 1e-4
"""float32 sums in another order; integers are exact."""
OTHER_RUNTIME = 1e-3
"""The same between two libraries' float kernels."""
ROUNDED = 0.2
"""Hybrid kernels round activations as they come: a difference of one bit becomes one of a step, and grows."""
OTHER_ROUNDED = 0.6
"""Two libraries' integer kernels round differently in each layer: only gross errors are told from that."""
FORMAT = 1


def tolerance_of(nodes: Iterable[Capacity], runtime: str, arch: str, graph: Graph) -> float:
    """What the nodes of a plan may differ by from this machine (`runtime`: name and version)."""
    same = all(f"{one.runtime.name} {one.runtime.version}" == runtime and one.arch == arch for one in nodes)
    parts = (
        graph,
        *(replace(graph, tensors=one.tensors, operators=one.operators) for one in graph.subgraphs.values()),
    )
    classes = {class_of(part, operator) for part in parts for operator in part.operators}
    hybrid = any(name.endswith("-hybrid") for name in classes)
    if same:
        return ROUNDED if hybrid else SAME_RUNTIME
    return OTHER_ROUNDED if hybrid or any(name.endswith("-int8") for name in classes) else OTHER_RUNTIME


def own_golden(
    store: ArtifactStore,
    folder: Path,
    path: Path,
    graph: Graph,
    load: Load,
    runtime: str,
    calibration: Sequence[Mapping[int, Array]],
) -> Artifact | None:
    """One frame (the calibration's first, else seeded noise) with its outputs, made once and kept as an artifact.

    `runtime` is name and version of what `load` loads with: another one makes it again.
    None, with a line in the log, where the model cannot be run so, or the frame is too large for a file.
    """
    key: dict[str, Any] = {"format": FORMAT, "model": graph.sha256, "runtime": runtime}
    key |= {"shapes": [list(graph.tensors[t].shape) for t in graph.inputs]}
    key["samples"] = [] if not calibration else [array_digest(calibration[0][t]) for t in graph.inputs]
    place = file_of(folder, graph.sha256, key)
    known = read(place, key, "golden", lambda body: from_plain(Artifact, body, "golden"))
    if known is not None and store.path(known.sha256).is_file():
        return known
    try:
        with _mapped(path) as data:
            inputs = calibration[0] if calibration else random_inputs(bounded(data, graph, load, path), seed=0)
            frame = tuple(inputs[t] for t in graph.inputs)
            made = store.put(pack([Golden(frame, _run(data, graph, load, path, frame), 0.0)]))
    except SliceMQError as error:
        logger.warning("no golden frame for the model %s: %s", graph.sha256[:12], error)
        return None
    keep(place, {"key": key, "golden": to_plain(made)})
    return made


def array_digest(array: Array) -> str:
    """A name for the values of an array."""
    return hashlib.sha256(array.tobytes()).hexdigest()


def given_golden(
    store: ArtifactStore, given: Artifact, path: Path, graph: Graph, load: Load, tolerance: float
) -> tuple[Artifact, int]:
    """An operator's golden file with all outputs filled in, and how many frames it has.

    An operator's outputs keep their tolerance; those that are filled in may differ by at least `tolerance`.
    Raises InputError for frames that do not fit the model, StoreError for a file that cannot be read.
    """
    frames = read_golden(store.path(given.sha256))
    for number, frame in enumerate(frames):
        _check(frame.inputs, [graph.tensors[t] for t in graph.inputs], f"golden: frame {number}: input")
        _check_alike(frame.inputs, graph, f"golden: frame {number}: input")
        if frame.outputs:
            _check(frame.outputs, [graph.tensors[t] for t in graph.outputs], f"golden: frame {number}: output")
    if all(frame.outputs for frame in frames):
        return given, len(frames)
    with _mapped(path) as data:
        whole = [
            frame
            if frame.outputs
            else Golden(
                frame.inputs,
                _run(data, graph, load, path, frame.inputs),
                max(frame.tolerance, tolerance),
            )
            for frame in frames
        ]
    return store.put(pack(whole)), len(frames)


def read_golden(path: Path) -> tuple[Golden, ...]:
    """The frames of a golden file. Raises StoreError where it cannot be read, InputError where it is none."""
    try:
        with open(path, "rb") as file:
            return unpack(file.read(MOST_BYTES + 1))
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error


def _mapped(path: Path) -> mmap.mmap:
    try:
        with open(path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: {error}") from error


def _run(
    data: Any, graph: Graph, load: Callable[..., Any], path: Path, inputs: Sequence[Array]
) -> tuple[Array, ...]:
    model = load_whole(data, graph, load, path)
    feed(model, list(inputs))
    model.invoke()
    return tuple(model.output(position) for position in range(len(graph.outputs)))


def _check_alike(arrays: Sequence[Array], graph: Graph, where: str) -> None:
    """A model may list a tensor twice among its inputs: it has one value."""
    for number, tensor in enumerate(graph.inputs):
        first = graph.inputs.index(tensor)
        if not np.array_equal(arrays[number], arrays[first], equal_nan=arrays[number].dtype.kind in "fc"):
            name = graph.tensors[tensor].name
            raise InputError(f"{where} {number} ({name}): is input {first}, and has other values")


def _check(arrays: Sequence[Array], wanted: Sequence[Tensor], where: str) -> None:
    if len(arrays) != len(wanted):
        raise InputError(f"{where}s: expected {len(wanted)}, got {len(arrays)}")
    for number, (array, tensor) in enumerate(zip(arrays, wanted, strict=True)):
        fits = len(array.shape) == len(tensor.frame_shape) and all(
            want in (-1, got) for want, got in zip(tensor.frame_shape, array.shape, strict=True)
        )
        if array.dtype.name != tensor.dtype or not fits:
            raise InputError(
                f"{where} {number} ({tensor.name}): expected {describe(tensor.dtype, tensor.frame_shape)}, got "
                f"{describe(array.dtype.name, array.shape)}"
            )
