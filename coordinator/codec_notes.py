"""What codecs do to a model, measured once and kept as profiles are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from converters.codec_errors import SECONDS, CodecMeasures, chain_error, from_plain, measure_codecs, to_plain
from converters.samples import MOST_BYTES, unpack
from coordinator.kept import file_of, keep, read
from coordinator.planner.lanes import lanes_of
from coordinator.planner.plan_checks import CLIENT
from slicemq.codecs import available, is_lossless
from slicemq.errors import StoreError

if TYPE_CHECKING:
    from converters.codec_errors import Frame
    from converters.graph import Graph
    from converters.runtime import Load
    from converters.schema import Bytes
    from coordinator.planner.plan import Plan

FORMAT = 4
"""Rises whenever the same run would be written down as other numbers, so that nobody takes old ones."""


def calibration_frames(path: str | Path, graph: Graph) -> list[Frame]:
    """The frames of a calibration set that is kept as a file (`converters.samples`).

    Raises StoreError for a file that cannot be read, InputError for one that does not fit the graph.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    return unpack(data, graph)


def measures_of(
    data: Bytes,
    graph: Graph,
    load: Load,
    runtime: str,
    folder: Path,
    sets: Sequence[int],
    names: Collection[str],
    *,
    samples: Sequence[Frame] | None = None,
    fresh: bool = False,
    seconds: float = SECONDS,
) -> CodecMeasures:
    """The measures of `measure_codecs` with these arguments: those kept in `folder`, else measured and kept there.

    `runtime`: name and version of what `load` opens. `fresh`: measure anew. Raises what `measure_codecs` raises.
    """
    given = None
    if samples is not None:
        digest = hashlib.sha256()
        for frame in samples:
            for tensor in sorted(frame):
                digest.update(f"{tensor} {frame[tensor].dtype} {frame[tensor].shape} ".encode())
                digest.update(frame[tensor].tobytes())
        given = digest.hexdigest()
    key = {
        "format": FORMAT,
        "model": graph.sha256,
        "inputs": [list(graph.tensors[t].shape) for t in graph.inputs],
        "runtime": runtime,
        "samples": given,
        # Installing a package of codecs makes more of the names measurable.
        "names": sorted(set(names) & set(available())),
        # The steps, too: places in them say nothing of another graph of the same file.
        "sets": hashlib.sha256(json.dumps([list(graph.steps), [f"{one:x}" for one in sets]]).encode()).hexdigest(),
        "seconds": seconds,
    }
    path = file_of(folder, graph.sha256, key)
    found = None if fresh else read(path, key, "measures", from_plain)
    if found is not None:
        return found
    measures = measure_codecs(data, graph, load, sets, names, samples=samples, seconds=seconds)
    keep(path, {"key": key, "measures": to_plain(measures)})
    return measures


def error_of_plan(
    data: Bytes, graph: Graph, load: Load, plan: Plan, samples: Sequence[Frame] | None = None
) -> float:
    """The error of a plan's results, measured by running its slices one after the other with its codecs.

    The worst of its lanes, results as they are made; 0 without running anything when every codec of the plan is
    lossless. Arguments and errors are those of `chain_error`.
    """
    if all(is_lossless(bundle.codec) for bundle in plan.bundles):
        return 0.0
    worst = 0.0
    for lane in lanes_of(plan.slices, plan.turns):
        mine = {item.id: item for item in plan.slices[lane.first : lane.stop]}
        sent = {
            tensor: bundle.codec
            for bundle in plan.bundles
            if bundle.source in (CLIENT, *mine) and CLIENT not in bundle.targets
            for tensor in bundle.tensors
        }
        groups = [item.operators for item in mine.values()]
        worst = max(worst, chain_error(data, graph, load, groups, sent, samples))
    return worst
