"""Stages of several nodes: where to cut when nodes stand in an order, and which stage each node joins (PURE).

For nodes in a fixed order, each stage taking a run of them, the best cuts are a dynamic program over (nodes used,
state), as in PipeDream's planner (Narayanan et al., SOSP 2019, section 3.1), here with unlike nodes: a stage's rate
is the sum of its nodes' 1/c. With equal nodes every order is the same, so the answer is the best there is. For
unlike nodes the order is what is searched: for fixed cuts nodes move and change places between stages while that
helps the slowest one, the stages' nodes are an order again, and both repeat.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from coordinator.planner.problem import Costs
from coordinator.planner.shapes.drafts import Lane, Stage
from coordinator.planner.tables.segments import Table

FASTEST = 1e12
"""Frames per second of a node that takes no time at all."""
NOTHING = 1e-12
"""A share of the rates so far below which a difference of two sums is rounding."""
MOVES = 200


def rate_table(costs: Costs, states: Sequence[int]) -> Table:
    """Frames per second of a node of each type on the arcs between these states; shape (types, states, states).

    0 where a type may not run an arc.
    """
    places = np.ix_(list(states), list(states))
    seconds = np.stack([kind.period[places] for kind in costs.types])
    later = np.triu(np.ones(seconds.shape[1:], dtype=bool), k=1)
    rates = np.where(np.isfinite(seconds) & later, 1.0 / np.maximum(seconds, 1.0 / FASTEST), 0.0)
    return np.asarray(rates)


def some_states(costs: Costs, most: int, always: Sequence[int] = ()) -> list[int]:
    """At most about `most` states to cut at: where little crosses, spread over the work; and those in `always`."""
    some = np.zeros((costs.n + 1, costs.n + 1), dtype=bool)
    for kind in costs.types:
        some |= np.isfinite(kind.period)
    some = np.triu(some, k=1)
    inner = np.flatnonzero(some.any(axis=0) & some.any(axis=1))
    inner = inner[(inner > 0) & (inner < costs.n)]
    if len(inner) > most:
        work = costs.types[0].compute[0, inner]
        bucket = np.minimum((work - work.min()) / max(float(np.ptp(work)), 1e-12) * most, most - 1).astype(int)
        order = np.lexsort((inner, costs.bytes_out[0, inner], bucket))
        first = np.ones(len(order), dtype=bool)
        first[1:] = bucket[order][1:] != bucket[order][:-1]
        inner = inner[order][first]
    return sorted({0, costs.n, *(int(s) for s in inner), *always})


class Cuts:
    """The best cuts for nodes of the types `order`, each stage taking a run of them; runs of no use are skipped.

    `rates` is as `rate_table` gives it. With `most_stages` the stages are counted, which takes that many times as
    long; without, a plan may have as many as there are nodes.
    """

    def __init__(self, rates: Table, order: Sequence[int], most_stages: int | None = None) -> None:
        self._rates, self._order = rates, list(order)
        self._prefix = np.concatenate([np.zeros_like(rates[:1]), np.cumsum(rates[self._order], axis=0)])
        self._size = rates.shape[1]
        nothing = np.full((len(order) + 1, self._size), np.inf)
        nothing[:, 0] = 0.0
        self._levels = [nothing]
        self._came: list[npt.NDArray[np.intp]] = [np.full(nothing.shape, -1)]
        for _ in range(1 if most_stages is None else most_stages):
            self._add_level(counted=most_stages is not None)

    def _add_level(self, counted: bool) -> None:
        size, before = self._size, self._levels[-1]
        best, came = before.copy(), np.full(before.shape, -1)
        source = before if counted else best
        for used in range(1, len(best)):
            gain = self._prefix[used] - self._prefix[:used]
            seconds = np.full(gain.shape, np.inf)
            np.divide(1.0, gain, out=seconds, where=gain > NOTHING * self._prefix[used])
            slowest = np.maximum(source[:used, :, None], seconds).reshape(used * size, size)
            place = slowest.argmin(axis=0)
            value = slowest[place, np.arange(size)]
            kept = np.minimum(best[used], best[used - 1])
            better = value < kept
            best[used] = np.where(better, value, kept)
            # -1: as with fewer stages; -2: as with one node less.
            earlier = np.where(best[used - 1] < before[used], -2, -1) if counted else np.full(size, -2)
            came[used] = np.where(better, place, earlier)
        self._levels.append(best)
        self._came.append(came)

    def period(self, nodes: int) -> float:
        """The slowest stage's seconds per frame with the first `nodes` nodes; infinite when there is no plan."""
        return float(self._levels[-1][nodes, -1])

    def stages(self, nodes: int) -> list[tuple[int, int, list[int]]]:
        """(start, end, places in the order) of each stage with the first `nodes` nodes; starts and ends are places
        in the list of states.
        """
        counted = len(self._levels) > 2
        found: list[tuple[int, int, list[int]]] = []
        level, used, end = len(self._levels) - 1, nodes, self._size - 1
        while end > 0:
            place = int(self._came[level][used, end])
            if place == -2:
                used -= 1
            elif place == -1:
                level -= 1
            else:
                first, start = divmod(place, self._size)
                run = [k for k in range(first, used) if self._rates[self._order[k], start, end] > 0]
                found.append((start, end, run))
                used, end = first, start
                level -= counted
        return found[::-1]


