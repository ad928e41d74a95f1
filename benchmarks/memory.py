"""Resident memory: an idle node, a worker before its slice, and workers with slices beside what the plan said.

    python -m benchmarks.memory [--models face-full-range,birdnet] [--format json]

An idle node is its agent alone, before its first slice and after its last. A worker before its slice has imported
its runtime and stands at the door of its slice: it was given a named pipe to load, into which nobody writes. A
slice is what its worker holds beyond that after frames have gone through it; the plan's figure stands beside it.
RSS counts pages that are shared with other processes in full, PSS in part; the marks hold for RSS. The exit code
is 1 when a mark is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe_machine
from benchmarks.models import real_models
from benchmarks.processes import LoneWorker, Memory, children, read_memory
from edge_node.runtime import available_runtimes
from emulator.site import Site
from slicemq.client import Pipeline
from slicemq.errors import SliceMQError
from slicemq.messages import Artifact, Bundle, ResultPart, SliceAssignment, TensorSpec
from slicemq.options import BrokerOptions

NODES = ("n1", "n2")
IDLE_NODE_MARK = 35.0
IDLE_WORKER_MARK = 60.0
_SETTLE_SECONDS = 3.0
_FRAMES = 20
_DEPLOY_SECONDS = "120"
# One slice on each node, also where one node alone would be as fast.
_PINS = [word for number, node in enumerate(NODES) for word in ("--pin", f"s{number}={node}")]


@dataclass(frozen=True)
class Row:
    """One process; MB are 10^6 bytes. `mark` is the most that `rss_mb` may be."""

    what: str
    rss_mb: float
    pss_mb: float
    mark: float | None = None

    @property
    def missed(self) -> bool:
        """Whether it holds more than its mark."""
        return self.mark is not None and self.rss_mb > self.mark


@dataclass(frozen=True)
class SliceRow:
    """One worker with its slice; `slice_mb` is what it holds beyond a worker before its slice (RSS)."""

    model: str
    slice: str
    rss_mb: float
    pss_mb: float
    slice_mb: float
    predicted_mb: float

    @property
    def ratio(self) -> float:
        """Measured by predicted."""
        return self.slice_mb / self.predicted_mb if self.predicted_mb else float("inf")


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 1 when a mark is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", default="face-full-range,birdnet", help="models to slice, with commas between")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    given = parser.parse_args(arguments)
    try:
        with Site("mosquitto", cluster="bench") as site:
            runtimes = [info.name for info in available_runtimes()]
            workers = {name: idle_worker(site.options, name) for name in runtimes}
            rows = [_row(f"worker before its slice, {name}", workers[name], IDLE_WORKER_MARK) for name in runtimes]
            site.start_coordinator()
            for node in NODES:
                site.start_node(node, "--threads", "1")
            site.wait_ready(NODES)
            rows.append(_idle_node(site, "before its first slice"))
            slices = [row for name in given.models.split(",") for row in _slices(site, name, workers[runtimes[0]])]
            rows.append(_idle_node(site, "after its last slice"))
    except SliceMQError as error:
        sys.stderr.write(f"memory: {error}\n")
        return error.exit_code
    report(rows, slices, given.format)
    return 1 if any(row.missed for row in rows) else 0


def idle_worker(broker: BrokerOptions, runtime: str) -> Memory:
    """The memory of a worker that has loaded `runtime` and is about to open its slice."""
    with tempfile.TemporaryDirectory() as folder:
        pipe = Path(folder) / "slice.tflite"
        os.mkfifo(pipe)
        with LoneWorker(_assignment(), pipe, broker, runtime) as worker:
            worker.wait_for("loading")
            _until_waiting(worker.pid)
            return read_memory(worker.pid)


def _until_waiting(pid: int) -> None:
    """Wait until the main thread of a process waits for something: here, for a writer of the pipe."""
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "S":
            return
        time.sleep(0.01)
    raise SliceMQError("the worker did not come to rest before its slice")


def _idle_node(site: Site, when: str) -> Row:
    time.sleep(_SETTLE_SECONDS)
    pid = site.nodes[NODES[0]].process.pid
    if children(pid):
        raise SliceMQError(f"node {NODES[0]} is not idle: it has child processes")
    return _row(f"idle node, {when}", read_memory(pid), IDLE_NODE_MARK)


def _assignment() -> SliceAssignment:
    spec = TensorSpec(0, "x", "float32", (1, 1))
    return SliceAssignment(
        pipeline="idle",
        revision="1-00000000",
        slice="s0",
        artifact=Artifact("0" * 64, 1),
        memory=0,
        takes=(0,),
        gives=(1,),
        inputs=(Bundle("b0", (spec,)),),
        result=ResultPart(0, 1, (TensorSpec(1, "y", "float32", (1, 1)),)),
    )


def _slices(site: Site, name: str, idle: Memory) -> Iterator[SliceRow]:
    model = real_models()[name]
    if not model.path.is_file():
        raise SliceMQError(f"{name}: not here; {model.hint}")
    done = site.json("deploy", str(model.path), "--name", name, *_PINS, "--timeout", _DEPLOY_SECONDS)
    with Pipeline(name, site.options, cluster=site.cluster) as pipeline:
        frame = {
            spec.index: np.zeros([max(1, size) for size in spec.shape], np.dtype(spec.dtype))
            for spec in pipeline.inputs
        }
        for _ in pipeline.map(frame for _ in range(_FRAMES)):
            pass
    for item in done["plan"]["slices"]:
        (node,) = item["nodes"]
        (worker,) = children(site.nodes[node].process.pid)
        memory = read_memory(worker)
        yield SliceRow(
            name,
            str(item["id"]),
            memory.rss / 1e6,
            memory.pss / 1e6,
            (memory.rss - idle.rss) / 1e6,
            float(item["memory_mb"]),
        )
    site.json("undeploy", name)
    deadline = time.monotonic() + 60.0
    while any(children(site.nodes[node].process.pid) for node in NODES):
        if time.monotonic() > deadline:
            raise SliceMQError(f"{name}: its workers did not end")
        time.sleep(0.1)


def _row(what: str, memory: Memory, mark: float) -> Row:
    return Row(what, memory.rss / 1e6, memory.pss / 1e6, mark)


def report(rows: list[Row], slices: list[SliceRow], style: str) -> None:
    """Print the two tables, as text or as one JSON document."""
    if style == "json":
        body: dict[str, Any] = {
            "machine": describe_machine(),
            "processes": [{**asdict(row), "missed": row.missed} for row in rows],
            "slices": [{**asdict(row), "ratio": row.ratio} for row in slices],
        }
        print(json.dumps(body, indent=2))
        return
    print(f"{describe_machine()}; MB of 10^6 bytes\n")
    print("| process | RSS | PSS | mark (RSS) | |")
    print("| --- | --- | --- | --- | --- |")
    for row in rows:
        verdict = "missed" if row.missed else "held"
        print(f"| {row.what} | {row.rss_mb:.1f} | {row.pss_mb:.1f} | {row.mark or 0:.0f} | {verdict} |")
    print("\n| worker with | RSS | PSS | slice alone | planned | measured / planned |")
    print("| --- | --- | --- | --- | --- | --- |")
    for one in slices:
        print(
            f"| {one.model} {one.slice} | {one.rss_mb:.1f} | {one.pss_mb:.1f} | {one.slice_mb:.1f} "
            f"| {one.predicted_mb:.1f} | {one.ratio:.2f} |"
        )


if __name__ == "__main__":
    raise SystemExit(main())
