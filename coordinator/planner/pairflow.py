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
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from coordinator.planner import solver
from coordinator.planner.answer import Duals
from coordinator.planner.routes import Network, Tables

Prices = npt.NDArray[np.float64]

GROWTH = 0.1
"""By how much a node becomes dearer when the cheapest walk takes it, without a solver."""
CLOSE = 1e-4
"""Prices whose bound on the flow is within this share of a flow are the duals."""
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


@dataclass
class Columns:
    """Walks that have been found, with the period that each needs: good for every period from there on."""

    periods: list[float] = field(default_factory=list)
    counts: list[Prices] = field(default_factory=list)
    known: set[bytes] = field(default_factory=set)


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
    after `rounds` in any case. Without a solver the prices are found by multiplicative weights; `found` is 0 then.
    """
    walks = Walks(network)
    best = Flow(0.0, np.inf, prices, np.zeros(network.nodes))
    for _ in range(rounds):
        least, found = walks.cheapest(prices)
        if not found:
            return Flow(0.0, 0.0, np.zeros(network.nodes), best.use)
        if least > 0 and float(prices.sum()) / least < best.most:
            best = replace(best, most=float(prices.sum()) / least, prices=prices / least)
        if best.impossible:
            return best
        fresh = sum([_add(columns, walk, tables) for walk in found])
        packed = _pack(columns, period, network.nodes) if solver.available() else None
        if packed is None:
            cheapest = min(found, key=lambda walk: float(prices @ _count(walk, network.nodes)))
            prices = prices * np.exp(GROWTH * _count(cheapest, network.nodes))
            prices = prices / prices.sum()
            continue
        amount, duals, use = packed
        best = replace(best, found=amount, use=use)
        if best.most - amount < CLOSE * best.most or (decide and amount >= 1):
            return best
        prices = 0.5 * best.prices + 0.5 * duals if fresh else duals
    return best


def _count(walk: list[tuple[int, int, int]], nodes: int) -> Prices:
    return np.bincount([node for _, _, node in walk], minlength=nodes).astype(np.float64)


def _add(columns: Columns, walk: list[tuple[int, int, int]], tables: Tables) -> bool:
    count, needs = _count(walk, len(tables.tables)), tables.period_of(walk)
    key = count.tobytes() + np.float64(needs).tobytes()
    if key in columns.known:
        return False
    columns.known.add(key)
    columns.periods.append(needs)
    columns.counts.append(count)
    return True


def _pack(columns: Columns, period: float, nodes: int) -> tuple[float, Prices, Prices] | None:
    """The most flow on the walks of `columns` that are within `period`, each node's price, and its use."""
    chosen = [number for number, needs in enumerate(columns.periods) if needs <= period]
    counts = np.array([columns.counts[number] for number in chosen]).T
    rows, places = np.nonzero(counts)
    answer = solver.lp(
        solver.Program(
            aim=-np.ones(len(chosen)),
            rows=rows,
            columns=places,
            values=counts[rows, places],
            low=np.full(nodes, -np.inf),
            high=np.ones(nodes),
            upper=np.full(len(chosen), np.inf),
        )
    )
    if answer is None:
        return None
    return -answer.value, np.maximum(-answer.prices, 0.0), counts @ answer.x


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
