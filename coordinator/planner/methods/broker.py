"""Plans when the broker's own rate limits: the least bytes that it must deliver in a plan of period P (PURE).

The same states as in `reach.py`, but each position carries the fewest bytes with which it is reached. The
least bytes fall as P grows, so the best period with a broker of rate B is where (least bytes at P) / B meets P.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from coordinator.planner.methods.reach import Budget, Reach, Segments
from coordinator.planner.tables.segments import Table


class LeastBytes:
    """For one question of `Reach`: per number of slices, the fewest bytes delivered for one frame."""

    def __init__(self, reach: Reach, relayed: Table, budget: Budget) -> None:
        self._reach = reach
        self._relayed = relayed
        self._best: list[dict[int, Table]] = [{0: np.where(np.arange(reach.n + 1) == 0, 0.0, np.inf)}]
        self._run(budget)

    def least(self) -> float:
        """The fewest bytes with any number of slices; infinite when there is no plan."""
        return min((total for total in self._totals()), default=np.inf)

    def fewest_slices(self, limit: float) -> Segments | None:
        """A plan of the fewest slices that needs at most `limit` bytes (and of these one with the fewest)."""
        for level, total in enumerate(self._totals()):
            if total <= limit:
                return self._walk_back(level)
        return None

    def _totals(self) -> list[float]:
        reach = self._reach
        return [
            min((float(values[reach.n]) for values in states.values()), default=np.inf)
            if level > max(reach.pins, default=-1)
            else np.inf
            for level, states in enumerate(self._best)
        ]

    def _run(self, budget: Budget) -> None:
        reach = self._reach
        totals = self._best[0]
        for level in range(reach.max_slices):
            budget.spend(len(self._best[-1]))
            reached: dict[int, Table] = {}
            for code, known in self._best[-1].items():
                rows = np.flatnonzero(np.isfinite(known))
                sums = known[rows][:, None] + self._relayed[rows]
                for group in reach.usable(code, level):
                    least = np.where(reach.allowed[group][rows], sums, np.inf).min(axis=0, initial=np.inf)
                    target = code + reach.radix[group]
                    before = reached.get(target)
                    reached[target] = least if before is None else np.minimum(before, least)
            news: dict[int, Table] = {}
            following: dict[int, Table] = {}
            for code, found in reached.items():
                inherited = self._inherited(code, totals)
                following[code] = np.minimum(found, inherited)
                new = np.where(found < inherited, found, np.inf)
                if np.isfinite(new).any():
                    news[code] = new
            self._best.append(news)
            totals = following

    def _inherited(self, code: int, totals: dict[int, Table]) -> Table:
        reach = self._reach
        inherited: Table = np.full(reach.n + 1, np.inf)
        if not reach.pins:
            for group, step in enumerate(reach.radix):
                if reach.digit(code, group) and code - step in totals:
                    inherited = np.minimum(inherited, totals[code - step])
        return inherited

    def _walk_back(self, level: int) -> Segments:
        reach, end = self._reach, self._reach.n
        _, code = min((float(values[end]), code) for code, values in self._best[level].items())
        segments: Segments = []
        for slices in range(level - 1, -1, -1):
            options = []
            for group, step in enumerate(reach.radix):
                known = self._best[slices].get(code - step) if reach.digit(code, group) else None
                if known is None or group not in reach.usable(code - step, slices):
                    continue
                sums = np.where(reach.allowed[group, :, end], known + self._relayed[:, end], np.inf)
                start = int(np.argmin(sums))
                options.append((float(sums[start]), start, group))
            _, start, group = min(options)
            segments.append((start, end, group))
            code, end = code - reach.radix[group], start
        return segments[::-1]


def meeting_period(candidates: Table, rate: float, least_bytes: Callable[[float], float]) -> tuple[float, float]:
    """The best period with a broker of `rate` bytes/s, and the threshold at which a plan reaches it.

    `candidates` are sorted stage times; `least_bytes(P)` must not grow with P and be finite at the last one.
    """
    low, high = -1, len(candidates) - 1
    if least_bytes(float(candidates[high])) / rate > candidates[high]:
        return least_bytes(float(candidates[high])) / rate, float(candidates[high])
    while high - low > 1:
        middle = (low + high) // 2
        value = float(candidates[middle])
        if least_bytes(value) / rate <= value:
            high = middle
        else:
            low = middle
    best = float(candidates[high])
    if low >= 0:
        earlier = least_bytes(float(candidates[low])) / rate
        if earlier < best:
            return earlier, float(candidates[low])
    return best, best
