"""Is there a plan of period P over links between pairs of nodes? A label search over sets of nodes (PURE).

A label is (state, used nodes, node): a slice may begin at `state` on `node`. Nodes are bits of 64-bit words, so one
operation moves all nodes at once, and a whole column of sets is moved by one numpy call. Only the *critical* nodes
are remembered in the set of used ones; others may come again (decremental state-space relaxation: Righini and
Salani, Networks 51, 2008; Boland, Dethridge and Dumitrescu, Operations Research Letters 34, 2006). If not even
such walks reach the end there is no plan: that is a proof. If a walk without repeats does, it is a plan. Else the
nodes that it repeats become critical and the search begins again; with all nodes critical it is exact. Work and
memory are bounded by counts, never by the clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from coordinator.planner.methods.reach import Budget, OutOfBudgetError, Segments, pack
from coordinator.planner.problem import Costs

Bits = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]

TABLE_BYTES = 1 << 27
"""How many bytes the labels of one search may take."""
WALKS = 400
"""How many steps back from the end are tried for a walk without repeats, before nodes become critical."""
AT_ONCE = 2
"""How many nodes become critical at once."""


@dataclass(frozen=True)
class Network:
    """What may be done within a period: `arcs[k, i, j]` on node k, `hops[s, a, b]` from node a to b at state s.

    `pins` maps a slice's number to the node that must run it, which runs no other one. `errors[s]` of the states
    between slices add up to at most `error_budget`.
    """

    arcs: Flags
    hops: Flags
    max_slices: int
    pins: Mapping[int, int]
    errors: npt.NDArray[np.float64]
    error_budget: float

    @property
    def n(self) -> int:
        """The number of the last state."""
        return self.arcs.shape[1] - 1

    @property
    def nodes(self) -> int:
        """How many nodes there are."""
        return self.arcs.shape[0]


@dataclass(frozen=True)
class Verdict:
    """A plan as (start, end, node), or none: `proved` says that there is none, else the budget is used up."""

    plan: Segments | None
    proved: bool


class Tables:
    """Stage and hop seconds of `costs` with pairwise links, as the arrays that networks are cut from."""

    def __init__(self, costs: Costs) -> None:
        if costs.hops is None:
            raise ValueError("costs without links between pairs of nodes")
        self.costs = costs
        kinds: dict[int, int] = {}
        self.tables = [kind.period for kind in costs.types]
        # Nodes of equal memory and no work share one table; it is compared and packed once.
        self.same = [kinds.setdefault(self._first_equal(k), len(kinds)) for k in range(len(self.tables))]
        self.distinct = np.stack([self.tables[first] for first in kinds])
        upper = np.triu(np.ones((costs.n + 1, costs.n + 1), dtype=bool), k=1)
        self.distinct = np.where(upper, self.distinct, np.inf)
        nodes = len(costs.types)
        self.hops = np.empty((costs.n + 1, nodes, nodes))
        for a in range(nodes):
            for b in range(nodes):
                self.hops[:, a, b] = np.inf if a == b else costs.hops.seconds(a, b)
        self.inner = self._inner_states()

    def _first_equal(self, k: int) -> int:
        table = self.tables[k]
        for first in range(k):
            if self.tables[first] is table or np.array_equal(self.tables[first], table):
                return first
        return k

    def _inner_states(self) -> Flags:
        """Which states can be between two slices: all but both ends, and those whose error is beyond the budget."""
        inner: Flags = np.ones(self.costs.n + 1, dtype=bool)
        inner[0] = inner[-1] = False
        if self.costs.errors is not None:
            inner &= self.costs.errors <= self.costs.goal.error_budget
        return inner

    def network(self, period: float) -> Network:
        """What may be done within `period` (infinite: whatever is possible at all)."""
        fits = np.isfinite(self.distinct) & (self.distinct <= period)
        arcs = fits[self.same]
        hops = np.isfinite(self.hops) & (self.hops <= period) & self.inner[:, None, None]
        costs = self.costs
        errors = np.zeros(costs.n + 1) if costs.errors is None else costs.errors
        return Network(arcs, hops, costs.max_slices, costs.slice_pins, errors, costs.goal.error_budget)

    def candidates(self, low: float, high: float) -> npt.NDArray[np.float64]:
        """The values above `low` and up to `high` that a plan's period can have, in order."""
        arcs = self.distinct[(self.distinct > low) & (self.distinct <= high)]
        some = np.isfinite(self.distinct).any(axis=0)
        hops = self.hops[self.inner & some.any(axis=0) & some.any(axis=1)]
        values: npt.NDArray[np.float64] = np.unique(np.concatenate([arcs, hops[(hops > low) & (hops <= high)]]))
        return values

    def period_of(self, plan: Segments) -> float:
        """The slowest stage or hop of a plan."""
        stages = max(float(self.tables[k][i, j]) for i, j, k in plan)
        hops = (float(self.hops[a[1], a[2], b[2]]) for a, b in pairwise(plan))
        return max([stages, *hops])


