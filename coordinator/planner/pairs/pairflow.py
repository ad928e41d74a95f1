"""Prices of nodes over pairwise links: the flow program, and proofs by its duals (PURE).

One unit of flow goes from state 0 to the last one, through arcs on nodes and hops between them; each node carries
at most one arc. Its linear program is solved in terms of walks: as much flow as possible on walks that may repeat
nodes, within every node's capacity of one (Dantzig-Wolfe; the value is that of the program in arcs and hops, which
is never made). Where less than one unit fits there is no plan. The duals are prices of nodes: every walk then costs
more than all nodes together. Any prices with that property are a proof, whoever found them, so they are rounded to
integers and checked by a shortest-walk recursion in integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from coordinator.planner.answer import Duals
from coordinator.planner.pairs.routes import Network, Tables

Prices = npt.NDArray[np.float64]

MOST_WALKS = 30
"""How many walks, for each node, the linear program has at once: the cheapest."""
CLOSE = 1e-3
"""Prices whose bound on the flow is within this share of a flow are good enough."""
PART = 0.1
"""The program of the walks that are known is solved to this part of the gap to all walks."""
STEPS = 60
"""The most steps of the interior point method; it takes about fifteen."""
INSIDE = 0.95
"""The part of the way to the border that a step may take."""
SCALE = 1 << 32
"""What the dearest set of prices adds up to, in integers."""


class Walks:
    """Cheapest walks in a network for given prices of nodes; a walk pays for a node each time that it comes."""

    def __init__(self, network: Network) -> None:
        self.network = network
        n = network.n
        self._arcs = np.where(network.arcs, 0.0, np.inf)
        self._into = [np.ascontiguousarray(self._arcs[:, :s, s].T) for s in range(n + 1)]
        self._out = [np.ascontiguousarray(self._arcs[:, s, s + 1 :].T) for s in range(n + 1)]
        self._hops = np.where(network.hops, 0.0, np.inf)
        self._ends = network.arcs.any(axis=(0, 1))
        self._passes = network.hops.any(axis=(1, 2))

    def cheapest(self, prices: Prices) -> tuple[float, list[list[tuple[int, int, int]]]]:
        """The least price of a walk (infinite: there is none), and the cheapest walk to each last node."""
        n, nodes = self.network.n, self.network.nodes
        starts, ends = np.full((n + 1, nodes), np.inf), np.full((n + 1, nodes), np.inf)
        before = np.zeros((n + 1, nodes), dtype=np.intp)
        source = np.zeros((n + 1, nodes), dtype=np.intp)
        starts[0] = prices
        every = np.arange(nodes)
        for s in range(1, n + 1):
            if not self._ends[s]:
                continue
            sums = starts[:s] + self._into[s]
            before[s] = sums.argmin(axis=0)
            ends[s] = sums[before[s], every]
            if s < n and self._passes[s]:
                sums = ends[s][:, None] + self._hops[s]
                source[s] = sums.argmin(axis=0)
                starts[s] = sums[source[s], every] + prices
        found = []
        for last in np.flatnonzero(np.isfinite(ends[n])):
            walk, s, node = [], n, int(last)
            while s:
                i = int(before[s, node])
                walk.append((i, s, node))
                s, node = i, int(source[i, node])
            found.append(walk[::-1])
        return float(ends[n].min()), found

    def backward(self, prices: Prices) -> tuple[Prices, Prices]:
        """What walks to the end must pay at least after beginning, and after ending, a slice at [state, node]."""
        n, nodes = self.network.n, self.network.nodes
        after_start, after_end = np.full((n + 1, nodes), np.inf), np.full((n + 1, nodes), np.inf)
        after_end[n] = 0.0
        for s in range(n - 1, -1, -1):
            after_start[s] = (after_end[s + 1 :] + self._out[s]).min(axis=0)
            if s and self._passes[s]:
                after_end[s] = (self._hops[s] + (prices + after_start[s])[None, :]).min(axis=1)
        return after_start, after_end


class Columns:
    """Walks that have been found, as how often each node comes in them (one row each), with the period that each
    needs: they are good for every period from there on."""

    def __init__(self, nodes: int) -> None:
        self.size = 0
        self._counts = np.zeros((256, nodes))
        self._periods = np.zeros(256)
        self._known: set[bytes] = set()

    def add(self, count: Prices, period: float) -> bool:
        """Keep a walk; whether it has not been there."""
        key = count.tobytes() + np.float64(period).tobytes()
        if key in self._known:
            return False
        self._known.add(key)
        if self.size == len(self._periods):
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
            self._periods = np.concatenate([self._periods, np.zeros_like(self._periods)])
        self._counts[self.size], self._periods[self.size] = count, period
        self.size += 1
        return True

    def cheapest(self, period: float, prices: Prices, most: int) -> Prices:
        """The `most` walks within `period` that cost least."""
        counts = self._counts[: self.size][self._periods[: self.size] <= period]
        if len(counts) <= most:
            return counts
        order = np.argsort(counts @ prices, kind="stable")
        return np.asarray(counts[order[:most]])


@dataclass(frozen=True)
class Flow:
    """`most` units of flow fit at most, `found` units have been found; `prices` prove the former.

    Prices are scaled so that the cheapest walk costs 1; their sum is `most` then. `use` says how much of each node
    the flow that was found takes.
    """

    found: float
    most: float
    prices: Prices
    use: Prices

    @property
    def impossible(self) -> bool:
        """Whether less than one unit fits: there is no plan."""
        return self.most < 1 - 1e-7


def flow(
    network: Network, period: float, tables: Tables, columns: Columns, prices: Prices, decide: bool, rounds: int
) -> Flow:
    """How much flow fits through `network`, which is that of `period`; `prices` are where the search begins.

    `columns` is read and added to. With `decide` the search ends as soon as it is known whether one unit fits, and
    after `rounds` in any case.
    """
    walks = Walks(network)
    best = Flow(0.0, np.inf, prices, np.zeros(network.nodes))
    share = 1.0
    for _ in range(rounds):
        least, found = walks.cheapest(prices)
        if not found:
            return Flow(0.0, 0.0, np.zeros(network.nodes), best.use)
        if least > 0 and float(prices.sum()) / least < best.most:
            best = replace(best, most=float(prices.sum()) / least, prices=prices / least)
        if best.impossible:
            return best
        for walk in found:
            columns.add(_count(walk, network.nodes), tables.period_of(walk))
        if np.isfinite(best.most) and best.found > 0:
            share = best.most / best.found - 1
        counts = columns.cheapest(period, best.prices, MOST_WALKS * network.nodes)
        amount, prices, use = pack_walks(counts, max(CLOSE / 4, PART * share))
        if amount > best.found:
            best = replace(best, found=amount, use=use)
        if best.most - best.found < CLOSE * best.most or (decide and best.found >= 1):
            return best
    return best


def _count(walk: list[tuple[int, int, int]], nodes: int) -> Prices:
    return np.bincount([node for _, _, node in walk], minlength=nodes).astype(np.float64)


def pack_walks(counts: Prices, share: float) -> tuple[float, Prices, Prices]:
    """A flow on walks with these counts of nodes that is within `share` of the most, prices, and use of each node.

    The prices are those of a program of these walks only: each costs at least 1. They come from the middle of what
    is near the best, so that few rounds of column generation are needed (Gondzio, Gonzalez-Brevis and Munari,
    European Journal of Operational Research 224, 2013): a primal-dual interior point method that begins within both
    programs and stays there, so that the values of both are bounds at every step. It needs no solver.
    """
    rows = counts.T
    x = np.full(rows.shape[1], 0.5 / max(float(rows.sum(axis=1).max()), 1.0))
    prices = np.full(rows.shape[0], 2.0)
    slack, spare = 1.0 - rows @ x, prices @ rows - 1.0
    for _ in range(STEPS):
        gap = float(x @ spare + slack @ prices)
        if gap <= share * float(x.sum()):
            break
        # The direction to the middle of the programs at a tenth of the gap.
        aim = 0.1 * gap / (len(x) + len(slack))
        weights = x / spare
        wanted = (aim - x * spare) / spare
        left = (rows * weights) @ rows.T
        left[np.diag_indices_from(left)] += slack / prices
        try:
            turn = np.linalg.solve(left, (aim - slack * prices) / prices + rows @ wanted)
        except np.linalg.LinAlgError:  # rounding has used up what the matrix says; both values hold all the same
            break
        rise = turn @ rows
        step = wanted - weights * rise
        fall = rows @ step
        ahead = INSIDE * min(1.0 / INSIDE, _room(x, step), _room(slack, -fall))
        x, slack = x + ahead * step, slack - ahead * fall
        ahead = INSIDE * min(1.0 / INSIDE, _room(prices, turn), _room(spare, rise))
        prices, spare = prices + ahead * turn, spare + ahead * rise
    return float(x.sum()), prices, rows @ x


def _room(values: Prices, step: Prices) -> float:
    """How many times `step` can be added before a value is 0."""
    down = step < 0
    return float((values[down] / -step[down]).min(initial=np.inf))


def certificate(network: Network, prices: Prices) -> Duals | None:
    """Integers that prove that `network` has no plan, from prices of nodes; None when these do not.

    States that are left out because of their errors are only proved useless where the budget of errors is 0.
    """
    lossy = network.errors > 0
    lossy[[0, network.n]] = False
    if network.error_budget > 0 and (network.errors > network.error_budget).any():
        return None
    forbidden = lossy if network.error_budget <= 0 else np.zeros_like(lossy)
    price = np.rint(prices * (SCALE / (float(prices.sum()) or 1.0))).astype(np.int64)
    n, nodes = network.n, network.nodes
    # Nothing has to be worth more than this, so it stands for "not reached".
    most = int(price.sum()) + 1
    starts, ends = np.full((nodes, n + 1), most, dtype=np.int64), np.full((nodes, n + 1), most, dtype=np.int64)
    starts[:, 0] = ends[:, 0] = 0
    for s in range(1, n + 1):
        if forbidden[s]:
            continue
        least = np.where(network.arcs[:, :s, s], starts[:, :s], most).min(axis=1)
        ends[:, s] = np.minimum(least + price, most)
        if s < n:
            starts[:, s] = np.where(network.hops[s], ends[:, s][:, None], most).min(axis=0)
    ends[:, n] = reached = int(ends[:, n].min())
    error = math.ceil(most / float(network.errors[forbidden].min())) + 1 if forbidden.any() else 0
    duals = Duals(
        potentials=(0, reached),
        starts=tuple(tuple(int(value) for value in row) for row in starts),
        ends=tuple(tuple(int(value) for value in row) for row in ends),
        error=error,
    )
    return duals if proves(network, duals) else None


def proves(network: Network, duals: Duals) -> bool:
    """Whether `duals` say that `network` has no plan: every arc and hop is checked in integers (Duals)."""
    n = network.n
    starts, ends = np.array(duals.starts, dtype=np.int64), np.array(duals.ends, dtype=np.int64)
    if (starts[:, 0] != duals.potentials[0]).any() or (ends[:, n] != duals.potentials[1]).any():
        return False
    pays = [
        0 if e <= 0 or s in (0, n) else min(math.floor(duals.error * Fraction(e)), 1 << 60)
        for s, e in _finite(network.errors)
    ]
    total = 0
    for k in range(network.nodes):
        i, j = np.nonzero(network.arcs[k])
        gain = ends[k, j] - starts[k, i] - np.array(pays, dtype=np.int64)[j]
        total += max(0, int(gain.max(initial=0)))
    s, a, b = np.nonzero(network.hops[1:n])
    if (starts[b, s + 1] > ends[a, s + 1]).any():
        return False
    room = duals.potentials[1] - duals.potentials[0] - duals.error * Fraction(max(network.error_budget, 0.0))
    return room > total


def _finite(errors: npt.NDArray[np.float64]) -> list[tuple[int, float]]:
    # An error without limit pays for anything; any large number stands for it.
    return [(s, min(float(error), 1e6)) for s, error in enumerate(errors)]
