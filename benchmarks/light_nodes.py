"""A coordinator with 10, 100 and 1,000 nodes: seconds to join, plan and recover; its memory and processor time.

    python -m benchmarks.light_nodes [--nodes 10,100,1000] [--slices 20] [--lose 50] [--model densenet121] [--write]

One mosquitto with the shipped configuration, one real coordinator, and nodes that are real in all but the runtime
(benchmarks.light_fleet), 100 to a process, whose heartbeats come at the usual rate. A pipeline is deployed over at
most `--slices` of them; then `--lose` nodes, half of them or more of the pipeline, close their sockets at once.
Light nodes answer every frame with zeros, so the deploy's golden frame expects zeros. With --write the table goes
into docs/explanation/performance.md. A step that takes longer than `--patience` seconds is an error; rows before
it are still printed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import pages
from benchmarks.fleet import say
from benchmarks.machine import describe_machine
from benchmarks.models import real_models
from converters.graph import read_graph
from edge_node.capacity import measure_speeds, read_board
from emulator.site import Site
from slicemq.errors import SliceMQError
from slicemq.messages import PipelineDocument, PlanDocument, decode
from slicemq.session import Session
from slicemq.topics import Topics

PER_PROCESS = 100
BEATS = 4
NAME = "wide"
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGESIZE")


@dataclass(frozen=True)
class Row:
    """Seconds, MB (10^6 bytes, resident, the coordinator's main process) and shares of a core."""

    nodes: int
    slices: int
    lost: int
    join: float
    plan: float
    recover: float
    memory: float
    idle_share: float
    running_share: float
    dropped: int


class Fleet:
    """Processes of light nodes."""

    def __init__(self, site: Site, count: int, speeds: dict[str, float]) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        for first in range(0, count, PER_PROCESS):
            words = [site.broker.url, site.cluster, str(first), str(min(PER_PROCESS, count - first))]
            command = [sys.executable, "-m", "benchmarks.light_fleet", *words, json.dumps(speeds)]
            with (site.folder / f"fleet-{first}.log").open("ab") as log:
                self._processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log))

    def lose(self, names: list[str]) -> None:
        """Let these nodes die at once."""
        for number, process in enumerate(self._processes):
            mine = [name for name in names if int(name.removeprefix("light-")) // PER_PROCESS == number]
            assert process.stdin is not None
            if mine:
                process.stdin.write(f"lose {' '.join(mine)}\n".encode())
                process.stdin.flush()

    def close(self) -> None:
        """End all."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()


class Watch:
    """The pipeline's documents as they come."""

    def __init__(self, site: Site) -> None:
        self._topics = Topics(site.cluster)
        self.documents: dict[str, bytes] = {}
        self._beats: deque[float] = deque(maxlen=BEATS)
        self.session = Session(site.options, "light-watch", on_message=self._on_message)
        self.session.subscribe(
            self._topics.pipeline(NAME), self._topics.plan(NAME), self._topics.coordinator_marker
        )
        self.session.start()

    def _on_message(self, topic: str, payload: bytes, _retained: bool) -> None:
        self.documents[topic] = payload
        if topic == self._topics.coordinator_marker:
            self._beats.append(time.monotonic())

    def steady(self) -> bool:
        """Whether the coordinator's beats come through the broker as they should, some in 2 s."""
        beats = list(self._beats)
        return len(beats) == BEATS and time.monotonic() - beats[0] < 2.0

    def active(self) -> str:
        """The revision that is active; empty when there is none."""
        payload = self.documents.get(self._topics.pipeline(NAME))
        if not payload:
            return ""
        document = decode(PipelineDocument, payload, NAME)
        return next((route.revision for route in document.routes if route.state == "active"), "")

    def nodes(self) -> list[str]:
        """The nodes of the newest plan."""
        plan = decode(PlanDocument, self.documents[self._topics.plan(NAME)], NAME)
        return [node for one in plan.plan["slices"] for node in one["nodes"]]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table."""
    given = _parser().parse_args(arguments)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    counts = [int(word) for word in given.nodes.split(",")]
    if soft < 4 * max(counts):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    rows, failed = [], 0
    try:
        speeds = _speeds(given.speed)
        for count in counts:
            say(f"{count} nodes")
            rows.append(_measured(count, given, speeds))
            say(str(rows[-1]))
    except SliceMQError as error:
        sys.stderr.write(f"light_nodes: {error}\n")
        failed = error.exit_code
    text = table(rows, given)
    print(pages.as_json([asdict(row) for row in rows]) if given.format == "json" else text)
    if given.write and not failed:
        pages.write_region("light_nodes", text)
    return failed


def table(rows: list[Row], given: Any) -> str:
    """What is printed, and written into the page."""
    lines = [
        f"{describe_machine()}; {given.model}, nodes of {given.speed:g} of this machine's speed, all on it.",
        "",
        "| nodes | slices | joined s | planned and running s | lost at once | running again s "
        "| coordinator MB | its share of a core, idle | with the pipeline | messages dropped |",
        "| --- " * 10 + "|",
    ]
    lines += [
        f"| {row.nodes} | {row.slices} | {row.join:.1f} | {row.plan:.1f} | {row.lost} | {row.recover:.1f} "
        f"| {row.memory:.0f} | {100 * row.idle_share:.0f} % | {100 * row.running_share:.0f} % | {row.dropped} |"
        for row in rows
    ]
    return "\n".join(lines)


def _speeds(share: float) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="slicemq-light-") as folder:
        measured = measure_speeds(read_board(threads=1), "auto", Path(folder) / "speeds.json")
    return {name: speed * share for name, speed in measured.speeds.items()}


def _measured(count: int, given: Any, speeds: dict[str, float]) -> Row:
    model = real_models()[given.model].path
    lose = min(given.lose, count // 2)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slicemq-light-")))
        site = stack.enter_context(Site("mosquitto", cluster="light", folder=folder))
        coordinator = site.start_coordinator()
        site.wait_ready([])
        watch = Watch(site)
        stack.callback(watch.session.stop)
        begun = time.monotonic()
        fleet = Fleet(site, count, speeds)
        stack.callback(fleet.close)
        _wait(lambda: coordinator.log.read_text().count(": ready\n") >= count, given.patience, "join")
        # Whoever asks for something now is heard.
        join = _wait(watch.steady, given.patience, "the coordinator's beats after the join") - begun
        idle = _share(coordinator.process.pid, given.seconds)
        begun = time.monotonic()
        words = ["--shape", "pipeline", "--max-slices", str(given.slices), "--profile", "estimate"]
        words += ["--golden", str(_zeros(model, folder / "zeros.npz"))]
        site.json("deploy", str(model), "--name", NAME, *words, timeout=given.patience)
        plan = _wait(lambda: bool(watch.active()), given.patience, "plan") - begun
        running = _share(coordinator.process.pid, given.seconds)
        before, mine = watch.active(), watch.nodes()
        others = [name for name in (f"light-{i}" for i in range(count)) if name not in mine]
        half = max(1, lose // 2)
        gone = [*mine[:half], *others, *mine[half:]][:lose]
        begun = time.monotonic()
        fleet.lose(gone)
        again = _wait(lambda: watch.active() not in ("", before), given.patience, "recover") - begun
        if set(watch.nodes()) & set(gone):
            raise SliceMQError(f"{count} nodes: the new plan uses nodes that were lost")
        return Row(
            count,
            len(mine),
            len(gone),
            join,
            plan,
            again,
            _resident(coordinator.process.pid) / 1e6,
            idle,
            running,
            _dropped(coordinator.log),
        )


def _zeros(model: Path, file: Path) -> Path:
    """A golden frame of zeros, for a model of fixed sizes."""
    with model.open("rb") as data:
        graph = read_graph(data.read())
    arrays = {
        prefix + str(index): np.zeros(graph.tensors[index].frame_shape, graph.tensors[index].dtype)
        for prefix, tensors in (("", graph.inputs), ("expect.", graph.outputs))
        for index in tensors
    }
    np.savez(file, **arrays)
    return file


def _wait(happened: Callable[[], bool], patience: float, what: str) -> float:
    """When it happened, on the monotonic clock. Raises SliceMQError after `patience` seconds."""
    deadline = time.monotonic() + patience
    while not happened():
        if time.monotonic() > deadline:
            raise SliceMQError(f"{what}: not done within {patience:g} s")
        time.sleep(0.05)
    return time.monotonic()


def _share(pid: int, seconds: float) -> float:
    """The share of a core that a process takes, without its children."""
    before, begun = _cpu(pid), time.monotonic()
    time.sleep(seconds)
    return (_cpu(pid) - before) / (time.monotonic() - begun)


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


def _dropped(log: Path) -> int:
    """How many events the coordinator says that it dropped."""
    lines = [line for line in log.read_text().splitlines() if "events dropped" in line]
    return int(lines[-1].rpartition(": ")[0].rpartition(": ")[2].split()[0]) if lines else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.light_nodes", description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", default="10,100,1000")
    parser.add_argument("--slices", type=int, default=20, help="the most slices of the pipeline")
    parser.add_argument("--lose", type=int, default=50, help="how many nodes die at once (at most half of them)")
    parser.add_argument("--model", default="densenet121")
    parser.add_argument("--speed", type=float, default=0.02, help="a node's speed as a share of this machine's")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long processor time is measured")
    parser.add_argument("--patience", type=float, default=300.0)
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--write", action="store_true", help="put the table into docs/explanation/performance.md")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
