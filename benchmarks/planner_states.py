"""How many states models have, how long their tables take, and what cuts between branches gain.

    python -m benchmarks.planner_states [--models face-back,inceptionv3] [--nodes 8] [--mbps 100]

States are prefixes of the operators, and down-sets of the dataflow as far as `planner.tables.states` takes
them. The periods are the best of plans of at most `--nodes` equal nodes of 1 % of the speed of `estimate`, with
enough memory; one pipeline without copies or codecs. For equal nodes the best is found by going through the states
(a row for each number of slices). Times are processor time of one thread of Python and what numpy uses.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np

from benchmarks.models import real_models
from converters.graph import Graph, read_graph
from converters.profile import Profile, estimate
from coordinator.planner.cost import build_costs
from coordinator.planner.model import Fleet, NodeSpec, PlanOptions
from coordinator.planner.problem import Costs, State
from coordinator.planner.tables.memory import memory_by_runtime
from coordinator.planner.tables.states import down_sets, states_of

MODELS = (
    "resnet50",
    "face-back",
    "face-full-range",
    "inceptionv3",
    "inceptionresnetv2",
    "birdnet",
    "basic-pitch",
    "nasnetmobile",
)
_COUNTED = 20_000


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.planner_states",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", default=",".join(MODELS), help="short names, with commas between")
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--mbps", type=float, default=100.0, help="each node's link")
    given = parser.parse_args(arguments)
    known = real_models()
    print("| model | prefixes | down-sets | states | tables s | period, prefixes | period, states | gain |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in given.models.split(","):
        if name not in known or not known[name].path.is_file():
            hint = known[name].hint if name in known else f"there are {', '.join(known)}"
            sys.stderr.write(f"planner_states: {name}: no such model here; {hint}\n")
            return 2
        print(_line(name, read_graph(known[name].path.read_bytes()), given.nodes, given.mbps), flush=True)
    return 0


def _line(name: str, graph: Graph, nodes: int, mbps: float) -> str:
    profile = estimate(graph)
    rate = mbps / 8 * 1e6
    specs = (NodeSpec(f"n{k}", 10**12, {"all": 0.01}, rate, rate, runtime="ai_edge_litert") for k in range(nodes))
    fleet = Fleet(tuple(specs))
    down = down_sets(graph)
    everything = down_sets(graph, _COUNTED)
    counted = f"{len(everything.done)}" if everything.whole else f"over {len(everything.done)}"
    states = states_of(down)
    begun = time.process_time()
    costs = _costs(graph, profile, fleet, states)
    seconds = time.process_time() - begun
    before = best_period(_costs(graph, profile, fleet, ()), nodes)
    after = best_period(costs, nodes)
    prefixes = sum(done & (done + 1) == 0 for done in down.done)
    return (
        f"| {name} | {prefixes} | {counted} | {len(down.done)} | {seconds:.2f} "
        f"| {before * 1e3:.1f} ms | {after * 1e3:.1f} ms | {100 * (1 - after / before):.1f} % |"
    )


def _costs(graph: Graph, profile: Profile, fleet: Fleet, states: tuple[State, ...]) -> Costs:
    memory = memory_by_runtime(graph, fleet.nodes, states=states)
    return build_costs(graph, profile, fleet, memory, PlanOptions(), None, states)


def best_period(costs: Costs, nodes: int) -> float:
    """The least period of at most `nodes` slices on nodes that are all equal."""
    (kind,) = costs.types
    table = np.where(np.triu(np.ones_like(kind.period, dtype=bool), k=1), kind.period, np.inf)
    reached = np.where(np.arange(costs.n + 1) == 0, 0.0, np.inf)
    best = np.inf
    for _ in range(nodes):
        reached = np.maximum(reached[:, None], table).min(axis=0)
        best = min(best, float(reached[-1]))
    return best


if __name__ == "__main__":
    raise SystemExit(main())
