"""The least period bounds by the flow program, plans by the solver (PURE but for its clock).

Only periods of arcs are candidates (and, with a broker, what it needs for a plan's bytes). The flow program is
bisected over them: its bound is proved by integers. A plan near the bound is looked for in the program's solutions
(`dive.py`). Unless it meets the bound, the solver is asked for a plan at the bound; where there is none, the bound
rises by the solver's word, and longer periods are tried, ever further away, until one is found; the rest of the
time goes into halving what is between.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from coordinator.planner.answer import Bound, Duals, NoPlanError
from coordinator.planner.methods.certify import proves
from coordinator.planner.methods.dive import RAISES, dive
from coordinator.planner.methods.figures import figures, keeps
from coordinator.planner.methods.flow import Flow, Limit, Prices
from coordinator.planner.methods.guided import guided
from coordinator.planner.methods.improve import improve, settle
from coordinator.planner.methods.reach import Segments
from coordinator.planner.methods.whole import ask
from coordinator.planner.problem import Costs
from coordinator.planner.tables.segments import Table

EQUAL = 1e-9
"""Periods that differ by less than this share are the same."""
FINE = 1e-6
"""How finely periods that only the broker's rate sets are told apart."""
MOST_SEARCHED = 1 << 26
"""Exchanges are for problems in which (slices x states) squared is less."""
STEPS = ((8e-3, 0), (3e-2, RAISES), (2e-3, 0), (0.0, 0))
"""The shares by which the periods at which plans are looked for in the program's solutions are above the bound, and
how often each may be raised; those that may are for when there is no plan yet."""
DIVES = 0.6
"""The share of the time that is left that the search in the program's solutions may take."""
SLOWEST = 10.0
"""The most that other work on the machine is taken to slow the solver down."""
GRACE = 5.0
"""How many times longer the search goes on while it has no plan."""
FIRST_STEP = 5e-4
"""The share by which the first trial period is above the bound; each next one is four times as far away."""


@dataclass
class Found:
    """The best plan found, None when none was; `lower` holds for all plans, `bounds` are its proofs.

    `ended`: plan and bound meet. `by_rules`: the plan is of a search that rules guide, not the solver's.
    """

    segments: Segments | None
    lower: float
    bounds: list[Bound]
    ended: bool
    by_rules: bool


