"""Is there a plan of period P? An exact answer by dynamic programming over counts of nodes (PURE).

State: how many nodes of each kind are used. Value: the set of positions that can be reached with them, as
bits. Positions are kept as a set because a later cut may be dearer than an earlier one. A position that is
reachable with a subset of the nodes is not carried further (dominance), and one from which the unused
nodes could not do the remaining work within P is dropped (work bound). With all nodes different the counts
are a subset mask. Source of the method: the count DP for chains on few types of processors (see
docs/explanation/planning.md).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coordinator.planner.problem import Costs
from coordinator.planner.tables.segments import Table

Bits = npt.NDArray[np.uint64]
Segments = list[tuple[int, int, int]]
"""(first position, end position, group or type), in order."""


class OutOfBudgetError(Exception):
    """The search has used the states that it was given."""


class Budget:
    """How many states may still be looked at; deterministic, unlike a time limit."""

    def __init__(self, states: int) -> None:
        self.left = states

    def spend(self, states: int) -> None:
        """Take `states`; raises OutOfBudgetError when they are not there."""
        self.left -= states
        if self.left < 0:
            raise OutOfBudgetError


def pack(table: npt.NDArray[np.bool_]) -> Bits:
    """Rows of booleans as rows of 64-bit words, the first column in the lowest bit."""
    columns = table.shape[-1]
    words = -(-columns // 64)
    padded = np.zeros((*table.shape[:-1], words * 64), dtype=bool)
    padded[..., :columns] = table
    return np.ascontiguousarray(np.packbits(padded, axis=-1, bitorder="little")).view("<u8")


def positions(bits: Bits) -> npt.NDArray[np.intp]:
    """The positions whose bits are set."""
    return np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little"))


@dataclass(frozen=True)
class Trace:
    """What a successful search leaves: per level (slices so far) each state's new positions."""

    levels: list[dict[int, Bits]]
    goals: list[int]


