"""Label search over exact sets of used nodes, held down by prices of nodes (PURE).

Let every node have a price. A plan uses each node at most once, so its prices add up to at most the sum F of all.
A label (state, used nodes, node) whose prices so far, with the least that any walk from there to the end must still
pay, exceed F leads to no plan. With the prices of the flow program (`pairflow.py`) few labels are left. The sets
are exact, so a search that ends without a plan is a proof. With a width it is a beam search, which proves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coordinator.planner.methods.reach import Budget, OutOfBudgetError, Segments, pack
from coordinator.planner.pairs.pairflow import Walks
from coordinator.planner.pairs.routes import Network, Verdict, errors_of, least_slices

Words = npt.NDArray[np.uint64]
Prices = npt.NDArray[np.float64]

MOST_NODES = 64
"""Sets of used nodes are single words."""
_ONE = np.uint64(1)


@dataclass(frozen=True)
class _Labels:
    """Rows (set of used nodes, those of them that the slice may be on), sorted by set, and what the set costs."""

    used: Words
    nodes: Words
    paid: Prices

    def at(self, used: int) -> int:
        """The nodes of a row, as bits; 0 when there is none."""
        place = int(np.searchsorted(self.used, np.uint64(used)))
        if place < len(self.used) and int(self.used[place]) == used:
            return int(self.nodes[place])
        return 0


def search(network: Network, walks: Walks, prices: Prices, budget: Budget, width: int | None = None) -> Verdict:
    """A plan of `network`, or whether there is none; never proved where `width` has left labels out.

    `budget` counts labels. Networks of more than MOST_NODES nodes are not searched.
    """
    if network.nodes > MOST_NODES:
        return Verdict(None, proved=False)
    run = _Run(network, walks, prices, budget, width)
    try:
        plan = run.plan()
    except OutOfBudgetError:
        return Verdict(None, proved=False)
    if plan is not None and errors_of(network, plan) > network.error_budget:
        return Verdict(None, proved=False)
    return Verdict(plan, proved=plan is None and not run.cut)


class _Run:
    def __init__(self, network: Network, walks: Walks, prices: Prices, budget: Budget, width: int | None) -> None:
        self.network, self.prices, self.budget, self.width = network, prices, budget, width
        self.cut = False
        # The margin covers rounding: too much may be let through, never too little.
        self.most = float(prices.sum()) * (1 + 1e-9) + 1e-12
        self.after_start, self.after_end = walks.backward(prices)
        self.arcs = pack(np.moveaxis(network.arcs, 0, -1))[..., 0]
        self.hops = pack(network.hops)[..., 0]
        self.least = least_slices(network)
        self.starts: dict[int, _Labels] = {}

    def plan(self) -> Segments | None:
        n = self.network.n
        empty = np.zeros(1, dtype=np.uint64)
        everything = np.full(1, (1 << self.network.nodes) - 1, dtype=np.uint64)
        self.starts[0] = self._enter(0, empty, everything, np.zeros(1))
        for s in range(1, n + 1):
            ends = self._ends(s)
            if ends is None:
                continue
            used, nodes, paid = ends
            if s == n:
                return self._back(int(used[0]))
            self.starts[s] = self._enter(s, used, self._hop(s, nodes), paid)
        return None

    def _ends(self, s: int) -> tuple[Words, Words, Prices] | None:
        """The labels of slices that end at state s."""
        parts = []
        for i, labels in self.starts.items():
            if self.arcs[i, s]:
                nodes = labels.nodes & self.arcs[i, s]
                keep = np.flatnonzero(nodes)
                if keep.size:
                    parts.append((labels.used[keep], nodes[keep], labels.paid[keep]))
        if not parts:
            return None
        used, nodes, paid = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        nodes = nodes & self._affordable(self.after_end[s], paid)
        keep = nodes != 0
        slices = _count(used)
        keep &= slices + self.least[1, s] <= self.network.max_slices
        if s == self.network.n:
            keep &= slices > max(self.network.pins, default=-1)
        if not keep.any():
            return None
        return _merge(used[keep], nodes[keep], paid[keep])

    def _affordable(self, rest: Prices, paid: Prices) -> Words:
        """Per label, the nodes from which what is left pays for the rest."""
        order = np.argsort(rest, kind="stable")
        prefixes = np.zeros(len(order) + 1, dtype=np.uint64)
        prefixes[1:] = np.bitwise_or.accumulate(_ONE << order.astype(np.uint64))
        return np.asarray(prefixes[np.searchsorted(rest[order], self.most - paid, side="right")])

    def _hop(self, s: int, nodes: Words) -> Words:
        reached = np.zeros_like(nodes)
        for k, row in enumerate(self.hops[s]):
            if row:
                reached |= np.where(nodes >> np.uint64(k) & _ONE, row, np.uint64(0))
        return reached

    def _enter(self, s: int, used: Words, reached: Words, paid: Prices) -> _Labels:
        """The labels of slices that begin at state s, after `used`, on one of the nodes `reached`."""
        reached = reached & ~used
        pins, slices = self.network.pins, _count(used)
        parts = []
        for k in range(self.network.nodes):
            total = paid + self.prices[k]
            rest = float(self.after_start[s, k])
            here = (reached >> np.uint64(k) & _ONE).astype(bool) & (total + rest <= self.most)
            if pins:
                mine = [number for number, node in pins.items() if node == k]
                here &= np.isin(slices, mine) if mine else ~np.isin(slices, list(pins))
            rows = np.flatnonzero(here)
            if rows.size:
                bit = _ONE << np.uint64(k)
                parts.append((used[rows] | bit, np.full(rows.size, bit), total[rows], total[rows] + rest))
        if not parts:
            none = np.zeros(0, dtype=np.uint64)
            return _Labels(none, none, np.zeros(0))
        used, nodes, paid, rests = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        if self.width is not None and len(used) > self.width:
            self.cut = True
            best = np.argpartition(rests, self.width)[: self.width]
            used, nodes, paid, rests = used[best], nodes[best], paid[best], rests[best]
        self.budget.spend(len(used))
        return _Labels(*_merge(used, nodes, paid))

    def _back(self, used: int) -> Segments:
        """The slices of a plan that ends with the set `used`."""
        s, found = self.network.n, []
        allowed = used
        while True:
            i, node = self._last(s, used, allowed)
            found.append((i, s, node))
            if i == 0:
                return found[::-1]
            used ^= 1 << node
            allowed = sum(1 << int(k) for k in np.flatnonzero(self.network.hops[i, :, node]))
            s = i

    def _last(self, s: int, used: int, allowed: int) -> tuple[int, int]:
        """The beginning and the node of a slice that ends at state s, on one of the nodes `allowed`."""
        for i, labels in self.starts.items():
            if i < s:
                nodes = labels.at(used) & int(self.arcs[i, s]) & allowed
                if nodes and (i > 0 or used.bit_count() == 1):
                    return i, (nodes & -nodes).bit_length() - 1
        raise AssertionError("a label without a beginning")


def _merge(used: Words, nodes: Words, paid: Prices) -> tuple[Words, Words, Prices]:
    """Rows of equal sets made one."""
    order = np.argsort(used, kind="stable")
    used = used[order]
    first = np.flatnonzero(np.concatenate([[True], used[1:] != used[:-1]]))
    return used[first], np.bitwise_or.reduceat(nodes[order], first), paid[order][first]


def _count(used: Words) -> npt.NDArray[np.int64]:
    """How many nodes each set has."""
    octets = np.ascontiguousarray(used).view(np.uint8).reshape(-1, 8)
    return np.asarray(_BITS[octets].sum(axis=1))


_BITS = np.array([bin(value).count("1") for value in range(256)], dtype=np.int64)