@dataclass
class Threshold:
    """The search for one problem, until `deadline` on `clock`. `limits` bound sums beside the period."""

    costs: Costs
    limits: tuple[Limit, ...]
    deadline: float
    clock: Callable[[], float] = time.process_time
    best: Segments | None = None
    lower: float = 0.0
    upper: float = math.inf
    bounds: list[Bound] = field(default_factory=list)
    top: float = math.inf
    prices: Prices | None = None
    by_rules: bool = False

    def __post_init__(self) -> None:
        begun = self.clock()
        self._begun = (begun, time.monotonic())
        self.given = max(0.0, self.deadline - begun)
        # The bound by duals leaves the goal's other limits aside: it has no words for them.
        free = without_max_nodes(self.costs)
        self.relaxed = Flow(free, deadline=begun + 0.6 * (self.deadline - begun), clock=self.clock)
        same = not self.limits and free is self.costs
        self.flow = self.relaxed if same else Flow(self.costs, self.limits, clock=self.clock)
        self.most = self.costs.goal.max_period

    def run(self, start: Segments | None = None) -> Found:
        """The best plan and its bound; raises NoPlanError when it is certain that there is none.

        `start` is a plan that is known.
        """
        if start is not None:
            self._take(start)
        top = self._bisect_bound()
        if self.best is None and top is None:
            raise NoPlanError(proved=True)
        self._whole_numbers()
        ended = self.best is not None and self.upper <= self.lower * (1 + EQUAL)
        return Found(self.best, self.lower, self.bounds, ended, self.by_rules)

    def certify(self, lower: float) -> Bound | None:
        """A proof by duals that no plan has a period below `lower`, if the flow program has one."""
        values = self._candidates(0.0, lower)
        if not len(values):
            return self._border(lower)
        trial = self.relaxed.trial(float(values[-1]))
        if trial.duals is None:
            return None
        reached = self.relaxed.extend(trial.duals, float(values[-1]), lower)
        return Bound(reached, "lp-duals", trial.duals)

    def _border(self, lower: float) -> Bound | None:
        """The proof for a bound below which there is no arc at all."""
        reached = np.where(np.arange(self.costs.n + 1) == 0, 0.0, np.inf)
        duals = self.relaxed.rows.whole(Prices(np.zeros(len(self.costs.types))), reached, 1.0, 0)
        return (
            Bound(lower, "lp-duals", duals) if proves(self.relaxed.costs, self.relaxed.rows, duals, lower) else None
        )

    def _candidates(self, low: float, high: float) -> Table:
        """The arcs' periods from `low` to below `high`, in order."""
        found = []
        for kind in self.costs.types:
            mask = (kind.period >= low) & (kind.period < high)
            found.append(kind.period[mask & (kind.period <= self.most) & np.isfinite(kind.period)])
        values: Table = np.unique(np.concatenate(found))
        return values

    def _bisect_bound(self) -> float | None:
        """Raise the bound to where the flow program has a solution: that period; None: it has none anywhere."""
        values = self._candidates(0.0, math.inf)
        if not len(values):
            return None
        high = min(self.upper, float(values[-1]))
        if self.costs.broker_rate is not None and math.isinf(self.upper):
            longest = float(self.costs.relayed.max()) * self.costs.max_slices / self.costs.broker_rate
            high = min(max(high, longest), self.most)
        self.top = high
        if self.best is None:
            trial = self.relaxed.trial(high)
            if trial.duals is not None:
                self._raise(high, trial.duals)
                return None
            if trial.feasible:
                high = min(high, trial.slowest)
        border = self._border(min(float(values[0]), high))
        if border is not None:
            self.lower, self.bounds = border.value, [border]
        while True:
            between = self._candidates(self.lower, high)
            if len(between):
                # Periods without a solution are told sooner than those with one.
                period = float(between[len(between) // 3])
            elif self.costs.broker_rate is not None and high > self.lower * (1 + FINE):
                period = (self.lower + high) / 2
            else:
                break
            trial = self.relaxed.trial(period)
            if trial.feasible:
                high = min(period, trial.slowest)
            elif trial.duals is not None:
                self.prices = trial.prices
                reached = self.relaxed.extend(trial.duals, period, high)
                # At least above `period` itself: that much is verified.
                self._raise(max(reached, math.nextafter(period, math.inf)), trial.duals)
            else:
                break
        return high

    def _raise(self, value: float, duals: Duals) -> None:
        if value > self.lower:
            self.lower = value
            self.bounds = [Bound(value, "lp-duals", duals)]

    def _asserted(self, value: float) -> None:
        """The solver says that no plan has a smaller period."""
        if value > self.lower * (1 + EQUAL):
            self.lower = value
            self.bounds = [b for b in self.bounds if b.proof == "lp-duals"] + [Bound(value, "branch-and-bound")]

    def _take(self, segments: Segments) -> bool:
        if not keeps(self.costs, segments):
            return False
        # Local search looks at the period only, and exchanges take long on large tables.
        plans = [segments]
        open_ = figures(self.costs, segments).period > self.lower * (1 + EQUAL)
        if open_ and not self.limits and self.costs.errors is None:
            small = len(segments) ** 2 * self.costs.n**2 < MOST_SEARCHED
            plans.append((improve if small else settle)(self.costs, segments))
        for plan in plans:
            period = figures(self.costs, plan).period
            if period < self.upper and keeps(self.costs, plan):
                self.best, self.upper = plan, period
        return True

    def _left(self) -> float:
        """What is left of the time; while there is no plan, more of it."""
        more = GRACE * self.given if self.best is None else 0.0
        return self.deadline + more - self.clock()

    def _slowness(self) -> float:
        """How much longer than on `clock` things take: the solver's limit is of wall time."""
        taken, wall = self.clock() - self._begun[0], time.monotonic() - self._begun[1]
        return min(max(wall / max(taken, 1e-3), 1.0), SLOWEST)

    def _try(self, period: float, share: float) -> bool | None:
        """Is there a plan of `period`? None: not known."""
        period = min(period, self.most)
        answer = ask(self.flow, period, None, self._left() * share * self._slowness())
        before = self.upper
        if answer.segments is not None and self._take(answer.segments):
            self.by_rules = self.by_rules and self.upper >= before
            return True
        if answer.ended and answer.segments is None and math.isinf(answer.bound):
            above = self._candidates(math.nextafter(period, math.inf), self.upper)
            following = float(above[0]) if len(above) else min(self.upper, max(period, self.top))
            self._asserted(following if self.costs.broker_rate is None else period)
            return False
        return None

    def _whole_numbers(self) -> None:
        step = 0.0
        self._dives()
        # Limits may leave no plan at any period.
        if self.best is None and self.flow is not self.relaxed and self._try(self.top, 0.4) is False:
            raise NoPlanError(proved=True)
        while self.best is None or self.upper > self.lower * (1 + EQUAL):
            if self._left() <= 0:
                return
            period = min(self.lower * (1 + step), self.top)
            if period >= self.upper:
                break
            known = self._try(period, 0.4)
            if known is None and self._rules(guided(self.relaxed, period, self.prices)):
                known = True
            if known:
                break
            if period >= self.top and self.best is None:
                if known is False:
                    raise NoPlanError(proved=True)
                return
            step = max(FIRST_STEP, 4 * step)
        self._halve()

    def _halve(self) -> None:
        """Close what is between bound and plan while the time lasts."""
        asked = -math.inf
        while self.upper > self.lower * (1 + EQUAL) and self._left() > 0:
            between = self._candidates(max(self.lower, asked), self.upper)
            if len(between):
                period = float(between[len(between) // 2])
            elif self.costs.broker_rate is not None and self.upper > self.lower * (1 + FINE):
                period = (max(self.lower, asked) + self.upper) / 2
                if period <= asked * (1 + FINE):
                    return
            else:
                return
            if self._try(period, 0.5) is not True:
                asked = math.nextafter(period, math.inf)

    def _dives(self) -> None:
        """Plans by `dive`, at periods a little above the bound, as long as plan and bound do not meet."""
        now = self.clock()
        until = now + DIVES * max(0.0, self.deadline - now)
        for step, raises in STEPS:
            now, period = self.clock(), self.lower * (1 + step)
            if self.limits or self.upper <= self.lower * (1 + EQUAL) or now >= until:
                return
            if period < self.upper and not (raises and self.best is not None):
                self._rules(dive(self.flow, period, (now + until) / 2, self.clock, raises))

    def _rules(self, found: Segments | None) -> bool:
        before = self.upper
        taken = found is not None and self._take(found)
        self.by_rules = self.by_rules or self.upper < before
        return taken


def without_max_nodes(costs: Costs) -> Costs:
    """The problem in which the number of slices is not limited by the goal's `max_nodes`."""
    if costs.goal.max_nodes is None or costs.max_slices > costs.goal.max_nodes:
        return costs
    return replace(costs, max_slices=min(costs.n, sum(kind.count for kind in costs.types)))


def limits_of(costs: Costs) -> tuple[Limit, ...]:
    """The goal's limits on latency and energy, as sums over arcs."""
    goal, found = costs.goal, []
    if math.isfinite(goal.max_latency):
        found.append(Limit(tuple(kind.latency for kind in costs.types), goal.max_latency))
    if math.isfinite(goal.max_energy):
        found.append(Limit(tuple(kind.energy for kind in costs.types), goal.max_energy))
    return tuple(found)