class Reach:
    """One question: given for each group of nodes which segments a member may run, is the end reachable?

    `allowed` has shape (groups, n+1, n+1); `counts` says how many members each group has; `pins` maps a
    slice number to the group that must run it (a pinned group has one member).
    """

    def __init__(
        self,
        allowed: npt.NDArray[np.bool_],
        counts: Sequence[int],
        pins: dict[int, int],
        max_slices: int,
        bound: WorkBound | None = None,
    ) -> None:
        self.allowed = allowed
        self.counts = tuple(counts)
        self.pins = pins
        self.max_slices = max_slices
        self.n = allowed.shape[1] - 1
        self.radix = radix(self.counts)
        self._rows = pack(allowed)
        self._bound = bound
        self._least = max(pins, default=-1) + 1
        self._pinned = frozenset(pins.values())

    def digit(self, code: int, group: int) -> int:
        """How many members of `group` the state `code` uses."""
        return code // self.radix[group] % (self.counts[group] + 1)

    def usable(self, code: int, level: int) -> list[int]:
        """The groups that may run the next slice (number `level`) after state `code`."""
        forced = self.pins.get(level)
        if forced is not None:
            return [forced] if self.digit(code, forced) < self.counts[forced] else []
        return [
            group
            for group in range(len(self.counts))
            if self.digit(code, group) < self.counts[group] and group not in self._pinned
        ]

    def search(self, budget: Budget, width: int | None = None) -> Trace | None:
        """The trace of the fewest slices that reach the end, or None: no plan exists.

        With `width` only so many states are kept at each level, those whose unused nodes have most time to spare
        (a beam search); None then means that none was found.
        """
        start = self._bit(0)
        levels: list[dict[int, Bits]] = [{0: start}]
        totals: dict[int, Bits] = {0: start}
        goal_word, goal_bit = self.n // 64, np.uint64(1 << (self.n % 64))
        for level in range(self.max_slices):
            budget.spend(len(levels[-1]))
            reached = self._extend(levels[-1], level)
            if width is not None and len(reached) > width:
                reached = self._most_promising(reached, width)
            news: dict[int, Bits] = {}
            new_totals: dict[int, Bits] = {}
            goals = []
            for code, found in reached.items():
                new, new_totals[code] = self._undominated(code, found, totals)
                if level + 1 >= self._least and new[goal_word] & goal_bit:
                    goals.append(code)
                if self._bound is not None:
                    new = new & self._bound.keep(self, code)
                if new.any():
                    news[code] = new
            levels.append(news)
            if goals:
                return Trace(levels, goals)
            if not news:
                return None
            totals = new_totals
        return None

    def _bit(self, position: int) -> Bits:
        table = np.zeros(self.n + 1, dtype=bool)
        table[position] = True
        return pack(table)

    def _extend(self, states: dict[int, Bits], level: int) -> dict[int, Bits]:
        reached: dict[int, Bits] = {}
        for code, new in states.items():
            outs = np.bitwise_or.reduce(self._rows[:, positions(new)], axis=1)
            for group in self.usable(code, level):
                following = code + self.radix[group]
                known = reached.get(following)
                reached[following] = outs[group] if known is None else known | outs[group]
        return reached

    def _most_promising(self, reached: dict[int, Bits], width: int) -> dict[int, Bits]:
        if self._bound is None:
            return dict(sorted(reached.items())[:width])
        slack = {code: self._bound.slack(self, code, bits) for code, bits in reached.items()}
        return {code: reached[code] for code in heapq.nlargest(width, reached, key=lambda code: slack[code])}

    def _undominated(self, code: int, found: Bits, totals: dict[int, Bits]) -> tuple[Bits, Bits]:
        # A pinned slice number makes "one slice fewer" another situation, so nothing is dominated then.
        if self.pins:
            return found, found
        inherited = np.zeros_like(found)
        for group, step in enumerate(self.radix):
            if self.digit(code, group):
                known = totals.get(code - step)
                if known is not None:
                    inherited = inherited | known
        return found & ~inherited, found | inherited

    def cheapest(self, trace: Trace, values: npt.NDArray[np.float64]) -> tuple[float, Segments]:
        """Of all plans in the trace, the one with the least sum of `values[group, i, j]`."""
        needed = self._needed(trace)
        best: list[dict[int, Table]] = [{0: np.where(np.arange(self.n + 1) == 0, 0.0, np.inf)}]
        for level in range(len(trace.levels) - 1):
            following: dict[int, Table] = {}
            for code, known in best[level].items():
                rows = np.flatnonzero(np.isfinite(known))
                for group in self.usable(code, level):
                    target = code + self.radix[group]
                    if target not in needed[level + 1]:
                        continue
                    columns = positions(needed[level + 1][target])
                    block = np.ix_(rows, columns)
                    sums = np.where(self.allowed[group][block], known[rows][:, None] + values[group][block], np.inf)
                    least = following.setdefault(target, np.full(self.n + 1, np.inf))
                    least[columns] = np.minimum(least[columns], sums.min(axis=0, initial=np.inf))
            best.append(following)
        total, goal = min((best[-1][code][self.n], code) for code in trace.goals if code in best[-1])
        return float(total), self._walk_back(best, values, goal)

    def _needed(self, trace: Trace) -> list[dict[int, Bits]]:
        """Per level and state, the positions from which the end is reached at the last level."""
        needed: list[dict[int, Bits]] = [{} for _ in trace.levels]
        needed[-1] = {code: self._bit(self.n) for code in trace.goals}
        for level in range(len(trace.levels) - 1, 0, -1):
            for code, wanted in needed[level].items():
                for group, step in enumerate(self.radix):
                    before = code - step
                    if not self.digit(code, group) or before not in trace.levels[level - 1]:
                        continue
                    if group not in self.usable(before, level - 1):
                        continue
                    rows = positions(trace.levels[level - 1][before])
                    hits = rows[(self._rows[group, rows] & wanted).any(axis=1)]
                    if hits.size:
                        table = np.zeros(self.n + 1, dtype=bool)
                        table[hits] = True
                        known = needed[level - 1].get(before)
                        needed[level - 1][before] = pack(table) if known is None else known | pack(table)
        return needed

    def _walk_back(self, best: list[dict[int, Table]], values: npt.NDArray[np.float64], code: int) -> Segments:
        segments: Segments = []
        end = self.n
        for level in range(len(best) - 2, -1, -1):
            options = []
            for group, step in enumerate(self.radix):
                before = code - step
                if not self.digit(code, group) or before not in best[level]:
                    continue
                if group not in self.usable(before, level):
                    continue
                sums = np.where(self.allowed[group, :, end], best[level][before] + values[group, :, end], np.inf)
                start = int(np.argmin(sums))
                options.append((float(sums[start]), start, group))
            _, start, group = min(options)
            segments.append((start, end, group))
            code, end = code - self.radix[group], start
        return segments[::-1]


