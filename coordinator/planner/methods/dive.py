"""Plans of large problems, taken arc by arc from the flow program's solutions (PURE but for its clock).

The flow program is solved, the arcs that carry most of its flow become stages, and what is left is a smaller
problem of the same kind: fewer nodes, and a state fewer wherever a stage was taken, since its two ends become one.
Arcs are generated anew in each of them. Where the rest has no fractional plan, the last stages are given back and
one of them is forbidden; after some such steps the period is raised. A rest that is small goes to the solver whole.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from coordinator.planner.methods.flow import Arcs, Flow, Trial
from coordinator.planner.methods.reach import Segments
from coordinator.planner.methods.whole import ask
from coordinator.planner.problem import Costs

SURE = 0.9
"""Arcs that carry at least so much of the flow are taken together."""
SOME = 0.03
"""The least share of the stages that are taken at a time, where arcs carry more than half of the flow."""
SMALL = 4_000
"""A rest with so many arcs or fewer is asked whole."""
WHOLE_SHARE = 0.15
"""The share of the time that one such question may take."""
BACK = 12
"""How often stages are given back where the rest has no fractional plan, each time one step more."""
RAISE = 1.01
RAISES = 6
"""How often the period is raised, each time by twice as much as the last, until it is given up."""


@dataclass(frozen=True)
class Rest:
    """What is left of a problem; of its tables only those are cut that the flow program looks at.

    `enters[s]` and `leaves[s]` are the whole problem's states at which arcs of state s end and begin, `types` the
    whole problem's types.
    """

    costs: Costs
    enters: npt.NDArray[np.int64]
    leaves: npt.NDArray[np.int64]
    types: npt.NDArray[np.int64]

    @classmethod
    def of(cls, costs: Costs) -> Rest:
        """The whole problem."""
        every = np.arange(costs.n + 1)
        return cls(costs, every, every, np.arange(len(costs.types)))

    def original(self, segments: Segments) -> Segments:
        """Stages in the whole problem's numbers."""
        return [(int(self.leaves[i]), int(self.enters[j]), int(self.types[k])) for i, j, k in segments]

    def forbidding(self, stage: tuple[int, int, int]) -> Rest:
        """The same without one arc."""
        i, j, k = stage
        period = self.costs.types[k].period.copy()
        period[i, j] = np.inf
        types = list(self.costs.types)
        types[k] = replace(types[k], period=period)
        return replace(self, costs=replace(self.costs, types=tuple(types)))

    def without(self, segments: Segments, pool: Arcs) -> tuple[Rest, Arcs]:
        """What is left after these stages, and which of the arcs of `pool` are left.

        The stages may not be a whole plan.
        """
        costs, n = self.costs, self.costs.n
        inside = np.zeros(n + 1, dtype=bool)
        follows, crossed = np.arange(n + 1), np.zeros(n + 1, dtype=np.int64)
        for i, j, _ in segments:
            inside[i + 1 : j + 1] = True
            crossed[i + 1 :] += 1
        # A stage's two ends are one state, where arcs end at the first and begin at the last of a run of stages.
        for i, j, _ in sorted(segments, reverse=True):
            follows[i] = follows[j]
        first = np.flatnonzero(~inside)
        last = follows[first]
        used = np.bincount([k for _, _, k in segments], minlength=len(costs.types))
        left = np.array([kind.count for kind in costs.types]) - used
        kept = np.flatnonzero(left > 0)
        cut = np.ix_(last, first)
        # An arc that passes over a stage is out: as many stages lie before its end as before its begin.
        apart = crossed[last][:, None] != crossed[first][None, :]
        types = tuple(
            replace(
                costs.types[k],
                ids=costs.types[k].ids[used[k] :],
                period=np.where(apart, np.inf, costs.types[k].period[cut]),
            )
            for k in kept
        )
        lost = 0.0 if costs.errors is None else sum(float(costs.errors[j]) for _, j, _ in segments if j < n)
        smaller = replace(
            costs,
            n=len(first) - 1,
            types=types,
            relayed=costs.relayed[cut],
            max_slices=costs.max_slices - len(segments),
            errors=None if costs.errors is None else costs.errors[first],
            goal=replace(costs.goal, error_budget=max(0.0, costs.goal.error_budget - lost)),
            states=(),
        )
        begins, ends, kinds = (np.full(size, -1) for size in (n + 1, n + 1, len(costs.types)))
        begins[last], ends[first], kinds[kept] = np.arange(len(first)), np.arange(len(first)), np.arange(len(kept))
        arcs = Arcs(kinds[pool.kinds], begins[pool.starts], ends[pool.ends])
        arcs = arcs.of((arcs.kinds >= 0) & (arcs.starts >= 0) & (arcs.ends > arcs.starts))
        rest = Rest(smaller, self.enters[first], self.leaves[last], self.types[kept])
        return rest, arcs.of(np.isfinite(arcs.values([kind.period for kind in types])))


def dive(
    flow: Flow,
    period: float,
    deadline: float,
    clock: Callable[[], float] = time.process_time,
    most_raises: int = RAISES,
) -> Segments | None:
    """A plan of about `period`, longer where that has none; None: none was found before `deadline` on `clock`.

    Of the limits, nodes, slices and errors are kept; the broker's is looked at without the stages that are taken.
    """
    rest, pool, raises, failures = Rest.of(flow.costs), flow.pool, 0, 0
    taken: list[Segments] = []
    before: list[tuple[Rest, Arcs, Segments]] = []
    given = deadline - clock()
    while clock() < deadline:
        smaller = Flow(rest.costs, deadline=deadline, clock=clock, pool=pool)
        trial = smaller.trial(period)
        found: Segments | None = None
        if trial.feasible:
            found = stages(trial)
            if not found or smaller.count(period) <= SMALL:
                found = ask(smaller, period, None, WHOLE_SHARE * given).segments or found
        if not found:
            if before and failures < BACK:
                failures += 1
                for _ in range(min(failures, len(before))):
                    rest, pool, found = before.pop()
                    taken.pop()
                assert found
                rest = rest.forbidding(found[-1])
                pool = pool.of(np.isfinite(pool.values([kind.period for kind in rest.costs.types])))
                continue
            if raises == most_raises:
                return None
            period *= 1 + (RAISE - 1) * 2**raises
            raises += 1
            continue
        taken.append(rest.original(found))
        # All that is left is one state.
        if sum(j - i for i, j, _ in found) == rest.costs.n:
            return sorted(stage for some in taken for stage in some)
        if rest.costs.max_slices <= len(found) or len(found) >= sum(kind.count for kind in rest.costs.types):
            return None
        before.append((rest, smaller.pool, found))
        rest, pool = rest.without(found, smaller.pool)
    return None


def stages(trial: Trial) -> Segments:
    """The arcs of a flow that become stages: those that carry nearly all of it, and some of those that carry most.

    When none carries more than half, the one that carries most. The surest come first.
    """
    if trial.arcs is None or trial.x is None or not len(trial.arcs):
        return []
    order = np.argsort(-trial.x, kind="stable")
    x = trial.x[order]
    # Of arcs that carry more than half no two cross, and no type has more of them than nodes.
    most = int((x > 0.5 + 1e-6).sum())
    sure = int((x >= SURE).sum())
    chosen = order[: max(1, min(most, max(sure, math.ceil(SOME * max(1.0, float(x.sum()))))))]
    arcs = trial.arcs.of(chosen)
    return list(zip(arcs.starts.tolist(), arcs.ends.tolist(), arcs.kinds.tolist(), strict=True))
