"""Predicted memory and time of random slices beside what is measured, in one run.

    python -m benchmarks.slice_costs [--slices 100] [--models a,b] [--realtime] [--write] [--format json]

Each model is cut at random legal places into 2 to 8 slices. Each slice runs in fresh processes of its own, in each
runtime that takes it. Memory: how far a process's resident memory grows over loading, one warm run and two more
(the worker's frames are added), beside `converters.memory`. Time: the least of many short runs in processor time,
beside what a profile, measured in the same runtime just before and by the same rule, says of its operators. The
least of two such processes counts. `--realtime` keeps other programs off the processor meanwhile (SCHED_FIFO, on
the last processor; for root), since they take its caches, too. `--write` puts the table into
docs/reference/models.md. The exit code is 1 when a median is beyond its mark: 10 % for memory, 15 % for time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.machine import describe_machine
from benchmarks.models import ROOT, real_models
from converters.graph import Graph, read_graph
from converters.memory import slice_memory
from converters.profile import Profile, from_plain
from converters.schema import Bytes, open_model
from converters.shapes import resolve_shapes
from converters.slicing import groups_at, iter_slices, legal_positions
from edge_node.runtime import RUNTIMES, available_runtimes, open_interpreter

MODELS = ("resnet50", "mobilenetv2", "mobilenetv2-int8", "birdnet", "efficientnetb0", "face-back")
MEMORY_MARK, TIME_MARK = 0.10, 0.15
PAGE = ROOT / "docs" / "reference" / "models.md"
_BEGIN, _END = "<!-- slice costs: begin -->", "<!-- slice costs: end -->"
_SEED = 20261121
# A worker holds the frames that come in and those that go out besides the interpreter's own copy of them.
_WORKER_COPIES = 2
_TIMES = 2
_WORST = 5
_CHILD = """
import json, sys, time
from pathlib import Path
from edge_node.runtime import load_runtime, open_interpreter
load_runtime(sys.argv[2])
def resident():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmRSS"))
before = resident()
interpreter = open_interpreter(Path(sys.argv[1]), runtime=sys.argv[2])
interpreter.warm_up()
interpreter.invoke()
interpreter.invoke()
grown = resident() - before
least, began, runs = float("inf"), time.perf_counter(), 0
while runs < 5 or (runs < 2000 and time.perf_counter() - began < float(sys.argv[3])):
    start = time.thread_time()
    interpreter.invoke()
    least, runs = min(least, time.thread_time() - start), runs + 1
print(json.dumps([grown, least]))
"""
_PROFILE = """
import json, sys
from dataclasses import asdict
from functools import partial
from converters.graph import read_graph
from converters.profile import measure
from converters.schema import open_model
from converters.shapes import resolve_shapes
from edge_node.runtime import load_runtime, open_interpreter
chosen = load_runtime(sys.argv[2])
load = partial(open_interpreter, runtime=sys.argv[2])
data = open_model(sys.argv[1])
graph = resolve_shapes(data, read_graph(data), load)
print(json.dumps(asdict(measure(data, graph, load, runtime=f"{chosen.name} {chosen.version}"))))
"""


@dataclass(frozen=True)
class Row:
    """One slice in one runtime: bytes and seconds, predicted and measured."""

    model: str
    slice: str
    operators: int
    runtime: str
    memory_predicted: int
    memory_measured: int
    time_predicted: float
    time_measured: float

    @property
    def memory_error(self) -> float:
        """(predicted - measured) / measured."""
        return self.memory_predicted / self.memory_measured - 1.0

    @property
    def time_error(self) -> float:
        """(predicted - measured) / measured."""
        return self.time_predicted / self.time_measured - 1.0


def main() -> int:
    """Measure, print and perhaps write the table; returns the exit code."""
    parser = argparse.ArgumentParser(description="Predicted memory and time of slices against measurements.")
    parser.add_argument("--slices", type=int, default=100, help="how many slices, over all models (default 100)")
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated short names")
    parser.add_argument("--realtime", action="store_true", help="keep other programs off the processor (root)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/reference/models.md")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    arguments = parser.parse_args()
    names, models = arguments.models.split(","), real_models()
    for name in names:
        if name not in models or not models[name].path.is_file():
            known = ", ".join(name for name, model in models.items() if model.path.is_file())
            parser.error(f"--models: {name} is not one of {known}" if name not in models else models[name].hint)
    if arguments.slices < len(names):
        parser.error(f"--slices: at least one for each of {len(names)} models")
    prefix = _realtime() if arguments.realtime else []
    rows: list[Row] = []
    for place, name in enumerate(names):
        share = arguments.slices * (place + 1) // len(names) - arguments.slices * place // len(names)
        rows += _rows(name, models[name].path, share, prefix)
        sys.stderr.write(f"{name}: {share} slices\n")
    if arguments.format == "json":
        print(json.dumps([{**asdict(r), "memory_error": r.memory_error, "time_error": r.time_error} for r in rows]))
    else:
        print(report(rows))
    if arguments.write:
        _write(report(rows))
    return int(
        any(_beyond([row for row in rows if row.runtime == runtime]) for runtime in {r.runtime for r in rows})
    )


def resident_growth(path: Path, runtime: str) -> int:
    """Bytes by which a fresh process's resident memory grows when it loads and runs the slice in `path`."""
    return _run(path, runtime, 0.0, [])[0]


