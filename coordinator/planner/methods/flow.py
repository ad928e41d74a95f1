"""Lower bounds by a linear program over flows, and the integers that prove them (PURE).

A plan is a path of arcs from state 0 to state n. The program lets a plan be a fractional flow of one unit: at every
inner state as much ends as begins, the arcs on each type together are at most its nodes, and the rows for the
broker, the number of slices, the error budget and other limits hold (research on chains: Pinar, Tabak and Aykanat,
JPDC 68, 2008; the threshold form is in docs/explanation/planning.md). For a trial period the largest flow is asked
for: less than one means that there is no plan, and the program always has an optimum, so prices exist.

Arcs are generated as they are needed: with the prices of the rows, the cheapest path is found among *all* arcs;
where it costs less than one, its arcs and those of other cheap paths join the program. The distances of that path
search are potentials that hold for all arcs, generated or not, so every round gives a valid bound.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from coordinator.planner.answer import Duals
from coordinator.planner.methods import solver
from coordinator.planner.methods.certify import SCALE, Rows, bound_of, proves
from coordinator.planner.problem import Costs
from coordinator.planner.tables.segments import Table

ALL_AT_ONCE = 3_000
"""With so many arcs or fewer, all of them are in the program from the start."""
PER_TYPE = 24
"""The most arcs of one type that join the program in one round."""
ROUNDS = 60
NEAR = 1e-9
ENOUGH = 1e-7
"""A bound this near to the optimum of the generated arcs ends the search for more of them."""


@dataclass(frozen=True)
class Limit:
    """The sum of `tables[k][i, j]` over a plan's arcs is at most `most`."""

    tables: tuple[Table, ...]
    most: float


