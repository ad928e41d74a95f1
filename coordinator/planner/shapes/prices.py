"""Bounds for plans with several nodes for a stage or several pipelines: prices on nodes (PURE).

Take a period P, a price for a node of each type and one for a byte that the broker delivers, none negative. A node
on an arc of c seconds does at most the share min(1, P/c) of all frames. So a plan of period P pays for an arc, for
each share of the frames that goes through it:

- one node per share (`lanes`: every node serves one arc of one pipeline, as in parallel pipelines, copies and
  replicated stages): at least the least price / min(1, P/c) over the types;
- a group that serves all frames (`groups`: replicated stages of one pipeline): at least the least price of a
  fractional group whose shares add up to one, with no node taken more than once.

All frames lead from state 0 to state n, hence pay at least the shortest path; all nodes and P seconds of the broker
cost the sum of the prices. Where the path is dearer, no plan of period P exists, nor of a shorter one. This is weak
duality: any prices prove a bound, good ones a high one. They come from the paths that were cheapest so far, as
the solution of a small linear program over them (column generation), or, without a solver, from weights that grow
with what the paths use (regret matching in the zero-sum game of paths against nodes).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from coordinator.planner.methods import solver
from coordinator.planner.problem import Costs
from coordinator.planner.tables.segments import Table

Kind = Literal["lanes", "groups"]
MARGIN = 1e-9
"""By how much a path must be dearer than everything: sums of floating-point numbers are not exact."""
PRECISION = 1e-6
"""How near a proved period is to the highest one that its prices prove."""
CELLS = 60_000_000
"""How many (type, arc) pairs a bound may look at before it stops; deterministic, unlike a time limit."""
ROUNDS = 400
"""How many prices are tried without a solver."""
PATIENCE = 60
"""How many of them may prove nothing more before the search ends."""

LONGER = 1 + 1e-5
"""Ways to pass arcs are made for a period longer by this than the one that is proved to be too short."""

Vector = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Prices:
    """Prices of a node of each type and of a relayed byte; no plan has a `period` (seconds) as short as this."""

    period: float
    nodes: Vector
    byte: float = 0.0


def highest_proof(costs: Costs, kind: Kind, enough: float = math.inf, cells: int = CELLS) -> Prices:
    """The prices that prove the highest period found; the search stops when it is `enough`, or after `cells`.

    The period is infinite when states and types allow no plan at all. Limits of the goal and of the number of
    slices, and hops, are left aside: they only make plans slower.
    """
    return _Search(costs, kind, cells).run(enough)


def family_bound(costs: Costs, kind: Kind, enough: float = math.inf, cells: int = CELLS) -> float:
    """No plan of the family has a lower objective than this; the goal says which it is.

    Of a period the bound may stop at `enough`. Limits count for the fewest nodes only (`max_period`).
    """
    goal = costs.goal
    if goal.objective == "latency":
        return least_of_paths(costs, lambda k: costs.types[k].latency)
    if goal.objective == "energy":
        return least_of_paths(costs, lambda k: costs.types[k].energy)
    if goal.objective == "nodes":
        search = _Search(costs, kind, cells)
        return search.fewest_nodes(min(goal.max_period, 1e12))
    return highest_proof(costs, kind, enough, cells).period


def least_of_paths(costs: Costs, table: Callable[[int], Table]) -> float:
    """The least sum over a path of the least of `table(type)` over types that may run each arc: no frame of any
    plan gets away with less. Infinite when no path exists.
    """
    arcs = Arcs(costs)
    best = np.full(len(arcs.starts), np.inf)
    for number, seconds in enumerate(arcs.seconds):
        values = table(number)[arcs.starts, arcs.ends]
        best = np.minimum(best, np.where(np.isfinite(seconds), values, np.inf))
    return arcs.shortest(best)[0]


class Arcs:
    """The arcs that some type may run, and each one's seconds on every type; shape (types, arcs)."""

    def __init__(self, costs: Costs) -> None:
        some = np.zeros((costs.n + 1, costs.n + 1), dtype=bool)
        for kind in costs.types:
            some |= np.isfinite(kind.period)
        self.n = costs.n
        self.starts, self.ends = np.nonzero(np.triu(some, k=1))
        self.seconds = np.stack([kind.period[self.starts, self.ends] for kind in costs.types])
        self.relayed = costs.relayed[self.starts, self.ends]
        order = np.lexsort((self.starts, self.ends))
        self.starts, self.ends = self.starts[order], self.ends[order]
        self.seconds, self.relayed = self.seconds[:, order], self.relayed[order]
        self._until = np.searchsorted(self.ends, np.arange(costs.n + 2))

    def shortest(self, lengths: Vector) -> tuple[float, list[int]]:
        """The length of the shortest path from state 0 to state n and its arcs, in order."""
        reached = np.full(self.n + 1, np.inf)
        reached[0] = 0.0
        came = np.full(self.n + 1, -1)
        for state in range(1, self.n + 1):
            first, stop = int(self._until[state]), int(self._until[state + 1])
            if first == stop:
                continue
            sums = reached[self.starts[first:stop]] + lengths[first:stop]
            place = int(np.argmin(sums))
            reached[state], came[state] = sums[place], first + place
        path: list[int] = []
        state = self.n
        while state > 0 and math.isfinite(reached[state]):
            path.append(int(came[state]))
            state = int(self.starts[path[-1]])
        return float(reached[self.n]), path[::-1]


