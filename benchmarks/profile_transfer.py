"""What a profile says of a node that is not the one that was measured: another runtime, half a core.

    python -m benchmarks.profile_transfer [--models a,b] [--slices 10] [--format json]

Each runtime, in a process of its own, measures the profile of each model, random slices of it (2 to 8 a model), and
this machine's speed at each class of operators as a node does. From the profile under one runtime and the two sets
of speeds the time under the other is predicted, and held against what was measured there: the whole model, and the
median over the slices. At half a core (a CPU quota; needs root and an idle machine) frames are timed by the wall.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.models import ROOT, real_models
from converters.classes import class_of
from converters.flatbuffer import write_slice
from converters.graph import Graph, read_graph
from converters.profile import measure
from converters.runtime import Load, feed, random_inputs
from converters.schema import open_model
from converters.shapes import resolve_shapes
from converters.slicing import groups_at, legal_positions, parts
from edge_node.capacity import measure_speeds, read_board
from edge_node.runtime import open_interpreter
from emulator.cgroups import limit
from slicemq.errors import ConfigError, SliceMQError

RUNTIMES = ("ai_edge_litert", "tflite_runtime")
MODELS = ("resnet50", "mobilenetv2", "resnet50-int8", "mobilenetv2-int8", "birdnet", "basic-pitch", "face-landmark")
HALF = "half a core"


@dataclass(frozen=True)
class Row:
    """One model, measured in one place and predicted for another; seconds a frame, errors as shares."""

    model: str
    measured_on: str
    predicted_for: str
    predicted: float
    measured: float
    slices: float | None

    @property
    def error(self) -> float:
        """(predicted - measured) / measured of the whole model."""
        return self.predicted / self.measured - 1


def main() -> int:
    """Measure and print the table; returns the exit code."""
    parser = argparse.ArgumentParser(description="Predicted times on other nodes against measured ones.")
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated short names")
    parser.add_argument("--slices", type=int, default=10, help="random slices of each model")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    names = arguments.models.split(",")
    if arguments.child:
        runtime, task = arguments.child
        print(
            json.dumps(_whole_frames(names, runtime) if task == "wall" else _all(names, runtime, arguments.slices))
        )
        return 0
    known = real_models()
    for name in names:
        if name not in known:
            parser.error(f"--models: {name} is not one of {', '.join(known)}")
    names = [name for name in names if known[name].path.is_file()]
    found = {runtime: _child([], names, runtime, "all", arguments.slices) for runtime in RUNTIMES}
    rows = []
    for name in names:
        for here, there in (RUNTIMES, RUNTIMES[::-1]):
            if name in found[here]["models"] and name in found[there]["models"]:
                rows.append(_row(name, here, there, found[here], found[there]))
    rows += _at_half(names, found[RUNTIMES[0]])
    if arguments.format == "json":
        plain = [{**asdict(row), "error": row.error} for row in rows]
        print(json.dumps({"rows": plain, "speeds": {r: found[r]["speeds"] for r in RUNTIMES}}, indent=2))
    else:
        _print(rows)
    return 0


def _row(name: str, here: str, there: str, mine: dict[str, Any], other: dict[str, Any]) -> Row:
    speeds = {k: v / mine["speeds"][k] for k, v in other["speeds"].items() if k in mine["speeds"]}
    model, target = mine["models"][name], other["models"][name]
    errors = [abs(_predicted(model, speeds, piece["steps"]) / piece["seconds"] - 1) for piece in target["slices"]]
    predicted = _predicted(model, speeds, [int(step) for step in model["seconds"]])
    return Row(name, here, there, predicted, target["whole"], statistics.median(errors))


def _predicted(model: dict[str, Any], speeds: dict[str, float], steps: Sequence[int]) -> float:
    return float(sum(model["seconds"][str(s)] / speeds[model["classes"][str(s)]] for s in steps))


def _at_half(names: list[str], found: dict[str, Any]) -> list[Row]:
    """The models under the first runtime at half a core; empty where no quota can be set."""
    # The kernel lets no process of a real-time class into a group with a quota.
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    try:
        group = limit("transfer", share=0.5)
    except ConfigError as error:
        sys.stderr.write(f"half a core is left out: {error}\n")
        return []
    # Other work on the machine shall not take what the quota leaves.
    for name, most in (("cpu.shares", "262144"), ("cpu.weight", "10000")):
        for path in (folder / name for folder in group.folders):
            if path.exists():
                path.write_text(most)
    try:
        half = _child(group.prefix(), names, RUNTIMES[0], "wall", 0)
    finally:
        group.remove()
    ratios = {k: v / found["speeds"][k] for k, v in half["speeds"].items()}
    rows = []
    for name, seconds in half["models"].items():
        model = found["models"][name]
        predicted = _predicted(model, ratios, [int(step) for step in model["seconds"]])
        rows.append(Row(name, RUNTIMES[0], HALF, predicted, seconds, None))
    return rows


def _child(prefix: list[str], names: list[str], runtime: str, task: str, slices: int) -> dict[str, Any]:
    words = ["--models", ",".join(names), "--slices", str(slices), "--child", runtime, task]
    command = [*prefix, sys.executable, "-m", "benchmarks.profile_transfer", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True)
    body: dict[str, Any] = json.loads(done.stdout)
    return body


def _all(names: list[str], runtime: str, slices: int) -> dict[str, Any]:
    load = partial(open_interpreter, runtime=runtime)
    models = {}
    for name in names:
        try:
            models[name] = _model(name, load, slices)
        except SliceMQError as error:
            sys.stderr.write(f"{name} is left out: {error}\n")
    return {"speeds": _speeds(runtime), "models": models}


def _speeds(runtime: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        return measure_speeds(read_board(threads=1), runtime, Path(folder) / "speeds.json").speeds


def _model(name: str, load: Load, slices: int) -> dict[str, Any]:
    data = open_model(real_models()[name].path)
    graph = resolve_shapes(data, read_graph(data), load)
    profile = measure(data, graph, load)
    legal = legal_positions(graph)
    rng = random.Random(5)
    chosen = []
    for _ in range(slices):
        count = min(rng.randint(2, 8), len(legal) + 1)
        groups = groups_at(graph, sorted(rng.sample(legal, count - 1)))
        number = rng.randrange(count)
        before = [step for group in groups[:number] for step in group]
        after = [step for group in groups[number + 1 :] for step in group]
        chosen.append((before, groups[number], after))
    return {
        "seconds": profile.seconds,
        "classes": {step: class_of(graph, graph.operators[step]) for step in graph.steps},
        "whole": _time(data, graph, [], list(graph.steps), [], load),
        "slices": [
            {"steps": group, "seconds": _time(data, graph, before, group, after, load)}
            for before, group, after in chosen
        ],
    }


def _time(data: Any, graph: Graph, before: list[int], group: list[int], after: list[int], load: Load) -> float:
    """Processor seconds of a frame in `group`, the median of several, on what the steps before make."""
    groups = [steps for steps in (before, group, after) if steps]
    arrays = random_inputs(graph, seed=0)
    taken: list[float] = []
    for steps, part in zip(groups, parts(graph, groups), strict=True):
        interpreter = load(write_slice(data, graph, part.operators, part.inputs, part.outputs))
        feed(interpreter, [arrays[t] for t in part.inputs])
        interpreter.invoke()
        if steps is group:
            end = time.monotonic() + 0.3
            while len(taken) < 3 or (time.monotonic() < end and len(taken) < 100):
                start = time.thread_time()
                interpreter.invoke()
                taken.append(time.thread_time() - start)
            break
        arrays.update((t, interpreter.output(position)) for position, t in enumerate(part.outputs))
    return statistics.median(taken)


def _whole_frames(names: list[str], runtime: str) -> dict[str, Any]:
    """Seconds a frame by the wall, over three seconds of frames one after the other."""
    models = {}
    for name in names:
        data = open_model(real_models()[name].path)
        graph = read_graph(data)
        interpreter = open_interpreter(bytes(data), runtime=runtime)
        arrays = random_inputs(graph, seed=0)
        feed(interpreter, [arrays[t] for t in graph.inputs])
        interpreter.invoke()
        start, frames = time.monotonic(), 0
        while frames < 5 or time.monotonic() < start + 3:
            interpreter.invoke()
            frames += 1
        models[name] = (time.monotonic() - start) / frames
    return {"speeds": _speeds(runtime), "models": models}


def _print(rows: list[Row]) -> None:
    print(f"Measured on {describe_machine()}.\n")
    print("| model | measured on | predicted for | predicted ms | measured ms | error | slices, median error |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        slices = "" if row.slices is None else f"{row.slices:.0%}"
        times = f"{row.predicted * 1e3:.2f} | {row.measured * 1e3:.2f} | {row.error:+.0%}"
        print(f"| {row.model} | {row.measured_on} | {row.predicted_for} | {times} | {slices} |")


if __name__ == "__main__":
    sys.exit(main())
