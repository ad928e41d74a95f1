"""Cuts besides those between two steps of the model's order, where they can gain (PURE but for the planner).

Tables of down-sets take longer to build than a plan of prefixes to make, and most models gain nothing. So plans of
prefixes come first. Cuts between branches are only for single pipelines, and only looked at while arithmetic (the
work that there is, the client's traffic, the longest step) and, for many unlike nodes, one question to the flow
program leave room for a plan that is better by more than the goal's share. Codecs, which the user asks for, are
looked at for all shapes wherever the work leaves room.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from coordinator.planner.answer import Layout, NoPlanError, Split
from coordinator.planner.floors import floor
from coordinator.planner.methods import solver
from coordinator.planner.methods.exact import solve
from coordinator.planner.methods.reach import state_count
from coordinator.planner.methods.split import EXACT_STATES, split
from coordinator.planner.methods.threshold import Threshold
from coordinator.planner.model import Planner
from coordinator.planner.problem import Costs
from coordinator.planner.shapes.compare import PREFIXES, pipeline_layout
from coordinator.planner.shapes.drafts import broken_limits, value

if TYPE_CHECKING:
    from converters.graph import Graph

QUESTION_SECONDS = 1.0
"""How long the flow program may take to rule out that cuts between branches gain."""
SEARCH_SECONDS = 2.0
"""How long the search for a plan with them may take where nodes are many and unlike."""
WAITED_SECONDS = 4.0
"""How long the search for a single pipeline may take when a coordinator waits for the plan."""
LARGE = 4_000
"""States times nodes beyond which the flow program takes longer than somebody waits."""
FAR = 1.15
"""Of large problems, cuts between branches are left out where the best pipeline without them is so many times worse
than another shape."""
_ORDER = ("one-node", "whole-model-copies", PREFIXES, "replicated-stages", "parallel-pipelines")


@dataclass(frozen=True)
class Answer:
    """A layout, the costs that it is of, and the layouts that it was compared with."""

    costs: Costs
    layout: Layout
    others: tuple[Layout, ...]


def may_gain(graph: Graph, known: Answer, single: bool) -> bool:
    """Whether arithmetic leaves room for plans with other cuts or codecs that are better than `known`, a plan of
    prefixes, by more than the goal's share. `single`: only single pipelines.
    """
    goal, reached = known.costs.goal, value(known.costs.goal, known.layout)
    pipelines = [value(goal, other) for other in known.others if other.lanes and other.family == PREFIXES]
    if single and _many(known.costs) and _is_large(known.costs) and min(pipelines, default=0.0) > FAR * reached:
        return False
    return reached > floor(graph, known.costs, single) * (1 + goal.within)


def with_branches(
    costs: Costs, known: Answer, planner: Planner, clock: Callable[[], float] = time.process_time
) -> Answer | None:
    """The best single pipeline of `costs`, whose states are down-sets, if it is better than `known`."""
    goal = costs.goal
    wanted = value(goal, known.layout) / (1 + goal.within)
    quick = planner
    if planner in (solve, in_time) and _many(costs):
        if _refuted(costs, wanted, clock):
            return None
        quick = _limited
    try:
        layout = pipeline_layout(costs, quick(costs))
    except NoPlanError:
        return None
    if value(goal, layout) >= wanted or broken_limits(costs, layout):
        return None
    others = [replace(known.layout, reason=""), *known.others]
    others.sort(key=lambda other: _ORDER.index(other.family) if other.family in _ORDER else len(_ORDER))
    reason = f"A pipeline with cuts between branches: {_gain(known, layout)} plans that cut between two steps only"
    return Answer(costs, replace(layout, reason=reason), tuple(others))


def better(known: Answer, other: Answer, stateful: bool) -> bool:
    """Whether `other` is better than `known` by more than the goal's share."""
    goal = known.costs.goal
    if stateful:
        return other.layout.latency < known.layout.latency / (1 + goal.within)
    return value(goal, other.layout) < value(goal, known.layout) / (1 + goal.within)


def with_reason(known: Answer, other: Answer) -> Answer:
    """`other` with what it gains over plans without codecs in its reason."""
    reason = f"{other.layout.reason}; {_gain(known, other.layout)} plans without codecs"
    return replace(other, layout=replace(other.layout, reason=reason))


def _gain(known: Answer, layout: Layout) -> str:
    goal = known.costs.goal
    before, after = value(goal, known.layout), value(goal, layout)
    if goal.objective == "throughput":
        return f"{before / after if after > 0 else math.inf:.4g} times the rate of"
    what = {"latency": "the latency", "nodes": "the nodes", "energy": "the energy"}[goal.objective]
    return f"{after / before if before > 0 else 1.0:.4g} times {what} of"


def _many(costs: Costs) -> bool:
    """Whether the planner goes by the solver instead of counting."""
    return costs.hops is None and state_count([kind.count for kind in costs.types]) > EXACT_STATES


def _is_large(costs: Costs) -> bool:
    return costs.n * sum(kind.count for kind in costs.types) > LARGE


def _refuted(costs: Costs, wanted: float, clock: Callable[[], float]) -> bool:
    if costs.goal.objective != "throughput" or not solver.available():
        return False
    search = Threshold(costs, (), clock() + QUESTION_SECONDS, clock)
    found = search.certify(wanted)
    return found is not None and found.value >= wanted


def in_time(costs: Costs, seconds: float = WAITED_SECONDS) -> Split:
    """What is found while somebody waits: as `solve` does, of large problems by merged counts and local search.

    These take a small share of the time of the flow program and the solver there; the plan states their gap.
    """
    goal = costs.goal
    plain = goal.objective == "throughput" and costs.errors is None and goal.max_nodes is None
    plain = plain and math.isinf(goal.max_latency) and math.isinf(goal.max_energy)
    plain = plain and all(kind.moves is None for kind in costs.types)
    if plain and _many(costs) and _is_large(costs):
        found = split(costs)
        if found.period <= goal.max_period:
            return found
    return solve(costs, seconds=seconds)


def _limited(costs: Costs) -> Split:
    return in_time(costs, SEARCH_SECONDS)
