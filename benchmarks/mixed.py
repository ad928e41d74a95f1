"""Two runtimes in one chain: what it differs by from the whole model in either.

    python -m benchmarks.mixed [--models a,b] [--slices N] [--format json] [--page]

Each model is cut into four slices (fewer where it cannot be) that run in ai_edge_litert and tflite_runtime in
turns, each in a process of its own; a slice whose operators tflite_runtime lacks runs in ai_edge_litert, as the
planner places it. Frames: random ones, and a real picture where the model takes pictures; a model that keeps state
runs 50 frames in a row. Two wholes are never alike in every bit, because the runtimes compute in another order: how
far they are apart is the measure for the chain. Where tflite_runtime cannot run the whole, all runs in it but the
operators that it lacks. `--page` writes the table into docs/reference/models.md. The exit code is 1 when a chain is
outside of the tolerance that the page states.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.far import FarRuntime
from benchmarks.machine import describe_machine
from benchmarks.models import ROOT, RealModel, pictures, real_models
from converters.graph import Graph
from converters.needs import merged, needs
from converters.runtime import Array, random_inputs
from converters.schema import Bytes, open_model
from converters.slicing import Slice, groups_at, iter_slices, legal_positions
from coordinator.planner.tables.operators import lacking
from slicemq.errors import SliceMQError

NEW, OLD = "ai_edge_litert", "tflite_runtime"
SLICES, FRAMES, STATEFUL_FRAMES = 4, 3, 50
PAGE = ROOT / "docs" / "reference" / "models.md"
BEGIN, END = "<!-- mixed: begin -->", "<!-- mixed: end -->"
# A chain may be so many times as far from a whole as the wholes are from each other, or so far in any case:
# a share of the largest number of the output, and steps of an integer output.
TIMES, SHARE, STEPS = 2.0, 1e-5, 2


@dataclass(frozen=True)
class Apart:
    """How far two runs are apart: the largest difference, the same as a share of the output's largest number.

    For integer outputs both count steps of the quantisation, and `share` is 0.
    """

    most: float = 0.0
    share: float = 0.0
    steps: int = 0

    def joined(self, other: Apart) -> Apart:
        """The larger of both in each respect."""
        return Apart(max(self.most, other.most), max(self.share, other.share), max(self.steps, other.steps))


@dataclass(frozen=True)
class Row:
    """One chain: which runtime each slice ran in (N: new, O: old), and how far it is from the wholes.

    The whole in OLD is without the operators that OLD lacks, which NEW runs.
    """

    model: str
    operators: int
    refused_before: int
    refused: int
    chain: str
    wholes: Apart
    from_new: Apart
    from_old: Apart

    def within(self) -> bool:
        """Whether the chain is within the tolerance of either whole."""
        share, steps = max(SHARE, TIMES * self.wholes.share), max(STEPS, TIMES * self.wholes.steps)
        return all(one.share <= share and one.steps <= steps for one in (self.from_new, self.from_old))


def apart(one: Sequence[Array], other: Sequence[Array]) -> Apart:
    """How far the outputs of two runs are apart at most. NaN in both is alike, in one it is infinitely far."""
    found = Apart()
    for a, b in zip(one, other, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            raise SliceMQError(f"outputs of {a.dtype} {a.shape} and {b.dtype} {b.shape}")
        if not a.size or a.dtype.kind not in "fiub":
            continue
        if a.dtype.kind in "iub":
            found = found.joined(Apart(steps=int(np.abs(a.astype(np.int64) - b.astype(np.int64)).max())))
            continue
        x, y = a.astype(np.float64), b.astype(np.float64)
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        with np.errstate(invalid="ignore"):
            differences = np.where(same, 0.0, np.abs(x - y))
        difference = float(np.where(np.isnan(differences), np.inf, differences).max())
        largest = float(np.abs(x[np.isfinite(x)]).max(initial=0.0))
        found = found.joined(Apart(difference, difference / largest if largest else float(difference > 0)))
    return found


def frames(model: RealModel, graph: Graph) -> list[Mapping[int, Array]]:
    """What runs through a chain; the same each time."""
    found: list[Mapping[int, Array]]
    found = [random_inputs(graph, seed) for seed in range(STATEFUL_FRAMES if graph.stateful else FRAMES)]
    tensor = graph.tensors[graph.inputs[0]]
    shape, files = tensor.shape, pictures()
    if len(graph.inputs) == 1 and len(shape) == 4 and shape[0] == 1 and shape[3] == 3 and files:
        from PIL import Image

        with Image.open(files[0]) as image:
            pixels = np.asarray(image.convert("RGB").resize((shape[2], shape[1])), np.int16)[None]
        as_float = pixels if model.bytes_in else pixels / 127.5 - 1.0
        picture = (pixels - 128) if tensor.dtype == "int8" else as_float
        found.append({graph.inputs[0]: picture.astype(tensor.dtype)})
    return found


def measure(model: RealModel, runtimes: Mapping[str, FarRuntime], count: int) -> list[Row]:
    """The chains of one model: OLD first and NEW first. Raises SliceMQError when it cannot be cut or run."""
    graph = runtimes[NEW].graph(model.path)
    data = open_model(model.path)
    takes = {name: runtime.operators() for name, runtime in runtimes.items()}
    needed = needs(data, graph)
    before = sum(_refused_as_it_is(graph, index, takes[OLD]) for index in range(len(graph.operators)))
    refused = [index for index, need in enumerate(needed) if lacking(takes[OLD], need)]
    legal = legal_positions(graph)
    places = sorted({legal[len(legal) * k // count] for k in range(1, count)}) if legal else []
    rows = []
    with tempfile.TemporaryDirectory(prefix="slicemq-mixed-") as folder:
        inputs = frames(model, graph)
        wholes = {
            NEW: _run(*_written(data, graph, [list(graph.steps)], folder), [runtimes[NEW]], inputs, graph),
            OLD: _as_old_as_possible(data, graph, set(refused), runtimes, inputs, folder),
        }
        between = _largest(wholes[NEW], wholes[OLD])
        slices, files = _written(data, graph, groups_at(graph, places), folder)
        able = [not lacking(takes[OLD], merged(needed[index] for index in piece.operators)) for piece in slices]
        for first in (NEW, OLD):
            second = OLD if first == NEW else NEW
            names = [NEW if not fits else second if number % 2 else first for number, fits in enumerate(able)]
            made = _run(slices, files, [runtimes[name] for name in names], inputs, graph)
            rows.append(
                Row(
                    model=model.name,
                    operators=len(graph.operators),
                    refused_before=before,
                    refused=len(refused),
                    chain="".join("N" if name == NEW else "O" for name in names),
                    wholes=between,
                    from_new=_largest(wholes[NEW], made),
                    from_old=_largest(wholes[OLD], made),
                )
            )
    return rows


def _refused_as_it_is(graph: Graph, index: int, takes: Mapping[str, int]) -> bool:
    """Whether a runtime refuses an operator in the version that the file has."""
    operator = graph.operators[index]
    rows = [operator, *(row for number in operator.subgraphs for row in graph.subgraphs[number].operators)]
    return any(row.version > takes.get(row.name, 0) for row in rows)


def _written(
    data: Bytes, graph: Graph, groups: Sequence[Sequence[int]], folder: str
) -> tuple[list[Slice], list[Path]]:
    slices, files = list(iter_slices(data, graph, groups)), []
    for piece in slices:
        files.append(Path(folder) / piece.id)
        files[-1].write_bytes(piece.data)
    return slices, files


def _as_old_as_possible(
    data: Bytes,
    graph: Graph,
    refused: set[int],
    runtimes: Mapping[str, FarRuntime],
    inputs: Sequence[Mapping[int, Array]],
    folder: str,
) -> list[list[Array]]:
    """The answers of OLD, but for the parts between two cuts that hold an operator of `refused`."""
    groups: list[list[int]] = []
    names: list[str] = []
    for part in groups_at(graph, legal_positions(graph) if refused else ()):
        name = OLD if refused.isdisjoint(graph.closure(part)) else NEW
        if names[-1:] == [name]:
            groups[-1] += part
        else:
            groups.append(part)
            names.append(name)
    slices, files = _written(data, graph, groups, folder)
    return _run(slices, files, [runtimes[name] for name in names], inputs, graph)


def _largest(one: Sequence[Sequence[Array]], other: Sequence[Sequence[Array]]) -> Apart:
    found = Apart()
    for a, b in zip(one, other, strict=True):
        found = found.joined(apart(a, b))
    return found


def _run(
    slices: Sequence[Slice],
    files: Sequence[Path],
    runtimes: Sequence[FarRuntime],
    inputs: Sequence[Mapping[int, Array]],
    graph: Graph,
) -> list[list[Array]]:
    """The model's outputs for each frame."""
    for runtime in runtimes:
        runtime.forget()
    for piece, file, runtime in zip(slices, files, runtimes, strict=True):
        runtime.open(piece.id, file)
    found = []
    for frame in inputs:
        values = dict(frame)
        for piece, runtime in zip(slices, runtimes, strict=True):
            made = runtime.run(piece.id, [values[t] for t in piece.inputs], len(piece.outputs))
            values.update(zip(piece.outputs, made, strict=True))
        found.append([values[t] for t in graph.outputs])
    return found


