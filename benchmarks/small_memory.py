"""ResNet50 on as few nodes of 128 MB each as a plan allows, and what becomes of one such node that is given it all.

    python -m benchmarks.small_memory [--model resnet50] [--memory-mb 128] [--nodes 12] [--fresh] [--write]

A memory cgroup holds each node's agent and workers together to the limit. The plan is made for the fewest nodes
(`--objective nodes`); its answers to real pictures are compared with the whole model's, bit for bit, while frames
flow, and the groups' counters of killed processes must stay at 0. Then one such node alone: the coordinator must
refuse it, and where its limit comes only after it has joined (a board that promises memory which it has not) the
kernel must kill what loads the whole model. The exit code is 1 when one of these does not hold. Needs root,
mosquitto and the model.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks import marks, pages
from benchmarks.chain_runs import worst_error
from benchmarks.cluster_options import cluster_parser
from benchmarks.fleet import equal_nodes, names, need_root, say
from benchmarks.frames_of import answers_of, frames_of
from benchmarks.kept import Kept
from benchmarks.machine import describe_machine
from benchmarks.marks import Mark
from benchmarks.models import RealModel, real_models
from emulator.load import Asked
from emulator.measure import drive
from slicemq.errors import SliceMQError

PIPELINE = "small"
# Beside the agent and the workers a group of 128 MB has no one else to leave memory to.
RESERVE_MB = 4
_DEPLOY_SECONDS = "300"
# The objective wants a limit; every chain of such nodes keeps this one.
_LEAST_RATE = "0.1"
# Before its limit is set the node that overstates its memory has so many times the model's file.
_PROMISED = 8


@dataclass(frozen=True)
class Finding:
    """MB are 10^6 bytes. peaks: the most memory of each node's group, planned: what the plan counts for its slice.

    killed: processes that the kernel killed in the groups of the chain; refused: what the coordinator said when it
    was to put all on one node; alone_killed: processes killed in the group of the node that was made to load all.
    """

    model: str
    memory_mb: float
    nodes: int
    slices: int
    rate: float
    frames: int
    error: float
    peaks: dict[str, float]
    planned: dict[str, float]
    killed: int
    refused: str
    alone_killed: int

    def marks(self) -> list[Mark]:
        """What must hold."""
        return [
            Mark("difference of the answers from one device's", self.error, most=0.0),
            Mark("killed processes in the chain", self.killed, most=0),
            Mark("one node: refused by the coordinator", float(bool(self.refused)), least=1),
            Mark("one node: killed processes", self.alone_killed, least=1),
        ]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and judge."""
    given = _parser().parse_args(arguments)
    try:
        need_root()
        model = real_models()[given.model]
        if not model.path.is_file():
            raise SliceMQError(f"{given.model}: not here; {model.hint}")
        say("about 4 minutes when nothing is kept")
        finding = _finding(model, given)
    except SliceMQError as error:
        sys.stderr.write(f"small_memory: {error}\n")
        return error.exit_code
    judged = finding.marks()
    text = tell(finding, judged)
    if given.format == "json":
        body = {"machine": describe_machine(), **asdict(finding), "marks": [mark.to_plain() for mark in judged]}
        print(pages.as_json(body))
    else:
        print(text)
    if given.write:
        pages.write_region("small_memory", text)
    return 0 if marks.all_held(judged) else 1


def tell(finding: Finding, judged: Sequence[Mark]) -> str:
    """What is printed, and written into the page."""
    lines = [
        f"{describe_machine()}; {finding.model} on nodes of {finding.memory_mb:g} MB each (agent and "
        f"workers together): the fewest that a plan allows are {finding.nodes}, with {finding.rate:.2f} frames/s; "
        f"{finding.frames} frames were answered.",
        "",
        "| node | planned MB of its slice | most MB of the node |",
        "| --- | --- | --- |",
        *(f"| {node} | {mb:.1f} | {finding.peaks[node]:.1f} |" for node, mb in finding.planned.items()),
        "",
        f"One such node alone. The coordinator refuses: {finding.refused or 'it did not'}",
        "",
        marks.table(judged),
    ]
    return "\n".join(lines)