def radix(counts: Sequence[int]) -> tuple[int, ...]:
    """The place value of each group's count in a state's code."""
    values, value = [], 1
    for count in counts:
        values.append(value)
        value *= count + 1
    return tuple(values)


def state_count(counts: Sequence[int]) -> int:
    """How many states there are at most."""
    return math.prod(count + 1 for count in counts)


class WorkBound:
    """Drops positions from which the unused nodes could not do what remains within the period.

    Each step has a weight; a node does at most `rates[group]` of weight per second, whatever steps it gets, so
    (weight that remains) <= period x (sum of the rates of the unused nodes) must hold.
    """

    def __init__(self, done: npt.NDArray[np.float64], rates: Sequence[float], period: float) -> None:
        """`done[s]` is the weight of what is done in state s."""
        self._done = done
        self._rates = tuple(rates)
        self._period = period
        self._levels = np.unique(done)
        self._kept = pack(done[None, :] >= self._levels[:, None])

    def keep(self, reach: Reach, code: int) -> Bits:
        """The positions that may still lead to the end."""
        total = self._levels[-1]
        # The margin covers rounding: a bound may let through too much, never too little.
        least = total - self._period * self._rate(reach, code) - 1e-9 * total
        first = int(np.searchsorted(self._levels, least))
        kept: Bits = self._kept[min(first, len(self._kept) - 1)]
        return kept

    def slack(self, reach: Reach, code: int, bits: Bits) -> float:
        """How much more weight the unused nodes could do than remains behind the furthest of the positions."""
        furthest = float(self._done[positions(bits)].max(initial=0.0))
        return float(self._period * self._rate(reach, code) - (self._levels[-1] - furthest))

    def _rate(self, reach: Reach, code: int) -> float:
        return sum(
            value * (reach.counts[group] - reach.digit(code, group)) for group, value in enumerate(self._rates)
        )


def done_weights(costs: Costs, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """For each state the weight of the steps that are done; `weights` has one number per step."""
    if not costs.states:
        return np.concatenate([[0.0], np.cumsum(weights)])
    return np.array([sum(weights[s] for s in costs.steps_of(0, state)) for state in range(costs.n + 1)])


def rates(costs: Costs) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Weights per step and the highest rate of each type at which it can do them (see WorkBound)."""
    steps = np.stack([kind.steps for kind in costs.types])
    if costs.states or steps.shape[1] != costs.n:
        # States are no positions between two steps: weights of nothing drop no state.
        return np.zeros(costs.n), np.zeros(len(costs.types))
    positive = steps.min(axis=0) > 0
    weights = np.zeros(steps.shape[1])
    weights[positive] = np.exp(np.log(steps[:, positive]).mean(axis=0))
    if not positive.any():
        return weights, np.zeros(len(costs.types))
    return weights, (weights[positive] / steps[:, positive]).max(axis=1)
