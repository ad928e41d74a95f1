"""make_plan: figures, one node alone, what a shortage says, how long it takes."""

from __future__ import annotations

import random

import pytest

from converters.graph import Graph
from converters.profile import Profile
from coordinator.planner import make_plan
from coordinator.planner.make import window_of
from coordinator.planner.methods.split import split
from coordinator.planner.model import Fleet, NodeSpec, Overheads, PlanOptions
from slicemq.errors import InsufficientCapacityError, PlanError
from tests.planner.instances import make_graph, random_graph, random_profile, weights_memory

MB = 1_000_000
PIPED = PlanOptions(shapes=("one-node", "pipeline"))


def chain(weights: list[int]) -> tuple[Graph, Profile]:
    graph = make_graph(
        [("CONV_2D", (k,), (k + 1,), False) for k in range(len(weights))],
        [0] * (len(weights) + 1),
        inputs=(0,),
        outputs=(len(weights),),
        weights=weights,
    )
    return graph, Profile(dict.fromkeys(graph.steps, 0.01), "test 1.0", measured=True, overhead=0.0)


def nodes(*memory: int) -> Fleet:
    return Fleet(tuple(NodeSpec(f"pi-{k}", m, {"all": 1.0}, 1e9, 1e9) for k, m in enumerate(memory, 1)))


def test_equal_work_on_equal_nodes_is_halved() -> None:
    graph, profile = chain([MB] * 8)
    plan = make_plan(graph, profile, nodes(100 * MB, 100 * MB), memory=weights_memory, options=PIPED)
    assert [len(item.operators) for item in plan.slices] == [4, 4]
    assert plan.period_ms == pytest.approx(40 * Overheads().computing, rel=0.02)
    alone = plan.alternatives[0]
    assert (alone.family, len(alone.nodes)) == ("one-node", 1)
    assert alone.period_ms == pytest.approx(80 * Overheads().computing, rel=0.02)
    assert plan.window == 3, "two stages, and one more; a little for the links does not count"
    assert plan.method == "exact-counts"
    assert [item.memory_mb for item in plan.slices] == [4.0, 4.0]


def test_a_node_that_does_not_help_is_left_out() -> None:
    graph, profile = chain([MB] * 4)
    slow = NodeSpec("slow", 100 * MB, {"all": 0.01}, 1e9, 1e9)
    fleet = Fleet((slow, *nodes(100 * MB).nodes))
    plan = make_plan(graph, profile, fleet, memory=weights_memory, options=PIPED)
    assert [item.nodes for item in plan.slices] == [("pi-1",)]


def test_one_node_alone_that_cannot_hold_the_model() -> None:
    graph, profile = chain([4 * MB, 4 * MB])
    plan = make_plan(graph, profile, nodes(5 * MB, 6 * MB), memory=weights_memory)
    alone = plan.alternatives[0]
    assert alone.period_ms is None
    assert alone.reason == ("no node can run the whole model: it needs 8.0 MB, the largest node (pi-2) has 6.0 MB")


def test_pins_of_slices_and_operators_are_kept() -> None:
    graph, profile = chain([MB] * 6)
    fleet = nodes(*[100 * MB] * 4)
    plan = make_plan(
        graph, profile, fleet, memory=weights_memory, options=PlanOptions(pins={"s1": "pi-4", "5-5": "pi-2"})
    )
    assert plan.slices[1].nodes == ("pi-4",)
    assert next(item.nodes for item in plan.slices if 5 in item.operators) == ("pi-2",)


def test_pins_that_leave_no_plan() -> None:
    graph, profile = chain([4 * MB, MB])
    fleet = nodes(5 * MB, 2 * MB)
    with pytest.raises(PlanError, match="no plan fulfils pin s0=pi-2; without them there is one") as caught:
        make_plan(graph, profile, fleet, memory=weights_memory, options=PlanOptions(pins={"s0": "pi-2"}))
    assert not isinstance(caught.value, InsufficientCapacityError)
    with pytest.raises(PlanError, match="no plan fulfils at most 1 slices"):
        make_plan(
            *chain([4 * MB, 4 * MB]),
            nodes(5 * MB, 5 * MB),
            memory=weights_memory,
            options=PlanOptions(max_slices=1),
        )


