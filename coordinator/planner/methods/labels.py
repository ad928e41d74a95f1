"""The least sums over all plans under any limits, exactly and without a solver, for small problems (PURE).

A label is a partial plan: its last state, how many nodes of each type it uses, and its sums. Of two labels with the
same state and nodes, one whose sums are nowhere smaller is dropped; so is one whose sums, with the least that is
still to come, overstep a limit. Several aims are made least in their order: sums of tuples keep that order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coordinator.planner.methods.figures import SLACK
from coordinator.planner.methods.flow import Limit
from coordinator.planner.methods.reach import Budget, Segments, radix
from coordinator.planner.problem import Costs
from coordinator.planner.tables.segments import Table

Aims = Sequence[Sequence[Table]]


@dataclass(frozen=True)
class _Label:
    aims: tuple[float, ...]
    sums: tuple[float, ...]
    before: _Label | None
    arc: tuple[int, int, int]


def least(costs: Costs, period: float, aims: Aims, limits: Sequence[Limit], budget: Budget) -> Segments | None:
    """Of the plans whose arcs are within `period` and that keep `limits`, one of the least aims; None: none exists.

    `aims` are tables for each type, the first the most important. Pins, the number of slices and the error budget
    are kept, the broker's rate is not looked at (a limit on what is relayed is one of `limits`). Raises
    OutOfBudgetError.
    """
    return _Search(costs, period, aims, [*limits, *error_limits(costs)], budget).run()


def error_limits(costs: Costs) -> list[Limit]:
    """The error budget as a limit on sums over arcs."""
    if costs.errors is None:
        return []
    errors = np.array(costs.errors, dtype=np.float64)
    errors[-1] = 0.0
    table = np.repeat(errors[None, :], costs.n + 1, axis=0)
    return [Limit((table,) * len(costs.types), max(costs.goal.error_budget, 0.0))]


def relayed_limit(costs: Costs, period: float) -> list[Limit]:
    """What the broker can deliver within `period`, as a limit."""
    if costs.broker_rate is None or not np.isfinite(period):
        return []
    return [Limit((costs.relayed,) * len(costs.types), period * costs.broker_rate)]


class _Search:
    def __init__(self, costs: Costs, period: float, aims: Aims, limits: Sequence[Limit], budget: Budget) -> None:
        self._costs = costs
        self._aims = len(aims)
        self._counts = [kind.count for kind in costs.types]
        self._radix = radix(self._counts)
        self._budget = budget
        self._pinned = frozenset(costs.slice_pins.values())
        self._most = [limit.most + SLACK * abs(limit.most) for limit in limits]
        self._arcs = [
            [self._arcs_from(k, s, period, aims, limits) for s in range(costs.n)] for k in range(len(costs.types))
        ]
        self._rest = [self._to_come(which, limit) for which, limit in enumerate(limits)]

    def _arcs_from(self, k: int, s: int, period: float, aims: Aims, limits: Sequence[Limit]) -> list[Any]:
        row = self._costs.types[k].period[s]
        ends = [j for j in range(s + 1, self._costs.n + 1) if row[j] <= period and np.isfinite(row[j])]
        return [
            (
                j,
                tuple(float(aim[k][s, j]) for aim in aims),
                tuple(float(limit.tables[k][s, j]) for limit in limits),
            )
            for j in ends
        ]

    def _to_come(self, which: int, limit: Limit) -> list[float]:
        """The least of one sum from each state to the end, any node for any arc."""
        n = self._costs.n
        rest = [np.inf] * n + [0.0]
        for s in range(n - 1, -1, -1):
            for by_start in self._arcs:
                for j, _, sums in by_start[s]:
                    rest[s] = min(rest[s], sums[which] + rest[j])
        return rest

    def run(self) -> Segments | None:
        n = self._costs.n
        found: list[dict[int, list[_Label]]] = [{} for _ in range(n + 1)]
        zeros = (0.0,) * len(self._most)
        found[0][0] = [_Label((0.0,) * self._aims, zeros, None, (0, 0, -1))]
        for s in range(n):
            for code, labels in found[s].items():
                slices = self._slices(code)
                if slices >= self._costs.max_slices:
                    continue
                for k in self._usable(code, slices):
                    self._budget.spend(len(labels) * max(1, len(self._arcs[k][s])))
                    for label in labels:
                        self._extend(label, code + self._radix[k], k, s, found)
            if s:
                found[s].clear()
        needed = max(self._costs.slice_pins, default=-1) + 1
        ends = [
            (label.aims, code, number, label)
            for code, labels in found[n].items()
            for number, label in enumerate(labels)
            if self._slices(code) >= needed
        ]
        if not ends:
            return None
        return _walk_back(min(ends, key=lambda end: end[:3])[3])

    def _slices(self, code: int) -> int:
        return sum(code // step % (count + 1) for step, count in zip(self._radix, self._counts, strict=True))

    def _usable(self, code: int, slices: int) -> list[int]:
        def left(k: int) -> bool:
            return code // self._radix[k] % (self._counts[k] + 1) < self._counts[k]

        forced = self._costs.slice_pins.get(slices)
        if forced is not None:
            return [forced] if left(forced) else []
        return [k for k in range(len(self._counts)) if k not in self._pinned and left(k)]

    def _extend(self, label: _Label, code: int, k: int, s: int, found: list[dict[int, list[_Label]]]) -> None:
        for j, more, takes in self._arcs[k][s]:
            sums = tuple(a + b for a, b in zip(label.sums, takes, strict=True))
            if any(a + rest[j] > most for a, rest, most in zip(sums, self._rest, self._most, strict=True)):
                continue
            aims = tuple(a + b for a, b in zip(label.aims, more, strict=True))
            known = found[j].setdefault(code, [])
            if any(other.aims <= aims and _nowhere_larger(other.sums, sums) for other in known):
                continue
            known[:] = [o for o in known if not (aims <= o.aims and _nowhere_larger(sums, o.sums))]
            known.append(_Label(aims, sums, label, (s, j, k)))


def _nowhere_larger(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True))


def _walk_back(label: _Label) -> Segments:
    segments: Segments = []
    while label.before is not None:
        segments.append(label.arc)
        label = label.before
    return segments[::-1]
