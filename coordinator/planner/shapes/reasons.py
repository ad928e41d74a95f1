"""The words of a comparison: what the winner gains over the next best, and what rules other shapes out (PURE)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from coordinator.planner.answer import Layout
from coordinator.planner.goal import Goal
from coordinator.planner.problem import Costs
from coordinator.planner.shapes.drafts import value

SHAPES = ("one-node", "copies", "pipeline", "replicas", "parallel")
"""From the simplest to the one of most parts."""
NAMES = {
    "one-node": "one node",
    "copies": "copies of the whole model",
    "pipeline": "a pipeline",
    "replicas": "a pipeline with replicated stages",
    "parallel": "pipelines side by side",
}


@dataclass(frozen=True)
class Compared:
    """A shape with its layout, or (None) the reason why there is none; a layout with a reason may not win."""

    shape: str
    layout: Layout | None
    reason: str = ""


def why_it_wins(costs: Costs, winner: Compared, found: Sequence[Compared], allowed: Sequence[str]) -> str:
    """One sentence: what the winner gains over the next best, and what rules out the simplest shapes."""
    goal, layout = costs.goal, winner.layout
    assert layout is not None
    own = value(goal, layout)
    rows = [row for row in found if row is not winner and row.layout is not None and not row.reason]
    single = winner.shape == "pipeline" and len(layout.lanes[0]) == 1
    rows = [row for row in rows if not (single and row.shape == "one-node")]
    name = "one node" if single else NAMES[winner.shape]
    begin = f"{name[0].upper()}{name[1:]}"
    if winner.shape == "copies":
        whole = sum(kind.count for kind in costs.types if kind.whole)
        every = sum(kind.count for kind in costs.types)
        fits = "every node" if whole == every else f"{whole} of {every} nodes"
        begin = f"Copies of the whole model: it fits {fits}, and a frame sends only its inputs and results"
    if not rows:
        none = why_no_whole(costs)
        return f"{begin}: no other shape has a plan that may be used{f', for {none}' if none else ''}"
    next_best = min(rows, key=lambda row: value(goal, row.layout) if row.layout else math.inf)
    assert next_best.layout is not None
    other = value(goal, next_best.layout)
    compared = _ratio(goal, own, other, next_best.shape, next_best.shape in allowed)
    joint = ";" if winner.shape == "copies" else ":"
    none = "" if winner.shape in ("one-node", "copies") else why_no_whole(costs)
    return f"{begin}{joint} {compared}{f'; {none}' if none else ''}"


def _ratio(goal: Goal, own: float, other: float, shape: str, allowed: bool) -> str:
    name = NAMES[shape]
    if not allowed and other < own:
        return f"{name} would be better ({_figure(goal, other)} against {_figure(goal, own)}) but may not be used"
    if other <= own * (1 + goal.within):
        share = f"{100 * goal.within:.2g} %"
        return (
            f"no other shape is better by more than {share}, and this one ships less, has fewer nodes or is simpler"
        )
    if goal.objective == "throughput":
        times = other / own if own > 0 else math.inf
        return f"{times:.3g} times the rate of {name}, the next best"
    return f"{_figure(goal, own)} against {_figure(goal, other)} of {name}, the next best"


def _figure(goal: Goal, value_: float) -> str:
    if goal.objective == "nodes":
        return f"{value_:.0f} nodes"
    if goal.objective == "energy":
        return f"{value_:.4g} J for a frame"
    return f"{value_ * 1e3:.2f} ms of {'latency' if goal.objective == 'latency' else 'period'}"


def why_no_whole(costs: Costs) -> str:
    """Why no node can run the whole model; empty when one can."""
    if any(kind.whole for kind in costs.types):
        return ""
    n = costs.n
    largest = max(costs.types, key=lambda kind: kind.spec.memory).spec
    reason = (
        f"no node can run the whole model: it needs {costs.memory[0, n] / 1e6:.1f} MB, "
        f"the largest node ({largest.id}) has {largest.memory / 1e6:.1f} MB"
    )
    if costs.memory[0, n] <= largest.memory:
        reason += " and cannot run all its operators, or must keep some of its memory free"
    return reason
