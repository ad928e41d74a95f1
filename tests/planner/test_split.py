"""The split against an oracle that tries every plan."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from coordinator.planner.answer import NoPlanError, Split
from coordinator.planner.cost import build_costs
from coordinator.planner.methods.split import TOLERANCE, split
from coordinator.planner.model import Fleet, NodeSpec, PlanOptions
from coordinator.planner.tables.memory import segment_memory
from tests.planner.instances import Oracle, random_fleet, random_graph, random_profile, weights_memory


class Case:
    """A random instance, and every plan of it: (period, slices, latency, cuts, node ids)."""

    def __init__(self, seed: int, *, binding: bool, broker: bool = False, pinned: bool = False) -> None:
        rng = random.Random(seed)
        self.rng = rng
        self.graph = random_graph(rng, rng.randint(1, 7))
        self.profile = random_profile(rng, self.graph)
        n = len(self.graph.steps)
        whole = weights_memory(self.graph, list(self.graph.steps))
        nodes = rng.randint(1, 4)
        self.fleet = random_fleet(
            rng,
            nodes,
            whole // rng.randint(1, nodes) if binding else 10 * whole + 1,
            rng.choice((2e5, 1e6, 5e6, 2e7)) if broker else None,
        )
        pins: dict[str, str] = {}
        exclude: frozenset[str] = frozenset()
        if pinned:
            chosen = [node.id for node in self.fleet.nodes]
            rng.shuffle(chosen)
            if len(chosen) > 1 and rng.random() < 0.3:
                exclude = frozenset({chosen.pop()})
            for _ in range(rng.randint(1, len(chosen))):
                if rng.random() < 0.5:
                    pins[f"s{rng.randrange(min(n, len(chosen)))}"] = rng.choice(chosen)
                else:
                    first = rng.randrange(n)
                    last = min(n - 1, first + rng.randint(0, 2))
                    pins[f"{self.graph.steps[first]}-{self.graph.steps[last]}"] = rng.choice(chosen)
        self.options = PlanOptions(
            pins=pins, exclude=exclude, max_slices=rng.choice((None, 1, 2, 3)) if pinned else None
        )
        self.oracle = Oracle(self.graph, self.profile, self.options.overheads)
        self.memory = {
            (i, j): weights_memory(self.graph, list(self.graph.steps[i:j]))
            for i, j in itertools.combinations(range(n + 1), 2)
        }

    def solve(self, **limits: int) -> Split | None:
        costs = build_costs(
            self.graph, self.profile, self.fleet, segment_memory(self.graph, weights_memory), self.options
        )
        try:
            return split(costs, **limits)
        except NoPlanError as error:
            if not error.proved:
                raise
            return None

    def suits(self, cuts: tuple[int, ...], nodes: tuple[NodeSpec, ...]) -> bool:
        options = self.options
        if len(nodes) > (options.max_slices or len(nodes)) or any(node.id in options.exclude for node in nodes):
            return False
        for number, (i, j) in enumerate(itertools.pairwise(cuts)):
            if self.memory[i, j] > nodes[number].memory:
                return False
        for key, wanted in options.pins.items():
            if key.startswith("s"):
                if int(key[1:]) >= len(nodes) or nodes[int(key[1:])].id != wanted:
                    return False
                continue
            first, last = map(int, key.split("-"))
            for number, (i, j) in enumerate(itertools.pairwise(cuts)):
                inside = any(first <= operator <= last for operator in self.graph.steps[i:j])
                if inside and nodes[number].id != wanted:
                    return False
        return True

    def figures(self, cuts: tuple[int, ...], nodes: tuple[NodeSpec, ...]) -> tuple[float, float]:
        period = latency = relayed = 0.0
        for node, (i, j) in zip(nodes, itertools.pairwise(cuts), strict=True):
            compute, down, up, bytes_ = self.oracle.times(i, j, node)
            period = max(period, compute, down, up)
            latency += compute + down + up + node.rtt
            relayed += bytes_
        return max(period, relayed / (self.fleet.broker_rate or math.inf)), latency

    def all_plans(self) -> list[tuple[float, int, float]]:
        return [
            (self.figures(cuts, nodes)[0], len(nodes), self.figures(cuts, nodes)[1])
            for cuts, nodes in self.oracle.plans(self.fleet)
            if self.suits(cuts, nodes)
        ]

    def check_is_a_plan(self, found: Split) -> None:
        by_id = {node.id: node for node in self.fleet.nodes}
        cuts = (0, *(j for _, j in found.segments))
        nodes = tuple(by_id[node] for node in found.nodes)
        assert [i for i, _ in found.segments] == list(cuts[:-1])
        assert cuts[-1] == len(self.graph.steps)
        assert len(set(found.nodes)) == len(found.nodes)
        assert self.suits(cuts, nodes)
        period, latency = self.figures(cuts, nodes)
        assert found.period == pytest.approx(period, rel=1e-9)
        assert found.latency == pytest.approx(latency, rel=1e-9)


def check(case: Case, ties: bool = True) -> bool:
    plans = case.all_plans()
    found = case.solve()
    if not plans:
        assert found is None
        return False
    assert found is not None
    case.check_is_a_plan(found)
    best = min(plans)[0]
    assert found.method == "exact-counts"
    assert found.lower_bound == pytest.approx(best, rel=1e-9)
    assert found.period <= best * (1 + TOLERANCE) * (1 + 1e-9)
    close = [plan for plan in plans if plan[0] <= best * (1 + TOLERANCE) * (1 - 1e-9)]
    fewest = min(slices for _, slices, _ in close)
    assert len(found.nodes) <= fewest
    if ties and len(found.nodes) == fewest:
        assert found.latency <= min(plan[2] for plan in close if plan[1] == fewest) * (1 + 1e-9)
    return True


@pytest.mark.parametrize("binding", [False, True], ids=["memory plenty", "memory binding"])
def test_best_period_fewest_nodes_least_latency(binding: bool) -> None:
    solved = [check(Case(seed, binding=binding)) for seed in range(300)]
    assert sum(solved) > 150
    assert not binding or not all(solved)


def test_with_a_broker_that_limits() -> None:
    limited = 0
    for seed in range(1000, 1150):
        case = Case(seed, binding=seed % 2 == 0, broker=True)
        if check(case, ties=False):
            found = case.solve()
            free = Case(seed, binding=seed % 2 == 0, broker=True)
            free.fleet = Fleet(free.fleet.nodes)
            without = free.solve()
            assert found is not None
            assert without is not None
            limited += found.lower_bound > without.lower_bound * (1 + 1e-9)
    assert limited > 20


def test_pins_exclusions_and_a_limit_on_slices() -> None:
    solved = 0
    for seed in range(2000, 2250):
        case = Case(seed, binding=seed % 3 == 0, pinned=True)
        numbers = [int(key[1:]) for key in case.options.pins if key.startswith("s")]
        assert len(set(numbers)) == len(numbers)
        solved += check(case)
    assert solved > 50


def test_merged_nodes_give_a_plan_and_a_bound_that_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.planner.methods.split.EXACT_STATES", 1)
    monkeypatch.setattr("coordinator.planner.methods.split.MERGED_STATES", 5)
    heuristic = loose = 0
    for seed in range(300):
        case = Case(seed, binding=False, broker=seed % 5 == 0)
        found = case.solve()
        best = min(case.all_plans())[0]
        assert found is not None
        case.check_is_a_plan(found)
        assert found.lower_bound <= best * (1 + 1e-9)
        assert found.period >= best * (1 - 1e-9)
        if found.method == "exact-counts":
            assert found.lower_bound == pytest.approx(best, rel=1e-9)
        else:
            heuristic += 1
            loose += found.lower_bound < best * (1 - 1e-6)
    assert heuristic > 50
    assert loose > 5


def test_a_small_allowance_of_states_still_gives_a_plan() -> None:
    for seed in range(100):
        case = Case(seed, binding=False)
        found = case.solve(total_states=3)
        assert found is not None
        case.check_is_a_plan(found)
        assert found.lower_bound <= min(case.all_plans())[0] * (1 + 1e-9)