def cut(rates: Table, order: Sequence[int], most_stages: int) -> Cuts:
    """The best cuts into at most `most_stages` stages."""
    free = Cuts(rates, order)
    nodes = len(order)
    if not math.isfinite(free.period(nodes)) or len(free.stages(nodes)) <= most_stages:
        return free
    return Cuts(rates, order, most_stages)


def share_out(rates: npt.NDArray[np.float64], stage_of: list[int]) -> list[int]:
    """Move nodes between stages, or let two change places, while that makes the slowest stage faster.

    `rates[k, s]` is what node k does in stage s; `stage_of[k]` the stage that it is in, -1 for none.
    """
    stages = rates.shape[1]
    place = np.array([s if s >= 0 else stages for s in stage_of])
    # The last column is the stage of the nodes that are in none: it has always enough.
    full = np.column_stack([rates, np.zeros(len(rates))])
    nodes = np.arange(len(rates))
    for _ in range(MOVES):
        own = full[nodes, place]
        sums = np.bincount(place, weights=own, minlength=stages + 1)
        sums[stages] = np.inf
        worst = int(np.argmin(sums))
        there = np.flatnonzero(place == worst)
        moved = np.minimum(sums[worst] + full[:, worst], (sums[place] - own))
        moved[there] = -np.inf
        best, giver, taker = float(moved.max()), int(moved.argmax()), -1
        if there.size:
            gained = sums[worst] + full[:, worst][:, None] - own[there][None, :]
            left = (sums[place] - own)[:, None] + full[there][:, place].T
            swapped = np.minimum(gained, left)
            swapped[there] = -np.inf
            if swapped.size and float(swapped.max()) > best:
                best = float(swapped.max())
                giver, column = (int(x) for x in np.unravel_index(int(swapped.argmax()), swapped.shape))
                taker = int(there[column])
        if not best > sums[worst] * (1 + 1e-9):
            break
        if taker >= 0:
            place[taker] = place[giver]
        place[giver] = worst
    return [int(s) if s < stages else -1 for s in place]


def lane_of(states: Sequence[int], stages: Sequence[tuple[int, int, list[int]]], order: Sequence[int]) -> Lane:
    """Stages of places as stages of states and types."""
    return tuple(Stage(states[i], states[j], tuple(sorted(order[k] for k in run))) for i, j, run in stages)


def _stage_of(stages: Sequence[tuple[int, int, list[int]]], nodes: int) -> list[int]:
    found = [-1] * nodes
    for number, (_, _, run) in enumerate(stages):
        for k in run:
            found[k] = number
    return found


def settle(rates: Table, order: Sequence[int], most_stages: int, rounds: int = 6) -> tuple[float, list[int], Cuts]:
    """From an order of nodes: cut, share the nodes out, and again while it helps; period, order and cuts."""
    kept = list(order)
    cuts = cut(rates, kept, most_stages)
    period = cuts.period(len(kept))
    for _ in range(rounds):
        if not math.isfinite(period):
            break
        stages = cuts.stages(len(kept))
        table = np.stack([rates[:, i, j][kept] for i, j, _ in stages], axis=1)
        stage_of = share_out(table, _stage_of(stages, len(kept)))
        following = [kept[k] for s in (*range(len(stages)), -1) for k in range(len(kept)) if stage_of[k] == s]
        trial = cut(rates, following, most_stages)
        if not trial.period(len(kept)) < period * (1 - 1e-9):
            break
        kept, cuts, period = following, trial, trial.period(len(kept))
    return period, kept, cuts
