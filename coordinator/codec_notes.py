"""What codecs do to a model, measured once and kept as profiles are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from converters.codec_errors import SECONDS, CodecMeasures, from_plain, measure_codecs, to_plain
from coordinator.kept import file_of, keep, read

if TYPE_CHECKING:
    from converters.codec_errors import Frame
    from converters.graph import Graph
    from converters.runtime import Load
    from converters.schema import Bytes

FORMAT = 1
"""Rises whenever the same run would be written down as other numbers, so that nobody takes old ones."""


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
        "names": sorted(names),
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
