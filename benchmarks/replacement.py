"""From the loss of a node to the new assignments: with the plan made ahead, and cold.

    python -m benchmarks.replacement [--model NAME] [--nodes 20,50] [--losses N] [--format table|json]

The coordinator's core, its store and its workshop (with the planning child) run as in the daemon; the nodes are
made up: all different, slow, with room for a part of the model, so that the pipeline has several slices. Time is
wall time from the event of the loss to the encoded assignments of the new revision, which the daemon publishes
then. A cold loss comes before any plan is made ahead, with a child that knows the model. The table is in
docs/explanation/planning-live.md.
"""

from __future__ import annotations

import argparse
import json
import queue
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.models import real_models
from coordinator.actions import Action, MakePlan, Persist, PlanAhead, Probe, Publish
from coordinator.artifacts import ArtifactStore
from coordinator.cluster import Cluster
from coordinator.contingency import Unmade
from coordinator.downloads import Exchange
from coordinator.intents import Blueprint, Intent
from coordinator.planning import Tools
from coordinator.store import Store
from coordinator.workshop import Workshop
from slicemq.errors import SliceMQError
from slicemq.messages import (
    Assignment,
    Capacity,
    Heartbeat,
    Link,
    NodeState,
    Report,
    RuntimeInfo,
    SliceReport,
    encode,
)
from slicemq.topics import Topics

CLASSES = ("conv", "depthwise", "dense", "elementwise")
TOOLS = Tools(
    "coordinator.cli.tools:load_interpreter",
    "benchmarks.replacement:speeds_of_reference",
    "coordinator.cli.tools:runtime_name",
)


def speeds_of_reference(folder: Path) -> dict[str, float]:
    """The machine that the made-up nodes' speeds are relative to."""
    return dict.fromkeys(CLASSES, 1.0)


def capacities(count: int, memory: float, seed: int) -> list[Capacity]:
    """Nodes that all differ: 0.5 to 1 % of the machine's speed, 300 to 1000 Mbit/s, `memory` bytes on average."""
    rng = random.Random(seed)
    return [
        Capacity(
            node=f"n{k:02}",
            epoch=f"life-{k}-0",
            software="0",
            arch="x86_64",
            cores=1.0,
            threads=1,
            memory=int(memory * rng.uniform(0.7, 1.3)) + 10_000_000,
            worker_memory=10_000_000,
            runtime=RuntimeInfo("ai_edge_litert", "2"),
            speeds={name: rng.uniform(0.005, 0.01) for name in CLASSES},
            link=Link(rng.uniform(40e6, 125e6), rng.uniform(40e6, 125e6), 0.001),
        )
        for k in range(count)
    ]


@dataclass
class Scene:
    """A coordinator without a broker, and its made-up nodes."""

    folder: Path
    nodes: list[Capacity]
    events: queue.Queue[Callable[[], Iterable[Action]]] = field(default_factory=queue.Queue)
    dead: set[str] = field(default_factory=set)
    published: list[float] = field(default_factory=list)
    ahead: list[float] = field(default_factory=list)
    answers: int = 0

    def __post_init__(self) -> None:
        topics = Topics("lab")
        self.topics = topics
        self.cluster = Cluster(topics, instance="a" * 16)
        self.store = Store(self.folder)
        artifacts = ArtifactStore(self.folder / "artifacts")
        self.artifacts = artifacts
        self.exchange = Exchange(artifacts, topics, "coordinator", lambda topic, payload: True)
        self.workshop = Workshop(
            self.folder, TOOLS, self.exchange, lambda nbytes: True, self._planned, self._failed, self._foreseen
        )
        for capacity in self.nodes:
            self.do(self.cluster.on_node_state(0.0, NodeState(capacity.node, "ready", capacity.epoch)))
            self.do(self.cluster.on_capacity(0.0, capacity))
            self.do(self.cluster.on_heartbeat(0.0, Heartbeat(capacity.node, capacity.epoch, 1, 0.0, 0)))
        self.do(self.cluster.start(time.monotonic()))

    def close(self) -> None:
        """End the child and all threads."""
        self.workshop.stop()
        self.exchange.stop()

    def until(self, reached: Callable[[], bool]) -> None:
        """Carry out events and ticks until something is so."""
        while not reached():
            try:
                event = self.events.get(timeout=0.05)
            except queue.Empty:
                self.do(self.cluster.tick(time.monotonic()))
                continue
            self.do(event())

    def do(self, actions: Iterable[Action]) -> None:
        """Carry out actions as the daemon does; made-up nodes are ready at once."""
        for action in actions:
            match action:
                case Persist():
                    situation = self.cluster.situation
                    self.store.save(self.cluster.term, self.cluster.records.values(), situation.plain())
                case Publish(_, document):
                    encode(document)
                    if isinstance(document, Assignment):
                        self._obey(document)
                case MakePlan():
                    self.workshop.make(action)
                case PlanAhead():
                    self.ahead.append(time.monotonic())
                    self.workshop.make_ahead(action)
                case Probe(pipeline=pipeline, revision=revision):
                    self.events.put(
                        lambda p=pipeline, r=revision: self.cluster.on_probed(time.monotonic(), p, r)  # type: ignore[misc]
                    )
                case _:
                    pass

    def _obey(self, document: Assignment) -> None:
        if document.node in self.dead:
            return
        epoch = next(capacity.epoch for capacity in self.nodes if capacity.node == document.node)
        slices = tuple(SliceReport(item.pipeline, item.revision, item.slice, "ready") for item in document.slices)
        if any(not item.revision.startswith("1-") for item in document.slices):
            self.published.append(time.monotonic())
        report = Report(document.node, epoch, 1, slices, document.stamp)
        self.events.put(lambda: self.cluster.on_report(time.monotonic(), report))

    def _planned(self, job: int, made: Blueprint) -> None:
        self.events.put(lambda: self.cluster.on_planned(time.monotonic(), job, made))

    def _failed(self, job: int, error: SliceMQError) -> None:
        raise SystemExit(f"no plan: {error}")

    def _foreseen(self, job: int, outcome: Blueprint | Unmade) -> None:
        if isinstance(outcome, Unmade):
            self.events.put(lambda: self.cluster.on_unforeseen(time.monotonic(), job, outcome))
        else:
            self.events.put(lambda: self.cluster.on_foreseen(time.monotonic(), job, outcome))

    def ready_for(self, name: str) -> bool:
        """Whether a plan is ready for the loss of a node: they are made in the order of the nodes' names."""
        active = self.cluster.records["p"].active
        assert active is not None
        return self.cluster.records["p"].foreseen[0] > sorted(active.nodes).index(name)

    def lose(self, name: str) -> float:
        """Seconds from the loss of a node to the new assignments."""
        self.dead.add(name)
        self.published.clear()
        epoch = next(capacity.epoch for capacity in self.nodes if capacity.node == name)
        begun = time.monotonic()
        self.do(self.cluster.on_node_state(begun, NodeState(name, "lost", epoch)))
        self.do(self.cluster.on_own_beat(begun))
        self.until(lambda: bool(self.published))
        # All assignments of a revision come out of one event.
        seconds = self.published[-1] - begun
        self.until(lambda: self.cluster.records["p"].active is not None)
        return seconds


