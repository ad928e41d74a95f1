"""A layout and its costs -> the plan: slices, bundles, figures, and what it was compared with (PURE)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from coordinator.planner.answer import Layout, StageChoice
from coordinator.planner.layout_bundles import groups_of, layout_bundles, relayed_on_boards
from coordinator.planner.plan import Alternative, Inexact, Plan, PlannedBundle, PlannedSlice, ProfileSource
from coordinator.planner.problem import Costs, NodeType
from coordinator.planner.shapes.drafts import error_of, nodes_of, value
from slicemq.codecs import is_lossless

if TYPE_CHECKING:
    from converters.graph import Graph
    from converters.profile import Profile
    from coordinator.planner.tables.codec_costs import Ratios

_ENOUGH = 0.95
_UNITS = {"nodes": 1.0, "energy": 1.0}
"""What the bound of an objective is multiplied by in the file; times are milliseconds there."""


def assemble(
    graph: Graph,
    profile: Profile,
    costs: Costs,
    layout: Layout,
    others: Sequence[Layout],
    seconds: float,
    ratios: Ratios | None = None,
) -> Plan:
    """The plan of `layout`; `others` are shown beside it. `ratios` as for `packed_bytes`."""
    stages = [stage for lane in layout.lanes for stage in lane]
    groups = groups_of(graph, costs, layout)
    bundles = layout_bundles(graph, costs, layout, ratios)
    relays = relayed_on_boards(bundles)
    operators = [tuple(group) for lane in groups for group in lane]
    slices = tuple(
        _slice(costs, layout, f"s{number}", stage, operators[number], bundles, relays.get(f"s{number}", 0.0))
        for number, stage in enumerate(stages)
    )
    goal = costs.goal
    reached = layout.latency if graph.stateful else value(goal, layout)
    return Plan(
        model=graph.sha256,
        objective="period" if goal.objective == "throughput" else goal.objective,
        # One frame of a stateful model at a time: the next begins when the last has been answered. What bounds the
        # slowest stage bounds that too, though nothing says how nearly.
        period_ms=_ms(layout.latency if graph.stateful else layout.period),
        latency_ms=_ms(layout.latency),
        lower_bound_ms=round(layout.lower_bound * _UNITS.get(goal.objective, 1e3), 4),
        gap=round(max(0.0, reached / layout.lower_bound - 1.0), 6) if layout.lower_bound > 0 else 0.0,
        method="heuristic" if graph.stateful else layout.method,
        family=layout.family,
        solve_seconds=round(seconds, 4),
        window=1 if graph.stateful else window_of(layout.latency, layout.period),
        profile=ProfileSource(profile.runtime, profile.measured),
        slices=slices,
        bundles=bundles,
        alternatives=tuple(_alternative(other) for other in others),
        turns=layout.turns,
        reason=layout.reason,
        energy_j=round(layout.energy, 6),
        certificate=() if graph.stateful else layout.bounds,
        error=_error(costs, layout, bundles),
    )


def window_of(latency: float, period: float) -> int:
    """The fewest frames on their way that reach 95 % of the peak rate, and one more for what varies.

    W frames on their way give min(W / latency, 1 / period) frames per second (Little's law). With turns the latency
    is that of the slowest turn, so that there are enough frames for every node.
    """
    if period <= 0:
        return 2
    return math.ceil(_ENOUGH * latency / period - 1e-9) + 1


def _slice(
    costs: Costs,
    layout: Layout,
    name: str,
    stage: StageChoice,
    operators: tuple[int, ...],
    bundles: Sequence[PlannedBundle],
    relays: float,
) -> PlannedSlice:
    kind_of = {node: kind for kind in costs.types for node in kind.ids}
    kinds = [kind_of[share.node] for share in stage.shares]
    i, j = stage.start, stage.end

    def compute(kind: NodeType) -> float:
        brokers = costs.data_brokers
        return float(kind.compute[i, j]) + (brokers.seconds(kind.spec, relays) if brokers and relays else 0.0)

    def seconds(kind: NodeType) -> float:
        return max(compute(kind), float(kind.down[i, j]), float(kind.up[i, j]))

    slowest = max(kinds, key=seconds)
    return PlannedSlice(
        id=name,
        nodes=tuple(share.node for share in stage.shares),
        operators=operators,
        # Rounded up, so that the file never promises that a slice fits where it does not.
        memory_mb=math.ceil(max(float(kind.memory[i, j]) for kind in kinds) / 1e3) / 1e3,
        compute_ms=_ms(compute(slowest)),
        bytes_in=_sum(bundles, lambda bundle: name in bundle.targets),
        bytes_out=_sum(bundles, lambda bundle: bundle.source == name),
        down_ms=_ms(slowest.down[i, j]),
        up_ms=_ms(slowest.up[i, j]),
        turns=tuple(share.turns for share in stage.shares) if layout.turns > 1 else (),
        busy_ms=_ms(
            max(seconds(kind) * len(share.turns) for kind, share in zip(kinds, stage.shares, strict=True))
            / layout.turns
        )
        if layout.turns > 1
        else 0.0,
    )


def _error(costs: Costs, layout: Layout, bundles: Sequence[PlannedBundle]) -> Inexact | None:
    """What the cuts of the worst lane err together; None when no codec of the plan loses anything."""
    if all(is_lossless(bundle.codec) for bundle in bundles):
        return None
    worst = max(error_of(costs, [stage.start for stage in lane[1:]]) for lane in layout.lanes)
    return Inexact(costs.goal.error_budget, float(f"{worst:.6g}"))


def _alternative(other: Layout) -> Alternative:
    if not other.lanes:
        return Alternative(other.family, (), None, None, other.reason)
    return Alternative(other.family, nodes_of(other), _ms(other.period), _ms(other.latency), other.reason)


def _sum(bundles: Sequence[PlannedBundle], mine: Callable[[PlannedBundle], bool]) -> int:
    return sum(bundle.bytes for bundle in bundles if mine(bundle))


def _ms(seconds: float) -> float:
    return round(float(seconds) * 1e3, 4)
