"""A contiguous split with the least period: threshold search over candidate periods (PURE).

The period of a plan is the stage time of one segment on one node, so only these values are candidates;
`reach.py` decides each of them exactly, and a "no" proves that every plan is slower. Nodes whose possible
segments at a period are the same count as equal in that question. Where too many distinct nodes are left,
unlike nodes are merged: taking only what all members can run finds plans, taking what any member can run
proves bounds; between the two lies the gap that the plan states.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coordinator.planner.answer import NoPlanError, Split
from coordinator.planner.goal import ENOUGH
from coordinator.planner.methods.broker import LeastBytes, meeting_period
from coordinator.planner.methods.improve import improve, period_of
from coordinator.planner.methods.merge import merge_alike
from coordinator.planner.methods.reach import (
    Budget,
    OutOfBudgetError,
    Reach,
    Segments,
    Trace,
    WorkBound,
    done_weights,
    rates,
    state_count,
)
from coordinator.planner.problem import Costs, NodeType
from coordinator.planner.tables.segments import Table

EXACT_STATES = 20_000
"""The most states that one question may have to be asked exactly."""
MERGED_STATES = 600
"""The most states of a question after unlike nodes have been merged."""
TOTAL_STATES = 150_000
"""How many states one plan may look at before it merges nodes."""
BEAM_WIDTH = 24
"""How many states a beam search keeps."""
BEAM_QUESTIONS = 6
"""How many beam searches one plan may take."""
TOLERANCE = ENOUGH
"""Fewer nodes are preferred within this share of the best period, unless the goal has another share."""


@dataclass(frozen=True)
class _Answer:
    """One question's answer: `found` when there is a plan, `proved` when the answer is certain."""

    found: tuple[Reach, Trace, list[list[int]]] | None
    proved: bool


def split(costs: Costs, total_states: int = TOTAL_STATES) -> Split:
    """The best split of `costs`; raises NoPlanError when memory, operators or pins allow none."""
    return _Search(costs, total_states).run()


