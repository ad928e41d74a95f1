"""All plans of a small problem's tables, tried one after the other."""

from __future__ import annotations

import math
from collections.abc import Iterator

from coordinator.planner.goal import Goal
from coordinator.planner.methods.figures import Figures, figures
from coordinator.planner.methods.reach import Segments
from coordinator.planner.problem import Costs


def all_plans(costs: Costs) -> Iterator[tuple[Segments, Figures]]:
    """Every plan that fits nodes, pins, number of slices and error budget; the goal's other limits aside."""

    def extend(segments: Segments, left: list[int]) -> Iterator[Segments]:
        at = segments[-1][1] if segments else 0
        if at == costs.n:
            if all(number < len(segments) for number in costs.slice_pins):
                yield list(segments)
            return
        if len(segments) >= costs.max_slices:
            return
        forced = costs.slice_pins.get(len(segments))
        for k, kind in enumerate(costs.types):
            if not left[k] or (forced is not None and k != forced):
                continue
            if forced is None and k in costs.slice_pins.values():
                continue
            for j in range(at + 1, costs.n + 1):
                if math.isfinite(kind.period[at, j]):
                    left[k] -= 1
                    yield from extend([*segments, (at, j, k)], left)
                    left[k] += 1

    for segments in extend([], [kind.count for kind in costs.types]):
        error = 0.0
        if costs.errors is not None:
            error = sum(float(costs.errors[j]) for _, j, _ in segments if j < costs.n)
        if error <= costs.goal.error_budget * (1 + 1e-9):
            yield segments, figures(costs, segments)


def within(goal: Goal, found: Figures) -> bool:
    """Whether a plan keeps the goal's limits."""
    return (
        found.period <= goal.max_period
        and found.latency <= goal.max_latency
        and found.energy <= goal.max_energy
        and (goal.max_nodes is None or found.nodes <= goal.max_nodes)
    )
