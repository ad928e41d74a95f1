"""How long planning takes, and how good the plans are known to be, on fleets of equal and of unlike nodes.

    python -m benchmarks.planning

The model is a face detector. Costs are estimated from the graph, so that every machine plans the same; the time is
processor time. The table is in docs/explanation/planning.md.
"""

from __future__ import annotations

import random
import time

from benchmarks.models import real_models
from converters.graph import Graph, read_graph
from converters.profile import Profile, estimate
from coordinator.planner import make_plan
from coordinator.planner.model import Fleet, NodeSpec, PlanOptions

FLEETS = ((1, 4), (1, 20), (3, 20), (8, 8), (12, 12), (13, 13), (20, 20), (40, 40))
CLASSES = ("conv", "depthwise", "dense", "elementwise")


def fleet(kinds: int, count: int) -> Fleet:
    """`count` nodes of `kinds` kinds: 0.5 to 1 % of the machine's speed, links of 300 to 1000 Mbit/s."""
    rng = random.Random(kinds * 1000 + count)
    chosen = []
    for _ in range(kinds):
        speed = rng.uniform(0.005, 0.01)
        speeds = {name: speed * rng.uniform(0.8, 1.25) for name in CLASSES}
        memory, up, down = rng.uniform(15e6, 30e6), rng.uniform(40e6, 125e6), rng.uniform(40e6, 125e6)
        chosen.append((int(memory), speeds, up, down))
    return Fleet(tuple(NodeSpec(f"n{k}", *chosen[k % kinds]) for k in range(count)))


def row(graph: Graph, profile: Profile, kinds: int, count: int) -> str:
    """One line of the table."""
    begun = time.process_time()
    options = PlanOptions(shapes=("one-node", "pipeline"))
    plan = make_plan(graph, profile, fleet(kinds, count), options=options)
    seconds = time.process_time() - begun
    what = "all equal" if kinds == 1 else "all different" if kinds == count else f"{kinds} kinds"
    return (
        f"| {count}, {what} | {len(plan.slices)} | {plan.period_ms:.1f} ms | {plan.method} | "
        f"{100 * plan.gap:.2f} % | {seconds:.2f} s |"
    )


def main() -> None:
    """Print the table."""
    model = real_models()["face-full-range"]
    graph = read_graph(model.path.read_bytes())
    print(f"| nodes | slices | period, {len(graph.steps)} operators | method | gap | time |")
    print("| --- | --- | --- | --- | --- | --- |")
    for kinds, count in FLEETS:
        print(row(graph, estimate(graph), kinds, count), flush=True)


if __name__ == "__main__":
    main()