def decide(network: Network, budget: Budget, critical: list[int]) -> Verdict:
    """Whether `network` has a plan. `critical` are nodes to remember from the start; those found are appended."""
    least = least_slices(network)
    if least[0, -1] > network.max_slices:
        return Verdict(None, proved=True)
    levelled = bool(network.pins) or 3 * int(least[0, -1]) > 2 * network.max_slices
    try:
        while True:
            search = _Search(network, least, critical, levelled, budget)
            if not search.reached:
                return Verdict(None, proved=True)
            plan, exhausted = search.plan()
            if plan is not None or exhausted:
                return Verdict(plan, proved=plan is None)
            walk = search.walk()
            repeated = _repeated(walk)
            if repeated:
                critical += repeated
            elif len(walk) > network.max_slices:
                levelled = True
            else:
                within = errors_of(network, walk) <= network.error_budget
                return Verdict(walk if within else None, proved=False)
    except OutOfBudgetError:
        return Verdict(None, proved=False)


def errors_of(network: Network, plan: Segments) -> float:
    """The sum of the errors of a plan's cuts."""
    return sum(float(network.errors[i]) for i, _, _ in plan[1:])


def _repeated(walk: Segments) -> list[int]:
    """The nodes that come most often in a walk, if more than once."""
    counts: dict[int, int] = {}
    for _, _, node in walk:
        counts[node] = counts.get(node, 0) + 1
    return sorted((k for k, count in counts.items() if count > 1), key=lambda k: (-counts[k], k))[:AT_ONCE]


def least_slices(network: Network) -> npt.NDArray[np.int64]:
    """Row 0: the fewest slices from the beginning to each state; row 1: from each state to the end."""
    n = network.n
    some = network.arcs.any(axis=0)
    passes = network.hops.any(axis=(1, 2))
    passes[[0, n]] = True
    some = some & passes[:, None] & passes[None, :]
    far = 1 << 30
    least = np.full((2, n + 1), far, dtype=np.int64)
    least[0, 0] = least[1, n] = 0
    for s in range(1, n + 1):
        least[0, s] = 1 + np.where(some[:s, s], least[0, :s], far).min(initial=far)
    for s in range(n - 1, -1, -1):
        least[1, s] = 1 + np.where(some[s, s + 1 :], least[1, s + 1 :], far).min(initial=far)
    return least