@dataclass(frozen=True)
class Arcs:
    """Arcs of the program: type, first and last state of each."""

    kinds: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.kinds)

    def of(self, chosen: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Arcs:
        """Some of them."""
        return Arcs(self.kinds[chosen], self.starts[chosen], self.ends[chosen])

    def values(self, tables: Sequence[Table]) -> Table:
        """The entry of each arc in its type's table."""
        found = np.empty(len(self))
        for kind in np.unique(self.kinds):
            mine = self.kinds == kind
            found[mine] = tables[kind][self.starts[mine], self.ends[mine]]
        return found


@dataclass(frozen=True)
class Prices:
    """What a unit of each row costs; a path's price is what its arcs take of the rows.

    `worth` is what one more unit of flow would gain: paths that cost less are worth generating.
    """

    kinds: Table
    broker: float = 0.0
    slices: float = 0.0
    error: float = 0.0
    limits: tuple[float, ...] = ()
    worth: float = math.inf


@dataclass
class Trial:
    """What the program says about one period.

    `flow` is the largest flow found, `feasible` whether it reaches one, `duals` the proof that there is no plan.
    Neither: not known (the time ran out, or the numbers are too close). `slowest` is the longest period of the
    arcs that the flow uses, `arcs` and `x` are that flow.
    """

    feasible: bool
    duals: Duals | None = None
    flow: float = 0.0
    slowest: float = math.inf
    arcs: Arcs | None = None
    x: Table | None = None
    prices: Prices | None = None


@dataclass
class Least:
    """The least sum of an aim over fractional plans: `bound` holds for all plans, `duals` prove it.

    `duals` is None where a limit that duals have no word for is part of the reason. `bound` is infinite when there
    is no fractional plan.
    """

    bound: float = -math.inf
    duals: Duals | None = None
    arcs: Arcs | None = None
    x: Table | None = None
    prices: Prices | None = None


@dataclass
class Flow:
    """The program for one problem; arcs that one question generated serve the next.

    `aim` has a table for each type (None: no aim, for `trial`). `deadline` is a time on `clock`.
    """

    costs: Costs
    limits: tuple[Limit, ...] = ()
    aim: tuple[Table, ...] | None = None
    deadline: float = math.inf
    clock: Callable[[], float] = time.process_time
    pool: Arcs = field(default_factory=lambda: Arcs(*(np.zeros(0, dtype=np.int64),) * 3))
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.rows = Rows.of(self.costs)
        self._periods = tuple(kind.period for kind in self.costs.types)
        self._noise = np.random.default_rng(0).random((self.costs.n + 1, self.costs.n + 1))
        self._counts = np.array([kind.count for kind in self.costs.types], dtype=np.float64)

    def allowed(self, kind: int, period: float) -> npt.NDArray[np.bool_]:
        """The arcs that a type may run within `period`, lossy cuts left out where no error is allowed."""
        table = self._periods[kind]
        mask: npt.NDArray[np.bool_] = (table <= period) & np.isfinite(table)
        if self.rows.lossless_only:
            mask &= (self.rows.errors == 0)[None, :]
        return mask

    def arcs(self, period: float) -> Arcs:
        """All arcs within `period`."""
        found = [np.nonzero(self.allowed(k, period)) for k in range(len(self._periods))]
        kinds = np.concatenate([np.full(len(i), k) for k, (i, _) in enumerate(found)])
        starts = np.concatenate([i for i, _ in found])
        return Arcs(kinds.astype(np.int64), starts, np.concatenate([j for _, j in found]))

    def count(self, period: float) -> int:
        """How many arcs there are within `period`."""
        return sum(int(np.count_nonzero(self.allowed(k, period))) for k in range(len(self._periods)))

    def trial(self, period: float) -> Trial:
        """Is there a fractional plan of `period`?"""
        begun = self._begin(period)
        known = Trial(feasible=False)
        for _ in range(ROUNDS):
            arcs = self._within(period)
            answer = self._solve(arcs, period, np.zeros(len(arcs)), 1.0)
            if answer is None:
                break
            value, x, prices = answer
            # The column behind the arcs is the flow.
            known = Trial(x[-1] >= 1 - NEAR, None, float(x[-1]), arcs=arcs, x=x[:-1], prices=prices)
            if known.feasible:
                used = arcs.of(x[:-1] > NEAR)
                known.slowest = float(used.values(self._periods).max(initial=0.0))
                break
            forward, backward, least = self._paths(prices, period)
            if forward[-1] > -value + NEAR:
                known.duals = self._proof(prices, forward, period)
                if known.duals is not None:
                    break
            if not self._generate(prices, period, forward, backward, least, prices.worth - NEAR):
                break
        self.seconds += self.clock() - begun
        return known

    def extend(self, duals: Duals, period: float, most: float) -> float:
        """The largest value, at most `most`, such that `duals` prove that no plan has a smaller period.

        They prove it for `period` already.
        """
        rows, costs = self.rows, self.costs
        gain = rows.gain(duals)
        events: list[tuple[float, int, float]] = []
        paid = np.zeros(len(costs.types))
        for k, table in enumerate(self._periods):
            known = table <= period
            paid[k] = max(0.0, float(gain[known].max(initial=0.0)))
            later = (table > period) & (table < most) & (gain > paid[k])
            events += [(float(p), k, float(g)) for p, g in zip(table[later], gain[later], strict=True)]
        room = rows.room(duals) - float(self._counts @ paid)
        value = most
        slope = duals.broker * (costs.broker_rate or 0.0)
        for at, k, price in sorted(events):
            more = max(0.0, price - paid[k]) * self._counts[k]
            if room - more - slope * at <= 0:
                value = at
                break
            room -= more
            paid[k] = max(paid[k], price)
        if slope > 0:
            value = min(value, room / slope * (1 - 1e-12))
        # `value` is in floating point; what is claimed has been verified.
        for claim in (value, period + (value - period) * (1 - 1e-9)):
            if claim > period and proves(costs, rows, duals, claim):
                return claim
        return period

    def least(self, period: float) -> Least:
        """The least aim of fractional plans within `period`; asks for an aim."""
        assert self.aim is not None
        begun = self._begin(period)
        finite = [float(t[self.allowed(k, period)].max(initial=0.0)) for k, t in enumerate(self.aim)]
        # No plan costs more than this, so flow pays wherever there is a plan.
        reward = 2.0 * max(max(finite, default=0.0), 1e-12) * max(1, self.costs.max_slices)
        known = Least()
        for _ in range(ROUNDS):
            arcs = self._within(period)
            answer = self._solve(arcs, period, arcs.values(self.aim), reward)
            if answer is None:
                break
            value, x, prices = answer
            forward, backward, least = self._paths(prices, period)
            if not np.isfinite(forward[-1]):
                return Least(bound=math.inf)
            bound = float(forward[-1]) - self._paid(prices, period)
            if bound > known.bound:
                known.bound = bound
                known.duals = None if any(prices.limits) else self._aim_proof(prices, forward, period)
            known.arcs, known.x, known.prices = arcs, x[:-1], prices
            if x[-1] >= 1 - NEAR and bound >= (value + reward) * (1 - ENOUGH):
                break
            if not self._generate(prices, period, forward, backward, least, prices.worth - NEAR * reward):
                break
        self.seconds += self.clock() - begun
        return known

    def program(self, arcs: Arcs, period: float, aim: Table, reward: float | None) -> solver.Program:
        """The rows over `arcs`, and a last column: the flow, from 0 to 1, which earns `reward`.

        Without a reward the flow is one.
        """
        m, n = len(arcs), self.costs.n
        every = np.arange(m)
        inner = arcs.ends < n
        entries = [
            (arcs.starts, every, np.ones(m)),
            (arcs.ends[inner], every[inner], -np.ones(int(inner.sum()))),
            (np.zeros(1, dtype=np.int64), np.array([m]), -np.ones(1)),
            (n + arcs.kinds, every, np.ones(m)),
        ]
        high = [np.zeros(n), self._counts]
        at = n + len(self._counts)
        for values, most in self._side_rows(arcs, period):
            entries.append((np.full(m, at), every, values))
            high.append(np.array([most]))
            at += 1
        low = np.concatenate([np.zeros(n), np.full(at - n, -np.inf)])
        if reward is None:
            entries.append((np.array([at]), np.array([m]), np.ones(1)))
            low, high = np.append(low, 1.0), [*high, np.ones(1)]
        return solver.Program(
            aim=np.append(aim, -(reward or 0.0)),
            rows=np.concatenate([r for r, _, _ in entries]).astype(np.int64),
            columns=np.concatenate([c for _, c, _ in entries]).astype(np.int64),
            values=np.concatenate([v for _, _, v in entries]),
            low=low,
            high=np.concatenate(high),
            upper=np.ones(m + 1),
        )

    def _side_rows(self, arcs: Arcs, period: float) -> list[tuple[Table, float]]:
        """Rows beside flow and types, each scaled to a limit of about one."""
        rows, found = self.rows, []
        if rows.broker_rate is not None and math.isfinite(period):
            most = max(period * rows.broker_rate, 1e-300)
            found.append((self.costs.relayed[arcs.starts, arcs.ends] / most, 1.0))
        if rows.slices_bind:
            found.append((np.ones(len(arcs)), float(self.costs.max_slices)))
        if rows.error_binds:
            found.append((rows.errors[arcs.ends] / rows.budget, 1.0))
        for limit in self.limits:
            scale = max(abs(limit.most), 1e-300)
            found.append((arcs.values(limit.tables) / scale, 1.0 if limit.most > 0 else 0.0))
        return found

    def _solve(self, arcs: Arcs, period: float, aim: Table, reward: float) -> tuple[float, Table, Prices] | None:
        left = self.deadline - self.clock()
        if left <= 0:
            return None
        program = self.program(arcs, period, aim / reward, 1.0)
        answer = solver.lp(program, None if math.isinf(left) else left)
        if answer is None:
            return None
        n, at = self.costs.n, self.costs.n + len(self._counts)
        prices = np.maximum(-answer.prices, 0.0) * reward
        side = list(prices[at:])
        rows = self.rows
        broker = slices = error = 0.0
        if rows.broker_rate is not None and math.isfinite(period):
            broker = side.pop(0) / max(period * rows.broker_rate, 1e-300)
        if rows.slices_bind:
            slices = side.pop(0)
        if rows.error_binds:
            error = side.pop(0) / rows.budget
        limits = tuple(price / max(abs(limit.most), 1e-300) for price, limit in zip(side, self.limits, strict=True))
        return (
            answer.value * reward,
            answer.x,
            Prices(
                prices[n:at], float(broker), float(slices), float(error), limits, float(answer.prices[0]) * reward
            ),
        )

    def _base(self, prices: Prices) -> Table:
        """What an arc costs by the rows that do not depend on its type."""
        base = np.full((self.costs.n + 1, self.costs.n + 1), prices.slices)
        if prices.broker:
            base += prices.broker * self.costs.relayed
        if prices.error:
            base += prices.error * self.rows.errors[None, :]
        return base

    def _own(self, kind: int, prices: Prices) -> Table | float:
        """What an arc costs by its type's rows."""
        own: Table | float = float(prices.kinds[kind])
        if self.aim is not None:
            own = own + self.aim[kind]
        for price, limit in zip(prices.limits, self.limits, strict=True):
            if price:
                own = own + price * limit.tables[kind]
        return own

    def _paths(self, prices: Prices, period: float) -> tuple[Table, Table, Table]:
        """Distances from state 0 and to state n by price, and what an arc costs without its type's part."""
        n, base = self.costs.n, self._base(prices)
        cheapest = np.full_like(base, np.inf)
        for k in range(len(self._counts)):
            np.minimum(cheapest, self._own(k, prices), out=cheapest, where=self.allowed(k, period))
        whole = cheapest + base
        forward, backward = np.full(n + 1, np.inf), np.full(n + 1, np.inf)
        forward[0] = backward[n] = 0.0
        for i in range(n):
            np.minimum(forward[i + 1 :], forward[i] + whole[i, i + 1 :], out=forward[i + 1 :])
        for j in range(n, 0, -1):
            np.minimum(backward[:j], backward[j] + whole[:j, j], out=backward[:j])
        return forward, backward, base

    def _paid(self, prices: Prices, period: float) -> float:
        """What all rows together cost at most."""
        rows, total = self.rows, float(prices.kinds @ self._counts)
        if prices.broker and rows.broker_rate is not None:
            total += prices.broker * period * rows.broker_rate
        total += prices.slices * self.costs.max_slices + prices.error * rows.budget
        return total + sum(price * limit.most for price, limit in zip(prices.limits, self.limits, strict=True))

    def _generate(
        self, prices: Prices, period: float, forward: Table, backward: Table, base: Table, below: float
    ) -> bool:
        """Arcs on paths that cost less than `below` join the pool; False when there is none that is not there.

        Of each type the cheapest, and of equally cheap ones some at random, so that no two types get the same; and
        for each pair of states the cheapest type's arc if it is on a cheapest path, so that whole paths are there.
        """
        through = forward[:, None] + base + backward[None, :]
        spread = max(below if math.isfinite(below) else float(forward[-1]), 1e-300) * 1e-3
        chosen: list[Arcs] = []
        best = np.full_like(base, np.inf)
        who = np.full(base.shape, -1)
        for k in range(len(self._counts)):
            allowed = self.allowed(k, period)
            noise = spread * np.modf(self._noise + 0.6180339887 * k)[0]
            cost = np.where(allowed, through + self._own(k, prices), np.inf)
            ranked = np.where(cost < below, cost + noise, np.inf)
            better = ranked < best
            best[better], who[better] = ranked[better], k
            ranked[self._there(k)] = np.inf
            places = np.flatnonzero(np.isfinite(ranked))
            if len(places) > PER_TYPE:
                places = places[np.argpartition(ranked.ravel()[places], PER_TYPE - 1)[:PER_TYPE]]
            if len(places):
                chosen.append(_arcs_at(np.full(len(places), k), places, base.shape))
        for axis in (0, 1):
            at = np.argmin(best, axis=axis)
            every = np.arange(len(at))
            places = np.ravel_multi_index((at, every) if axis == 0 else (every, at), base.shape)
            places = places[who.ravel()[places] >= 0]
            chosen.append(_arcs_at(who.ravel()[places], places, base.shape))
        return self._join(chosen)

    def _there(self, kind: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        mine = self.pool.kinds == kind
        return self.pool.starts[mine], self.pool.ends[mine]

    def _join(self, more: Sequence[Arcs]) -> bool:
        before = len(self.pool)
        width = self.costs.n + 1
        every = [self.pool, *more]
        codes = np.concatenate([(arcs.kinds * width + arcs.starts) * width + arcs.ends for arcs in every])
        codes = np.unique(codes)
        self.pool = Arcs(codes // (width * width), codes // width % width, codes % width)
        return len(self.pool) > before

    def _within(self, period: float) -> Arcs:
        return self.pool.of(self.pool.values(self._periods) <= period)

    def _begin(self, period: float) -> float:
        """Arcs to begin with: all, or those on cheap paths when every node costs the same."""
        begun = self.clock()
        if self.count(period) <= ALL_AT_ONCE:
            self._join([self.arcs(period)])
        elif not len(self._within(period)):
            share = float(1.0 / self._counts.sum())
            prices = Prices(np.full(len(self._counts), share), limits=(0.0,) * len(self.limits))
            forward, backward, base = self._paths(prices, period)
            self._generate(prices, period, forward, backward, base, math.inf)
        return begun

    def _proof(self, prices: Prices, forward: Table, period: float) -> Duals | None:
        """Integers that prove that there is no plan of `period`, verified; None when rounding destroys it."""
        if any(prices.limits):
            return None
        largest = max(1.0, float(forward[np.isfinite(forward)].max(initial=0.0)))
        duals = self.rows.whole(prices, forward, SCALE / largest, 0)
        return duals if proves(self.costs, self.rows, duals, period, closed=True) else None

    def _aim_proof(self, prices: Prices, forward: Table, period: float) -> Duals:
        finite = float(forward[np.isfinite(forward)].max(initial=0.0))
        # An aim that is 0 everywhere (no watts) is proved at any scale.
        scale = max(1, int(SCALE / (finite if finite > 1e-200 else 1.0)))
        return self.rows.whole(prices, forward, float(scale), scale)

    def proved(self, duals: Duals, period: float) -> float:
        """The bound on the aim that `duals` prove for plans within `period`."""
        assert self.aim is not None
        return bound_of(self.costs, self.rows, duals, period, self.aim)


def _arcs_at(kinds: npt.NDArray[np.int64], places: npt.NDArray[np.intp], shape: tuple[int, ...]) -> Arcs:
    starts, ends = np.unravel_index(places, shape)
    return Arcs(kinds.astype(np.int64), starts.astype(np.int64), ends.astype(np.int64))
