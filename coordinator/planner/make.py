"""Making a plan: costs, the planner's answer, and the figures that go with it."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from converters.memory import slice_memory
from coordinator.planner.answer import NoPlanError, Split
from coordinator.planner.cost import build_costs, permitted
from coordinator.planner.memory import memory_by_runtime
from coordinator.planner.model import Fleet, Memory, Planner, PlanOptions
from coordinator.planner.moves import with_moves
from coordinator.planner.operators import Needs, check_somewhere, supports_of, who_lacks
from coordinator.planner.plan import (
    FAMILY,
    Alternative,
    Plan,
    PlannedBundle,
    PlannedSlice,
    ProfileSource,
    bundles_of,
)
from coordinator.planner.problem import Costs
from coordinator.planner.shortage import shortage, wishes_forbid, without_wishes
from coordinator.planner.split import split
from slicemq.errors import InsufficientCapacityError, PlanError

if TYPE_CHECKING:
    from converters.graph import Graph
    from converters.profile import Profile

_ENOUGH = 0.95


def make_plan(
    graph: Graph,
    profile: Profile,
    fleet: Fleet,
    *,
    memory: Memory = slice_memory,
    options: PlanOptions | None = None,
    needs: Needs | None = None,
    planner: Planner = split,
    clock: Callable[[], float] = time.perf_counter,
    record: Callable[[Costs], None] = lambda _: None,
) -> Plan:
    """The plan of the least period for `graph` on `fleet`.

    Of a stateful model one frame is on its way at a time (protocol rule 6), so a further slice only adds to its
    latency: it is cut into the fewest slices that fit, unless the options name slices or their number.

    `memory` gives a slice's bytes beyond an idle worker, `profile` the operators' seconds on the machine of speed
    1, `needs` what each operator asks of a runtime (`converters.needs`; without it every node takes
    all). `clock` is read for `solve_seconds` only; `record` is given the costs that the plan was made of. Raises
    InsufficientCapacityError when the nodes cannot hold or run the model, PlanError when the options (pins,
    exclusions) are wrong or leave no plan.
    """
    options = options or PlanOptions()
    begun = clock()
    if not permitted(fleet, options):
        raise shortage(graph, fleet, options, None)
    if not graph.steps:
        raise PlanError("the model has no operators to place")
    if needs is not None:
        check_somewhere(graph, permitted(fleet, options), needs)
    supports = None if needs is None else supports_of(needs)
    table = memory_by_runtime(graph, permitted(fleet, options), memory)
    costs = with_moves(build_costs(graph, profile, fleet, table, options, supports), graph)
    try:
        fewest = graph.stateful and options.max_slices is None and not options.pins
        costs, found = _found(costs, fewest, planner)
    except NoPlanError as error:
        free = without_wishes(options)
        if free is not None and _has_plan(build_costs(graph, profile, fleet, table, free, supports), planner):
            raise wishes_forbid(options) from error
        if not error.proved:
            raise InsufficientCapacityError(
                "no plan was found, although one may exist: the nodes' memory is too scarce for the model"
            ) from error
        lacks = [] if needs is None else who_lacks(graph, permitted(fleet, options), needs)
        raise shortage(graph, fleet, options, costs, lacks) from error
    record(costs)
    return _plan(graph, profile, costs, found, clock() - begun)


def _found(costs: Costs, fewest: bool, planner: Planner) -> tuple[Costs, Split]:
    """The planner's answer, with the fewest slices that fit when that is asked for, and its costs."""
    for most in range(1, costs.max_slices) if fewest else ():
        with contextlib.suppress(NoPlanError):
            limited = replace(costs, max_slices=most)
            return limited, planner(limited)
    return costs, planner(costs)


def _has_plan(costs: Costs, planner: Planner) -> bool:
    try:
        planner(costs)
    except NoPlanError:
        return False
    return True


