"""What the verbs measure of codecs on a model, on frames of the user's or on noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from converters.codec_errors import CodecMeasures, Frame
    from converters.graph import Graph
    from converters.schema import Bytes
    from coordinator.planner.plan import Plan

MOST_FRAMES = 8
"""Frames of a calibration folder that codecs are measured on: each is run once for every place and codec."""


@dataclass(frozen=True)
class CodecTools:
    """The measures of a model, and what a plan with lossy codecs errs on the same frames."""

    measures: CodecMeasures
    error: Callable[[Plan], float]


def codec_tools(data: Bytes, graph: Graph, names: tuple[str, ...], calibration: Path | None) -> CodecTools:
    """Measured with the command line's runtime, and kept in the user's cache folder.

    Raises UsageError and InputError for a calibration folder that does not fit.
    """
    from coordinator.cli.measured import cache
    from coordinator.cli.tools import load_interpreter, runtime_name
    from coordinator.codec_notes import error_of_plan, measures_of
    from coordinator.planner.tables.codec_costs import candidates
    from coordinator.planner.tables.states import down_sets

    samples = None if calibration is None else frames_of(graph, calibration)
    sets = candidates(graph, down_sets(graph))
    folder = cache() / "profiles"
    measures = measures_of(data, graph, load_interpreter, runtime_name(), folder, sets, names, samples=samples)
    return CodecTools(measures, lambda plan: error_of_plan(data, graph, load_interpreter, plan, samples))


def frames_of(graph: Graph, folder: Path) -> list[Frame]:
    """Frames by input tensor out of a folder of typical inputs (`converters.calibration`)."""
    from converters.calibration import calibration_files, read_samples
    from coordinator.revisions import specs

    inputs = specs(graph, graph.inputs)
    files = calibration_files(folder)
    return [
        {spec.index: sample[spec.name] for spec in inputs} for sample in read_samples(files, inputs, MOST_FRAMES)
    ]
