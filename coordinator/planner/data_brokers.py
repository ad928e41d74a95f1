"""Plans whose bundles may travel over the receivers' own brokers: candidates, the best of them, its bound (PURE).

The first candidate is the best plan behind the main broker, with its bundles moved where that gains
(`carriers.carried`). Where data brokers can change what the best cuts and nodes are, because the main broker's rate
limits or because latency counts, further ones are made from *relaxed* problems and judged by their exact figures:

- the main broker delivers only what clients send and get;
- between two slices a bundle takes half of its time up and half of its time down, which is no more than the longer
  of the two, the time that it takes over a data broker.

What a plan costs in a relaxed problem is never more than what it costs, wherever its bundles go. So a bound of that
problem is one for all plans of its family over any of the brokers, and such a bound stands in the certificate of a
plan that uses data brokers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from coordinator.planner.answer import Layout, NoPlanError
from coordinator.planner.carriers import carried, comes_before
from coordinator.planner.model import Planner
from coordinator.planner.problem import Costs, NodeType
from coordinator.planner.shapes import parallel, replicas
from coordinator.planner.shapes.compare import PRICE_CELLS
from coordinator.planner.shapes.drafts import broken_limits, value

if TYPE_CHECKING:
    from converters.graph import Graph
    from coordinator.planner.tables.codec_costs import Ratios

Best = Callable[[Costs], Layout]
"""The best layout of the shapes that may be used; raises NoPlanError."""
_EXACT = 1e-9


def may_differ(costs: Costs) -> bool:
    """Whether data brokers can make other cuts or nodes the best; then bounds of plans without do not hold."""
    if costs.data_brokers is None:
        return False
    goal = costs.goal
    return costs.broker_rate is not None or goal.objective == "latency" or math.isfinite(goal.max_latency)


def relaxed(costs: Costs) -> Costs:
    """A problem in which no plan costs more than over the best brokers for its bundles."""
    results = costs.relayed - costs.bytes_in
    return replace(
        costs,
        types=tuple(replace(kind, saved=_saved(kind, results)) for kind in costs.types),
        relayed=np.where(np.arange(costs.n + 1)[:, None] == 0, costs.relayed, results),
        data_brokers=None,
    )


def over_data_brokers(
    graph: Graph,
    costs: Costs,
    known: Layout | None,
    best: Best,
    planner: Planner,
    ratios: Ratios | None = None,
) -> Layout:
    """The best layout found, `known` (behind the main broker; None: there is none) among the candidates.

    Raises NoPlanError when there is no layout that keeps to the limits.
    """
    if costs.data_brokers is None:
        if known is None:
            raise NoPlanError(proved=False)
        return known
    found = None if known is None else carried(graph, costs, known, ratios)
    if may_differ(costs):
        for problem in _problems(costs):
            try:
                other = carried(graph, costs, _plain(best(problem)), ratios)
            except NoPlanError:
                continue
            if found is None or _clearly_before(costs, other, found):
                found = other
    if found is None or (found is not known and broken_limits(costs, found)):
        raise NoPlanError(proved=False)
    if not found.carriers:
        return known if known is not None else found
    return _told(costs, known, _bounded(costs, found, planner))


def _plain(layout: Layout) -> Layout:
    """A layout of a relaxed problem without what holds there only."""
    return replace(layout, lower_bound=0.0, method="heuristic", bounds=())


def _clearly_before(costs: Costs, other: Layout, found: Layout) -> bool:
    """Whether another layout is better by more than the goal's share, or keeps to limits that `found` breaks."""
    if broken_limits(costs, other):
        return False
    if broken_limits(costs, found):
        return True
    share = 1 + costs.goal.within
    return value(costs.goal, other) * share < value(costs.goal, found) and comes_before(costs, other, found)


def _problems(costs: Costs) -> Sequence[Costs]:
    """Relaxed problems with the data brokers' work: for all nodes, and with bundles for those that have one."""
    assert costs.data_brokers is not None
    owners = costs.data_brokers.nodes
    easy = relaxed(costs)
    types = [_working(costs, kind) if kind.ids[0] in owners else kind for kind in easy.types]
    found = [replace(easy, types=tuple(types))]
    if any(kind.ids[0] not in owners for kind in costs.types):
        first = np.arange(costs.n + 1)[:, None] == 0
        ends = [
            kind if kind.ids[0] in owners else replace(kind, period=np.where(first, kind.period, np.inf))
            for kind in types
        ]
        found.append(replace(easy, types=tuple(ends)))
    return found


def _saved(
    kind: NodeType, results: np.ndarray[tuple[int, ...], np.dtype[np.float64]]
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Half of the seconds up and down of what an arc gets from other slices and sends to them."""
    into = kind.bytes_in.copy()
    into[0, :] = 0.0
    out = np.maximum(kind.bytes_out - results, 0.0)
    return np.asarray((into / kind.spec.free_down + out / kind.spec.free_up) / 2)


def _working(costs: Costs, kind: NodeType) -> NodeType:
    """A type of nodes whose own broker relays everything that other slices send to an arc."""
    assert costs.data_brokers is not None
    into = kind.bytes_in.copy()
    into[0, :] = 0.0
    compute = kind.compute + costs.data_brokers.seconds(kind.spec, 1.0) * into
    return replace(kind, compute=compute, period=np.maximum(kind.period, compute))


def _bounded(costs: Costs, layout: Layout, planner: Planner) -> Layout:
    """The layout with bounds that hold whatever brokers a plan uses."""
    reached = value(costs.goal, layout)
    if may_differ(costs) or not layout.bounds:
        easy = relaxed(costs)
        plain = replace(layout, bounds=())
        if layout.family == replicas.FAMILY:
            layout = replicas.with_bound(easy, plain, PRICE_CELLS)
        elif layout.family == parallel.FAMILY:
            layout = parallel.with_bound(easy, plain, PRICE_CELLS)
        else:
            try:
                split = planner(easy)
            except NoPlanError:
                return replace(plain, lower_bound=0.0, method="heuristic")
            layout = replace(layout, lower_bound=split.lower_bound, method=split.method, bounds=split.bounds)
    bounds = tuple(replace(bound, value=min(bound.value, reached), data_brokers=True) for bound in layout.bounds)
    lower = min(layout.lower_bound, reached)
    exact = reached <= lower * (1 + max(_EXACT, costs.goal.within))
    return replace(layout, lower_bound=lower, bounds=bounds, method=layout.method if exact else "heuristic")


def _told(costs: Costs, known: Layout | None, layout: Layout) -> Layout:
    """The layout with what data brokers gain in its reason."""
    count = len(layout.carriers)
    what = f"{count} bundle{'s' if count > 1 else ''} over data brokers"
    if known is None:
        gain = "behind the main broker alone no plan was found"
    elif costs.goal.objective == "throughput" and layout.period < known.period / (1 + costs.goal.within):
        gain = f"{known.period / layout.period:.4g} times the rate of the best plan without"
    else:
        gain = f"{layout.latency / known.latency:.4g} times the latency of the best plan without"
    reason = layout.reason or (known.reason if known is not None else "")
    return replace(layout, reason="; ".join(part for part in (reason, f"{what}: {gain}") if part))