def test_a_shortage_is_told_in_megabytes() -> None:
    graph, profile = chain([4 * MB, 9 * MB, 4 * MB])
    with pytest.raises(InsufficientCapacityError) as caught:
        make_plan(
            graph,
            profile,
            nodes(5 * MB, 8 * MB, MB, 20 * MB),
            memory=weights_memory,
            options=PlanOptions(exclude=frozenset({"pi-4"})),
        )
    text = str(caught.value)
    for part in (
        "the model in one slice needs 17.0 MB",
        "3 nodes have 14.0 MB free together",
        "the largest single operator (1, CONV_2D) needs 9.0 MB, the largest node (pi-2) has 8.0 MB free",
        "pi-3 (1.0 MB free, the smallest operator needs 4.0 MB)",
        "Left out: pi-4 (excluded, 20.0 MB)",
    ):
        assert part in text
    assert caught.value.exit_code == 21


def test_a_shortage_that_only_cutting_explains() -> None:
    graph, profile = chain([3 * MB, 4 * MB, 3 * MB, 2 * MB])
    text = "cut into at most 3 slices, the largest one needs at least 5.0 MB"
    with pytest.raises(InsufficientCapacityError, match=text):
        make_plan(graph, profile, nodes(*[4 * MB] * 3), memory=weights_memory)
    assert len(make_plan(graph, profile, nodes(*[5 * MB] * 3), memory=weights_memory).slices) == 3


def test_a_shortage_of_runtimes_and_of_nodes() -> None:
    graph, profile = chain([MB])

    with pytest.raises(InsufficientCapacityError, match="no node may be used: the fleet has 0"):
        make_plan(graph, profile, Fleet(()), memory=weights_memory)
    with pytest.raises(InsufficientCapacityError, match=r"the fleet has 1. Left out: pi-1 \(excluded, 9.0 MB\)"):
        make_plan(
            graph,
            profile,
            nodes(9 * MB),
            memory=weights_memory,
            options=PlanOptions(exclude=frozenset({"pi-1"})),
        )


def test_memory_in_a_chain_just_fits_and_just_does_not() -> None:
    graph, profile = chain([3 * MB, 3 * MB, 3 * MB])
    plan = make_plan(graph, profile, nodes(6 * MB, 3 * MB), memory=weights_memory)
    assert [item.nodes for item in plan.slices] in ([("pi-1",), ("pi-2",)], [("pi-2",), ("pi-1",)])
    with pytest.raises(InsufficientCapacityError):
        make_plan(graph, profile, nodes(6 * MB - 1, 3 * MB), memory=weights_memory)


def test_the_same_input_gives_the_same_plan() -> None:
    rng = random.Random(3)
    graph = random_graph(rng, 40)
    profile = random_profile(rng, graph)
    fleet = Fleet(tuple(NodeSpec(f"n{k}", 50 * MB, {"all": 1 + 0.1 * (k % 3)}, 1e7 + k % 2, 1e7) for k in range(7)))
    plans = [make_plan(graph, profile, fleet, memory=weights_memory) for _ in range(2)]
    assert plans[0].digest() == plans[1].digest()
    assert plans[0].period_ms == plans[1].period_ms


def large(kinds: int, count: int) -> tuple[Graph, Profile, Fleet]:
    rng = random.Random(7)
    graph = random_graph(rng, 400)
    share = sum(operator.weight_bytes for operator in graph.operators) // count
    specs = [
        NodeSpec(
            "kind",
            int(share * rng.uniform(1.0, 2.0)) + 10 * MB,
            {name: rng.uniform(0.3, 1.2) for name in ("conv", "depthwise", "dense", "elementwise")},
            rng.uniform(2e6, 12e6),
            rng.uniform(2e6, 12e6),
        )
        for _ in range(kinds)
    ]
    named = [
        NodeSpec(f"n{k}", spec.memory, spec.speeds, spec.up, spec.down)
        for k, spec in ((k, specs[k % kinds]) for k in range(count))
    ]
    return graph, random_profile(rng, graph), Fleet(tuple(named))


@pytest.mark.parametrize(("kinds", "count"), [(3, 20), (8, 8), (20, 20)])
def test_method_and_gap_at_400_steps(kinds: int, count: int) -> None:
    graph, profile, fleet = large(kinds, count)
    plan = make_plan(graph, profile, fleet, planner=split, options=PIPED)
    assert plan.method == ("exact-counts" if kinds < 20 else "heuristic")
    assert plan.gap < (1e-3 if kinds < 20 else 0.5)


@pytest.mark.parametrize(
    ("latency", "period", "window"),
    [(0.0, 0.0, 2), (1.0, 1.0, 2), (2.0, 1.0, 3), (2.05, 1.0, 3), (2.2, 1.0, 4), (4.0, 1.0, 5), (0.3, 0.1, 4)],
)
def test_window_is_the_smallest_for_95_percent_and_one_more(latency: float, period: float, window: int) -> None:
    assert window_of(latency, period) == window