class _Search:
    def __init__(self, costs: Costs, total_states: int) -> None:
        if not costs.types or costs.n == 0:
            raise NoPlanError(proved=True)
        self._costs = costs
        self._budget = Budget(total_states)
        self._exact = True
        self._weights, self._rates = rates(costs)
        self._done = done_weights(costs, self._weights)
        self._answers: dict[float, _Answer] = {}

    def run(self) -> Split:
        first = self._ask(np.inf)
        if first.found is None:
            raise NoPlanError(first.proved)
        low, high = self._bracket()
        values = self._candidates(low, high)
        best = self._smallest(values, lambda answer: answer.found is not None)
        proved_from = self._smallest(values, lambda answer: answer.found is not None or not answer.proved)
        exact = best == proved_from and self._exact
        if self._costs.broker_rate is not None:
            limited = self._limited_by_broker(best, proved_from)
            if limited is not None:
                return limited
        segments = self._choose(best)
        if not exact:
            segments = self._improve(segments, proved_from)
        return self._result(segments, proved_from, exact)

    def _bracket(self) -> tuple[float, float]:
        """A period below which no plan is, and one that a plan has."""
        costs = self._costs
        floor = max(
            float(
                self._weights.sum()
                / max(sum(r * t.count for r, t in zip(self._rates, costs.types, strict=True)), 1e-300)
            ),
            float(np.stack([kind.steps for kind in costs.types]).min(axis=0).max()),
        ) * (1 - 1e-9)
        ceiling = max(float(kind.period[np.isfinite(kind.period)].max(initial=0.0)) for kind in costs.types)
        low, trial = floor, max(floor, ceiling * 1e-6) * 1.03
        growth = 1.1
        while trial < ceiling:
            answer = self._ask(trial)
            if answer.found is not None:
                return low, trial
            if answer.proved:
                low = trial
            trial *= growth
            growth *= 1.3
        return low, ceiling

    def _candidates(self, low: float, high: float) -> Table:
        found = [kind.period[(kind.period >= low) & (kind.period <= high)] for kind in self._costs.types]
        values: Table = np.unique(np.concatenate(found))
        return values

    def _smallest(self, values: Table, holds: Callable[[_Answer], bool]) -> float:
        low, high = -1, len(values) - 1
        while high - low > 1:
            middle = (low + high) // 2
            if holds(self._ask(float(values[middle]))):
                high = middle
            else:
                low = middle
        return float(values[high])

    def _ask(self, period: float) -> _Answer:
        if period not in self._answers:
            self._answers[period] = self._decide(period)
        return self._answers[period]

    def _decide(self, period: float) -> _Answer:
        masks = self._masks(period)
        groups = self._equal(masks)
        if self._exact and state_count(self._sizes(groups)) <= EXACT_STATES:
            try:
                reach = self._reach(masks, groups, np.logical_and, period)
                trace = reach.search(self._budget)
                return _Answer(None if trace is None else (reach, trace, groups), proved=True)
            except OutOfBudgetError:
                self._exact = False
        lossless = len(groups)
        groups = self._merge(masks, groups)
        reach = self._reach(masks, groups, np.logical_and, period)
        trace = reach.search(Budget(MERGED_STATES * self._costs.n))
        if trace is not None:
            return _Answer((reach, trace, groups), proved=True)
        if len(groups) < lossless:
            trace = self._reach(masks, groups, np.logical_or, period).search(Budget(MERGED_STATES * self._costs.n))
        return _Answer(None, proved=trace is None)

    def _masks(self, period: float) -> npt.NDArray[np.bool_]:
        """Per type, the segments that may run on it within `period`."""
        return np.stack([np.isfinite(kind.period) & (kind.period <= period) for kind in self._costs.types])

    def _sizes(self, groups: list[list[int]]) -> list[int]:
        return [sum(self._costs.types[k].count for k in group) for group in groups]

    def _equal(self, masks: npt.NDArray[np.bool_]) -> list[list[int]]:
        groups: dict[tuple[object, ...], list[int]] = {}
        alone = set(self._costs.slice_pins.values())
        for number, mask in enumerate(masks):
            groups.setdefault((mask.tobytes(), number if number in alone else None), []).append(number)
        return list(groups.values())

    def _merge(self, masks: npt.NDArray[np.bool_], groups: list[list[int]]) -> list[list[int]]:
        counts = [kind.count for kind in self._costs.types]
        return merge_alike(masks, groups, counts, frozenset(self._costs.slice_pins.values()), MERGED_STATES)

    def _reach(
        self,
        masks: npt.NDArray[np.bool_],
        groups: list[list[int]],
        combine: np.ufunc,
        period: float,
    ) -> Reach:
        allowed = np.stack([combine.reduce(masks[group], axis=0) for group in groups])
        place = {number: g for g, group in enumerate(groups) for number in group}
        pins = {number: place[kind] for number, kind in self._costs.slice_pins.items()}
        bound = None
        if np.isfinite(period):
            highest = [max(self._rates[k] for k in group) for group in groups]
            bound = WorkBound(self._done, highest, period)
        return Reach(allowed, self._sizes(groups), pins, self._costs.max_slices, bound)

    def _choose(self, best: float) -> Segments:
        """Of the plans within the tolerance of `best`: the fewest nodes, and then the least latency."""
        costs = self._costs
        period = best * (1 + costs.goal.within)
        sizes = [kind.count for kind in costs.types]
        if self._exact and state_count(sizes) <= EXACT_STATES:
            masks = self._masks(period)
            reach = self._reach(masks, [[k] for k in range(len(sizes))], np.logical_and, period)
            try:
                trace = reach.search(self._budget)
                if trace is not None:
                    return reach.cheapest(trace, np.stack([kind.latency for kind in costs.types]))[1]
            except OutOfBudgetError:
                pass
        answer = self._ask(period)
        found = answer.found or self._ask(best).found
        if found is None:
            raise AssertionError("a period that was found feasible is not")
        reach, trace, groups = found
        values = np.stack([np.stack([costs.types[k].latency for k in group]).mean(axis=0) for group in groups])
        return self._members(reach.cheapest(trace, values)[1], groups)

    def _members(self, segments: Segments, groups: list[list[int]]) -> Segments:
        """Give each segment of a group a member type: the slowest segment the quickest one that is left."""
        types = self._costs.types
        left = [kind.count for kind in types]
        chosen: dict[int, tuple[int, int, int]] = {}
        order = sorted(
            range(len(segments)),
            key=lambda s: -min(types[k].period[segments[s][0], segments[s][1]] for k in groups[segments[s][2]]),
        )
        for number in order:
            i, j, group = segments[number]
            member = min((k for k in groups[group] if left[k]), key=lambda k: (types[k].period[i, j], k))
            left[member] -= 1
            chosen[number] = (i, j, member)
        return [chosen[number] for number in range(len(segments))]

    def _improve(self, segments: Segments, proved_from: float) -> Segments:
        """A plan that is no slower: by local search, and by beam searches for shorter periods."""
        costs = self._costs
        best = improve(costs, segments)
        types = [[k] for k in range(len(costs.types))]
        values = self._candidates(proved_from, period_of(costs, best))
        low, high = -1, len(values) - 1
        while high - low > max(1, len(values) >> BEAM_QUESTIONS):
            middle = (low + high) // 2
            period = float(values[middle])
            reach = self._reach(self._masks(period), types, np.logical_and, period)
            trace = reach.search(Budget(BEAM_WIDTH * (costs.n + 1)), BEAM_WIDTH)
            if trace is None:
                low = middle
                continue
            latency = np.stack([kind.latency for kind in costs.types])
            found = reach.cheapest(trace, latency)[1]
            if period_of(costs, found) < period_of(costs, best):
                best = found
            high = min(middle, int(np.searchsorted(values, period_of(costs, best))))
        return improve(costs, best)

    def _limited_by_broker(self, best: float, proved: float) -> Split | None:
        """The plan when the broker is what limits; None when a plan of period `best` suits the broker."""
        costs, rate = self._costs, self._costs.broker_rate
        assert rate is not None
        segments = self._choose(best)
        relayed = sum(float(costs.relayed[i, j]) for i, j, _ in segments)
        if relayed / rate <= period_of(costs, segments):
            return None
        exact = self._exact and best == proved and state_count([kind.count for kind in costs.types]) <= EXACT_STATES
        memo: dict[float, LeastBytes] = {}

        def at(period: float) -> LeastBytes:
            if period not in memo:
                masks = self._masks(period)
                groups = [[k] for k in range(len(costs.types))] if exact else self._merge(masks, self._equal(masks))
                reach = self._reach(masks, groups, np.logical_and, np.inf)
                found = LeastBytes(reach, costs.relayed, Budget(TOTAL_STATES))
                memo[period] = found
                member_groups[period] = groups
            return memo[period]

        member_groups: dict[float, list[list[int]]] = {}
        values = self._candidates(min(best, proved), relayed / rate)
        fallback = self._result(segments, proved, exact=False)
        if not np.isfinite(at(float(values[-1])).least()):
            return fallback
        period, threshold = meeting_period(values, rate, lambda p: at(p).least())
        allowance = max(threshold, period) * (1 + costs.goal.within)
        chosen = at(allowance).fewest_slices(allowance * rate)
        if chosen is None:
            return fallback
        lower = period if exact else proved
        found = self._result(self._members(chosen, member_groups[allowance]), lower, exact)
        return found if exact or found.period < fallback.period else fallback

    def _result(self, segments: Segments, lower: float, exact: bool) -> Split:
        costs = self._costs
        period = period_of(costs, segments)
        if costs.broker_rate is not None:
            period = max(period, sum(float(costs.relayed[i, j]) for i, j, _ in segments) / costs.broker_rate)
        names = [iter(kind.ids) for kind in costs.types]
        return Split(
            segments=tuple((i, j) for i, j, _ in segments),
            nodes=tuple(next(names[k]) for _, _, k in segments),
            period=period,
            latency=sum(_latency(costs.types[k], i, j) for i, j, k in segments),
            lower_bound=min(lower, period),
            method="exact-counts" if exact else "heuristic",
        )


def _latency(kind: NodeType, i: int, j: int) -> float:
    links = kind.bytes_in[i, j] / kind.spec.free_down + kind.bytes_out[i, j] / kind.spec.free_up
    saved = 0.0 if kind.saved is None else kind.saved[i, j]
    return float(kind.compute[i, j] + links + kind.spec.rtt - saved)
