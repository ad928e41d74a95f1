"""Which broker carries which bundle of a layout: what each choice costs, and the best one near by (PURE).

A bundle over the main broker goes up its sender's link, through the broker and down its receiver's link. Over the
receiver's own data broker it crosses the network once: the sender's uplink and the receiver's downlink move the
same bytes, at the same time and not one after the other; the main broker's row has nothing of it; and the broker's
work on the receiver's board is added to what that node computes.

Only a bundle between two slices whose receiver has one node may go that way: what the client sends and gets, and
what several slices or several nodes in turn take, stays on the main broker.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from coordinator.planner.answer import Layout, StageChoice
from coordinator.planner.layout_bundles import layout_bundles, payload
from coordinator.planner.plan_checks import CLIENT
from coordinator.planner.problem import Costs, NodeType
from coordinator.planner.shapes.drafts import broken_limits, value

if TYPE_CHECKING:
    from converters.graph import Graph
    from coordinator.planner.plan import Plan, PlannedBundle
    from coordinator.planner.tables.codec_costs import Ratios

EQUAL = 1e-9
"""The share by which two figures may differ and count as the same."""
_ROUNDS = 200


@dataclass(frozen=True)
class Choice:
    """A bundle that may go over the data broker of `node`: from one stage to another, by number over all lanes."""

    bundle: str
    node: str
    source: int
    target: int
    size: float


def choices(graph: Graph, costs: Costs, layout: Layout, ratios: Ratios | None = None) -> list[Choice]:
    """The bundles of a layout that a data broker may carry."""
    if costs.data_brokers is None:
        return []
    stages = [stage for lane in layout.lanes for stage in lane]
    found = []
    for bundle in layout_bundles(graph, costs, layout, ratios):
        if CLIENT in (bundle.source, *bundle.targets) or len(bundle.targets) > 1:
            continue
        source, target = int(bundle.source[1:]), int(bundle.targets[0][1:])
        nodes = [share.node for share in stages[target].shares]
        if len(nodes) == 1 and nodes[0] in costs.data_brokers.nodes:
            found.append(Choice(bundle.id, nodes[0], source, target, payload(bundle)))
    return found


def carried(graph: Graph, costs: Costs, layout: Layout, ratios: Ratios | None = None) -> Layout:
    """The layout with each bundle on the broker that is best for it, and its figures by `costs`.

    Bundles are turned over one at a time, from all on the main broker and from none, while limits are kept better,
    else the objective falls, else the latency does.
    """
    able = choices(graph, costs, layout, ratios)
    starts = {frozenset[str](), frozenset(choice.bundle for choice in able)}
    best = with_carriers(costs, layout, able, frozenset())
    for start in sorted(starts, key=len):
        found = _improved(costs, layout, able, start)
        best = found if comes_before(costs, found, best) else best
    return best


def _improved(costs: Costs, layout: Layout, able: list[Choice], start: frozenset[str]) -> Layout:
    chosen, best = start, with_carriers(costs, layout, able, start)
    for _ in range(_ROUNDS):
        nearest = None
        for choice in able:
            other = chosen ^ {choice.bundle}
            tried = with_carriers(costs, layout, able, other)
            if comes_before(costs, tried, best):
                nearest, best = other, tried
        if nearest is None:
            break
        chosen = nearest
    return best


def comes_before(costs: Costs, first: Layout, second: Layout) -> bool:
    """Whether the first of two layouts is to be preferred: limits, then the objective, then the latency."""
    pairs = (
        (float(len(broken_limits(costs, first))), float(len(broken_limits(costs, second)))),
        (value(costs.goal, first), value(costs.goal, second)),
        (first.latency, second.latency),
    )
    for one, other in pairs:
        if abs(one - other) > EQUAL * max(one, other):
            return one < other
    return False


def with_carriers(costs: Costs, layout: Layout, able: list[Choice], chosen: frozenset[str]) -> Layout:
    """The layout with the chosen bundles on data brokers, and its figures."""
    brokers = costs.data_brokers
    kind_of = {node: kind for kind in costs.types for node in kind.ids}
    stages = [stage for lane in layout.lanes for stage in lane]
    mine = [choice for choice in able if choice.bundle in chosen]
    relays = [0.0] * len(stages)
    for choice in mine:
        relays[choice.target] += choice.size

    def work(place: int, kind: NodeType) -> float:
        own = float(kind.compute[stages[place].start, stages[place].end])
        return own + (brokers.seconds(kind.spec, relays[place]) if brokers and relays[place] else 0.0)

    period = energy = 0.0
    for place, stage in enumerate(stages):
        for share in stage.shares:
            kind, part = kind_of[share.node], len(share.turns) / layout.turns
            extra = work(place, kind) - float(kind.compute[stage.start, stage.end])
            seconds = max(float(kind.period[stage.start, stage.end]), work(place, kind))
            period = max(period, seconds * part)
            energy += part * (kind.energy_of(stage.start, stage.end) + extra * kind.spec.watts)
    if costs.broker_rate is not None:
        period = max(period, _main_bytes(costs, layout, mine) / costs.broker_rate)
    return replace(
        layout,
        period=period,
        latency=_latency(layout, stages, kind_of, mine, work),
        energy=energy,
        carriers={choice.bundle: choice.node for choice in mine},
    )


def _main_bytes(costs: Costs, layout: Layout, chosen: list[Choice]) -> float:
    """The bytes that the main broker delivers for a frame, the mean over turns."""
    total, place = 0.0, 0
    for lane in layout.lanes:
        own = range(place, place + len(lane))
        part = sum(len(share.turns) for share in lane[0].shares) / layout.turns
        relayed = sum(float(costs.relayed[stage.start, stage.end]) for stage in lane)
        total += part * (relayed - sum(choice.size for choice in chosen if choice.target in own))
        place += len(lane)
    return total


def _latency(
    layout: Layout,
    stages: list[StageChoice],
    kind_of: Mapping[str, NodeType],
    chosen: list[Choice],
    work: Callable[[int, NodeType], float],
) -> float:
    """The seconds of the slowest turn: a bundle on a data broker goes up and down at the same time."""
    served = [{turn: kind_of[share.node] for share in stage.shares for turn in share.turns} for stage in stages]
    taken = [0.0] * layout.turns
    for place, (stage, kinds) in enumerate(zip(stages, served, strict=True)):
        for turn, kind in kinds.items():
            extra = work(place, kind) - float(kind.compute[stage.start, stage.end])
            taken[turn] += kind.latency_of(stage.start, stage.end) + extra
    for choice in chosen:
        for turn, receiver in served[choice.target].items():
            sender = served[choice.source][turn]
            taken[turn] -= choice.size / max(sender.spec.free_up, receiver.spec.free_down)
    return max(taken)


def why(plan: Plan, bundle: PlannedBundle, owners: Collection[str], rated: bool) -> str:
    """Why a bundle is on its broker; `owners` have data brokers, `rated`: the main one's rate is known."""
    if CLIENT in (bundle.source, *bundle.targets):
        return "from or to the client, which uses the main broker only"
    if len(bundle.targets) > 1:
        return f"{len(bundle.targets)} slices take it, and one broker serves them all"
    nodes = next(item.nodes for item in plan.slices if item.id == bundle.targets[0])
    if bundle.broker:
        less = f"the main broker delivers {bundle.bytes / 1e6:.3f} MB less, and " if rated else ""
        return f"{less}it crosses the network once"
    if len(nodes) > 1:
        return f"slice {bundle.targets[0]} is on {len(nodes)} nodes in turn"
    if nodes[0] not in owners:
        return f"{nodes[0]} has no data broker that may be used"
    return f"relaying it on {nodes[0]} would gain nothing"
