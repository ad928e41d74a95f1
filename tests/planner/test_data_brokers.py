"""Bundles over data brokers: when they win, by numbers worked out by hand, and what the checker says of it."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest

from converters.graph import Graph
from converters.profile import Profile
from coordinator.plan_check.check import check_plan
from coordinator.planner import make_plan
from coordinator.planner.books.read import costs_from_text
from coordinator.planner.books.write import books, text_of
from coordinator.planner.goal import Goal
from coordinator.planner.model import Fleet, NodeSpec, Overheads, PlanOptions
from coordinator.planner.plan import Plan
from coordinator.planner.problem import Costs
from slicemq.errors import InsufficientCapacityError, PlanError
from tests.planner.instances import make_graph, random_graph, random_profile, weights_memory

MB = 1_000_000
FREE = Overheads(message=0.0, receive_per_byte=0.0, send_per_byte=0.0, computing=1.0, broker_per_byte=1.25e-9)
RELAY_MS = 1.25
"""What the data broker of a node of speed 1 takes for 1 MB."""
PIPELINE = PlanOptions(overheads=FREE, shapes=("one-node", "pipeline"))


def chain(*between: int, milliseconds: float = 10.0) -> tuple[Graph, Profile]:
    """A chain of operators of 10 ms with so many bytes between them; what the client sends and gets is small."""
    sizes = [4, *between, 4]
    graph = make_graph(
        [("CONV_2D", (k,), (k + 1,), False) for k in range(len(sizes) - 1)],
        sizes,
        inputs=(0,),
        outputs=(len(sizes) - 1,),
        weights=[MB] * (len(sizes) - 1),
    )
    return graph, Profile(dict.fromkeys(graph.steps, milliseconds / 1e3), "test 1.0", measured=True, overhead=0.0)


def fleet(
    count: int, rate: float | None = None, link: float = 1e9, memory: int = 100 * MB, brokers: int | None = None
) -> Fleet:
    """Equal nodes `n0`, `n1` ...; the first `brokers` (None: all) have a data broker."""
    able = count if brokers is None else brokers
    nodes = (NodeSpec(f"n{k}", memory, {"all": 1.0}, link, link, broker=k < able) for k in range(count))
    return Fleet(tuple(nodes), rate)


def made(
    model: tuple[Graph, Profile], nodes: Fleet, options: PlanOptions = PIPELINE
) -> tuple[Plan, dict[str, str]]:
    """The plan, and what the checker says of each thing; everything must hold."""
    used: list[Costs] = []
    graph, profile = model
    plan = make_plan(graph, profile, nodes, memory=weights_memory, options=options, record=used.append)
    words = checked(plan, used[-1], graph, profile, options)
    assert "failed" not in words.values()
    return plan, words


def checked(plan: Plan, costs: Costs, graph: Graph, profile: Profile, options: PlanOptions) -> dict[str, str]:
    text = text_of(books(graph, profile, costs, options))
    assert costs_from_text(text).data_brokers == costs.data_brokers
    report = check_plan(plan.to_json(), text.encode())
    return {check.name: check.word for check in report.checks}


def on_boards(plan: Plan) -> dict[str, str]:
    return {bundle.id: bundle.broker for bundle in plan.bundles if bundle.broker}


def test_a_broker_that_binds_is_left_to_the_client() -> None:
    # Four operators of 10 ms, 1 MB between each two. The main broker delivers 10 MB/s: two slices on it take
    # 100 ms, so that one node (40 ms) is best. Over the second node's own broker they take 20 and 20 + 1.25 ms.
    model = chain(MB, MB, MB)
    plan, words = made(model, fleet(2, rate=10e6))
    assert [len(item.operators) for item in plan.slices] == [2, 2]
    receiver = plan.slices[1].nodes[0]
    assert on_boards(plan) == {"b1": receiver}
    assert plan.period_ms == pytest.approx(20 + RELAY_MS, rel=1e-3)
    assert plan.slices[1].compute_ms == pytest.approx(20 + RELAY_MS, rel=1e-3)
    assert plan.lower_bound_ms == pytest.approx(20, rel=1e-3), "no plan, whatever its brokers, is shorter"
    assert all(bound.data_brokers for bound in plan.certificate)
    assert words["data brokers"] == words["period"] == words["lower bound"] == "proved"
    assert "1 bundle over data brokers: 1.882 times the rate" in plan.reason

    without, _ = made(model, fleet(2, rate=10e6), replace(PIPELINE, data_brokers="never"))
    assert len(without.slices) == 1
    assert without.period_ms == pytest.approx(40, rel=1e-3)
    assert made(model, fleet(2, rate=10e6, brokers=0))[0].to_plain()["slices"] == without.to_plain()["slices"]


def test_a_broker_that_does_not_bind_keeps_what_would_burden_a_node() -> None:
    # Both slices take 20 ms: 1.25 ms of relaying more would make the second the slowest.
    plan, _ = made(chain(MB, MB, MB), fleet(2, link=100e6))
    assert [len(item.operators) for item in plan.slices] == [2, 2]
    assert not on_boards(plan)
    assert plan.period_ms == pytest.approx(20, rel=1e-3)
    assert not any(bound.data_brokers for bound in plan.certificate)


def test_a_node_with_time_to_spare_relays_for_the_sake_of_latency() -> None:
    # 20 ms and 10 ms: the period stays, and 1 MB crosses a link of 100 MB/s once (10 ms) instead of twice.
    plan, words = made(chain(MB, MB), fleet(2, link=100e6))
    assert plan.period_ms == pytest.approx(20, rel=1e-3)
    if len(plan.slices[0].operators) == 2:
        assert on_boards(plan) == {"b1": plan.slices[1].nodes[0]}
        assert plan.latency_ms == pytest.approx(30 + 10 + RELAY_MS, rel=1e-3)
    else:
        assert not on_boards(plan)
        assert plan.latency_ms == pytest.approx(30 + 20, rel=1e-3)
    assert words["latency"] == "proved"


def test_the_latency_of_a_hop_is_the_slower_of_its_two_links() -> None:
    # No node holds the model. Over the main broker: 30 + 10 + 40 ms; once across: 30 + 40 + 1.25 ms.
    graph, profile = chain(MB, 4 * MB)
    nodes = Fleet(
        tuple(NodeSpec(f"n{k}", 6 * MB, {"all": 1.0}, up, down, broker=True) for k, (up, down) in enumerate(
            ((100e6, 100e6), (25e6, 25e6))
        ))
    )  # fmt: skip
    options = replace(PIPELINE, goal=Goal("latency"))
    plan, words = made((graph, profile), nodes, options)
    assert len(plan.slices) == 2
    assert set(on_boards(plan)) == {"b1"}
    assert plan.latency_ms == pytest.approx(30 + 40 + RELAY_MS, rel=1e-3)
    assert plan.lower_bound_ms == pytest.approx(30 + (10 + 40) / 2, rel=1e-3)
    assert words["lower bound"] == "proved"
    without, _ = made((graph, profile), nodes, replace(options, data_brokers="never"))
    assert without.latency_ms == pytest.approx(30 + 10 + 40, rel=1e-3)


def test_only_receivers_with_a_broker_take_bundles_off_the_main_one() -> None:
    # One board of two has a broker: it takes the second half.
    plan, words = made(chain(MB, MB, MB), fleet(2, rate=10e6, brokers=1))
    assert on_boards(plan) == {"b1": "n0"}
    assert plan.slices[1].nodes == ("n0",)
    assert words["lower bound"] == "proved"


def test_a_limit_that_only_data_brokers_keep() -> None:
    options = replace(PIPELINE, goal=Goal(max_period=0.03))
    plan, _ = made(chain(MB, MB, MB), fleet(2, rate=10e6), options)
    assert on_boards(plan)
    assert plan.period_ms < 30
    with pytest.raises(PlanError):
        make_plan(
            *chain(MB, MB, MB),
            fleet(2, rate=10e6),
            memory=weights_memory,
            options=replace(options, data_brokers="never"),
        )


def test_a_bundle_for_several_slices_stays_on_the_main_broker() -> None:
    # 0 -> 1 -> 2 -> 3, and what 0 makes is read by 1 and by 3: three nodes, two operators at most on each.
    graph = make_graph(
        [
            ("CONV_2D", (0,), (1,), False),
            ("CONV_2D", (1,), (2,), False),
            ("CONV_2D", (2,), (3,), False),
            ("ADD", (3, 1), (4,), False),
        ],
        [4, 3 * MB, MB, MB, 4],
        inputs=(0,),
        outputs=(4,),
        weights=[2 * MB, 2 * MB - 1, 1, 2 * MB],
    )
    profile = Profile(dict.fromkeys(graph.steps, 0.01), "test 1.0", measured=True, overhead=0.0)
    plan, _ = made((graph, profile), fleet(3, link=50e6, memory=5 * MB), replace(PIPELINE, goal=Goal("latency")))
    several = [bundle for bundle in plan.bundles if len(bundle.targets) > 1]
    assert several
    assert all(not bundle.broker for bundle in several)
    assert on_boards(plan)


def test_replicated_receivers_stay_on_the_main_broker() -> None:
    # The middle operator takes as long as eight others: two nodes share it, and what they take is not theirs alone.
    graph, profile = chain(MB // 10, MB // 10)
    profile = replace(profile, seconds={0: 0.01, 1: 0.02, 2: 0.01})
    nodes = Fleet(
        tuple(NodeSpec(f"n{k}", MB + MB // 2, {"all": 1.0}, 1e8, 1e8, broker=True) for k in range(4)), None
    )
    options = PlanOptions(overheads=FREE, shapes=("replicas",))
    plan, words = made((graph, profile), nodes, options)
    replicated = {item.id for item in plan.slices if len(item.nodes) > 1}
    assert replicated
    assert all(not bundle.broker for bundle in plan.bundles if replicated.intersection(bundle.targets))
    assert words["energy"] == "proved"


def test_pipelines_side_by_side_have_bundles_of_their_own() -> None:
    options = PlanOptions(overheads=FREE, shapes=("parallel",))
    plan, words = made(chain(MB, MB, MB), fleet(4, rate=10e6, memory=3 * MB), options)
    assert len(plan.lanes()) == 2
    assert len(on_boards(plan)) == 2
    assert plan.period_ms == pytest.approx((20 + RELAY_MS) / 2, rel=1e-3)
    assert words["period"] == "proved"


def test_a_model_that_fits_nowhere_fits_no_better_over_data_brokers() -> None:
    with pytest.raises(InsufficientCapacityError):
        make_plan(*chain(MB, MB), fleet(2, rate=1e6, memory=MB), memory=weights_memory, options=PIPELINE)


@pytest.mark.parametrize("seed", range(10))
def test_random_plans_hold_and_are_no_worse_than_without(seed: int) -> None:
    rng = random.Random(seed)
    graph = random_graph(rng, rng.randint(3, 6))
    profile = random_profile(rng, graph)
    rates = (1e5, 1e6, 1e7)
    nodes = tuple(
        NodeSpec(
            f"n{number}",
            10**9,
            {"all": rng.choice((0.5, 1.0, 2.0))},
            rng.choice(rates),
            rng.choice(rates),
            rtt=rng.choice((0.0, 0.001)),
            broker=rng.random() < 0.8,
        )
        for number in range(rng.randint(2, 4))
    )
    among = Fleet(nodes, rng.choice((None, 1e5, 1e6, 3e6)))
    goal = rng.choice((Goal(), Goal("latency"), Goal("energy"), Goal(max_latency=0.3)))
    options = PlanOptions(goal=goal, pins=rng.choice(({}, {"s1": "n1"})))
    try:
        plan, words = made((graph, profile), among, options)
    except PlanError:
        with pytest.raises(PlanError):
            made((graph, profile), among, replace(options, data_brokers="never"))
        return
    assert words["lower bound"] == "proved"
    try:
        without, _ = made((graph, profile), among, replace(options, data_brokers="never"))
    except PlanError:
        assert on_boards(plan), "only data brokers keep to the limits"
        return
    most = 1 + goal.within
    figure = {"latency": "latency_ms", "energy": "energy_j"}.get(goal.objective, "period_ms")
    assert getattr(plan, figure) <= getattr(without, figure) * most + 1e-4


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda body: body["bundles"][1].update(broker="n9"), "data brokers"),
        (lambda body: body["bundles"][0].update(broker="n1"), "data brokers"),
        (lambda body: body["bundles"][1].update(broker=""), "period"),
        (lambda body: body.update(period_ms=20.0), "period"),
        (lambda body: [row.update(data_brokers=False) for row in body["certificate"]], "lower bound"),
    ],
)
def test_a_plan_that_says_what_is_not_so_fails(change: Any, name: str) -> None:
    used: list[Costs] = []
    graph, profile = chain(MB, MB, MB)
    plan = make_plan(
        graph, profile, fleet(2, rate=10e6), memory=weights_memory, options=PIPELINE, record=used.append
    )
    body = plan.to_plain()
    change(body)
    text = text_of(books(graph, profile, used[-1], PIPELINE))
    words = {check.name: check.word for check in check_plan(json.dumps(body), text.encode()).checks}
    assert words[name] == "failed"


def test_a_plan_file_names_brokers_that_make_sense() -> None:
    graph, profile = chain(MB, MB, MB)
    plan = make_plan(graph, profile, fleet(2, rate=10e6), memory=weights_memory, options=PIPELINE)
    assert Plan.from_json(plan.to_json(), graph=graph) == plan
    main = replace(plan, bundles=tuple(replace(bundle, broker="") for bundle in plan.bundles))
    assert main.digest() != plan.digest()
    for number, broker in ((0, "n0"), (2, "n0"), (1, "n7"), (1, plan.slices[0].nodes[0])):
        body = plan.to_plain()
        body["bundles"][number]["broker"] = broker
        with pytest.raises(PlanError, match=rf"bundles\[{number}\].broker"):
            Plan.from_plain(body)
