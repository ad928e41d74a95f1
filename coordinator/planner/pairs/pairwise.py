"""The least period over links between pairs of nodes: threshold search over stage and hop times (PURE).

The period of a plan is one of its stage times or hop times, so only these values are candidates. Each question
"is there a plan of period P?" is asked three ways, the cheapest first: by a label search that remembers only the
nodes that come twice (`routes.py`); by the flow program, whose "no" has a proof in integers (`pairflow.py`); and by
a label search over exact sets of nodes within the program's prices (`pairlabels.py`). What none of them decides
within its budget is left as the gap between what is found and what is proved.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from coordinator.planner.answer import Bound, Method, NoPlanError, Split
from coordinator.planner.methods.reach import Budget, Segments
from coordinator.planner.pairs.pairflow import Columns, Flow, Walks, certificate, flow
from coordinator.planner.pairs.pairlabels import MOST_NODES, search
from coordinator.planner.pairs.pairlocal import Work, exchange
from coordinator.planner.pairs.routes import Network, Tables, Verdict, decide
from coordinator.planner.problem import Costs
from slicemq.errors import PlanError

LABELS = 150_000_000
"""How many (state, set) pairs one plan's searches with critical nodes may look at."""
QUESTION_LABELS = 12_000_000
"""How many of them one question may look at where all nodes have the same tables."""
UNLIKE_LABELS = 1_000_000
"""The same for nodes with tables of their own, where prices do better."""
KEPT = 8
"""How many critical nodes are kept from one question for the next."""
UNSURE = 3
"""After so many questions without an answer the search with critical nodes is given up."""
QUICK_LABELS = 100_000
"""How many labels the search within the prices of another question may look at."""
STAGES = ((60, (3_000, 30_000)), (60, (100_000,)))
"""How many rounds of the flow program one question may take, and how many labels per state the searches within its
prices keep, the cheapest first; what remains open after the first stage is asked again in the second."""
Stage = tuple[int, tuple[int, ...]]
DECIDING_ROUNDS = 120
"""How many rounds of the flow program one question about its bound may take."""
QUESTIONS = 16
"""How many questions the search within prices may ask, and a quarter as many with the widest searches."""
FURTHER = 5
"""How many more it may ask for plans alone, where a period could not be decided."""
STEPS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28)
"""Shares above the flow program's bound at which plans are looked for first."""
NEAR = 1e-3
"""A gap of this share is left open where questions have been hard; the flow program's bound may lack as much."""
TARGETS = (0.02, 0.005)
"""Shares below the best plan's period that are tried by exchanges."""
EXCHANGES = 1_500_000_000
"""How many table entries all exchanges of one plan may look at."""
FEWER_LABELS = 200_000
"""How many labels the search for a plan with fewer slices may look at."""


def solve(costs: Costs, *, labels: int = LABELS, questions: int = QUESTIONS, certify: bool | None = None) -> Split:
    """The plan of the least period of `costs`, which has `hops` and one node per type.

    `labels` and `questions` bound the work. `certify` asks for a bound that carries its proof beside the best one
    (None: unless all nodes have the same tables, where the flow program says little). Raises NoPlanError when there
    is no plan or none was found, PlanError for an objective other than throughput and for limits on latency or
    energy.
    """
    if costs.hops is None or any(kind.count != 1 for kind in costs.types):
        raise PlanError("links between pairs of nodes: expected a rate for each pair, and types of one node each")
    if costs.goal.objective != "throughput":
        raise PlanError(f"objective {costs.goal.objective}: with links between pairs of nodes, expected throughput")
    goal = costs.goal
    if math.isfinite(goal.max_latency) or math.isfinite(goal.max_energy):
        raise PlanError("limits with links between pairs of nodes: expected none on latency or energy")
    if goal.max_nodes is not None and goal.max_nodes < costs.max_slices:
        costs = replace(costs, max_slices=goal.max_nodes)
    if not costs.types or costs.n == 0:
        raise NoPlanError(proved=True)
    return _Search(costs, labels, questions, certify).run()


