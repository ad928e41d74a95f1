"""All shapes of plans for one problem, compared: the best one, why, and the figures of the others (PURE).

One node, whole-model copies, a pipeline, a pipeline with replicated stages, several pipelines side by side. The
winner has the best objective. Shapes whose objective is within the goal's share of the best count as equal: of
these the one that ships the fewest bytes wins, then the one on the fewest nodes, then the simplest, then the one of
the least latency. A bound is for the family of its own shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from coordinator.planner.answer import Bound, Layout, NoPlanError, Share, Split, StageChoice
from coordinator.planner.goal import Goal
from coordinator.planner.model import Planner
from coordinator.planner.problem import Costs, NodeType
from coordinator.planner.shapes import parallel as side_by_side
from coordinator.planner.shapes import replicas as replicated
from coordinator.planner.shapes.copies import FAMILY as COPIES
from coordinator.planner.shapes.copies import copies
from coordinator.planner.shapes.drafts import (
    Stage,
    broken_limits,
    lay_out,
    moved_bytes,
    nodes_of,
    placed,
    value,
    without_whole,
)
from coordinator.planner.shapes.reasons import NAMES, SHAPES, Compared, why_it_wins, why_no_whole
from coordinator.planner.tables.states import family_of

ONE_NODE = "one-node"
PREFIXES = "contiguous-one-per-node"
SEARCH_CELLS = 6_000_000
"""How much the search for each of the last two shapes may look at when a coordinator waits for the plan."""
PRICE_CELLS = 8_000_000
"""The same for the bound of one of them that has won."""
NOT_SEARCHED = "it may not be used, and was not searched for"
LONG = 10
"""So many times as much when there is time."""


class NoShapeError(NoPlanError):
    """None of the shapes that may be used has a plan; `reason` says why not, shape by shape."""

    def __init__(self, found: Sequence[Compared], allowed: Sequence[str]) -> None:
        super().__init__(proved=False)
        reasons = [f"{NAMES[row.shape]}: {row.reason}" for row in found if row.shape in allowed]
        self.reason = f"no plan of the shapes {', '.join(allowed)}: {'; '.join(reasons)}"


def compare(
    costs: Costs,
    planner: Planner,
    shapes: Sequence[str] | None = None,
    *,
    seconds: float = 0.0,
    brief: bool = False,
) -> tuple[Layout, tuple[Layout, ...]]:
    """The best layout of `shapes` (None: of all), with its reason, and the best of every other shape.

    A shape without a layout is one without lanes, whose reason says why. Where copies may not be used, no slice of
    replicated stages or of pipelines side by side is the whole model. `planner` makes single pipelines.
    `seconds`: what more the search for replicated stages may take, for plans that nobody waits for. `brief`: shapes
    that take a search and may not be used are left out, so that a pipeline which stands still meanwhile goes on
    sooner. Raises what `planner` raises when none of the shapes has a plan.
    """
    allowed = SHAPES if shapes is None else tuple(shapes)
    failed: NoPlanError | None = None
    base: Split | None = None
    try:
        base = planner(costs)
    except NoPlanError as error:
        failed = error
    cells = SEARCH_CELLS * (LONG if seconds > 0 else 1)
    parts, first = costs, base
    if "copies" not in allowed:
        parts, first = without_whole(costs), base if base is not None and len(base.segments) > 1 else None
    found = [
        _one_node(costs),
        _copies(costs),
        _pipeline(costs, base, failed),
        *(
            Compared(shape, None, NOT_SEARCHED)
            if brief and shape not in allowed
            else _searched(costs, shape, search)
            for shape, search in (
                ("replicas", lambda: replicated.replicas(parts, first, cells, seconds)),
                ("parallel", lambda: side_by_side.parallel(parts, planner, first, cells)),
            )
        ),
    ]
    able = [row for row in found if row.shape in allowed and row.layout is not None and not row.reason]
    if not able:
        # What limits leave of single pipelines says nothing of the other shapes.
        limits = getattr(failed, "reason", "") and any(row.layout is not None for row in found)
        if failed is not None and ("pipeline" in allowed or len(allowed) == 0) and not limits:
            raise failed
        raise NoShapeError(found, allowed)
    winner = _winner(costs, able)
    assert winner.layout is not None
    layout = replace(
        _with_bound(costs, winner, PRICE_CELLS * (LONG if seconds > 0 else 1)),
        reason=why_it_wins(costs, winner, found, allowed),
    )
    others = [
        Layout(_family(costs, row.shape), reason=row.reason)
        if row.layout is None
        else replace(row.layout, reason=row.reason)
        for row in found
        if row is not winner
    ]
    return layout, tuple(others)


def pipeline_layout(costs: Costs, found: Split) -> Layout:
    """A single pipeline as a layout of one turn."""
    kind_of = {node: kind for kind in costs.types for node in kind.ids}
    energy = sum(kind_of[node].energy_of(i, j) for (i, j), node in zip(found.segments, found.nodes, strict=True))
    lane = tuple(
        StageChoice(i, j, (Share(node, (0,)),)) for (i, j), node in zip(found.segments, found.nodes, strict=True)
    )
    return Layout(
        family=_family(costs, "pipeline"),
        lanes=(lane,),
        period=found.period,
        latency=found.latency,
        lower_bound=found.lower_bound,
        method=found.method,
        bounds=found.bounds,
        energy=energy,
    )


def alone(costs: Costs, stateful: bool = False) -> Layout:
    """The whole model on the best single node, pins left aside; without lanes, and with the reason, if none can.

    stateful: a frame at a time, so the period is the latency.
    """
    found = _one_node(replace(costs, goal=Goal("latency")) if stateful else costs)
    if found.layout is None:
        return Layout(ONE_NODE, reason=found.reason)
    return replace(found.layout, period=found.layout.latency) if stateful else found.layout


def without_pins(costs: Costs) -> Costs:
    """The problem in which the whole model may run on every node that can hold it, whatever is pinned where."""
    n = costs.n
    types: list[NodeType] = []
    for kind in costs.types:
        period = kind.period.copy()
        period[0, n] = max(kind.compute[0, n], kind.down[0, n], kind.up[0, n]) if kind.whole else math.inf
        types.append(replace(kind, period=period))
    return replace(costs, types=tuple(types), slice_pins={})


def _family(costs: Costs, shape: str) -> str:
    families = {
        "one-node": ONE_NODE,
        "copies": COPIES,
        "replicas": replicated.FAMILY,
        "parallel": side_by_side.FAMILY,
    }
    return families.get(shape) or (family_of(costs.states) if costs.states else PREFIXES)


def _one_node(costs: Costs) -> Compared:
    reason = why_no_whole(costs)
    if reason:
        return Compared("one-node", None, reason)
    free = replace(without_pins(costs), goal=Goal(within=costs.goal.within))
    layouts = [
        lay_out(free, ONE_NODE, [(Stage(0, costs.n, (k,)),)]) for k, kind in enumerate(free.types) if kind.whole
    ]
    keeping = [layout for layout in layouts if not _forbidden(costs, layout)] or layouts
    best = min(keeping, key=lambda layout: (value(costs.goal, layout), layout.latency))
    least = value(costs.goal, best)
    proved = replace(best, lower_bound=least, method="exact-counts", bounds=(Bound(least, "counts"),))
    return Compared("one-node", proved, _forbidden(costs, best))


def _copies(costs: Costs) -> Compared:
    reason = why_no_whole(costs)
    if reason:
        return Compared("copies", None, reason)
    free = without_pins(costs)
    try:
        layout = copies(free)
    except NoPlanError:
        goal = costs.goal
        layout = copies(replace(free, goal=Goal(goal.objective, within=goal.within)))
        return Compared("copies", layout, _forbidden(costs, layout) or "no copies keep to the limits")
    return Compared("copies", layout, _forbidden(costs, layout))


def _pipeline(costs: Costs, base: Split | None, failed: NoPlanError | None) -> Compared:
    if base is None:
        return Compared("pipeline", None, str(getattr(failed, "reason", "")) or str(failed))
    layout = pipeline_layout(costs, base)
    broken = broken_limits(costs, layout)
    return Compared("pipeline", layout, f"it has {broken[0]}" if broken else "")


def _searched(costs: Costs, shape: str, search: Callable[[], Layout]) -> Compared:
    nodes = sum(kind.count for kind in costs.types)
    if costs.slice_pins:
        return Compared(shape, None, "slices are pinned to nodes")
    if nodes < 2:
        return Compared(shape, None, "there is only one node")
    if shape == "replicas" and costs.hops is not None:
        return Compared(shape, None, "stages on several nodes are not planned for links between pairs of nodes")
    try:
        layout = search()
    except NoPlanError:
        return Compared(shape, None, _none_found(costs, shape))
    stages = [stage for lane in layout.lanes for stage in lane]
    if shape == "replicas" and all(len(stage.shares) == 1 for stage in stages):
        return Compared(shape, None, "no stage was found that gains from a second node")
    if shape == "replicas" and len(stages) == 1:
        return Compared(shape, None, "the best one found has a single stage: copies of the whole model")
    if shape == "parallel" and len(layout.lanes) == 1:
        return Compared(shape, None, "no second pipeline was found that gains anything")
    if shape == "parallel" and all(len(lane) == 1 for lane in layout.lanes):
        return Compared(shape, None, "the best ones found have one slice each: copies of the whole model")
    return Compared(shape, layout)


def _none_found(costs: Costs, shape: str) -> str:
    goal = costs.goal
    limits = (goal.max_period, goal.max_latency, goal.max_energy)
    if goal.max_nodes is not None or any(math.isfinite(limit) for limit in limits):
        return "none was found that keeps to the limits"
    return "the nodes hold no second pipeline, as far as was found" if shape == "parallel" else "none was found"


def _forbidden(costs: Costs, layout: Layout) -> str:
    """Why a layout of the whole model on each node may not win: pins or limits; empty when it may."""
    kind_of = {node: number for number, kind in enumerate(costs.types) for node in kind.ids}
    for start, end, share in placed(layout):
        number = kind_of[share.node]
        pinned = any(place > 0 or number != other for place, other in costs.slice_pins.items())
        if pinned or not math.isfinite(float(costs.types[number].period[start, end])):
            return "it does not keep to the pins"
    broken = broken_limits(costs, layout)
    return f"it has {broken[0]}" if broken else ""


def _winner(costs: Costs, able: Sequence[Compared]) -> Compared:
    goal = costs.goal
    figures = {row.shape: value(goal, row.layout) for row in able if row.layout is not None}
    least = min(figures.values())

    def rank(row: Compared) -> tuple[float, int, float, float]:
        layout = row.layout
        assert layout is not None
        # One slice, found among all pipelines: the same plan as one node, with a bound that says more.
        simple = -1 if row.shape == "pipeline" and len(layout.lanes[0]) == 1 else SHAPES.index(row.shape)
        return moved_bytes(costs, layout), len(nodes_of(layout)), simple, layout.latency

    return min((row for row in able if figures[row.shape] <= least * (1 + goal.within)), key=rank)


def _with_bound(costs: Costs, winner: Compared, cells: int) -> Layout:
    assert winner.layout is not None
    if winner.shape == "replicas":
        return replicated.with_bound(costs, winner.layout, cells)
    if winner.shape == "parallel":
        return side_by_side.with_bound(costs, winner.layout, cells)
    return winner.layout
