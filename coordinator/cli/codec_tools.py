"""What the verbs measure of codecs on a model, on frames of the user's or on noise."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slicemq.errors import InputError

if TYPE_CHECKING:
    from converters.codec_errors import CodecMeasures, Frame
    from converters.graph import Graph
    from converters.schema import Bytes
    from coordinator.planner.plan import Plan, Samples

logger = logging.getLogger("slicemq.codecs")


@dataclass(frozen=True)
class CodecTools:
    """The measures of a model, what a plan with lossy codecs errs on the same frames, and what these are."""

    measures: CodecMeasures
    error: Callable[[Plan], float]
    samples: Samples


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
    return CodecTools(
        measures,
        lambda plan: error_of_plan(data, graph, load_interpreter, plan, samples),
        "noise" if samples is None else "calibration",
    )


def frames_of(graph: Graph, folder: Path) -> list[Frame]:
    """Frames by input tensor out of a folder of typical inputs (`converters.calibration`), as many as are used."""
    from converters.calibration import calibration_files, read_samples
    from converters.samples import frames_that_fit
    from coordinator.revisions import specs

    inputs = specs(graph, tuple(dict.fromkeys(graph.inputs)))
    files, most = calibration_files(folder), frames_that_fit(graph)
    frames: list[Frame] = [
        {spec.index: sample[spec.name] for spec in inputs} for sample in read_samples(files, inputs, most)
    ]
    if not frames:
        raise InputError(f"--calibration {folder}: holds no samples")
    return frames


def sample_file(graph: Graph, folder: Path) -> bytes:
    """The frames of `frames_of` as the coordinator takes them. Raises UsageError and InputError."""
    from converters.samples import pack

    return pack(frames_of(graph, folder))


def unused(codecs: Sequence[str], calibration: Path | None) -> bool:
    """Whether a calibration folder was given in vain, which is said."""
    if calibration is None or any(codec != "raw" for codec in codecs):
        return False
    logger.warning("--calibration %s is not used: it is for measuring codecs, and --codec names none", calibration)
    return True


def warn_of_noise(error: Mapping[str, Any] | None) -> None:
    """Say so when the error that a plan states (its field `error`) was measured on noise."""
    if error is None or error.get("samples") != "noise":
        return
    stated = error.get("measured")
    known = error.get("estimated") if stated is None else stated
    logger.warning(
        "the plan's lossy codecs err by %.2g %% on noise: real inputs may err more. "
        "To measure on typical ones give a folder of them: --calibration FOLDER",
        100 * float(known or 0.0),
    )
