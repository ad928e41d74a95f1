"""The least period over links between pairs of nodes: threshold search over stage and hop times (PURE).

The period of a plan is one of its stage times or hop times, so only these values are candidates; `routes.py`
decides each of them as far as its budget goes. Where it does not go far enough, `pairflow.py` and a beam search
close the gap between what is found and what is proved.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from coordinator.planner.answer import Bound, Method, NoPlanError, Split
from coordinator.planner.problem import Costs
from coordinator.planner.reach import Budget, Segments
from coordinator.planner.routes import Tables, Verdict, decide
from slicemq.errors import PlanError

LABELS = 200_000_000
"""How many (state, set) pairs one plan's label searches may look at."""
KEPT = 8
"""How many critical nodes are kept from one question for the next."""
QUESTION_LABELS = 20_000_000
"""How many of them one question may look at."""


def solve(costs: Costs, *, labels: int = LABELS, question: int = QUESTION_LABELS) -> Split:
    """The plan of the least period of `costs`, which has `hops` and one node per type.

    `labels` bounds the label searches together, `question` one of them. Raises NoPlanError when there is no plan or
    none was found, PlanError for an objective other than throughput.
    """
    if costs.hops is None or any(kind.count != 1 for kind in costs.types):
        raise PlanError("links between pairs of nodes: expected a rate for each pair, and types of one node each")
    if costs.goal.objective != "throughput":
        raise PlanError(f"objective {costs.goal.objective}: with links between pairs of nodes, expected throughput")
    if not costs.types or costs.n == 0:
        raise NoPlanError(proved=True)
    return _Search(costs, labels, question).run()


@dataclass
class _Bracket:
    """No plan is within `proved`; `plan` has the period `high`."""

    proved: float
    high: float
    plan: Segments


class _Search:
    def __init__(self, costs: Costs, labels: int, question: int) -> None:
        self.costs = costs
        self.tables = Tables(costs)
        self.budget = Budget(labels)
        self.question = question
        self.critical: list[int] = []

    def run(self) -> Split:
        first = self._ask(self.costs.goal.max_period)
        if first.plan is None:
            raise NoPlanError(first.proved)
        bracket = _Bracket(-np.inf, self.tables.period_of(first.plan), first.plan)
        exact = self._bisect(bracket)
        return self._result(bracket, exact)

    def _ask(self, period: float) -> Verdict:
        share = Budget(min(self.question, self.budget.left))
        before = share.left
        critical = list(self.critical)
        verdict = decide(self.tables.network(period), share, critical)
        self.budget.left -= before - max(share.left, 0)
        self.critical = critical[:KEPT]
        return verdict

    def _bisect(self, bracket: _Bracket) -> bool:
        """Narrow the bracket as far as the label search can; whether nothing is left between its ends."""
        values = self.tables.candidates(bracket.proved, bracket.high)
        # values[low] is proved to have no plan, values[high] has one, values[unsure] is not known.
        low, high = -1, len(values) - 1
        unsure = high
        while high - low > 1 and unsure - low > 1:
            middle = (low + min(high, unsure)) // 2
            verdict = self._ask(float(values[middle]))
            if verdict.plan is not None:
                bracket.plan, bracket.high = verdict.plan, self.tables.period_of(verdict.plan)
                high = int(np.searchsorted(values, bracket.high))
                unsure = min(unsure, high)
            elif verdict.proved:
                low = middle
            else:
                unsure = middle
        bracket.proved = float(values[low + 1]) if low + 1 <= high else bracket.high
        return low + 1 >= high

    def _result(self, bracket: _Bracket, exact: bool) -> Split:
        costs, plan = self.costs, bracket.plan
        period, lower = bracket.high, bracket.proved
        if costs.broker_rate is not None:
            period = max(period, sum(float(costs.relayed[i, j]) for i, j, _ in plan) / costs.broker_rate)
            exact = exact and period <= lower
        method: Method = "routes" if exact else "heuristic"
        return Split(
            segments=tuple((i, j) for i, j, _ in plan),
            nodes=tuple(costs.types[k].ids[0] for _, _, k in plan),
            period=period,
            latency=latency_of(costs, plan),
            lower_bound=min(lower, period),
            method=method,
            bounds=(Bound(min(lower, period), "routes"),),
        )


def latency_of(costs: Costs, plan: Segments) -> float:
    """Seconds that a frame takes through a plan: computing, the client's traffic, round trips, and the hops."""
    assert costs.hops is not None
    total = sum(float(costs.types[k].latency[i, j]) for i, j, k in plan)
    for (_, s, a), (_, _, b) in pairwise(plan):
        total += float(costs.hops.seconds(a, b)[s])
    return total