def _finding(model: RealModel, given: Any) -> Finding:
    kept = Kept("small_memory", fresh=given.fresh)
    key = {"model": given.model, "memory_mb": given.memory_mb, "nodes": given.nodes, "share": given.share}
    row = kept.get(key)
    if row is None:
        row = {**_chain(model, given), **_alone(model, given), "model": given.model, "memory_mb": given.memory_mb}
        kept.add(key, row)
    return Finding(**row)


@contextlib.contextmanager
def _nodes(count: int, memory: int, share: float, given: Any) -> Iterator[Any]:
    options = ("--reserve-mb", str(RESERVE_MB), "--cache-mb", "2000")
    with equal_nodes(
        count, share=share, rate=1e9, memory=memory, options=options, isolate=not given.loopback
    ) as cluster:
        yield cluster


def _chain(model: RealModel, given: Any) -> dict[str, Any]:
    memory = int(given.memory_mb * 1e6)
    frames = frames_of(model)
    answers = answers_of(model, frames)
    with _nodes(given.nodes, memory, given.share, given) as cluster:
        words = [
            "--objective",
            "nodes",
            "--min-rate",
            _LEAST_RATE,
            "--shape",
            "one-node",
            "--shape",
            "pipeline",
            "--timeout",
            _DEPLOY_SECONDS,
        ]
        plan = cluster.json("deploy", str(model.path), "--name", PIPELINE, *words)["plan"]
        planned = {item["nodes"][0]: item["memory_mb"] for item in plan["slices"]}
        say(f"{len(planned)} nodes of {given.memory_mb:g} MB")
        driven = drive(cluster, PIPELINE, Asked(seconds=given.seconds), frames=frames)
        error = worst_error(cluster, PIPELINE, frames, answers)
        return {
            "nodes": len(planned),
            "slices": len(plan["slices"]),
            "rate": driven.rate,
            "frames": driven.figures.answered + len(frames),
            "error": error,
            "planned": planned,
            "peaks": {node: (cluster.nodes[node].group.memory_peak() or 0) / 1e6 for node in planned},
            "killed": sum(node.group.killed() for node in cluster.nodes.values()),
        }


def _alone(model: RealModel, given: Any) -> dict[str, Any]:
    memory = int(given.memory_mb * 1e6)
    with _nodes(1, memory, given.share, given) as cluster:
        refused = cluster.command("deploy", str(model.path), "--name", PIPELINE, "--timeout", _DEPLOY_SECONDS)
        said = refused.stderr.strip() if refused.returncode else ""
    say(f"one node of {given.memory_mb:g} MB: {said or 'not refused'}")
    # A whole core: on a small share it reads its own program from the disk again and again before it is killed.
    with _nodes(1, _PROMISED * model.path.stat().st_size, 1.0, given) as cluster:
        group = cluster.nodes[names(1)[0]].group
        group.set_limits(memory=memory)
        cluster.json("deploy", str(model.path), "--name", PIPELINE, "--no-wait")
        deadline = time.monotonic() + float(_DEPLOY_SECONDS)
        while not group.killed() and time.monotonic() < deadline:
            time.sleep(0.5)
        killed = group.killed()
    say(f"one node that promised more than its {given.memory_mb:g} MB: {killed} processes killed")
    return {"refused": said, "alone_killed": killed}


def _parser() -> argparse.ArgumentParser:
    parser = cluster_parser("small_memory", __doc__, share=0.15, repeats=None)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--memory-mb", type=float, default=128.0, help="of each node, agent and workers together")
    parser.add_argument("--nodes", type=int, default=10, help="nodes that there are; the plan takes the fewest")
    parser.add_argument("--seconds", type=float, default=15.0, help="for so long frames flow")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