class _Search:
    """Labels of one critical set: `starts[level, state, set]` and `ends[...]` are sets of nodes.

    Levels (slices so far) are told apart only where their number may bind: with pins, or when the fewest slices
    come near the most that there may be. With levels, the first that reaches the end is the last.
    """

    def __init__(
        self,
        network: Network,
        least: npt.NDArray[np.int64],
        critical: list[int],
        levelled: bool,
        budget: Budget,
    ) -> None:
        n, nodes = network.n, network.nodes
        self.network, self.least, self.critical = network, least, list(critical)
        self.levelled = levelled
        self.levels = network.max_slices if self.levelled else 1
        self.step = 1 if self.levelled else 0
        self.sets = 1 << len(critical)
        self.words = -(-nodes // 64)
        if 16 * (self.levels + 1) * (n + 1) * self.sets * self.words > TABLE_BYTES:
            raise OutOfBudgetError
        budget.spend(self.levels * (n + 1) * self.sets)
        self.arcs = pack(np.moveaxis(network.arcs, 0, -1))
        self.open = (least[0] + least[1] <= network.max_slices) & (least[0] < 1 << 30)
        self.before = [np.flatnonzero(network.arcs[:, :s, s].any(axis=0) & self.open[:s]) for s in range(n + 1)]
        self.bit = pack(np.eye(nodes, dtype=bool))
        self.free = self._not_critical()
        shape = (self.levels + self.step, n + 1, self.sets, self.words)
        self.starts = np.zeros(shape, dtype=np.uint64)
        self.ends = np.zeros(shape, dtype=np.uint64)
        self.spread: dict[int, Bits] = {}
        self.goals: tuple[int, npt.NDArray[np.intp]] | None = None
        self._sweep()

    @property
    def reached(self) -> bool:
        """Whether a walk leads to the end."""
        return self.goals is not None

    def _not_critical(self) -> Bits:
        """Per set, the nodes that may be entered with it: all but the critical ones in it."""
        numbers = np.arange(self.sets)
        free = np.ones((self.sets, self.network.nodes), dtype=bool)
        for place, node in enumerate(self.critical):
            free[:, node] = numbers >> place & 1 == 0
        return pack(free)

    def _sweep(self) -> None:
        n = self.network.n
        self.starts[0, 0, :1] = pack(np.ones((1, self.network.nodes), dtype=bool))
        self._enter(self.starts[0, 0], 0)
        for level in range(self.levels):
            after = level + self.step
            for s in range(1, n + 1):
                if not self.open[s] or (self.levelled and after + self.least[1, s] > self.network.max_slices):
                    continue
                ends = self._arrive(level, s, slice(None))
                self.ends[after, s] = ends
                if s < n and after < len(self.starts):
                    sets = np.flatnonzero(ends.any(axis=1))
                    if sets.size:
                        self.starts[after, s, sets] = self._hop(s, ends[sets])
                        self._enter(self.starts[after, s], after)
            if self.ends[after, n].any() and after > max(self.network.pins, default=-1):
                self.goals = after, np.flatnonzero(self.ends[after, n].any(axis=1))
                return

    def _arrive(self, level: int, s: int, sets: slice) -> Bits:
        """Where slices that end at state s are, per set."""
        before = self.before[s]
        moved: Bits = self.starts[level, before, sets] & self.arcs[before, s][:, None, :]
        return np.asarray(np.bitwise_or.reduce(moved, axis=0))

    def _hop(self, s: int, ends: Bits) -> Bits:
        """The nodes that can be reached over links from each row of nodes."""
        if s not in self.spread:
            # The union over the nodes of each byte, for each of its 256 values.
            rows = pack(self.network.hops[s])
            padded = np.zeros((self.words * 64, self.words), dtype=np.uint64)
            padded[: len(rows)] = rows
            table = np.zeros((self.words * 8, 256, self.words), dtype=np.uint64)
            for place in range(8):
                part = padded[place::8]
                table[:, 1 << place : 2 << place] = table[:, : 1 << place] | part[:, None, :]
            self.spread[s] = table
        octets = np.ascontiguousarray(ends).view(np.uint8)
        used = -(-self.network.nodes // 8)
        return np.asarray(np.bitwise_or.reduce(self.spread[s][np.arange(used), octets[:, :used]], axis=1))

    def _enter(self, starts: Bits, level: int) -> None:
        """Move labels on critical nodes to the sets that contain them."""
        starts &= self.free
        pins = self.network.pins
        if pins:
            allowed = (
                self.bit[pins[level]] if level in pins else ~np.bitwise_or.reduce(self.bit[list(pins.values())])
            )
            starts &= allowed
        for place, node in enumerate(self.critical):
            bit = self.bit[node]
            halves = starts.reshape(-1, 2, 1 << place, self.words)
            halves[:, 1] |= halves[:, 0] & bit
            halves[:, 0] &= ~bit

    def plan(self) -> tuple[Segments | None, bool]:
        """A walk without repeats, or whether all walks have been seen and none is one."""
        assert self.goals is not None
        level, sets = self.goals
        self._tries = WALKS
        for number in sets:
            for node in _members(self.ends[level, self.network.n, number]):
                found = self._back(level, self.network.n, int(number), node, 1 << node, 1, 0.0)
                if found is not None:
                    return found, False
                if self._tries <= 0:
                    return None, False
        return None, not self.levelled

    def _back(
        self, level: int, s: int, number: int, node: int, used: int, slices: int, error: float
    ) -> Segments | None:
        """The slices up to state s, the last of which is on `node`, without repeating a node."""
        self._tries -= 1
        if self._tries <= 0:
            return None
        word, bit = divmod(node, 64)
        level -= self.step
        before = self.before[s]
        hits = self.starts[level, before, number, word] & self.arcs[before, s, word]
        earlier = self._earlier(number, node)
        for i in before[np.flatnonzero(hits >> np.uint64(bit) & np.uint64(1))]:
            if i == 0:
                return [(0, s, node)]
            total = error + float(self.network.errors[i])
            if slices + self.least[0, i] > self.network.max_slices or total > self.network.error_budget:
                continue
            for other in _members(self.ends[level, i, earlier]):
                if used >> other & 1 or not self.network.hops[i, other, node]:
                    continue
                found = self._back(level, int(i), earlier, other, used | 1 << other, slices + 1, total)
                if found is not None:
                    return [*found, (int(i), s, node)]
                if self._tries <= 0:
                    return None
        return None

    def _earlier(self, number: int, node: int) -> int:
        return number & ~(1 << self.critical.index(node)) if node in self.critical else number

    def walk(self) -> Segments:
        """One walk to the end; it avoids repeats where it can."""
        assert self.goals is not None
        level, sets = self.goals
        number = int(sets[0])
        s, node = self.network.n, _members(self.ends[level, self.network.n, number])[0]
        seen = {node: 1}
        found: Segments = []
        while True:
            level -= self.step
            word, bit = divmod(node, 64)
            before = self.before[s]
            hits = self.starts[level, before, number, word] & self.arcs[before, s, word]
            i = int(before[np.flatnonzero(hits >> np.uint64(bit) & np.uint64(1))[0]])
            found.insert(0, (i, s, node))
            if i == 0:
                return found
            number = self._earlier(number, node)
            others = [k for k in _members(self.ends[level, i, number]) if self.network.hops[i, k, node]]
            node = min(others, key=lambda k: (seen.get(k, 0), k))
            seen[node] = seen.get(node, 0) + 1
            s = i


def _members(bits: Bits) -> list[int]:
    return [int(k) for k in np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little"))]
