"""Local exchange on plans over links between pairs of nodes, towards a period that is asked for (PURE).

A plan is an order of nodes; for an order, recursion over states and places in it finds the best cuts, and leaves
nodes out. What is made least is the sum of what stages and hops take beyond the period asked for, each as a share
of it, so that a plan with two slow places is nearer than one with three; at 0 the plan is found. Moves: an unused
node comes in between two others or instead of one; a node goes elsewhere; two change places; a run is turned round.
All of the first kind are tried at once, from what is known of the order's beginnings and ends.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from coordinator.planner.methods.reach import Segments
from coordinator.planner.pairs.routes import Tables

Excess = npt.NDArray[np.float64]

MOST_ENTRIES = 1 << 22
"""Where nodes have more (node, arc) pairs than this, nothing is exchanged."""
MOVES = 400
"""How many moves one search may make."""
AT_ONCE = 64
"""How many orders are looked at together."""
LESS = 1e-9
"""A sum is less when it is less by more than rounding."""


class Work:
    """How many table entries may still be looked at."""

    def __init__(self, entries: int) -> None:
        self.left = entries

    def spend(self, entries: int) -> None:
        """Count `entries` as looked at."""
        self.left -= entries


def exchange(tables: Tables, plan: Segments, period: float, work: Work) -> Segments | None:
    """A plan of at most `period` from `plan` by exchanges, None where they lead to none or `work` is used up.

    Pins, and budgets of errors that allow lossy states, are not provided for.
    """
    costs = tables.costs
    entries = len(costs.types) * (costs.n + 1) ** 2
    lossy = costs.errors is not None and costs.goal.error_budget > 0
    if costs.slice_pins or lossy or entries > MOST_ENTRIES or period <= 0:
        return None
    return _Exchange(tables, period, work).run([k for _, _, k in plan])


class _Exchange:
    """Tables of excess: `arcs[k, i, j]` of stages, `hops[a, b, s]` of hops; infinite where impossible."""

    def __init__(self, tables: Tables, period: float, work: Work) -> None:
        self.tables, self.period, self.work = tables, period, work
        self.n, self.nodes = tables.costs.n, len(tables.costs.types)
        self.arcs = np.maximum(tables.distinct / period - 1.0, 0.0)[tables.same]
        hops = np.where(tables.inner[:, None, None], np.maximum(tables.hops / period - 1.0, 0.0), np.inf)
        self.hops = np.ascontiguousarray(np.moveaxis(hops, 0, -1))
        self.most = min(tables.costs.max_slices, self.nodes)

    def run(self, order: list[int]) -> Segments | None:
        """Move until a plan of the period is found or no move helps."""
        value, plan = self._cut(order)
        for _ in range(MOVES):
            if not np.isfinite(value):
                return None
            if self.tables.period_of(plan) <= self.period:
                return plan
            order = [k for _, _, k in plan]
            for better in (self._bring_in(order), *self._rearranged(order, plan)):
                if self.work.left <= 0:
                    return None
                least, found = self._cut(better) if better is not None else (np.inf, plan)
                if least < value - LESS:
                    value, plan = least, found
                    break
            else:
                return None
        return None

    def _ends(self, orders: npt.NDArray[np.intp]) -> Excess:
        """[order, place, state]: the least excess up to a slice that ends at the state on the place's node."""
        many, length = orders.shape
        self.work.spend(many * length * (self.n + 1) * (self.n + 1 + length))
        ends = np.full((many, length, self.n + 1), np.inf)
        for p in range(length):
            node = orders[:, p]
            starts = np.full((many, self.n + 1), np.inf)
            if p:
                starts = (ends[:, :p] + self.hops[orders[:, :p], node[:, None]]).min(axis=1)
            starts[:, 0] = 0.0
            ends[:, p] = (starts[:, :, None] + self.arcs[node]).min(axis=1)
        return ends

    def _begins(self, order: list[int]) -> Excess:
        """[place, state]: the least excess from a slice that begins at the state, on the node at the place."""
        length = len(order)
        self.work.spend(length * (self.n + 1) * (self.n + 1 + length))
        begins = np.full((length, self.n + 1), np.inf)
        for p in range(length - 1, -1, -1):
            after = np.full(self.n + 1, np.inf)
            if p + 1 < length:
                after = (begins[p + 1 :] + self.hops[order[p], order[p + 1 :]]).min(axis=0)
            after[self.n] = 0.0
            begins[p] = (self.arcs[order[p]] + after[None, :]).min(axis=1)
        return begins

    def _cut(self, order: list[int]) -> tuple[float, Segments]:
        """The best cuts of an order, some nodes left out: the excess, and the plan (empty: there is none)."""
        ends = self._ends(np.array([order]))[0]
        p = int(ends[:, self.n].argmin())
        value, s = float(ends[p, self.n]), self.n
        plan: Segments = []
        if not np.isfinite(value):
            return value, plan
        while True:
            node = order[p]
            starts, places = np.full(self.n + 1, np.inf), np.zeros(self.n + 1, dtype=np.intp)
            if p:
                sums = ends[:p] + self.hops[order[:p], node]
                places = sums.argmin(axis=0)
                starts = sums.min(axis=0)
            starts[0] = 0.0
            i = int((starts + self.arcs[node, :, s]).argmin())
            plan.append((i, s, node))
            if i == 0:
                return value, plan[::-1]
            p, s = int(places[i]), i

    def _bring_in(self, order: list[int], among: list[int] | None = None) -> list[int] | None:
        """The order with the best one of the nodes `among` (None: the unused ones), between two or for one."""
        nodes = [k for k in range(self.nodes) if k not in order] if among is None else among
        if not nodes:
            return None
        ends, begins = self._ends(np.array([order]))[0], self._begins(order)
        arcs = self.arcs if len(nodes) == self.nodes else self.arcs[nodes]
        self.work.spend((len(order) + 1) * len(nodes) * (self.n + 1) ** 2)
        after = np.full((len(order) + 2, len(nodes), self.n + 1), np.inf)
        after[:, :, self.n] = 0.0
        for p in range(len(order) - 1, -1, -1):
            after[p] = np.minimum(after[p + 1], begins[p] + self.hops[nodes, order[p]])
        before = np.full((len(nodes), self.n + 1), np.inf)
        before[:, 0] = 0.0
        best, found = np.inf, None
        replacing = 1 if len(order) >= self.most else 0
        for p in range(len(order) + 1 - replacing):
            through = (before[:, :, None] + arcs).min(axis=1) + after[p + replacing]
            values = through.min(axis=1)
            place = int(values.argmin())
            if values[place] < best:
                best, found = float(values[place]), [*order[:p], nodes[place], *order[p + replacing :]]
            if p < len(order):
                before = np.minimum(before, ends[p] + self.hops[order[p], nodes])
        return found

    def _rearranged(self, order: list[int], plan: Segments) -> Iterator[list[int] | None]:
        """The best order of each kind of rearrangement, made when asked for."""
        slow = self._slow(plan)
        yield self._best(self._swaps(order, slow))
        for p in range(len(order)):
            if self.work.left <= 0:
                return
            yield self._bring_in([*order[:p], *order[p + 1 :]], [order[p]])
        yield self._best(self._turned(order))
        yield self._best(self._moved(order))

    def _slow(self, plan: Segments) -> list[int]:
        """The places of a plan beside which a stage or hop is beyond the period."""
        found = set()
        for p, (i, j, k) in enumerate(plan):
            if self.arcs[k, i, j] > 0:
                found.add(p)
            if p and self.hops[plan[p - 1][2], k, i] > 0:
                found |= {p - 1, p}
        return sorted(found)

    def _best(self, orders: list[list[int]]) -> list[int] | None:
        best, found = np.inf, None
        for first in range(0, len(orders), AT_ONCE):
            if self.work.left <= 0:
                break
            part = np.array(orders[first : first + AT_ONCE])
            values = self._ends(part)[:, :, self.n].min(axis=1)
            place = int(values.argmin())
            if values[place] < best:
                best, found = float(values[place]), orders[first + place]
        return found

    def _swaps(self, order: list[int], slow: list[int]) -> list[list[int]]:
        found = []
        for p in slow:
            for q in range(len(order)):
                if q != p and not (q in slow and q < p):
                    other = list(order)
                    other[p], other[q] = order[q], order[p]
                    found.append(other)
        return found

    def _turned(self, order: list[int]) -> list[list[int]]:
        pairs = ((p, q) for p in range(len(order)) for q in range(p + 2, min(p + 12, len(order)) + 1))
        return [[*order[:p], *order[p:q][::-1], *order[q:]] for p, q in pairs]

    def _moved(self, order: list[int]) -> list[list[int]]:
        """Runs of two or three nodes elsewhere, no further than a dozen places."""
        found = []
        for length in (2, 3):
            for p in range(len(order) - length + 1):
                run, rest = order[p : p + length], [*order[:p], *order[p + length :]]
                for q in range(max(0, p - 6), min(len(rest), p + 6) + 1):
                    if q != p:
                        found.append([*rest[:q], *run, *rest[q:]])
        return found
