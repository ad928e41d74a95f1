"""What the formulas for a slice's memory and an operator's time are worth, over all real models.

    python -m benchmarks.slice_costs [--models a,b] [--format json]

Memory: each model whole, in two and in four slices at random cuts, each slice in a process of its own that only
loads it and runs it twice; the growth of its peak resident memory, and the frames that a worker holds besides,
beside `converters.memory`. Time: the whole model measured, the profile's sum and the estimate's.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.models import ROOT, RealModel, real_models
from converters.graph import Graph, read_graph
from converters.memory import slice_memory
from converters.profile import estimate, measure
from converters.schema import open_model
from converters.shapes import resolve_shapes
from converters.slicing import Slice, groups_at, iter_slices, legal_positions
from edge_node.runtime import open_interpreter

RUNTIMES = ("ai_edge_litert", "tflite_runtime")
_COUNTS = (1, 2, 4)
# A worker holds the frames that come in and those that go out besides the interpreter's own copy of them.
_WORKER_COPIES = 2
_CHILD = """
import sys
from edge_node.runtime import load_runtime, open_interpreter
load_runtime(sys.argv[2])
def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak()
interpreter = open_interpreter(sys.argv[1], runtime=sys.argv[2])
interpreter.warm_up()
interpreter.warm_up()
print(peak() - before)
"""


@dataclass(frozen=True)
class MemoryRow:
    """One slice: bytes by the formula, and as measured."""

    model: str
    slices: int
    slice: str
    runtime: str
    formula: int
    measured: int

    @property
    def error(self) -> float:
        """(formula - measured) / measured."""
        return (self.formula - self.measured) / self.measured


@dataclass(frozen=True)
class TimeRow:
    """One model: seconds of a frame, the profile's sum (scaled to the whole model) and the estimate's."""

    model: str
    measured: float
    estimated: float
    overhead: float


def main() -> int:
    """Measure and print both tables; returns the exit code."""
    parser = argparse.ArgumentParser(description="The formulas for memory and time against measurements.")
    parser.add_argument("--models", help="comma-separated short names; default: all that are there")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    arguments = parser.parse_args()
    models = real_models()
    names = arguments.models.split(",") if arguments.models else [n for n, m in models.items() if m.path.is_file()]
    unknown = [name for name in names if name not in models]
    if unknown:
        parser.error(f"--models: {unknown[0]} is not one of {', '.join(models)}")
    memory: list[MemoryRow] = []
    times: list[TimeRow] = []
    for name in names:
        data = open_model(models[name].path)
        graph = resolve_shapes(data, read_graph(data), open_interpreter)
        profile = measure(data, graph, open_interpreter)
        seconds = sum(profile.seconds.values())
        times.append(TimeRow(name, seconds, sum(estimate(graph).seconds.values()), profile.overhead))
        memory += _memory(models[name], graph)
        if sys.stderr.isatty():
            sys.stderr.write(f"{name}\n")
    if arguments.format == "json":
        rows = [{**asdict(row), "error": row.error} for row in memory]
        print(json.dumps({"memory": rows, "times": [asdict(row) for row in times]}, indent=2))
    else:
        _print(memory, times)
    return 0


def _memory(model: RealModel, graph: Graph) -> list[MemoryRow]:
    data = open_model(model.path)
    rows = []
    for count in _COUNTS:
        positions = sorted(random.Random(count).sample(legal_positions(graph), count - 1))
        groups = groups_at(graph, positions)
        for group, piece in zip(groups, iter_slices(data, graph, groups), strict=True):
            frames = sum(graph.tensors[t].nbytes for t in (*piece.inputs, *piece.outputs))
            for runtime in RUNTIMES:
                grown = _grown(piece, runtime)
                if grown is not None:
                    measured = grown + _WORKER_COPIES * frames
                    formula = slice_memory(graph, group)
                    rows.append(MemoryRow(model.name, count, piece.id, runtime, formula, measured))
    return rows


def _grown(piece: Slice, runtime: str) -> int | None:
    """How far the peak of a fresh process grows over one slice; None when the runtime cannot run it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slice.tflite"
        path.write_bytes(piece.data)
        command = [sys.executable, "-c", _CHILD, str(path), runtime]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    return int(done.stdout) if done.returncode == 0 else None


def _print(memory: list[MemoryRow], times: list[TimeRow]) -> None:
    print("| model | slices | slice | runtime | formula MB | measured MB | error |\n|---|---|---|---|---|---|---|")
    for row in memory:
        sizes = f"{row.formula / 1e6:.1f} | {row.measured / 1e6:.1f}"
        print(f"| {row.model} | {row.slices} | {row.slice} | {row.runtime} | {sizes} | {row.error:+.0%} |")
    print()
    for runtime in RUNTIMES:
        errors = sorted(row.error for row in memory if row.runtime == runtime)
        if errors:
            typical = statistics.median(abs(error) for error in errors)
            within = sum(abs(error) <= 0.15 for error in errors) / len(errors)
            print(
                f"{runtime}: {len(errors)} slices, typical error {typical:.0%}, {within:.0%} within 15 %, "
                f"from {errors[0]:+.0%} to {errors[-1]:+.0%}"
            )
    print("\n| model | measured ms | estimate ms | ratio | overhead of a slice, us |\n|---|---|---|---|---|")
    for time in times:
        milliseconds = f"{time.measured * 1e3:.2f} | {time.estimated * 1e3:.2f}"
        ratio = time.estimated / time.measured
        print(f"| {time.model} | {milliseconds} | {ratio:.2f} | {time.overhead * 1e6:.0f} |")


if __name__ == "__main__":
    sys.exit(main())