def main() -> int:
    """Measure, print, write; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mixed", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", default="", help="names, separated by commas (default: all)")
    parser.add_argument("--slices", type=int, default=SLICES, help="slices of each chain")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--page", action="store_true", help=f"write the table into {PAGE.relative_to(ROOT)}")
    arguments = parser.parse_args()
    known = real_models()
    chosen = [known[name] for name in arguments.models.split(",")] if arguments.models else list(known.values())
    rows: list[Row] = []
    failed = False
    with FarRuntime(NEW) as new, FarRuntime(OLD) as old:
        versions = f"With {new.version()} and {old.version()}"
        for model in chosen:
            if not model.path.is_file():
                sys.stderr.write(f"{model.name}: {model.path.name} is missing: {model.hint}\n")
                failed = True
                continue
            try:
                rows += measure(model, {NEW: new, OLD: old}, arguments.slices)
            except SliceMQError as error:
                sys.stderr.write(f"{model.name}: {error}\n")
                failed = True
                continue
            said = "within" if all(row.within() for row in rows[-2:]) else "OUTSIDE"
            sys.stderr.write(f"{model.name}: {said}\n")
    text = table(rows, versions)
    if arguments.page:
        page = PAGE.read_text()
        head, _, rest = page.partition(BEGIN)
        PAGE.write_text(f"{head}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")
    print(json.dumps([asdict(row) for row in rows]) if arguments.format == "json" else text)
    return int(failed or not all(row.within() for row in rows))


def table(rows: Sequence[Row], versions: str) -> str:
    """The rows as a table of Markdown, the larger of the differences of a model's chains."""
    lines = [
        "| model | refused: in the file, in slices | chains | whole to whole | chain to ai_edge_litert "
        "| chain to tflite_runtime |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in dict.fromkeys(row.model for row in rows):
        mine = [row for row in rows if row.model == name]
        refused = f"{mine[0].refused_before}, {mine[0].refused}" if mine[0].refused_before else "none"
        columns = [[row.wholes for row in mine], [row.from_new for row in mine], [row.from_old for row in mine]]
        cells = " | ".join(_cell(functools.reduce(Apart.joined, column)) for column in columns)
        chains = " ".join(dict.fromkeys(row.chain for row in mine))
        lines.append(f"| {name} | {refused} of {mine[0].operators} | {chains} | {cells} |")
    outside = [f"{row.model} {row.chain}" for row in rows if not row.within()]
    said = f"Outside of the tolerance: {', '.join(outside)}." if outside else "All are within the tolerance."
    lines += ["", said, f"{versions}; {describe_machine()}."]
    return "\n".join(lines)


def _cell(one: Apart) -> str:
    words = [f"{one.steps} steps"] if one.steps else []
    if one.share:
        words.append(f"{one.share:.1e}")
    return ", ".join(words) or "0"


if __name__ == "__main__":
    sys.exit(main())
