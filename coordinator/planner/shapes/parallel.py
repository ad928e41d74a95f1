"""Several pipelines side by side, each with cuts and nodes of its own, that take frames in turn (PURE).

The rate is the sum of the pipelines' rates, limited by the broker that all share. For equal nodes the best
pipeline of m nodes is known for every m, and how many pipelines of how many nodes are best is a knapsack: exact.
Unlike nodes are shared out to groups of like speed (largest first to the group that has least), those that hold the
whole model also each for itself; then nodes move and change places while the sum of the rates grows. The bound
comes from prices on nodes (`prices.py`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from coordinator.planner.answer import Bound, Layout, Method, NoPlanError, Split
from coordinator.planner.goal import Goal
from coordinator.planner.model import Planner
from coordinator.planner.problem import Costs, Hops
from coordinator.planner.shapes.drafts import Lane, Stage, affordable, best_of, lay_out, value
from coordinator.planner.shapes.groups import rate_table, some_states
from coordinator.planner.shapes.prices import Places, family_bound

FAMILY = "parallel-pipelines"
STATES = 40
"""Between how many states slices are looked for when there are more."""
EXACT_NODES = 6
"""Groups of so many nodes are cut exactly while nodes are shared out."""
CELLS = 12_000_000
"""How much the search may look at; deterministic, unlike a time limit."""
CALLS = 24
"""How many pipelines the given planner may be asked for."""
POLISHED = 3
"""How many of the best ways to share nodes out are handed to it."""
EQUAL_CELLS = 30_000_000
PRICE_CELLS = 40_000_000
EXACT = 1e-6

Group = tuple[int, ...]
"""The types of a pipeline's nodes, sorted."""


def parallel(costs: Costs, planner: Planner, base: Split | None = None, cells: int = CELLS) -> Layout:
    """The best two or more pipelines that were found; their bound is by `with_bound`.

    `planner` makes single pipelines, `base` is the one of all nodes. Raises NoPlanError when none were found.
    """
    if costs.slice_pins or not costs.types or costs.n == 0:
        raise NoPlanError(proved=False)
    search = _Search(costs, planner, cells)
    states = () if base is None else tuple(start for start, _ in base.segments)
    partitions = (
        search.of_equal_nodes() if len(costs.types) == 1 and costs.hops is None else search.partitions(states)
    )
    layouts = []
    for number, groups in enumerate(partitions, start=1):
        lanes = search.lanes(groups, polish=number > len(partitions) - POLISHED)
        if len(lanes) > 1:
            layouts.append(lay_out(costs, FAMILY, lanes))
    best = best_of(costs, [layout for layout in layouts if len(layout.lanes) > 1])
    if best is None:
        raise NoPlanError(proved=False)
    return best


def with_bound(costs: Costs, layout: Layout, cells: int = PRICE_CELLS) -> Layout:
    """The layout with the highest bound of its family that prices, or for equal nodes the knapsack, prove."""
    reached = value(costs.goal, layout)
    found = [Bound(min(family_bound(costs, "lanes", layout.period, cells), reached), "work")]
    small = costs.types[0].count * costs.n**2 <= EQUAL_CELLS
    if costs.goal.objective == "throughput" and len(costs.types) == 1 and costs.hops is None and small:
        rates = _equal_rates(costs, range(costs.n + 1))[0]
        most = max(_knapsack(rates)[1:], default=0.0)
        found.append(Bound(min(1.0 / most if most > 0 else reached, reached), "counts"))
    found.sort(key=lambda known: known.value)
    best = found[-1].value
    method: Method = "exact-counts" if reached <= best * (1 + EXACT) else "heuristic"
    return replace(layout, lower_bound=best, method=method, bounds=tuple(found))