@dataclass(frozen=True)
class _Columns:
    """Ways for all frames to pass arcs; way w is for arc `arcs[w]`.

    Each entry e belongs to way `ways[e]`: the share `shares[e]` of the frames on nodes of type `kinds[e]`, which
    take `seconds[e]` for each.
    """

    arcs: Places
    ways: Places
    kinds: Places
    seconds: Vector
    shares: Vector

    def and_more(self, other: _Columns) -> _Columns:
        return _Columns(
            np.append(self.arcs, other.arcs),
            np.append(self.ways, other.ways + len(self.arcs)),
            np.append(self.kinds, other.kinds),
            np.append(self.seconds, other.seconds),
            np.append(self.shares, other.shares),
        )

    def taken(self, period: float) -> Vector:
        """How many nodes each entry takes."""
        return np.asarray(self.shares * np.maximum(1.0, self.seconds / period))


class _Search:
    """Prices for one problem, each proving a higher period than the last ones that did."""

    def __init__(self, costs: Costs, kind: Kind, cells: int) -> None:
        self._arcs = Arcs(costs)
        self._groups = kind == "groups"
        self._counts = np.array([float(kind.count) for kind in costs.types])
        self._rate = costs.broker_rate
        self._left = cells

    def run(self, enough: float) -> Prices:
        arcs, types = self._arcs, len(self._counts)
        if not arcs.starts.size or math.isinf(arcs.shortest(np.zeros(len(arcs.starts)))[0]):
            return Prices(math.inf, np.zeros(types))
        # By speed: with these every node is worth what it can do.
        speeds = 1.0 / np.maximum(arcs.seconds.min(axis=1), 1e-12)
        best = self._raised(Prices(0.0, speeds / (speeds @ self._counts)))
        if self._rate is not None:
            best = max(best, self._raised(Prices(0.0, np.zeros(types), 1.0)), key=lambda p: p.period)
        if best.period <= 0.0 or best.period >= enough or math.isinf(best.period):
            return best
        return self._by_columns(best, enough) if solver.available() else self._by_regret(best, enough)

    def fewest_nodes(self, period: float) -> float:
        """With a price of one for each node every plan of this period pays at least so much."""
        if not self._arcs.starts.size:
            return math.inf
        ones = Prices(period, np.ones(len(self._counts)))
        length = self._arcs.shortest(self._lengths(ones, period))[0]
        return float(math.ceil(length * (1 - MARGIN))) if math.isfinite(length) else math.inf

    def _by_columns(self, best: Prices, enough: float) -> Prices:
        columns = self._columns(best, self._path(best))
        while self._left > 0 and best.period < enough:
            found = self._mix(columns, best.period)
            if found is None or found[0] <= 1.0 + PRECISION:
                break
            _, weights, potentials = found
            straight = self._as_prices(weights, best.period)
            lengths = self._lengths(straight, best.period)
            saved = potentials[self._arcs.ends] - potentials[self._arcs.starts] - lengths
            saving = np.flatnonzero(saved > MARGIN)
            saving = saving[np.argsort(-saved[saving], kind="stable")[: 4 * self._arcs.n + 40]]
            columns = columns.and_more(self._columns(straight, saving))
            raised = self._raised(straight)
            if math.isinf(raised.period):
                return raised
            if raised.period > best.period:
                best = raised
            elif not saving.size:
                break
            columns = columns.and_more(self._columns(best, self._path(best)))
        return best

    def _by_regret(self, best: Prices, enough: float) -> Prices:
        """Without a solver: a node type's weight grows with how much more than the others the paths use it."""
        regret = self._weights(best)
        total = np.zeros_like(regret)
        improved = 0
        for number in range(1, ROUNDS + 1):
            if self._left <= 0 or best.period >= enough or number > improved + PATIENCE:
                break
            weights = _normed(regret)
            total += number * weights
            for proposed in [weights, _normed(total)][: 1 + (number % 10 == 0)]:
                raised = self._raised(self._as_prices(proposed, best.period))
                if raised.period > best.period * (1 + PRECISION):
                    best, improved = raised, number
            if math.isinf(best.period):
                return best
            prices = self._as_prices(weights, best.period)
            way = self._columns(prices, self._path(prices))
            load = self._loads(way, best.period).sum(axis=1)
            regret = np.maximum(0.0, regret + (load - float(load @ weights)) / max(float(load.max()), 1e-12))
        return best

    def _weights(self, prices: Prices) -> Vector:
        nodes = prices.nodes * self._counts
        return _normed(nodes if self._rate is None else np.append(nodes, prices.byte * prices.period * self._rate))

    def _as_prices(self, weights: Vector, period: float) -> Prices:
        types = len(self._counts)
        byte = 0.0 if self._rate is None else float(weights[types]) / (period * self._rate)
        return Prices(period, weights[:types] / self._counts, byte)

    def _loads(self, columns: _Columns, period: float) -> Vector:
        """The share that each way takes of the nodes of each type (rows), and, last, of the broker."""
        loads = np.zeros((len(self._counts) + (self._rate is not None), len(columns.arcs)))
        np.add.at(loads, (columns.kinds, columns.ways), columns.taken(period))
        loads[: len(self._counts)] /= self._counts[:, None]
        if self._rate is not None:
            loads[-1] = self._arcs.relayed[columns.arcs] / (period * self._rate)
        return loads

    def _mix(self, columns: _Columns, period: float) -> tuple[float, Vector, Vector] | None:
        """The least largest load when all frames go by the known ways, the weights that show it, and potentials."""
        loads = self._loads(columns, period)
        rows, ways = loads.shape
        at_row, at_way = np.nonzero(loads)
        number = np.arange(ways)
        starts, ends = self._arcs.starts[columns.arcs], self._arcs.ends[columns.arcs]
        inner = starts > 0
        every = np.arange(rows)
        program = solver.Program(
            aim=np.append(np.zeros(ways), 1.0),
            rows=np.concatenate([at_row, every, rows - 1 + ends, rows - 1 + starts[inner]]),
            columns=np.concatenate([at_way, np.full(rows, ways), number, number[inner]]),
            values=np.concatenate(
                [loads[at_row, at_way], np.full(rows, -1.0), np.ones(ways), np.full(int(inner.sum()), -1.0)]
            ),
            low=np.concatenate([np.full(rows, -np.inf), np.zeros(self._arcs.n - 1), [1.0]]),
            high=np.concatenate([np.zeros(rows + self._arcs.n - 1), [1.0]]),
            upper=np.full(ways + 1, np.inf),
        )
        found = solver.lp(program)
        if found is None:
            return None
        return found.value, _normed(np.maximum(0.0, -found.prices[:rows])), np.append(0.0, found.prices[rows:])

    def _raised(self, prices: Prices) -> Prices:
        """These prices with the highest period that they prove, but no lower one than they come with."""
        low = prices.period
        if low <= 0.0:
            low = float(self._arcs.seconds[np.isfinite(self._arcs.seconds)].max())
            while low > 1e-12 and not self._proves(prices, low):
                low /= 4.0
            if not self._proves(prices, low):
                return replace(prices, period=0.0)
        elif not self._proves(prices, low):
            return prices
        # No arc takes longer than this: what these prices forbid then, they forbid at any period.
        longest = float(self._arcs.seconds[np.isfinite(self._arcs.seconds)].max())
        if prices.byte == 0.0 and self._proves(prices, max(low, longest)):
            return replace(prices, period=math.inf)
        step = 1.001
        high = low * step
        while self._proves(prices, high):
            low, step = high, min(step * step, 4.0)
            high = low * step
        while high > low * (1 + PRECISION):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if self._proves(prices, middle) else (low, middle)
        return replace(prices, period=low)

    def _proves(self, prices: Prices, period: float) -> bool:
        """Whether no plan of this period exists, by these prices."""
        everything = float(prices.nodes @ self._counts) + prices.byte * period * (self._rate or 0.0)
        return self._arcs.shortest(self._lengths(prices, period))[0] > everything * (1 + MARGIN)

    def _lengths(self, prices: Prices, period: float) -> Vector:
        """What all frames together pay for each arc at least."""
        self._left -= self._arcs.seconds.size * (4 if self._groups else 1)
        dear = _dear(prices.nodes, self._arcs.seconds, period)
        paid = self._filled(dear, self._arcs.seconds, period)[2] if self._groups else dear.min(axis=0)
        return np.asarray(prices.byte * self._arcs.relayed + paid)

    def _filled(self, dear: Vector, seconds: Vector, period: float) -> tuple[npt.NDArray[np.intp], Vector, Vector]:
        """For each arc (column) the types by price, the share that each of them takes, and the price of all.

        The price is infinite where all nodes together cannot serve every frame.
        """
        order = np.argsort(dear, axis=0, kind="stable")
        able = self._counts[:, None] * np.minimum(1.0, period / np.maximum(seconds, 1e-12))
        able = np.take_along_axis(able, order, axis=0)
        together = np.cumsum(able, axis=0)
        share = np.clip(1.0 - (together - able), 0.0, able)
        by_price = np.take_along_axis(np.where(np.isfinite(dear), dear, 0.0), order, axis=0)
        paid = np.where(together[-1] >= 1.0 - MARGIN, (share * by_price).sum(axis=0), np.inf)
        return order, share, paid

    def _path(self, prices: Prices) -> Places:
        """The arcs of the cheapest path at a period that is hardly longer than the one that the prices prove."""
        length, path = self._arcs.shortest(self._lengths(prices, prices.period * LONGER))
        return np.array(path if math.isfinite(length) else [], dtype=np.intp)

    def _columns(self, prices: Prices, arcs: Places) -> _Columns:
        """For each arc the cheapest way for all frames to pass it; arcs without one are left out."""
        period = prices.period * LONGER
        seconds = self._arcs.seconds[:, arcs]
        dear = _dear(prices.nodes, seconds, period)
        if self._groups:
            order, share, paid = self._filled(dear, seconds, period)
        else:
            order, share, paid = (
                dear.argmin(axis=0)[None, :],
                np.ones((1, len(arcs))),
                dear.min(axis=0, initial=np.inf),
            )
        able = np.isfinite(paid)
        arcs, order, share, seconds = arcs[able], order[:, able], share[:, able], seconds[:, able]
        ranks, ways = np.nonzero(share)
        kinds = order[ranks, ways]
        return _Columns(arcs, ways, kinds, seconds[kinds, ways], share[ranks, ways])


def _dear(nodes: Vector, seconds: Vector, period: float) -> Vector:
    """The price of all frames on each type and arc; infinite where the type may not run it."""
    able = np.isfinite(seconds)
    return np.where(able, nodes[:, None] * np.maximum(1.0, np.where(able, seconds, 1.0) / period), np.inf)


def _normed(weights: Vector) -> Vector:
    total = float(weights.sum())
    return weights / total if total > 0 else np.full(len(weights), 1.0 / len(weights))
