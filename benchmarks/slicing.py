"""Seconds and memory of cutting a 100 MB model into a folder of slices, each in a fresh process.

    python -m benchmarks.slicing [--models synthetic,resnet50] [--counts 2,20] [--runs 3] [--format json]

One run maps the file, reads the graph, makes the slices and writes them with their manifest. Memory is the largest
resident set of the process, Python and numpy included. The exit code is 1 when a limit is missed: 2 s, three times
the file, and 20 slices at twice the time of 2.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.models import ROOT, real_models
from slicemq.errors import SliceMQError

MOST_SECONDS, MOST_MEMORY, MOST_RATIO = 2.0, 3.0, 2.0
_LIMITED_FROM_BYTES = 90_000_000
_LAYERS, _WIDTH = 25, 1000


@dataclass(frozen=True)
class Row:
    """One model cut into `slices`: the median seconds and the largest resident set of several processes."""

    model: str
    size: int
    slices: int
    seconds: float
    peak: int

    @property
    def times(self) -> float:
        """Peak memory as a multiple of the file."""
        return self.peak / self.size


def main() -> int:
    """Measure and print the table; returns the exit code."""
    arguments = _arguments()
    if arguments.child:
        path, count, folder = arguments.child
        print(json.dumps(cut(Path(path), int(count), Path(folder))))
        return 0
    counts = [int(word) for word in arguments.counts.split(",")]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="slicemq-slicing-") as folder:
        for name in arguments.models.split(","):
            path = _model(name, Path(folder))
            rows += [measure(name, path, count, arguments.runs, Path(folder) / "out") for count in counts]
    missed = misses(rows)
    if arguments.format == "json":
        print(json.dumps({"rows": [asdict(row) for row in rows], "missed": missed}, indent=2))
    else:
        print(table(rows))
        print("\n".join(missed))
    return 1 if missed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time and memory of cutting a large model.")
    parser.add_argument(
        "--models", default="synthetic,resnet50", help="comma-separated: synthetic, or a real model"
    )
    parser.add_argument("--counts", default="2,20", help="comma-separated numbers of slices")
    parser.add_argument("--runs", type=int, default=3, help="processes for each number of slices")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--child", nargs=3, metavar=("PATH", "COUNT", "FOLDER"), help=argparse.SUPPRESS)
    return parser.parse_args()


def _model(name: str, folder: Path) -> Path:
    if name == "synthetic":
        path = folder / "synthetic.tflite"
        path.write_bytes(synthetic())
        return path
    model = real_models().get(name)
    if model is None:
        sys.exit(f"--models: {name} is neither synthetic nor one of {', '.join(real_models())}")
    if not model.path.is_file():
        sys.exit(f"{name}: {model.path.name} is missing: {model.hint}")
    return model.path


def synthetic() -> bytes:
    """100 MB: 25 dense layers of 4 MB."""
    import numpy as np

    from tests.converters.tiny import Tiny

    tiny = Tiny()
    x = tiny.input((1, _WIDTH))
    rng = np.random.default_rng(1)
    for _ in range(_LAYERS):
        weights = tiny.constant(rng.random((_WIDTH, _WIDTH), np.float32))
        x = tiny.op("RELU", [tiny.dense(x, weights, shape=(1, _WIDTH))], (1, _WIDTH))
    return tiny.build([x])


def measure(name: str, path: Path, count: int, runs: int, folder: Path) -> Row:
    """Cut `path` into `count` slices in fresh processes. Raises SliceMQError when one fails."""
    found: list[dict[str, Any]] = []
    for _ in range(runs):
        command = [sys.executable, "-m", "benchmarks.slicing", "--child", str(path), str(count), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        if done.returncode:
            raise SliceMQError(f"{name} in {count} slices: {done.stderr.strip()[-500:]}")
        found.append(json.loads(done.stdout))
    seconds = statistics.median(one["seconds"] for one in found)
    return Row(name, path.stat().st_size, count, seconds, max(one["peak"] for one in found))


def cut(path: Path, count: int, folder: Path) -> dict[str, float]:
    """Cut into `count` slices of about as many bytes of weights, in this process: seconds and peak bytes."""
    from converters.balance import balanced_positions
    from converters.folder import write_folder
    from converters.graph import read_graph
    from converters.profile import estimate
    from converters.schema import open_model
    from converters.slicing import edges, groups_at, iter_slices

    begun = time.perf_counter()
    with open_model(path) as data:
        graph = read_graph(data)
        groups = groups_at(graph, balanced_positions(graph, estimate(graph), count))
        write_folder(folder, graph, iter_slices(data, graph, groups), edges(graph, groups))
    return {"seconds": time.perf_counter() - begun, "peak": _peak()}


def _peak() -> int:
    """The largest resident set that this process has had, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SliceMQError("/proc/self/status: no VmHWM in it")


def misses(rows: list[Row]) -> list[str]:
    """What is over its limit, in words; models of less than 90 MB have none."""
    found = []
    for row in rows:
        if row.size < _LIMITED_FROM_BYTES:
            continue
        where = f"{row.model} in {row.slices} slices"
        if row.seconds > MOST_SECONDS:
            found.append(f"missed: {where} took {row.seconds:.2f} s, at most {MOST_SECONDS} are allowed")
        if row.times > MOST_MEMORY:
            found.append(f"missed: {where} took {row.times:.2f} times the file, at most {MOST_MEMORY} are allowed")
        few = next((r for r in rows if r.model == row.model and r.slices == 2), None)
        if few is not None and row.slices == 20 and row.seconds > MOST_RATIO * few.seconds:
            found.append(f"missed: {where} took {row.seconds / few.seconds:.2f} times as long as 2")
    return found


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| model | file MB | slices | seconds | peak MB | peak / file |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row.model} | {row.size / 1e6:.1f} | {row.slices} | {row.seconds:.2f} | {row.peak / 1e6:.0f} "
        f"| {row.times:.2f} |"
        for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