def _equal_rates(costs: Costs, states: Iterable[int]) -> tuple[list[float], list[Lane]]:
    """For m = 0, 1, ... equal nodes the rate of the best pipeline of at most m slices, and the pipeline."""
    places = list(states)
    rates = rate_table(costs, places)[0]
    most = min(costs.types[0].count, costs.max_slices)
    reached = np.zeros(len(places))
    reached[0] = np.inf
    came: list[Places] = []
    best: list[float] = [0.0]
    lanes: list[Lane] = [()]
    for _ in range(most):
        slowest = np.minimum(reached[:, None], rates)
        came.append(slowest.argmax(axis=0))
        # Exactly one slice more: fewer slices are an entry before.
        reached = slowest.max(axis=0)
        rate = float(reached[-1])
        if rate > best[-1]:
            stages, end = [], len(places) - 1
            for back in reversed(came):
                start = int(back[end])
                stages.append(Stage(places[start], places[end], (0,)))
                end = start
            best.append(rate)
            lanes.append(tuple(reversed(stages)))
        else:
            best.append(best[-1])
            lanes.append(lanes[-1])
    return best, lanes


def _knapsack(rates: Sequence[float], nodes: int | None = None) -> list[float]:
    """The largest sum of rates of pipelines that have so many nodes together."""
    size = len(rates) - 1 if nodes is None else nodes
    best = [0.0]
    for total in range(1, size + 1):
        best.append(max(rates[m] + best[total - m] for m in range(1, min(total, len(rates) - 1) + 1)))
    return best


