"""No loss for nothing: codecs that lose less, or nothing, wherever the plan stays as good (PURE)."""

from __future__ import annotations

from dataclasses import replace

from coordinator.planner.answer import Layout
from coordinator.planner.problem import Costs
from coordinator.planner.shapes.drafts import Lane, Stage, broken_limits, lay_out, value


def least_loss(costs: Costs, layout: Layout) -> Layout:
    """The layout with codecs of less error at its cuts, each as far as the objective stays within `goal.within` of
    the layout's own, and the limits are kept.

    The cut of the largest error is tried first, with the codecs that err least first. What is known about the best
    plan stays as it is.
    """
    errors = costs.errors
    if errors is None or not layout.lanes:
        return layout
    kind_of = {node: number for number, kind in enumerate(costs.types) for node in kind.ids}
    alike: dict[int, list[int]] = {}
    for number, state in enumerate(costs.states):
        alike.setdefault(state.done, []).append(number)
    lanes: list[Lane] = [
        tuple(Stage(item.start, item.end, tuple(kind_of[share.node] for share in item.shares)) for item in lane)
        for lane in layout.lanes
    ]
    most = value(costs.goal, layout) * (1.0 + costs.goal.within)
    best = layout
    cuts = [(at, place) for at, lane in enumerate(lanes) for place in range(len(lane) - 1)]
    for at, place in sorted(cuts, key=lambda cut: -float(errors[lanes[cut[0]][cut[1]].end])):
        now = lanes[at][place].end
        others = [other for other in alike[costs.states[now].done] if errors[other] < errors[now]]
        for other in sorted(others, key=errors.__getitem__):
            tried = [*lanes[:at], _moved(lanes[at], place, other), *lanes[at + 1 :]]
            if not _possible(costs, tried[at]):
                continue
            found = lay_out(costs, layout.family, tried, layout.lower_bound, layout.method, layout.bounds)
            if value(costs.goal, found) <= most and not broken_limits(costs, found):
                lanes, best = tried, replace(found, reason=layout.reason)
                break
    return best


def _moved(lane: Lane, place: int, state: int) -> Lane:
    """The lane with another state after the stage at `place`."""
    first, second = lane[place], lane[place + 1]
    return (*lane[:place], replace(first, end=state), replace(second, start=state), *lane[place + 2 :])


def _possible(costs: Costs, lane: Lane) -> bool:
    return all(
        stage.start < stage.end and costs.types[kind].period[stage.start, stage.end] < float("inf")
        for stage in lane
        for kind in stage.kinds
    )
