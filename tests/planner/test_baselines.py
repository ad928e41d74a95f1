"""The baselines: plans that fit, never better than the best, the same for a seed, and what their papers say."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from coordinator.planner.answer import NoPlanError, Split
from coordinator.planner.baselines import BASELINES
from coordinator.planner.baselines.common import judged
from coordinator.planner.baselines.counted import least_bottleneck, steps_of_counts
from coordinator.planner.baselines.greedy import greedy, walk
from coordinator.planner.baselines.min_sum import least_sum
from coordinator.planner.baselines.random_cuts import random_plan
from coordinator.planner.baselines.seifer import classes_of, colourful_path, runs_of, seifer
from coordinator.planner.cost import build_costs
from coordinator.planner.goal import Goal
from coordinator.planner.methods.split import split
from coordinator.planner.model import NodeSpec, Planner, PlanOptions
from coordinator.planner.problem import Costs, Hops, NodeType, State
from coordinator.planner.tables.memory import memory_by_runtime
from coordinator.planner.tables.segments import Table
from tests.planner.instances import random_fleet, random_graph, random_profile, weights_memory

SEEDS = range(60)


def star(seed: int, brokers: bool = False) -> Costs:
    rng = random.Random(seed)
    graph = random_graph(rng, rng.randint(2, 6))
    total = weights_memory(graph, graph.steps)
    broker = rng.choice((None, None, 1e6)) if brokers else None
    fleet = random_fleet(rng, rng.randint(1, 4), int(total * rng.choice((0.4, 0.7, 3.0))), broker)
    memory = memory_by_runtime(graph, fleet.nodes, weights_memory)
    return build_costs(graph, random_profile(rng, graph), fleet, memory, PlanOptions())


def pairwise(seed: int, states: tuple[State, ...] = (), errors: Table | None = None) -> Costs:
    """A chain (or the given states) with links between pairs; a node may run about two arcs of three."""
    rng = np.random.default_rng(seed)
    n = len(states) - 1 if states else int(rng.integers(2, 6))
    nodes = int(rng.integers(2, 5))
    arcs = np.triu(np.ones((n + 1, n + 1), dtype=bool), k=1)
    for i, j in itertools.product(range(n + 1), repeat=2) if states else ():
        arcs[i, j] &= states[i].done & ~states[j].done == 0 and states[i].done != states[j].done
    zero = np.zeros((n + 1, n + 1))
    types = []
    for k in range(nodes):
        compute = np.triu(rng.uniform(0.01, 0.2, (n + 1, n + 1)), k=1) * float(rng.choice((0.0, 1.0)))
        fits = arcs & (rng.random((n + 1, n + 1)) < rng.choice((0.6, 1.0)))
        spec = NodeSpec(f"n{k}", 10**9, {"all": 1.0}, 1e6, 1e6)
        period = np.where(fits, compute, np.inf)
        types.append(
            NodeType(spec, (f"n{k}",), compute, period, zero, zero, zero, np.zeros(n), bool(fits[0, n]), True)
        )
    crossing = rng.integers(1, 5, n + 1) * 1e4
    crossing[[0, n]] = 0.0
    rates = rng.uniform(1e5, 1e6, (nodes, nodes))
    return Costs(
        n=n,
        types=tuple(types),
        bytes_in=zero,
        bytes_out=zero,
        relayed=zero,
        memory=zero,
        broker_rate=None,
        slice_pins={},
        max_slices=min(n, nodes),
        states=states,
        hops=Hops(crossing, rates),
        errors=errors,
    )


DIAMOND = (
    State(0b0000),
    State(0b0001),
    State(0b0001, "int8"),
    State(0b0011),
    State(0b0101),
    State(0b0111),
    State(0b1111),
)
DIAMOND_ERRORS = np.array([0, 0, 0.1, 0, 0, 0, 0])


def diamond(seed: int) -> Costs:
    return pairwise(seed, DIAMOND, DIAMOND_ERRORS)


def through_a_broker(seed: int) -> Costs:
    return star(seed, brokers=True)


def plans(costs: Costs) -> Iterator[tuple[list[tuple[int, int]], tuple[int, ...]]]:
    nodes = sum(kind.count for kind in costs.types)
    for inner in itertools.chain.from_iterable(
        itertools.combinations(range(1, costs.n), parts - 1) for parts in range(1, costs.max_slices + 1)
    ):
        arcs = list(itertools.pairwise((0, *inner, costs.n)))
        for chosen in itertools.permutations(range(nodes), len(arcs)):
            yield arcs, chosen


def brute_force(costs: Costs) -> float:
    """The least period, straight from the definition in planner.problem; infinite if there is no plan."""
    kinds = [number for number, kind in enumerate(costs.types) for _ in kind.ids]
    best = np.inf
    for arcs, nodes in plans(costs):
        worst = 0.0
        for place, ((i, j), node) in enumerate(zip(arcs, nodes, strict=True)):
            worst = max(worst, float(costs.types[kinds[node]].period[i, j]))
            if costs.hops is not None and place:
                worst = max(
                    worst, float(costs.hops.bytes[i] / costs.hops.rates[kinds[nodes[place - 1]], kinds[node]])
                )
        if costs.broker_rate is not None:
            worst = max(worst, sum(float(costs.relayed[arc]) for arc in arcs) / costs.broker_rate)
        best = min(best, worst)
    return best


def check(costs: Costs, found: Split, best: float) -> None:
    """It is a plan by the cost model, its figures are true, and the bound is one."""
    type_of = {node: number for number, kind in enumerate(costs.types) for node in kind.ids}
    used = [type_of[node] for node in found.nodes]
    assert len(set(found.nodes)) == len(found.nodes) == len(found.segments) <= costs.max_slices
    assert found.segments[0][0] == 0
    assert found.segments[-1][1] == costs.n
    assert all(a[1] == b[0] for a, b in itertools.pairwise(found.segments))
    worst = max(float(costs.types[k].period[arc]) for k, arc in zip(used, found.segments, strict=True))
    for place, (_, state) in enumerate(found.segments[:-1]):
        if costs.hops is not None:
            worst = max(worst, float(costs.hops.bytes[state] / costs.hops.rates[used[place], used[place + 1]]))
    if costs.broker_rate is not None:
        worst = max(worst, sum(float(costs.relayed[arc]) for arc in found.segments) / costs.broker_rate)
    assert found.period == pytest.approx(worst, rel=1e-12)
    assert found.period >= best * (1 - 1e-12)
    assert found.lower_bound <= best
    assert found.method == "heuristic"


def answer(method: Planner, costs: Costs) -> Split | None:
    """None where it fails; it never claims that no plan exists."""
    try:
        return method(costs)
    except NoPlanError as error:
        if error.proved:
            raise
        return None


@pytest.mark.parametrize("make", [star, through_a_broker, pairwise, diamond])
def test_every_answer_is_a_plan_and_none_is_better_than_the_best(make: Callable[[int], Costs]) -> None:
    answered = dict.fromkeys(BASELINES, 0)
    for seed in SEEDS:
        costs = make(seed)
        best = brute_force(costs)
        for name, method in BASELINES.items():
            found = answer(method, costs)
            if found is None:
                continue
            check(costs, found, best)
            if costs.errors is not None:
                assert all(costs.errors[j] == 0 for _, j in found.segments)
            answered[name] += 1
    # Each of them answers often enough for the test to mean something.
    assert min(answered.values()) >= 5, answered


@pytest.mark.parametrize("name", BASELINES)
def test_the_same_seed_gives_the_same_plan(name: str) -> None:
    for seed in range(10):
        costs = pairwise(seed)
        assert answer(BASELINES[name], costs) == answer(BASELINES[name], costs)


def test_dnnpipe_is_exact_where_it_looks_at_all_nodes() -> None:
    for seed in SEEDS:
        for costs in (star(seed), pairwise(seed)):
            best = brute_force(costs)
            if np.isfinite(best):
                assert BASELINES["dnnpipe"](costs).period == pytest.approx(best, rel=1e-12)
            else:
                with pytest.raises(NoPlanError):
                    BASELINES["dnnpipe"](costs)


def test_pipeedge_is_exact_in_a_star() -> None:
    for seed in SEEDS:
        costs = star(seed)
        best = brute_force(costs)
        if np.isfinite(best):
            assert BASELINES["pipeedge"](costs).period == pytest.approx(best, rel=1e-12)
            assert BASELINES["pipeedge"](costs).period >= split(costs).lower_bound * (1 - 1e-9)


def test_pipeedge_indexes_types_rightly() -> None:
    """12 equal layers on 2 slow boards and 2 that are four times faster: wrong indexing answers 3.00."""
    seconds = np.triu(np.arange(13)[None, :] - np.arange(13)[:, None], k=1).astype(float)
    found = least_bottleneck(
        [np.where(seconds > 0, seconds, np.inf), np.where(seconds > 0, seconds / 4, np.inf)],
        [2, 2],
        lambda a, b: np.zeros(13),
        4,
    )
    assert found is not None
    assert max((j - i) / (1, 4)[k] for i, j, k in found) == 1.25


def test_large_fleets_are_answered_on_the_best_nodes() -> None:
    rng = random.Random(1)
    graph = random_graph(rng, 6)
    fleet = random_fleet(rng, 1, 10**9)
    nodes = tuple(
        replace(fleet.nodes[0], id=f"n{k}", speeds={"all": 0.5 + rng.random()}, memory=10**10) for k in range(30)
    )
    fleet = replace(fleet, nodes=nodes)
    memory = memory_by_runtime(graph, fleet.nodes, weights_memory)
    costs = build_costs(graph, random_profile(rng, graph), fleet, memory, PlanOptions())
    fastest = {spec.id for spec in sorted(nodes, key=lambda spec: -spec.speeds["all"])[:10]}
    for name in ("dnnpipe", "pipeedge"):
        assert set(BASELINES[name](costs).nodes) <= fastest


def test_counting_steps() -> None:
    assert steps_of_counts([1] * 10) == 5120
    assert steps_of_counts([4]) == 4


def test_pins_and_limits_that_are_not_kept_are_failures() -> None:
    costs = next(c for c in map(pairwise, SEEDS) if c.types[0].whole and c.types[1].whole)
    n = costs.n
    judged(costs, [(0, n)], [0])
    for wrong in (
        replace(costs, slice_pins={0: 1}),
        replace(costs, slice_pins={1: 0}),
        replace(costs, goal=Goal(max_nodes=0)),
        replace(costs, goal=Goal(max_latency=-1.0)),
        replace(costs, max_slices=0),
    ):
        with pytest.raises(NoPlanError) as caught:
            judged(wrong, [(0, n)], [0])
        assert not caught.value.proved
    with pytest.raises(NoPlanError):
        judged(costs, [(0, 1), (1, n)], [0, 0])


def test_the_sum_is_least_not_the_maximum() -> None:
    """0 -> 1 -> 2 -> 3 sends 3 + 3, the arc past state 1 sends 5."""
    allowed = np.triu(np.ones((4, 4), dtype=bool), k=1)
    allowed[0, 3] = allowed[1, 3] = allowed[0, 2] = False
    transfers = np.zeros((4, 4))
    transfers[0, 1] = transfers[1, 2] = 3.0
    assert least_sum(allowed, transfers) == [(0, 1), (1, 2), (2, 3)]
    allowed[0, 2] = True
    transfers[0, 2] = 5.0
    assert least_sum(allowed, transfers) == [(0, 2), (2, 3)]
    allowed[:, 3] = False
    assert least_sum(allowed, transfers) is None


def test_the_walk_takes_the_fastest_link_to_an_unused_node() -> None:
    rates = np.array([[0, 9, 5.0], [9, 0, 1], [2, 3, 0]])
    assert walk(rates, 0, 2) == [0, 1, 2]
    assert walk(rates, 2, 2) == [2, 1, 0]


def test_the_greedy_keeps_the_best_start() -> None:
    """A chain of three slices whose partition is forced: the start at node 2 avoids the slow link."""
    costs = next(c for c in map(pairwise, range(1000)) if c.n == 3 and len(c.types) == 3)
    period = np.full((4, 4), np.inf)
    period[0, 1] = period[1, 2] = period[2, 3] = 0.0
    types = tuple(replace(kind, period=period, compute=np.zeros((4, 4))) for kind in costs.types)
    hops = Hops(np.array([0, 9.0, 9.0, 0]), np.array([[0, 9, 5.0], [9, 0, 1], [5, 1, 0]]))
    found = greedy(replace(costs, types=types, hops=hops, max_slices=3))
    assert found.nodes in (("n2", "n0", "n1"), ("n1", "n0", "n2"))
    assert found.period == pytest.approx(9 / 5)


def test_classes_and_runs() -> None:
    assert classes_of([17.0, 17.0, 4.25], 20) == [19, 19, 0]
    assert classes_of([3.0, 3.0], 20) == [0, 0]
    assert classes_of([1.0, 2.0, 3.0], 2) == [0, 1, 1]
    assert runs_of([2, 1, 2, 2, 1], 2) == [(2, 3), (0, 0)]


def test_colour_coding_finds_paths_that_are_there_and_no_others() -> None:
    rng = np.random.default_rng(3)
    found_some, found_none = 0, 0
    for _ in range(100):
        size, length = int(rng.integers(3, 7)), int(rng.integers(1, 5))
        if length > size:
            continue
        links = rng.random((size, size)) < 0.3
        links |= links.T
        np.fill_diagonal(links, False)
        first, last = rng.random(size) < 0.6, rng.random(size) < 0.6
        exists = any(
            first[path[0]] and last[path[-1]] and all(links[a, b] for a, b in itertools.pairwise(path))
            for path in itertools.permutations(range(size), length)
        )
        path = colourful_path(links, first, last, rng.integers(0, length, (600, size)), length)
        # 600 colourings miss a path of 4 with a chance of less than 1e-25.
        assert (path is not None) == exists
        if path is None:
            found_none += 1
            continue
        found_some += 1
        assert len(set(path)) == length
        assert first[path[0]]
        assert last[path[-1]]
        assert all(links[a, b] for a, b in itertools.pairwise(path))
    assert found_some > 10
    assert found_none > 10


def test_a_trial_without_colourings_is_a_failure() -> None:
    costs = next(
        c for c in map(pairwise, range(1000)) if (found := answer(seifer, c)) is not None and len(found.nodes) > 1
    )
    with pytest.raises(NoPlanError) as caught:
        seifer(costs, colourings=0)
    assert not caught.value.proved


def test_random_drawings_differ_by_seed_and_stay_in_their_ranges() -> None:
    costs = next(c for c in map(pairwise, range(1000)) if c.n == 5 and len(c.types) == 4)
    period = np.full((6, 6), np.inf)
    for i, j in itertools.combinations(range(6), 2):
        if j - i <= 3:
            period[i, j] = 0.0
    costs = replace(costs, types=tuple(replace(kind, period=period) for kind in costs.types))
    cuts, nodes = set(), set()
    for seed in range(100):
        # The cut at 1 leaves four steps, which do not fit and are not looked at again.
        found = answer(partial(random_plan, seed=seed), costs)
        if found is None:
            continue
        cuts.add(found.segments[0][1])
        nodes.add(found.nodes)
    assert cuts == {2, 3}
    assert len(nodes) == 12