def deployed(folder: Path, model: Path, count: int, memory: float, seed: int) -> Scene:
    """A pipeline that runs on made-up nodes."""
    scene = Scene(folder, capacities(count, memory, seed))
    wanted = Intent("p", scene.artifacts.put(model.read_bytes()), None, {"profile": "estimate"})
    scene.do(scene.cluster.on_deploy(time.monotonic(), "cli", "t", wanted))
    scene.until(lambda: "p" in scene.cluster.records and scene.cluster.records["p"].active is not None)
    return scene


def measured(model: Path, count: int, memory: float, losses: int) -> dict[str, Any]:
    """One row: seconds of cold losses and of foreseen ones, each of another cluster."""
    cold: list[float] = []
    warm: list[float] = []
    ahead: list[float] = []
    slices: list[int] = []
    methods: set[str] = set()
    for seed in range(losses):
        for foreseen in (False, True):
            with tempfile.TemporaryDirectory(prefix="slicemq-replacement-") as name:
                scene = deployed(Path(name), model, count, memory, seed)
                try:
                    active = scene.cluster.records["p"].active
                    assert active is not None
                    methods.add(str(active.blueprint.plan["method"]))
                    slices.append(len(active.nodes))
                    lost = random.Random(seed).choice(sorted(active.nodes))
                    if foreseen:
                        scene.until(lambda scene=scene, lost=lost: scene.ready_for(lost))  # type: ignore[misc]
                        made = scene.cluster.records["p"].foreseen[0]
                        ahead.append((time.monotonic() - scene.ahead[0]) / made)
                    (warm if foreseen else cold).append(scene.lose(lost))
                    new = scene.cluster.records["p"].active
                    assert new is not None
                    if (new.prepared_for == lost) != foreseen:
                        raise SystemExit(
                            f"{count} nodes, seed {seed}, loss of {lost}: revision {new.id} was prepared for "
                            f"{new.prepared_for or 'no loss'}; ready: {len(scene.ahead)} begun"
                        )
                finally:
                    scene.close()
    return {
        "nodes": count,
        "slices": statistics.median(slices),
        "methods": sorted(methods),
        "ready_median_s": round(statistics.median(warm), 4),
        "ready_worst_s": round(max(warm), 4),
        "cold_median_s": round(statistics.median(cold), 4),
        "cold_worst_s": round(max(cold), 4),
        "ahead_each_s": round(statistics.median(ahead), 4),
        "losses": losses,
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="face-full-range", choices=sorted(real_models()))
    parser.add_argument("--nodes", default="20,50", help="numbers of nodes, with commas")
    parser.add_argument("--losses", type=int, default=5, help="losses of each kind for each number")
    parser.add_argument("--memory-mb", type=float, default=8.0, help="memory for slices of a node, on average")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    given = parser.parse_args()
    model = real_models()[given.model].path
    rows = [measured(model, int(count), given.memory_mb * 1e6, given.losses) for count in given.nodes.split(",")]
    if given.format == "json":
        print(json.dumps({"model": given.model, "rows": rows}, indent=2))
        return
    print("| nodes | slices | method | plan ready: median, worst | cold: median, worst | to make one ahead |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        print(
            f"| {row['nodes']}, all different | {row['slices']:g} | {', '.join(row['methods'])} "
            f"| {1e3 * row['ready_median_s']:.0f} ms, {1e3 * row['ready_worst_s']:.0f} ms "
            f"| {row['cold_median_s']:.2f} s, {row['cold_worst_s']:.2f} s | {row['ahead_each_s']:.2f} s |"
        )


if __name__ == "__main__":
    main()
