"""Which shape of plan wins: copies where the model fits every node, a pipeline where none can hold it.

    python -m benchmarks.planner_shapes
    python -m benchmarks.planner_shapes --replicas

Two cases, on nodes of different speed: MobileNetV2 on nodes that each hold it, and ResNet50 on nodes of 128 MB in
all (agent, worker and slice together). The first must be won by whole-model copies, with a reason that says so; in
the second no node can hold the model, so it must be cut, and every slice must fit what a node has left. The exit
code is 1 when it is not so. Operators' seconds are estimated from the graph, so that every machine plans the same.

`--replicas`: random chains on unlike nodes with scarce memory instead (`benchmarks.planner_instances`); the period
and the gap of replicated stages with the mixed-integer program. The exit code is 1 when 50 nodes and 40 units take
more than 60 s.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass

from benchmarks.models import real_models
from benchmarks.planner_instances import star
from converters.graph import read_graph
from converters.profile import estimate
from coordinator.planner import make_plan
from coordinator.planner.methods.exact import solve
from coordinator.planner.model import Fleet, NodeSpec
from coordinator.planner.plan import Alternative, Plan
from coordinator.planner.shapes.drafts import nodes_of
from coordinator.planner.shapes.replicas import replicas, with_bound

WHOLE_NODE = 128e6
AGENT = 28e6
"""An idle node: its agent."""
WORKER = 54e6
"""A worker process before its slice, the runtime included."""
KEPT_FREE = 12e6
"""What a node keeps for frames and threads."""
ROOM = int(WHOLE_NODE - AGENT - WORKER - KEPT_FREE)
LINK = 94e6 / 8
SPEEDS = (0.05, 0.05, 0.06, 0.07, 0.08, 0.1)
"""Of this machine's, like small boards: computing weighs more than sending."""

SIZES = ((10, 20), (20, 20), (20, 40), (50, 40))
PROGRAM_SECONDS = 24.0
MARK_SECONDS = 60.0


@dataclass(frozen=True)
class Case:
    """A model on a fleet, and what must come of it."""

    model: str
    nodes: int
    memory: int
    copied: bool


CASES = (Case("mobilenetv2", 6, 400_000_000, True), Case("resnet50", 10, ROOM, False))


def fleet(nodes: int, memory: int) -> Fleet:
    """Nodes of five speeds on links of 94 Mbit/s, each with this much memory for slices."""
    return Fleet(
        tuple(NodeSpec(f"n{k}", memory, {"all": SPEEDS[k % len(SPEEDS)]}, LINK, LINK, 0.002) for k in range(nodes))
    )


def faults(case: Case, plan: Plan) -> list[str]:
    """What is not as it must be."""
    found = []
    families = {plan.family, *(other.family for other in plan.alternatives)}
    if len(families) != 5 or not plan.reason:
        found.append(f"expected five shapes and a reason, got {', '.join(sorted(families))}")
    if case.copied:
        if plan.family != "whole-model-copies" or "fits every node" not in plan.reason:
            found.append(f"expected copies that say why, got {plan.family}: {plan.reason}")
        return found
    lanes = plan.lanes()
    if any(lane.stop - lane.first < 2 for lane in lanes):
        found.append("a lane is not cut")
    if any(item.memory_mb > case.memory / 1e6 for item in plan.slices):
        found.append("a slice does not fit")
    for other in plan.alternatives:
        if other.family in ("one-node", "whole-model-copies") and other.period_ms is not None:
            found.append(f"{other.family} has figures although no node can hold the model")
    return found


def row(model: str, other: Plan | Alternative, best: float) -> str:
    """A line of the table."""
    name = f"**{other.family}**" if isinstance(other, Plan) else other.family
    if other.period_ms is None:
        return f"| {model} | {name} | | | {other.reason} |"
    nodes = {n for s in other.slices for n in s.nodes} if isinstance(other, Plan) else set(other.nodes)
    slices = f", {len(other.slices)} slices" if isinstance(other, Plan) else ""
    return f"| {model} | {name} | {len(nodes)} nodes{slices} | {best / other.period_ms:.2f} | {other.reason} |"


def replicated() -> int:
    """The table of replicated stages; the exit code says whether the mark for time is met."""
    print("| nodes, units | pipeline's period to this one's | nodes in use | turns | gap | seconds |")
    print("| --- | --- | --- | --- | --- | --- |")
    slow = False
    for nodes, units in SIZES:
        costs = star(1, nodes, units)
        begun = time.monotonic()
        base = solve(costs)
        found = with_bound(costs, replicas(costs, base, seconds=PROGRAM_SECONDS))
        seconds = time.monotonic() - begun
        slow = slow or seconds > MARK_SECONDS
        print(
            f"| {nodes}, {units} | {base.period / found.period:.3f} | {len(nodes_of(found))} | {found.turns} "
            f"| {100 * (found.period / found.lower_bound - 1):.2f} % ({found.bounds[-1].proof}) | {seconds:.1f} |",
            flush=True,
        )
    return 1 if slow else 0


def main() -> int:
    """Print the table; the exit code says whether all is as it must be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", action="store_true", help="replicated stages on up to 50 unlike nodes")
    if parser.parse_args().replicas:
        return replicated()
    print("| model | shape | nodes | rate to the winner's | why |")
    print("| --- | --- | --- | --- | --- |")
    wrong = []
    for case in CASES:
        path = real_models()[case.model].path
        if not path.is_file():
            print(f"{case.model}: {real_models()[case.model].hint}", file=sys.stderr)
            return 1
        graph = read_graph(path.read_bytes())
        plan = make_plan(graph, estimate(graph), fleet(case.nodes, case.memory))
        every: list[Plan | Alternative] = [plan, *plan.alternatives]
        for shown in every:
            print(row(case.model, shown, plan.period_ms), flush=True)
        print(
            f"| {case.model} | | | | {len(graph.steps)} operators, {case.memory / 1e6:.0f} MB a node for slices; "
            f"gap {100 * plan.gap:.2f} % ({plan.method}), {plan.turns} turns, made in {plan.solve_seconds:.2f} s |"
        )
        wrong += [f"{case.model}: {fault}" for fault in faults(case, plan)]
    for fault in wrong:
        print(fault, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