@dataclass
class _Bracket:
    """No plan has a period below `proved`; `plan` has the period `high`."""

    proved: float
    high: float
    plan: Segments
    bounds: list[Bound] = field(default_factory=list)

    @property
    def exact(self) -> bool:
        """Whether nothing is left between the two."""
        return self.high <= self.proved


class _Search:
    def __init__(self, costs: Costs, labels: int, questions: int, certify: bool | None) -> None:
        self.costs = costs
        self.tables = Tables(costs)
        self.certify = len(self.tables.distinct) > 1 if certify is None else certify
        self.budget = Budget(labels)
        self.questions = questions
        self.critical: list[int] = []
        nodes = len(costs.types)
        self.columns = Columns(nodes)
        self.prices = np.full(nodes, 1.0 / nodes)
        self.exchanges = Work(EXCHANGES)
        self.hard = False

    def run(self) -> Split:
        most = self.costs.goal.max_period
        first = self._ask(most)
        if first.plan is None and not first.proved:
            first = self._within_prices(most)
        if first.plan is None:
            raise NoPlanError(first.proved)
        bracket = _Bracket(-np.inf, self.tables.period_of(first.plan), first.plan)
        self._bisect(bracket)
        if self.certify or not bracket.exact:
            self._close(bracket)
        return self._result(bracket)

    def _ask(self, period: float) -> Verdict:
        most = QUESTION_LABELS if len(self.tables.distinct) == 1 else UNLIKE_LABELS
        share = Budget(max(0, min(most, self.budget.left)))
        before = share.left
        critical = list(self.critical)
        verdict = decide(self.tables.network(period), share, critical)
        self.budget.left -= before - max(share.left, 0)
        self.critical = critical[:KEPT]
        return verdict

    def _bisect(self, bracket: _Bracket) -> None:
        """Narrow the bracket as far as the search with critical nodes can."""
        values = self.tables.candidates(bracket.proved, bracket.high)
        # No plan is within values[low], one has values[high]; at values[unsure] nothing is known.
        low, high = -1, len(values) - 1
        unsure, left = high, UNSURE
        while min(high, unsure) - low > 1 and left:
            middle = (low + min(high, unsure)) // 2
            verdict = self._ask(float(values[middle]))
            if verdict.plan is not None:
                high = self._found(bracket, verdict.plan, values)
            elif verdict.proved:
                low = middle
            else:
                unsure, left = middle, left - 1
        bracket.proved = float(values[low + 1]) if low + 1 < len(values) else bracket.high
        bracket.bounds.append(Bound(bracket.proved, "routes"))

    def _found(self, bracket: _Bracket, plan: Segments, values: npt.NDArray[np.float64]) -> int:
        """The place in `values` of the least period that has a plan, now that there is `plan`."""
        period = self.tables.period_of(plan)
        if period < bracket.high:
            bracket.plan, bracket.high = plan, period
        return int(np.searchsorted(values, bracket.high))

    def _close(self, bracket: _Bracket) -> None:
        """Prove with duals what they can, and answer what is open by searches within the program's prices."""
        values = self.tables.candidates(-np.inf, bracket.high)
        low, high = self._certified(bracket, values), len(values) - 1
        low = max(low, int(np.searchsorted(values, bracket.proved)) - 1)
        floor = float(values[min(low + 1, high)])
        steps = [floor * (1 + step) for step in STEPS]
        questions, further = self.questions, FURTHER
        for stage in STAGES:
            low, high, unsure = self._narrow(bracket, values, (low, high), steps, questions, stage)
            low = max(low, self._improve(bracket, values, unsure, high, further, stage))
            high = int(np.searchsorted(values, bracket.high))
            if not self._near(values, low, high):
                high = self._found(bracket, self._exchanged(bracket.plan, float(values[low + 1])), values)
            if self._near(values, low, high) or len(self.tables.same) > MOST_NODES:
                break
            questions, further, steps = -(-questions // 4), -(-further // 2), []
        proved = float(values[min(low + 1, len(values) - 1)])
        if proved > bracket.proved:
            bracket.proved = proved
            bracket.bounds.append(Bound(proved, "routes"))

    def _near(self, values: npt.NDArray[np.float64], low: int, high: int) -> bool:
        """Whether nothing is left between the places, or too little to go on where questions have been hard."""
        if high - low <= 1:
            return True
        return self.hard and float(values[high]) <= float(values[low + 1]) * (1 + NEAR)

    def _narrow(
        self,
        bracket: _Bracket,
        values: npt.NDArray[np.float64],
        places: tuple[int, int],
        steps: list[float],
        questions: int,
        stage: Stage,
    ) -> tuple[int, int, int]:
        """The last place without a plan, the first with one, and the first that could not be decided."""
        low, high = places
        unsure = high
        for _ in range(questions):
            top = min(high, unsure)
            if self._near(values, low, top):
                break
            middle = _between(values, low, top)
            while steps:
                # From the program's bound upwards first: it is near, and questions far above it are the long ones.
                place = int(np.searchsorted(values, steps.pop(0)))
                if low < place < top:
                    middle = place
                    break
            verdict = self._within_prices(float(values[middle]), stage)
            if verdict.plan is not None:
                steps.clear()
                high = self._found(bracket, verdict.plan, values)
            elif verdict.proved:
                low = middle
            else:
                unsure = middle
        return low, high, unsure

    def _improve(
        self,
        bracket: _Bracket,
        values: npt.NDArray[np.float64],
        unsure: int,
        high: int,
        questions: int,
        stage: Stage,
    ) -> int:
        """Look for plans between a period that could not be decided and the best plan's; the last proved place."""
        proved = -1
        for _ in range(questions):
            if self._near(values, unsure, high):
                break
            middle = _between(values, unsure, high)
            verdict = self._within_prices(float(values[middle]), stage)
            if verdict.plan is not None:
                high = self._found(bracket, verdict.plan, values)
                continue
            unsure = middle
            proved = middle if verdict.proved else proved
        return proved

    def _exchanged(self, plan: Segments, floor: float) -> Segments:
        """The plan, or a better one by exchanges; none is looked for below `floor`."""
        while self.exchanges.left > 0:
            period = self.tables.period_of(plan)
            targets = [period * (1 - share) for share in TARGETS if period * (1 - share) >= floor]
            tries = (exchange(self.tables, plan, target, self.exchanges) for target in targets)
            better = next((found for found in tries if found is not None), None)
            if better is None:
                break
            plan = better
        return plan

    def _certified(self, bracket: _Bracket, values: npt.NDArray[np.float64]) -> int:
        """The last place of `values` that the flow program proves to have no plan, -1 for none."""
        low, high, best = -1, len(values) - 1, None
        middle = _between(values, int(np.searchsorted(values, bracket.proved)) - 1, high)
        while high - low > 1 and (low < 0 or float(values[high]) > float(values[low + 1]) * (1 + NEAR)):
            network, found = self._flow(float(values[middle]), decide_only=True, rounds=DECIDING_ROUNDS)
            if found.impossible:
                low, best = middle, (network, found)
            else:
                high = middle
            middle = _between(values, low, high)
        if best is not None:
            duals = certificate(best[0], best[1].prices)
            if duals is None:
                return -1
            # A little below the next candidate, so that rounding does not bring in what takes just as long.
            value = max(float(values[low]), float(values[low + 1]) * (1 - 1e-9))
            bracket.bounds.insert(0, Bound(value, "lp-duals", duals))
        return low

    def _flow(self, period: float, decide_only: bool, rounds: int) -> tuple[Network, Flow]:
        network = self.tables.network(period)
        found = flow(network, period, self.tables, self.columns, self.prices, decide_only, rounds)
        if found.prices.any():
            self.prices = found.prices
        return network, found

    def _within_prices(self, period: float, stage: Stage = STAGES[0]) -> Verdict:
        """A plan, or a proof that there is none, by exact sets of nodes, of which each search keeps so many."""
        network = self.tables.network(period)
        walks = Walks(network)
        verdict = search(network, walks, self.prices, Budget(QUICK_LABELS))
        if verdict.plan is not None or verdict.proved:
            return verdict
        if stage is not STAGES[0]:
            # Prices that do not come from another period's walks leave other labels: what was hard may be easy.
            self.columns = Columns(network.nodes)
            self.prices = np.full(network.nodes, 1.0 / network.nodes)
        _, found = self._flow(period, decide_only=False, rounds=stage[0])
        if found.impossible:
            return Verdict(None, proved=True)
        for width in stage[1]:
            verdict = self._beam(network, walks, found, width)
            if verdict.plan is not None or verdict.proved:
                return verdict
            self.hard = True
        return verdict

    def _beam(self, network: Network, walks: Walks, found: Flow, width: int) -> Verdict:
        chosen = np.sort(np.argsort(-found.use, kind="stable")[:MOST_NODES])
        if network.nodes <= MOST_NODES or network.pins:
            return search(network, walks, found.prices, Budget(1 << 60), width)
        part = replace(network, arcs=network.arcs[chosen], hops=network.hops[:, chosen][:, :, chosen])
        verdict = search(part, Walks(part), found.prices[chosen], Budget(1 << 60), width)
        if verdict.plan is None:
            return Verdict(None, proved=False)
        return Verdict([(i, j, int(chosen[k])) for i, j, k in verdict.plan], proved=False)

    def _fewest(self, bracket: _Bracket) -> Segments:
        """Of the plans within the goal's share of the best, one with fewer slices where one is soon found."""
        plan = bracket.plan
        network = self.tables.network(min(bracket.high * (1 + self.costs.goal.within), self.costs.goal.max_period))
        while len(plan) > 1:
            fewer = replace(network, max_slices=len(plan) - 1)
            verdict = decide(fewer, Budget(FEWER_LABELS), list(self.critical[:2]))
            if verdict.plan is None:
                break
            plan = verdict.plan
        return plan

    def _result(self, bracket: _Bracket) -> Split:
        costs, lower = self.costs, bracket.proved
        exact = bracket.exact
        plan = self._fewest(bracket)
        period = self.tables.period_of(plan)
        if costs.broker_rate is not None:
            period = max(period, sum(float(costs.relayed[i, j]) for i, j, _ in plan) / costs.broker_rate)
            exact = exact and period <= max(lower, bracket.high * (1 + costs.goal.within))
        method: Method = "routes" if exact else "heuristic"
        bounds = [bound for bound in bracket.bounds if bound.value > 0]
        return Split(
            segments=tuple((i, j) for i, j, _ in plan),
            nodes=tuple(costs.types[k].ids[0] for _, _, k in plan),
            period=period,
            latency=latency_of(costs, plan),
            lower_bound=min(lower, period),
            method=method,
            bounds=tuple(sorted(bounds, key=lambda bound: bound.value)),
        )


def _between(values: npt.NDArray[np.float64], low: int, high: int) -> int:
    """A place between two: halfway by values where both are known and positive, else by number."""
    middle = (low + high) // 2
    if low >= 0 and values[low] > 0:
        middle = int(np.searchsorted(values, math.sqrt(float(values[low]) * float(values[high]))))
    return min(max(middle, low + 1), high - 1)


def latency_of(costs: Costs, plan: Segments) -> float:
    """Seconds that a frame takes through a plan: computing, the client's traffic, round trips, and the hops."""
    assert costs.hops is not None
    total = sum(costs.types[k].latency_of(i, j) for i, j, k in plan)
    for (_, s, a), (_, _, b) in pairwise(plan):
        total += float(costs.hops.seconds(a, b)[s])
    return total