def _rows(name: str, path: Path, count: int, prefix: Sequence[str]) -> list[Row]:
    data = open_model(path)
    graph = resolve_shapes(data, read_graph(data), open_interpreter)
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        pieces = _pieces(data, graph, count, f"{_SEED} {name}", Path(folder))
        for runtime in (info.name for info in available_runtimes()):
            profile = _profile(path, runtime, prefix)
            if profile is None:
                continue
            for operators, frames, file in pieces:
                try:
                    runs = [_run(file, runtime, 0.15, prefix) for _ in range(_TIMES)]
                except subprocess.CalledProcessError:
                    continue
                steps = [index for index in operators if index in profile.seconds]
                found.append(
                    Row(
                        model=name,
                        slice=f"{steps[0]}-{steps[-1]}",
                        operators=len(steps),
                        runtime=runtime,
                        memory_predicted=slice_memory(graph, operators, runtime),
                        memory_measured=int(statistics.median(grown for grown, _ in runs))
                        + _WORKER_COPIES * frames,
                        time_predicted=profile.of(operators),
                        time_measured=min(taken for _, taken in runs),
                    )
                )
    return found


def _pieces(
    data: Bytes, graph: Graph, count: int, seed: str, folder: Path
) -> list[tuple[tuple[int, ...], int, Path]]:
    """`count` random slices: operators, bytes of inputs and outputs, and the file."""
    rng, legal = random.Random(seed), legal_positions(graph)
    found: list[tuple[tuple[int, ...], int, Path]] = []
    while len(found) < count:
        parts = min(rng.randint(2, 8), len(legal) + 1)
        groups = groups_at(graph, sorted(rng.sample(legal, parts - 1)))
        chosen = rng.randrange(parts)
        for number, piece in enumerate(iter_slices(data, graph, groups)):
            if number == chosen:
                file = folder / f"{len(found)}.tflite"
                file.write_bytes(piece.data)
                frames = sum(graph.tensors[t].nbytes for t in (*piece.inputs, *piece.outputs))
                found.append((tuple(groups[number]), frames, file))
    return found


def _run(path: Path, runtime: str, seconds: float, prefix: Sequence[str]) -> tuple[int, float]:
    command = [*prefix, sys.executable, "-c", _CHILD, str(path), runtime, str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    grown, least = json.loads(done.stdout)
    return int(grown), float(least)


def _profile(path: Path, runtime: str, prefix: Sequence[str]) -> Profile | None:
    """The model's profile in a runtime; None when the runtime cannot run the model."""
    command = [*prefix, sys.executable, "-c", _PROFILE, str(path), runtime]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    return from_plain(json.loads(done.stdout)) if done.returncode == 0 else None


def _realtime() -> list[str]:
    """The words before a command that runs it alone on a processor."""
    processor = max(os.sched_getaffinity(0))
    prefix = ["chrt", "-f", "10", "taskset", "-c", str(processor)]
    with contextlib.suppress(OSError):
        if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
            return prefix
    sys.stderr.write("--realtime: not permitted here; measuring without it\n")
    return []


def report(rows: Sequence[Row]) -> str:
    """The summary by runtime and model, and the slices that were predicted worst."""
    lines = [
        "| runtime | model | slices | memory: median error | within 10 % | range "
        "| time: median error | within 15 % | range |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for runtime in RUNTIMES:
        mine = [row for row in rows if row.runtime == runtime]
        for name in dict.fromkeys(row.model for row in mine):
            lines.append(_line(runtime, name, [row for row in mine if row.model == name]))
        if mine:
            lines.append(_line(f"**{runtime}**", "**all**", mine))
    worst = {
        "memory": sorted(rows, key=lambda row: -abs(row.memory_error))[:_WORST],
        "time": sorted(rows, key=lambda row: -abs(row.time_error))[:_WORST],
    }
    lines += ["", "Predicted worst:", "", "| what | runtime | model | operators | predicted | measured |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for row in worst["memory"]:
        sizes = f"{row.memory_predicted / 1e6:.1f} MB | {row.memory_measured / 1e6:.1f} MB"
        lines.append(f"| memory | {row.runtime} | {row.model} | {row.slice} | {sizes} |")
    for row in worst["time"]:
        times = f"{row.time_predicted * 1e3:.3f} ms | {row.time_measured * 1e3:.3f} ms"
        lines.append(f"| time | {row.runtime} | {row.model} | {row.slice} | {times} |")
    return "\n".join([*lines, "", f"Measured on: {describe_machine()}."])


def _line(runtime: str, model: str, rows: Sequence[Row]) -> str:
    memory, time = [row.memory_error for row in rows], [row.time_error for row in rows]
    return f"| {runtime} | {model} | {len(rows)} | {_figures(memory, MEMORY_MARK)} | {_figures(time, TIME_MARK)} |"


def _figures(errors: Sequence[float], mark: float) -> str:
    within = sum(abs(error) <= mark for error in errors) / len(errors)
    return f"{_median(errors):.1%} | {within:.0%} | {min(errors):+.0%} to {max(errors):+.0%}".replace("%", " %")


def _median(errors: Sequence[float]) -> float:
    return statistics.median(abs(error) for error in errors)


def _beyond(rows: Sequence[Row]) -> bool:
    memory, time = [row.memory_error for row in rows], [row.time_error for row in rows]
    return _median(memory) > MEMORY_MARK or _median(time) > TIME_MARK


def _write(table: str) -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(_BEGIN)
    _, found, after = rest.partition(_END)
    if not found:
        raise SystemExit(f"{PAGE}: the comments {_BEGIN} and {_END} are not there")
    PAGE.write_text(f"{before}{_BEGIN}\n\n{table}\n\n{_END}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
