"""What a revision's probe frames are compared with: an operator's golden frames, or one that is made here.

Expected outputs that nobody gave are those of the whole model in this process's runtime. The kernels that a runtime
takes depend on the processor, so equal bits cannot be asked of another machine: results may differ by a tolerance.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

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
"""max|a-b| / max|a| over a tensor between processors with one runtime: float32 sums in another order."""
OTHER_RUNTIME = 0.05
"""The same between runtimes: their quantised kernels round differently, by some units of 127."""
FORMAT = 1


def tolerance_of(nodes: Iterable[Capacity], runtime: str, arch: str, budget: float) -> float:
    """What the nodes of a plan may differ by from this machine; `budget` is that of the plan's lossy codecs."""
    same = all(f"{one.runtime.name} {one.runtime.version}" == runtime and one.arch == arch for one in nodes)
    return max(SAME_RUNTIME if same else OTHER_RUNTIME, budget)


def own_golden(
    store: ArtifactStore, folder: Path, path: Path, graph: Graph, load: Load, calibration: Sequence[Any]
) -> Artifact | None:
    """One frame (the calibration's first, else seeded noise) with its outputs, made once and kept as an artifact.

    None, with a line in the log, where the model cannot be run so, or the frame is too large for a file.
    """
    key = {"format": FORMAT, "model": graph.sha256, "shapes": [list(graph.tensors[t].shape) for t in graph.inputs]}
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
    store: ArtifactStore, given: Artifact, path: Path, graph: Graph, load: Load
) -> tuple[Artifact, int]:
    """An operator's golden file with all outputs filled in, and how many frames it has.

    Raises InputError for frames that do not fit the model, StoreError for a file that cannot be read.
    """
    frames = read_golden(store.path(given.sha256))
    for number, frame in enumerate(frames):
        _check(frame.inputs, [graph.tensors[t] for t in graph.inputs], f"golden: frame {number}: input")
        if frame.outputs:
            _check(frame.outputs, [graph.tensors[t] for t in graph.outputs], f"golden: frame {number}: output")
    if all(frame.outputs for frame in frames):
        return given, len(frames)
    with _mapped(path) as data:
        whole = [
            frame if frame.outputs else replace(frame, outputs=_run(data, graph, load, path, frame.inputs))
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