def _plan(graph: Graph, profile: Profile, costs: Costs, found: Split, seconds: float) -> Plan:
    groups = [list(graph.steps[i:j]) for i, j in found.segments]
    bundles = bundles_of(graph, groups)
    type_of = {node: kind for kind in costs.types for node in kind.ids}
    slices = []
    for number, ((i, j), node) in enumerate(zip(found.segments, found.nodes, strict=True)):
        kind = type_of[node]
        slices.append(
            PlannedSlice(
                id=f"s{number}",
                nodes=(node,),
                operators=tuple(groups[number]),
                # Rounded up, so that the file never promises that a slice fits where it does not.
                memory_mb=math.ceil(float(kind.memory[i, j]) / 1e3) / 1e3,
                compute_ms=_ms(kind.compute[i, j]),
                bytes_in=_sum(bundles, lambda b, me=f"s{number}": me in b.targets),  # type: ignore[misc]
                bytes_out=_sum(bundles, lambda b, me=f"s{number}": b.source == me),  # type: ignore[misc]
                down_ms=_ms(kind.down[i, j]),
                up_ms=_ms(kind.up[i, j]),
            )
        )
    # One frame of a stateful model at a time: the next begins when the last has been answered. What bounds the
    # slowest stage bounds that too, though nothing says how nearly.
    taken = found.latency if graph.stateful else found.period
    period, bound = _ms(taken), _ms(found.lower_bound)
    return Plan(
        model=graph.sha256,
        objective="period",
        period_ms=period,
        latency_ms=_ms(found.latency),
        lower_bound_ms=bound,
        gap=round(max(0.0, taken / found.lower_bound - 1.0), 6) if found.lower_bound > 0 else 0.0,
        method="heuristic" if graph.stateful else found.method,
        family=FAMILY,
        solve_seconds=round(seconds, 4),
        window=1 if graph.stateful else window_of(found.latency, found.period),
        profile=ProfileSource(profile.runtime, profile.measured),
        slices=tuple(slices),
        bundles=bundles,
        alternatives=(one_node(costs, graph.stateful),),
    )


def window_of(latency: float, period: float) -> int:
    """The fewest frames on their way that reach 95 % of the peak rate, and one more for what varies.

    W frames on their way give min(W / latency, 1 / period) frames per second (Little's law).
    """
    if period <= 0:
        return 2
    return math.ceil(_ENOUGH * latency / period - 1e-9) + 1


def one_node(costs: Costs, stateful: bool = False) -> Alternative:
    """The whole model on the one node where its period is least (pins left aside). stateful: a frame at a time."""
    n = costs.n
    able = [kind for kind in costs.types if kind.whole]
    if not able:
        largest = max(costs.types, key=lambda kind: kind.spec.memory).spec
        reason = (
            f"no node can run the whole model: it needs {costs.memory[0, n] / 1e6:.1f} MB, "
            f"the largest node ({largest.id}) has {largest.memory / 1e6:.1f} MB"
        )
        if costs.memory[0, n] <= largest.memory:
            reason += " and cannot run all its operators, or must keep some of its memory free"
        return Alternative("one-node", (), None, None, reason)
    relayed = float(costs.relayed[0, n]) / costs.broker_rate if costs.broker_rate else 0.0
    figures = [
        (
            float(kind.latency[0, n])
            if stateful
            else max(float(max(kind.compute[0, n], kind.down[0, n], kind.up[0, n])), relayed),
            float(kind.latency[0, n]),
            kind.ids[0],
        )
        for kind in able
    ]
    period, latency, node = min(figures)
    return Alternative("one-node", (node,), _ms(period), _ms(latency))


def _sum(bundles: tuple[PlannedBundle, ...], mine: Callable[[PlannedBundle], bool]) -> int:
    return sum(bundle.bytes for bundle in bundles if mine(bundle))


def _ms(seconds: float) -> float:
    return round(float(seconds) * 1e3, 4)