class _Search:
    def __init__(self, costs: Costs, planner: Planner, cells: int) -> None:
        self._costs, self._planner, self._left = costs, planner, cells
        self._calls = CALLS
        self._lossless = affordable(costs)[-1]
        self._states: list[int] = []
        self._rates = np.zeros((0, 0, 0))
        self._quick: dict[Group, tuple[float, Lane]] = {}
        self._exact: dict[Group, Lane | None] = {}
        self._nodes = [k for k, kind in enumerate(costs.types) for _ in kind.ids]

    def of_equal_nodes(self) -> list[list[Group]]:
        """The best numbers of equal nodes, and every number of pipelines of equal size."""
        costs, count = self._lossless, self._costs.types[0].count
        self._prepare(())
        rates, lanes = _equal_rates(costs, self._states)
        for m in range(1, len(rates)):
            self._quick[(0,) * m] = (rates[m], lanes[m])
        best = _knapsack(rates, count)
        sizes, left = [], count
        while left > 0:
            m = max(range(1, min(left, len(rates) - 1) + 1), key=lambda m: rates[m] + best[left - m])
            sizes.append(m)
            left -= m
        found = [[(0,) * m for m in sizes]]
        for lanes_ in range(2, count + 1):
            split = [count // lanes_ + (number < count % lanes_) for number in range(lanes_)]
            found.append([(0,) * min(m, len(rates) - 1) for m in split])
        return found

    def partitions(self, states: Sequence[int]) -> list[list[Group]]:
        """Ways to share the nodes out, the best one last."""
        self._prepare(states)
        speed = self._rates.mean(axis=(1, 2))
        solo = [k for k in self._nodes if math.isfinite(float(self._costs.types[k].period[0, self._costs.n]))]
        rest = [k for k in self._nodes if k not in set(solo)]
        memory = [float(kind.spec.memory) for kind in self._costs.types]
        found: list[list[Group]] = []
        for alone, shared in ((solo, rest), ([], self._nodes)):
            for most in range(1, min(len(shared), 64) + 1) if shared else [0]:
                for weight in (list(speed), memory):
                    groups = [(k,) for k in alone] + _balanced(shared, most, weight)
                    if len(groups) > 1 and groups not in found:
                        found.append(groups)
        found = [groups for groups in found if self._left > 0 and self._total(groups) > 0]
        found.sort(key=self._total)
        if found:
            better = self._improved(found[-1])
            if better is not found[-1]:
                found.append(better)
        return found if self._costs.goal.objective != "throughput" else found[-8:]

    def lanes(self, groups: Sequence[Group], polish: bool) -> list[Lane]:
        """The pipelines of these groups; `polish`: the given planner is asked where it may know a better one."""
        found = []
        for group in groups:
            known = self._planned(group) if polish and not self._is_best(group) else None
            quick, lane = self._quick_lane(group)
            if known is not None and (not lane or self._rate(known) >= quick):
                lane = known
            if lane:
                found.append(lane)
        return found

    def _is_best(self, group: Group) -> bool:
        """Whether the search has looked at all pipelines of the group's nodes."""
        every = len(self._states) == self._costs.n + 1 and self._lossless is self._costs
        return every and (len(group) <= EXACT_NODES or len(self._costs.types) == 1)

    def _prepare(self, states: Sequence[int]) -> None:
        self._states = some_states(self._lossless, STATES, states)
        self._rates = rate_table(self._lossless, self._states)

    def _rate(self, lane: Lane) -> float:
        kinds = self._costs.types
        slowest = max(float(kinds[stage.kinds[0]].period[stage.start, stage.end]) for stage in lane)
        return 1.0 / max(slowest, 1e-12)

    def _total(self, groups: Sequence[Group]) -> float:
        """Frames per second of all pipelines, the broker left aside."""
        return math.fsum(self._quick_lane(group)[0] for group in groups)

    def _improved(self, groups: list[Group]) -> list[Group]:
        """Move a node to another pipeline, or let two change places, while the sum of the rates grows."""
        best, total = groups, self._total(groups)
        better = True
        while better and self._left > 0:
            better = False
            for trial in _neighbours(best):
                if self._left <= 0:
                    break
                value_ = self._total(trial)
                if value_ > total * (1 + 1e-9):
                    best, total, better = trial, value_, True
                    break
        return best

    def _planned(self, group: Group) -> Lane | None:
        """The given planner's pipeline on these nodes, while it may be asked."""
        if group not in self._exact:
            if self._calls <= 0:
                return None
            self._calls -= 1
            self._exact[group] = self._ask(group)
        return self._exact[group]

    def _ask(self, group: Group) -> Lane | None:
        costs = self._costs
        used = sorted(set(group))
        types = tuple(replace(costs.types[k], ids=costs.types[k].ids[: group.count(k)]) for k in used)
        hops = None if costs.hops is None else Hops(costs.hops.bytes, costs.hops.rates[np.ix_(used, used)])
        goal = Goal(error_budget=costs.goal.error_budget, within=costs.goal.within)
        most = min(costs.max_slices, len(group))
        try:
            found = self._planner(
                replace(costs, types=types, hops=hops, goal=goal, max_slices=most, broker_rate=None)
            )
        except NoPlanError:
            return None
        kind_of = {node: k for k, kind in zip(used, types, strict=True) for node in kind.ids}
        return tuple(
            Stage(i, j, (kind_of[node],)) for (i, j), node in zip(found.segments, found.nodes, strict=True)
        )

    def _quick_lane(self, group: Group) -> tuple[float, Lane]:
        """A good pipeline on some of these nodes: the best one for few nodes."""
        if group not in self._quick:
            if self._costs.hops is not None:
                lane = self._planned(group) or ()
                self._quick[group] = (self._rate(lane), lane) if lane else (0.0, ())
            elif len(group) <= min(EXACT_NODES, self._costs.max_slices):
                self._quick[group] = self._by_subsets(group)
            else:
                self._quick[group] = max(
                    (self._in_order(order) for order in self._orders(group)), key=lambda f: f[0]
                )
        return self._quick[group]

    def _by_subsets(self, group: Group) -> tuple[float, Lane]:
        """The best pipeline over all subsets and orders."""
        size, masks = len(self._states), 1 << len(group)
        self._left -= masks * len(group) * size**2 // 4
        reached = np.zeros((masks, size))
        reached[:, 0] = np.inf
        came = np.full((masks, size), -1)
        for mask in range(1, masks):
            for k in range(len(group)):
                if mask >> k & 1:
                    before = mask ^ (1 << k)
                    slowest = np.minimum(reached[before][:, None], self._rates[group[k]])
                    place = slowest.argmax(axis=0)
                    rate = slowest[place, np.arange(size)]
                    better = rate > reached[mask]
                    reached[mask] = np.where(better, rate, reached[mask])
                    came[mask] = np.where(better, place * len(group) + k, came[mask])
                    kept = reached[before] > reached[mask]
                    reached[mask] = np.where(kept, reached[before], reached[mask])
                    came[mask] = np.where(kept, -2 - k, came[mask])
        mask, end, stages = masks - 1, size - 1, []
        if reached[mask, end] <= 0:
            return 0.0, ()
        while end > 0:
            code = int(came[mask, end])
            if code <= -2:
                mask ^= 1 << (-2 - code)
                continue
            start, k = divmod(code, len(group))
            stages.append(Stage(self._states[start], self._states[end], (group[k],)))
            mask, end = mask ^ (1 << k), start
        return float(reached[-1, -1]), tuple(reversed(stages))

    def _orders(self, group: Group) -> list[tuple[int, ...]]:
        speed = self._rates.mean(axis=(1, 2))
        by_speed = tuple(sorted(group, key=lambda k: (-speed[k], k)))[: self._costs.max_slices]
        by_memory = tuple(sorted(by_speed, key=lambda k: (self._costs.types[k].spec.memory, k)))
        return [by_speed, by_speed[::-1], by_memory, by_memory[::-1]]

    def _in_order(self, order: Sequence[int]) -> tuple[float, Lane]:
        """The best pipeline when the nodes stand in this order; some may be left out."""
        size = len(self._states)
        self._left -= len(order) * size**2
        reached = np.zeros(size)
        reached[0] = np.inf
        came = []
        for k in order:
            slowest = np.minimum(reached[:, None], self._rates[k])
            place = slowest.argmax(axis=0)
            rate = slowest[place, np.arange(size)]
            came.append(np.where(rate > reached, place, -1))
            reached = np.maximum(reached, rate)
        if reached[-1] <= 0:
            return 0.0, ()
        stages, end = [], size - 1
        for k, back in zip(reversed(order), reversed(came), strict=True):
            if end > 0 and back[end] >= 0:
                stages.append(Stage(self._states[int(back[end])], self._states[end], (k,)))
                end = int(back[end])
        return float(reached[-1]), tuple(reversed(stages))


def _balanced(nodes: Sequence[int], groups: int, weight: Sequence[float]) -> list[Group]:
    """So many groups, the heaviest node first to the group that has least."""
    found: list[list[int]] = [[] for _ in range(groups)]
    if not groups:
        return []
    for k in sorted(nodes, key=lambda k: (-weight[k], k)):
        least = min(range(groups), key=lambda g: (sum(weight[k] for k in found[g]), g))
        found[least].append(k)
    return [tuple(sorted(group)) for group in found if group]


def _neighbours(groups: Sequence[Group]) -> Iterable[list[Group]]:
    """The groups with one node moved, or with two nodes that have changed places."""
    for a, b in itertools.permutations(range(len(groups)), 2):
        for k in dict.fromkeys(groups[a]):
            moved = list(groups)
            moved[a], moved[b] = _without(groups[a], k), tuple(sorted((*groups[b], k)))
            yield [group for group in moved if group]
            for other in dict.fromkeys(groups[b]) if a < b else ():
                if other != k:
                    changed = list(groups)
                    changed[a] = tuple(sorted((*_without(groups[a], k), other)))
                    changed[b] = tuple(sorted((*_without(groups[b], other), k)))
                    yield changed


def _without(group: Group, kind: int) -> Group:
    place = group.index(kind)
    return group[:place] + group[place + 1 :]
